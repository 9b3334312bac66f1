"""The event loop with a fake clock."""

from __future__ import annotations

import asyncio
from pathlib import Path
import time
from typing import Any

import pytest

from falcon_channels import Channels
from falcon_channels import ChannelsError
from falcon_channels.testing import FakeClockStuckError
from falcon_channels.testing import run_with_fake_clock
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk


def test_timers_of_a_day_fire_in_order_without_waiting() -> None:
    """Timers fire in the order of their times, and no time passes."""

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


def test_wait_without_a_timer_raises_an_error() -> None:
    """Code that would hang forever raises an error at once."""

    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(FakeClockStuckError, match='no timer is left'):
        run_with_fake_clock(hang())


def test_result_and_error_of_the_coroutine_are_passed_on() -> None:
    """The result or the error of the coroutine is passed on."""

    async def work(fails: bool) -> int:
        await asyncio.sleep(1)
        if fails:
            raise LookupError('of the coroutine')
        return 7

    assert 7 == run_with_fake_clock(work(False))
    with pytest.raises(LookupError):
        run_with_fake_clock(work(True))


@pytest.mark.parametrize('make_client', [SimulatedClient, SimulatedSdk])
def test_fake_clock_refuses_a_broker_that_needs_real_time(
    make_client: Any, tmp_path: Path
) -> None:
    """The error names the broker and the remedy, and no call waits for a deadline."""

    async def scenario() -> str:
        async with make_client(Channels(f'sqlite:///{tmp_path}/a.db')):
            return 'connected'

    with pytest.raises(ChannelsError, match=r'not with SqliteBroker.*asyncio.run'):
        run_with_fake_clock(scenario())
    assert [] == [*tmp_path.iterdir()]
