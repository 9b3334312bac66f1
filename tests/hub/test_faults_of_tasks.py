"""Errors of the hub's own tasks."""

from __future__ import annotations

import asyncio

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
