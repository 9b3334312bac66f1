"""Errors of the hub's own tasks."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from support.faults import fail
from support.faults import tracebacks

from falcon_channels import Channels
from falcon_channels.testing import run_with_fake_clock


@pytest.mark.parametrize('kind', ['runtime', 'cancelled'])
def test_task_that_failed_starts_again_until_the_hub_closes(
    caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """An error is logged once, also if another task that was awaited is cancelled."""
    calls = []

    async def scenario() -> None:
        again = asyncio.Event()

        async def function() -> None:
            calls.append(kind)
            if len(calls) == 1:
                await fail(kind)
            again.set()
            await asyncio.Event().wait()

        async with Channels() as channels:
            channels.node.hub.tasks.run_forever(function, 'test')
            await again.wait()

    run_with_fake_clock(scenario())
    assert 2 == len(calls)
    assert 1 == len(tracebacks(caplog))


def test_task_that_ignores_its_cancellation_does_not_stop_the_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The close waits a few seconds for such a task, and then names it in the log."""

    async def scenario() -> None:
        end = asyncio.Event()

        async def ignore_cancellations() -> None:
            while not end.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await end.wait()

        channels = Channels()
        await channels.start()
        task = channels.node.hub.tasks.spawn(ignore_cancellations(), 'stubborn')
        assert task is not None
        await asyncio.sleep(1)
        async with asyncio.timeout(60):
            await channels.close()
        assert 'closed' == channels.status
        end.set()
        await task

    run_with_fake_clock(scenario())
    line = "task 'falcon_channels stubborn' was cancelled, but still runs after 5 s"
    assert line in caplog.text
