"""Limits for one person: the rate of messages and the number of rooms."""

from __future__ import annotations

from pathlib import Path

import falcon
import falcon.asgi
import falcon.testing
import pytest
from support.chat import Chat
from support.chat import Person

from falcon_channels_chat.rate_limit import client_address
from falcon_channels_chat.rate_limit import RateLimit
from falcon_channels_chat.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        database=str(tmp_path / 'chat.db'),
        broker='memory://',
        message_burst=3,
        max_rooms=3,
    )


async def test_message_over_the_rate_limit_is_refused(ada: Person, bob: Person) -> None:
    """A member who sends too fast gets 429 and Retry-After; others are not affected."""
    results = [await ada.say(str(number)) for number in range(4)]
    assert [201, 201, 201, 429] == [result.status_code for result in results]
    assert '1' == results[-1].headers['Retry-After']
    assert 201 == (await bob.say('me too')).status_code


async def test_room_over_the_limit_is_refused(ada: Person) -> None:
    """No more rooms than `max_rooms` can be created."""
    results = [
        await ada.request('POST', '/api/rooms', {'name': name}) for name in 'abc'
    ]
    assert [201, 201, 409] == [result.status_code for result in results]


def test_rate_limit_refills_with_time_up_to_the_burst() -> None:
    """A bucket refills at its rate, up to its size."""
    now_s = 0.0
    limit = RateLimit(per_s=0.5, burst=2, clock=lambda: now_s)
    limit.take('ada')
    limit.take('ada')
    with pytest.raises(falcon.HTTPTooManyRequests) as caught:
        limit.take('ada')
    assert {'Retry-After': '2'} == caught.value.headers
    now_s = 2.0
    limit.take('ada')
    now_s = 1000.0
    limit.take('ada')
    limit.take('ada')
    with pytest.raises(falcon.HTTPTooManyRequests):
        limit.take('ada')


def test_rate_limit_over_max_people_forgets_the_least_recent() -> None:
    """Beyond `max_people`, the least recently used bucket is removed."""
    limit = RateLimit(per_s=1.0, burst=1, max_people=2, clock=lambda: 0.0)
    for person in ('a', 'b', 'c', 'a'):
        limit.take(person)
    with pytest.raises(falcon.HTTPTooManyRequests):
        limit.take('c')


async def requests_until_refused(
    chat: Chat, address: str, most: int, *, rooms_per_person: int = 0
) -> int:
    """Return the number of requests of new sessions before the first 429.

    Each request has headers with an invented address.
    """
    for number in range(most):
        forged = {'X-Forwarded-For': f'10.0.0.{number}', 'Forwarded': 'for=10.9.9.9'}
        if not rooms_per_person or number % rooms_per_person == 0:
            person = chat.stranger()
            person.address = address
            if 429 == (await person.pick_name(f'p{number}')).status_code:
                return number
        if rooms_per_person:
            body = {'name': f'room-{number}'}
            result = await person.request('POST', '/api/rooms', body, headers=forged)
            if 429 == result.status_code:
                return number
    return most


async def test_new_sessions_do_not_avoid_the_limit_of_their_address(
    chat: Chat,
) -> None:
    """All sessions of one address share a limit, whatever the client claims."""
    count = await requests_until_refused(chat, '192.0.2.7', 60, rooms_per_person=4)
    assert 20 <= count < 40
    other = await requests_until_refused(chat, '192.0.2.8', 4, rooms_per_person=4)
    assert 4 == other


async def test_address_can_create_a_limited_number_of_sessions(chat: Chat) -> None:
    """A client cannot create sessions without limit; renaming is not counted."""
    person = chat.stranger()
    person.address = '192.0.2.7'
    await person.pick_name('first')
    count = await requests_until_refused(chat, '192.0.2.7', 100)
    assert 39 <= count < 80
    assert 201 == (await person.pick_name('renamed')).status_code


@pytest.mark.parametrize(
    ('client', 'expected'),
    [
        (('192.0.2.7', 4321), '192.0.2.7'),
        (('::ffff:192.0.2.7', 4321), '192.0.2.7'),
        (('2001:db8:0:1:2:3:4:5', 4321), '2001:db8:0:1::/64'),
        (('', 0), None),
        (None, None),
    ],
)
def test_client_address_is_that_of_the_server(
    client: tuple[str, int] | None, expected: str | None
) -> None:
    """The address is never taken from a header, and an IPv6 network counts as one."""
    scope = falcon.testing.create_scope(headers={'X-Forwarded-For': '10.0.0.1'})
    scope['client'] = client
    req = falcon.asgi.Request(scope, falcon.testing.ASGIRequestEventEmitter())
    assert expected == client_address(req)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('messages_per_s', '0'),
        ('messages_per_s', '-1'),
        ('messages_per_s', 'nan'),
        ('messages_per_s', 'inf'),
        ('message_burst', '0'),
        ('people_per_address', '0'),
    ],
)
def test_limit_with_which_nobody_could_send_is_refused(name: str, value: str) -> None:
    """A limit that no message fits into is refused when the chat starts."""
    with pytest.raises(ValueError, match=f'{name} of .* must be'):
        Settings.from_environ({f'CHAT_{name.upper()}': value})
