"""How much anybody may do."""

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
    """Who sends too fast is told when to go on; the others are not held up."""
    results = [await ada.say(str(number)) for number in range(4)]
    assert [201, 201, 201, 429] == [result.status_code for result in results]
    assert '1' == results[-1].headers['Retry-After']
    assert 201 == (await bob.say('me too')).status_code


async def test_room_over_the_limit_is_refused(ada: Person) -> None:
    """No more rooms than the settings allow can be made."""
    results = [
        await ada.request('POST', '/api/rooms', {'name': name}) for name in 'abc'
    ]
    assert [201, 201, 409] == [result.status_code for result in results]


def test_rate_limit_refills_with_time_up_to_the_burst() -> None:
    """A bucket fills again at its rate, and never over its size."""
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
    """Whoever was not seen the longest is forgotten first."""
    limit = RateLimit(per_s=1.0, burst=1, max_people=2, clock=lambda: 0.0)
    for who in ('a', 'b', 'c', 'a'):
        limit.take(who)
    with pytest.raises(falcon.HTTPTooManyRequests):
        limit.take('c')
