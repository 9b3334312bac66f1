"""Limits for one person: the rate of messages and the number of rooms."""

from __future__ import annotations

from pathlib import Path

import falcon
import pytest
from support.chat import Person

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
