"""Who waits for a second, and who does so no longer."""

from __future__ import annotations

import asyncio
import gc
import weakref

from falcon_channels.timer_wheel import Heartbeat


class Waiting:
    """Notes when it is called, and may do something then."""

    def __init__(self) -> None:
        self.due_s = 0
        self.called = asyncio.Event()
        self.drops: tuple[Heartbeat, Waiting] | None = None

    def on_due(self, now_s: float) -> None:
        self.called.set()
        if self.drops is not None:
            heartbeat, other = self.drops
            heartbeat.discard(other)


async def test_only_the_last_second_counts() -> None:
    """Who is set again is called once, at the later time or the earlier one."""
    heartbeat = Heartbeat()
    now_s = asyncio.get_running_loop().time()
    sooner, never = Waiting(), Waiting()
    heartbeat.set(sooner, now_s + 3600)
    heartbeat.set(sooner, now_s - 1)
    heartbeat.set(never, now_s - 1)
    heartbeat.set(never, now_s + 3600)
    async with asyncio.timeout(30):
        await sooner.called.wait()
    assert (0, False) == (sooner.due_s, never.called.is_set())
    heartbeat.close()


async def test_who_is_forgotten_is_not_kept() -> None:
    """Nothing of somebody forgotten stays until the second that it waited for."""
    heartbeat = Heartbeat()
    due = Waiting()
    freed = weakref.ref(due)
    heartbeat.set(due, asyncio.get_running_loop().time() + 3600)
    gc.disable()
    try:
        heartbeat.discard(due)
        heartbeat.discard(due)
        del due
        assert freed() is None
    finally:
        gc.enable()
    heartbeat.close()


async def test_who_is_forgotten_by_another_is_not_called() -> None:
    """Of two that are due together, the first may end the second."""
    heartbeat = Heartbeat()
    first, second, last = Waiting(), Waiting(), Waiting()
    first.drops = heartbeat, second
    now_s = asyncio.get_running_loop().time()
    for due in (first, second, last):
        heartbeat.set(due, now_s - 1)
    async with asyncio.timeout(30):
        await last.called.wait()
    assert (True, False) == (first.called.is_set(), second.called.is_set())
    heartbeat.close()
