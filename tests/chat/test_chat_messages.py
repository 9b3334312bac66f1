"""Messages over HTTP: send, read in pages, edit, delete, count the unread ones."""

from __future__ import annotations

from typing import Any

import pytest
from support.chat import Chat
from support.chat import MESSAGES
from support.chat import Person

LOBBY = '/api/rooms/lobby'


async def texts(person: Person, path: str = LOBBY) -> list[str]:
    page = await person.request('GET', path)
    return [message['text'] for message in page.json['messages']]


async def unread(person: Person) -> dict[str, int]:
    rooms = (await person.request('GET', '/api/rooms')).json['rooms']
    return {room['name']: room['unread'] for room in rooms}


async def test_sent_message_is_in_the_room_of_another_member(
    ada: Person, bob: Person
) -> None:
    """A room shows the messages of all members, with the name of the sender."""
    sent = (await ada.say('  Hello,\r\nBob ')).json
    assert 'Hello,\nBob' == sent['text']
    snapshot = (await bob.request('GET', LOBBY)).json
    assert [sent] == snapshot['messages']
    assert ('Ada', ada.id, 1) == (sent['name'], sent['user'], sent['version'])
    assert 1 == snapshot['position']['offset']
    assert not snapshot['more']


async def test_message_sent_twice_with_one_key_is_stored_once(
    ada: Person, bob: Person
) -> None:
    """A message sent again with its key is stored once. Each person has own keys."""
    first = await ada.say('once', key='k-1')
    again = await ada.say('once', key='k-1')
    assert (201, 200) == (first.status_code, again.status_code)
    assert first.json == again.json
    assert 201 == (await bob.say('another', key='k-1')).status_code
    assert ['once', 'another'] == await texts(ada)


async def test_message_over_4000_characters_is_refused(ada: Person) -> None:
    """A message may have 4,000 characters of any kind; one more is refused."""
    assert 201 == (await ada.say('🦅' * 4000)).status_code
    result = await ada.say('🦅' * 4001)
    assert 422 == result.status_code
    assert '4001 characters are over the limit of 4000.' == result.json['description']


@pytest.mark.parametrize(
    'body',
    [
        {},
        {'text': ''},
        {'text': ' \n '},
        {'text': 1},
        {'text': 'x', 'user': 'somebody else'},
        {'text': 'x', 'key': ''},
        {'text': 'x', 'key': 'k' * 65},
        {'text': 'x', 'key': 'a b'},
        {'text': 'x', 'image': 'not-there'},
        [],
        'x',
    ],
)
async def test_invalid_message_is_refused_with_a_description(
    ada: Person, body: Any
) -> None:
    """A body that is not a valid message is refused with a description."""
    result = await ada.request('POST', MESSAGES, body)
    assert 422 == result.status_code
    assert result.json['description']
    assert [] == await texts(ada)


async def test_invalid_json_is_refused_without_traceback(ada: Person) -> None:
    """Broken, deeply nested and too large JSON is refused without a traceback."""
    headers = {'Content-Type': 'application/json'}

    async def post(body: bytes) -> int:
        result = await ada.request('POST', MESSAGES, body=body, headers=headers)
        return result.status_code

    assert 422 == await post(b'{"text": ')
    assert 422 == await post(b'\xff\xfe')
    assert 422 == await post(b'{"text": "\xff"}')
    assert 422 == await post(b'[' * 50_000)
    assert 422 == await post(b'{"text": "\\ud800"}')
    assert 413 == await post(b'{"text": "' + b'x' * 70_000 + b'"}')


