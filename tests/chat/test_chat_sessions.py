"""Sessions: names, cookies and keys of bots."""

from __future__ import annotations

import time

import jwt
import pytest
from support.chat import Chat
from support.chat import Person

from falcon_channels_chat.sessions import Member
from falcon_channels_chat.sessions import Signer
from falcon_channels_chat.store import Store

SECRET = 's' * 32
ADA = Member(id='a1', name='Ada', since_ms=1)


async def test_picked_name_sets_a_protected_cookie(chat: Chat) -> None:
    """Picking a name sets a cookie that scripts and other sites cannot use."""
    person = chat.stranger()
    assert 204 == (await person.request('GET', '/api/session')).status_code
    result = await person.pick_name('  Ada   Lovelace ')
    assert 'Ada Lovelace' == result.json['name']
    cookie = result.cookies['chat_session']
    assert (True, 'Strict', '/') == (cookie.http_only, cookie.same_site, cookie.path)
    session = await person.request('GET', '/api/session')
    assert {'id': person.id, 'name': 'Ada Lovelace'} == session.json


async def test_changed_name_keeps_the_member_id(ada: Person) -> None:
    """A member who picks another name keeps the id."""
    before = ada.id
    await ada.pick_name('Countess')
    assert before == ada.id


async def test_two_people_with_one_name_have_different_ids(chat: Chat) -> None:
    """Two people with the same name have different ids."""
    one, other = await chat.person('Ada'), await chat.person('Ada')
    assert one.id != other.id


@pytest.mark.parametrize(
    'name',
    [
        '<script>alert(1)</script>',
        'ليلى',
        'علی\u200cمحمد',
        '山田',
        "O'Hara",
        '👩\u200d👩\u200d👧 family',
        'Ann \u2764\ufe0f',
        'x' * 40,
    ],
)
async def test_name_in_any_script_is_accepted(chat: Chat, name: str) -> None:
    """A name may contain any script, markup as plain text, and emoji."""
    result = await chat.stranger().pick_name(name)
    assert name == result.json['name']


@pytest.mark.parametrize(
    'name',
    [
        '',
        '   ',
        'x' * 41,
        'a\x00b',
        'ad\u202ea',
        'a\u2066b',
        '\ufdd0',
        'Ada\u034f',
        'Ada\u3164',
        '\u115f',
        'Ada\ufe00',
        'A\u200dda',
        'Ada\u200b',
    ],
)
async def test_invalid_name_is_refused(chat: Chat, name: str) -> None:
    """Empty and too long names, and names with invisible characters, are refused."""
    assert 422 == (await chat.stranger().pick_name(name)).status_code


@pytest.mark.parametrize(
    'cookie',
    [
        '',
        'nonsense',
        'a.b.c',
        Signer(SECRET).sign(ADA, 'session', 60),
        jwt.encode(
            {'sub': 'a1', 'name': 'Ada', 'since': 1, 'aud': 'session'}, None, 'none'
        ),
    ],
)
async def test_forged_cookie_is_ignored(chat: Chat, cookie: str) -> None:
    """A request with a cookie that this chat did not sign has no member."""
    person = chat.stranger()
    person.cookie = cookie
    assert 204 == (await person.request('GET', '/api/session')).status_code
    assert 401 == (await person.say('hello')).status_code
    assert 401 == (await person.request('GET', '/api/rooms/lobby')).status_code


async def test_leaving_deletes_the_cookie(ada: Person) -> None:
    """Leaving deletes the cookie in the browser."""
    result = await ada.request('DELETE', '/api/session')
    assert 204 == result.status_code
    cookie = result.cookies['chat_session']
    assert '' == cookie.value
    assert cookie.expires is not None
    assert cookie.expires.timestamp() < time.time()


def test_token_is_valid_for_one_audience_until_it_expires() -> None:
    """A session is not valid as a bot key, nor a bot key as a session; both expire."""
    signer = Signer(SECRET)
    assert signer.read(signer.sign(ADA, 'session', 60), 'bot') is None
    assert signer.read(signer.bot_key('Weather'), 'session') is None
    assert signer.read(signer.sign(ADA, 'session', -1), 'session') is None
    member, signed_s = signer.read(signer.sign(ADA, 'session', 60), 'session') or (
        None,
        0,
    )
    assert ADA == member
    assert signed_s <= time.time()


async def test_bot_with_a_key_can_post_without_cookie(chat: Chat, ada: Person) -> None:
    """A bot needs only its key in Authorization: no cookie and no Origin."""
    store = Store(chat.database)
    key = Signer(store.secret()).bot_key('Weather: a/b c')
    headers = {'Authorization': f'Bearer {key}', 'Origin': ''}
    result = await chat.stranger().request(
        'POST', '/api/rooms/lobby/messages', {'text': 'rain'}, headers=headers
    )
    assert (201, 'Weather: a/b c') == (result.status_code, result.json['name'])
    mark = {'message': result.json['id']}
    read = await chat.stranger().request(
        'PUT', '/api/rooms/lobby/read', mark, headers=headers
    )
    assert 204 == read.status_code
    headers['Authorization'] += 'x'
    result = await chat.stranger().request('GET', '/api/session', headers=headers)
    assert 401 == result.status_code
    await store.process_shutdown(None, None)


async def test_request_for_another_member_than_that_of_the_cookie_has_no_session(
    chat: Chat, ada: Person, bob: Person
) -> None:
    """A page that belongs to another member cannot act for the member of the cookie."""
    for path in ('/api/rooms', '/api/rooms/lobby'):
        for member, status in ((ada.id, 200), (bob.id, 401), ('', 200)):
            headers = {'Chat-Member': member, 'Cookie': f'chat_session={ada.cookie}'}
            result = await ada.request('GET', path, headers=headers)
            assert status == result.status_code
    refused = await ada.request(
        'POST',
        '/api/rooms/lobby/messages',
        {'text': 'x'},
        headers={'Chat-Member': bob.id},
    )
    assert 401 == refused.status_code
