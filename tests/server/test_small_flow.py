"""The small event of a request."""

from __future__ import annotations

import asyncio
import gc

import pytest

from falcon_channels.server.small_flow import LazyEvent


def count_futures() -> int:
    # NOTE: `isinstance` would follow weak proxies of other tests, which may be dead.
    return sum(issubclass(type(item), asyncio.Future) for item in gc.get_objects())


async def test_event_wakes_all_tasks_that_wait() -> None:
    """Each waiting task continues, and a later one does not wait."""
    event = LazyEvent()
    waiting = [asyncio.create_task(event.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    event.set()
    await asyncio.gather(*waiting, event.wait())
    event.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(event.wait(), 0.01)


async def test_wait_that_was_cancelled_leaves_nothing() -> None:
    """An app may ask for the next part of a body with a timeout, again and again.

    Each time, one future stayed in memory until the next part or the end.
    """
    event = LazyEvent()
    before = count_futures()
    for _ in range(50):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(event.wait(), 0.001)
    gc.collect()
    assert count_futures() - before < 10
    event.set()
    await event.wait()