async def test_room_created_by_name_is_available_to_all_members(
    ada: Person, bob: Person
) -> None:
    """A room name may use any script; the new room is in the list of all members."""
    made = await ada.request('POST', '/api/rooms', {'name': ' Süd  Garten '})
    assert 'süd-garten' == made.json['name']
    await ada.request('POST', '/api/rooms', {'name': 'süd-garten'})
    assert {'lobby': 0, 'süd-garten': 0} == await unread(bob)
    sent = await bob.request(
        'POST', '/api/rooms/süd-garten/messages', {'text': 'green'}
    )
    assert 201 == sent.status_code
    made = await ada.request('POST', '/api/rooms', {'name': 'Ϊ́'})
    assert 201 == made.status_code
    path = f'/api/rooms/{made.json["name"]}'
    assert 200 == (await ada.request('GET', path)).status_code
    for name in ('', '../etc', 'a/b', '<b>', 'x' * 41, '👻'):
        result = await ada.request('POST', '/api/rooms', {'name': name})
        assert 422 == result.status_code
    missing = await ada.request('POST', '/api/rooms/attic/messages', {'text': 'x'})
    assert 404 == missing.status_code
    assert 404 == (await ada.request('GET', '/api/rooms/attic')).status_code


async def test_older_messages_are_returned_in_pages(ada: Person) -> None:
    """A room returns its newest 50 messages; `before` returns the older pages."""
    for number in range(120):
        await ada.say(str(number))
    page = (await ada.request('GET', LOBBY)).json
    found = page['messages']
    while page['more']:
        before = found[0]['id']
        page = (await ada.request('GET', f'{MESSAGES}?before={before}')).json
        found = page['messages'] + found
    assert [str(number) for number in range(120)] == [item['text'] for item in found]
    for before in ('0', 'x', '-1', str(1 << 70)):
        result = await ada.request('GET', f'{MESSAGES}?before={before}')
        assert 400 == result.status_code


async def test_message_can_be_changed_and_deleted_by_its_sender_only(
    ada: Person, bob: Person
) -> None:
    """A member can change and delete only the own messages."""
    sent = (await ada.say('helo')).json
    path = f'{MESSAGES}/{sent["id"]}'
    assert 403 == (await bob.request('PATCH', path, {'text': 'mine'})).status_code
    assert 403 == (await bob.request('DELETE', path)).status_code
    edited = (await ada.request('PATCH', path, {'text': 'hello'})).json
    assert ('hello', True, 2) == (
        edited['text'],
        edited['edited'],
        edited['version'],
    )
    assert 422 == (await ada.request('PATCH', path, {'text': ' '})).status_code
    gone = (await ada.request('DELETE', path)).json
    assert ('', True, 3) == (gone['text'], gone['deleted'], gone['version'])
    assert 3 == (await ada.request('DELETE', path)).json['version']
    assert '' == (await ada.request('PATCH', path, {'text': 'back'})).json['text']
    other_room = path.replace('lobby', 'attic')
    assert 404 == (await ada.request('DELETE', other_room)).status_code
    assert 404 == (await ada.request('DELETE', f'{MESSAGES}/99')).status_code


async def test_unread_counts_messages_of_others_up_to_100(
    ada: Person, bob: Person
) -> None:
    """Messages of others after the read mark count as unread, up to 100."""
    await bob.say('mine')
    for number in range(3):
        await ada.say(str(number))
    assert {'lobby': 3} == await unread(bob)
    assert {'lobby': 1} == await unread(ada)
    mark = {'message': 3}
    assert 204 == (await bob.request('PUT', f'{LOBBY}/read', mark)).status_code
    assert {'lobby': 1} == await unread(bob)
    await bob.request('PUT', f'{LOBBY}/read', {'message': 2})
    assert {'lobby': 1} == await unread(bob)
    missing = await bob.request('PUT', f'{LOBBY}/read', {'message': 1 << 70})
    assert 422 == missing.status_code
    missing = await bob.request('PUT', f'{LOBBY}/read', {'message': 99})
    assert 404 == missing.status_code
    for number in range(110):
        await ada.say(str(number))
    assert {'lobby': 100} == await unread(bob)


async def test_new_member_has_no_unread_messages(chat: Chat, ada: Person) -> None:
    """Messages from before the start of a session do not count as unread."""
    await ada.say('long ago')
    late = await chat.person('Late')
    assert {'lobby': 0} == await unread(late)
