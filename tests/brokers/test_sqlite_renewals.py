"""The renewals of the logs of subscribed channels in SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.sqlite import renewals
from falcon_channels.brokers.sqlite import SqliteBroker
from falcon_channels.brokers.sqlite.renewals import Renewals
from falcon_channels.testing import Recorder

LOG = LogSettings(size=10, meta_ttl_s=300.0)


class Clock:
    """The module `time`, with a clock that a test moves."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(renewals, 'time', clock)
    return clock


def test_subscribed_log_is_renewed_three_times_in_its_life(clock: Clock) -> None:
    """A log is renewed once after each third of its life, until it is discarded."""
    found = Renewals()
    found.add('news', LOG)
    assert [] == found.take_due(10)
    for _ in range(3):
        clock.now_s += 100
        assert [('news', LOG)] == found.take_due(10)
        assert [] == found.take_due(10)
    found.discard('news')
    clock.now_s += 1000
    assert [] == found.take_due(10)


@pytest.mark.parametrize('meta_ttl_s', [None, 30 * 86400.0])
def test_log_of_a_long_life_is_renewed_three_times_a_day(
    clock: Clock, meta_ttl_s: float | None
) -> None:
    """A log without a publication is removed after a day, and is renewed before."""
    found = Renewals()
    settings = LogSettings(size=10, meta_ttl_s=meta_ttl_s)
    found.add('news', settings)
    for _ in range(3):
        assert [] == found.take_due(10)
        clock.now_s += 8 * 3600
        assert [('news', settings)] == found.take_due(10)


def test_old_log_is_renewed_at_once_and_then_as_usual(clock: Clock) -> None:
    """A log near the end of its life does not wait for a third of it."""
    found = Renewals()
    found.add('news', LOG)
    clock.now_s += 50
    found.add('news', LOG, at_once=True)
    assert [('news', LOG)] == found.take_due(10)
    assert [] == found.take_due(10)
    clock.now_s += 100
    assert [('news', LOG)] == found.take_due(10)


def test_many_due_logs_are_renewed_in_parts(clock: Clock) -> None:
    """No more logs than the limit are renewed at once, and none is left out."""
    found = Renewals()
    for number in range(25):
        found.add(f'rooms:{number}', LOG)
    clock.now_s += 100
    parts = [found.take_due(10) for _ in range(4)]
    assert [10, 10, 5, 0] == [len(part) for part in parts]
    assert 25 == len({channel for part in parts for channel, _ in part})


@pytest.mark.parametrize('num_channels', [1, 300])
async def test_subscriptions_that_end_leave_nothing_in_memory(
    tmp_path: Path, num_channels: int
) -> None:
    """Clients that subscribe and unsubscribe again and again fill no memory."""
    broker = SqliteBroker(tmp_path / 'chat.db')
    await broker.start(Recorder())
    try:
        for number in range(300):
            channel = f'rooms:{number % num_channels}'
            await broker.subscribe(channel, LOG)
            await broker.unsubscribe(channel)
        assert broker._renewals.size <= 101
    finally:
        await broker.close()
