"""The event loop whose clock jumps."""

from __future__ import annotations

import asyncio
import time

import pytest

from falcon_channels.testing import FakeClockStuckError
from falcon_channels.testing import run_with_fake_clock


def test_a_day_takes_no_time() -> None:
    """Timers fire in order, at their times, without waiting."""

    async def day() -> list[tuple[float, str]]:
        loop = asyncio.get_running_loop()
        happened: list[tuple[float, str]] = []

        async def sleeper(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            happened.append((loop.time(), name))

        await asyncio.gather(
            sleeper(86400.0, 'day'), sleeper(0.001, 'moment'), sleeper(3600.0, 'hour')
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60.0):
                await asyncio.Event().wait()
        happened.append((loop.time(), 'timeout'))
        return happened

    start_s = time.monotonic()
    happened = run_with_fake_clock(day())
    assert time.monotonic() - start_s < 10
    assert ['moment', 'hour', 'day', 'timeout'] == [name for _, name in happened]
    for (at_s, _), expected_s in zip(
        happened, (0.001, 3600.0, 86400.0, 86460.0), strict=True
    ):
        assert pytest.approx(expected_s, abs=1e-3) == at_s


def test_waiting_for_nothing_is_an_error() -> None:
    """What would hang for ever fails at once."""

    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(FakeClockStuckError, match='no timer is left'):
        run_with_fake_clock(hang())


def test_results_and_errors_come_back() -> None:
    """It is `asyncio.run` with another clock."""

    async def work(fails: bool) -> int:
        await asyncio.sleep(1)
        if fails:
            raise LookupError('of the coroutine')
        return 7

    assert 7 == run_with_fake_clock(work(False))
    with pytest.raises(LookupError):
        run_with_fake_clock(work(True))
