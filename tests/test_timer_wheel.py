"""When objects in a timer wheel are called, and when they are not."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels.timer_wheel import TimerWheel


class Item:
    """Records when it is called; `delays_s` are the times of its further calls."""

    def __init__(self, *delays_s: float) -> None:
        self.delays_s = list(delays_s)
        self.times: list[float] = []
        self.called = asyncio.Event()
        self.wheel: TimerWheel | None = None
        self.slot = 0
        self.discards: Item | None = None
        self.error: Exception | None = None

    def add(self, wheel: TimerWheel, when_s: float) -> None:
        self.wheel = wheel
        self.slot = wheel.add(self, when_s, self.slot)

    def on_due(self, now_s: float) -> None:
        self.slot = 0
        self.times.append(time.monotonic())
        self.called.set()
        if self.discards is not None and self.wheel is not None:
            self.wheel.discard(self.discards, self.discards.slot)
        if self.delays_s and self.wheel is not None:
            self.slot = self.wheel.add(self, now_s + self.delays_s.pop(0))
        if self.error is not None:
            raise self.error


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def wait_until_called(*items: Item) -> None:
    async with asyncio.timeout(30):
        for item in items:
            await item.called.wait()


async def wait_until_empty(wheel: TimerWheel) -> None:
    async with asyncio.timeout(30):
        while wheel._slots:
            await asyncio.sleep(0.005)


async def test_items_added_again_are_called_after_each_delay() -> None:
    """No object is called before its time; `on_due` may add it again."""
    wheel = TimerWheel(0.005)
    soon, late = Item(0.08), Item()
    began = time.monotonic()
    soon.add(wheel, now_s() + 0.08)
    late.add(wheel, now_s() + 0.2)
    await wait_until_empty(wheel)

    assert 2 == len(soon.times)
    assert 1 == len(late.times)
    assert soon.times[0] - began >= 0.07
    assert soon.times[1] - soon.times[0] >= 0.07
    assert late.times[0] - began >= 0.18


async def test_empty_wheel_runs_no_timer() -> None:
    """The timer runs only while there are objects; discarding twice is harmless."""
    wheel = TimerWheel()
    item = Item()
    assert wheel._timer is None
    item.add(wheel, now_s() + 1)
    assert wheel._timer is not None
    wheel.discard(item, item.slot)
    wheel.discard(item, item.slot)
    assert wheel._timer is None


async def test_item_discarded_by_another_in_the_same_slot_is_not_called() -> None:
    """Of two objects that are due together, the first call may discard the second."""
    wheel = TimerWheel(0.05)
    one, two = Item(), Item()
    one.discards, two.discards = two, one
    when_s = now_s() + 0.05
    one.add(wheel, when_s)
    two.add(wheel, when_s)
    await wait_until_empty(wheel)

    assert 1 == len(one.times) + len(two.times)


async def test_item_added_again_is_called_at_its_last_time_only() -> None:
    """`add` removes the object from the slot that it was in."""
    wheel = TimerWheel(0.01)
    sooner, never = Item(), Item()
    sooner.add(wheel, now_s() + 3600)
    sooner.add(wheel, now_s() - 1)
    never.add(wheel, now_s() - 1)
    never.add(wheel, now_s() + 3600)
    await wait_until_called(sooner)

    assert (1, 0) == (len(sooner.times), len(never.times))
    wheel.close()


async def test_item_added_for_the_past_during_a_call_gets_a_later_slot() -> None:
    """No object is put into a slot that is being emptied: it would be lost."""
    wheel = TimerWheel(0.01)
    item = Item(-1, 0, -3600)
    item.add(wheel, now_s())
    await wait_until_empty(wheel)

    assert 4 == len(item.times)


async def test_slots_are_greater_than_zero_and_grow_with_the_time() -> None:
    """The slot is the time rounded up to a whole tick; 0 means "in no slot"."""
    wheel = TimerWheel(0.5)
    item = Item()
    assert [1, 1, 3, 21] == [
        wheel.add(item, when_s) for when_s in (0.0, 0.25, 1.25, 10.25)
    ]
    wheel.close()


async def test_callback_that_raises_is_logged_and_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error in one object's `on_due` does not affect the other objects."""
    caplog.set_level(logging.ERROR, 'falcon_channels')
    wheel = TimerWheel(0.01)
    first, second, later = Item(), Item(), Item()
    first.error = ValueError('on purpose')
    when_s = now_s() - 1
    first.add(wheel, when_s)
    second.add(wheel, when_s)
    later.add(wheel, now_s() + 0.05)
    await wait_until_called(first, second, later)

    [record] = caplog.records
    assert record.exc_info is not None
    assert first.error is record.exc_info[1]


@on_fake_clock
async def test_closed_wheel_calls_nothing() -> None:
    """After `close`, also within a call, no object of the wheel is called."""
    wheel = TimerWheel(0.01)

    class Closing(Item):
        def on_due(self, now_s: float) -> None:
            super().on_due(now_s)
            wheel.close()

    first, same_slot, later = Closing(), Item(), Item()
    when_s = now_s() - 1
    first.add(wheel, when_s)
    same_slot.add(wheel, when_s)
    later.add(wheel, now_s() + 0.03)
    await wait_until_called(first)
    await asyncio.sleep(0.1)

    assert ([], []) == (same_slot.times, later.times)
    assert wheel._timer is None


async def test_discarded_item_is_freed_before_its_time() -> None:
    """The wheel keeps no reference to an object that was discarded."""
    wheel = TimerWheel()
    item = Item()
    freed = weakref.ref(item)
    slot = wheel.add(item, now_s() + 3600)
    gc.disable()
    try:
        wheel.discard(item, slot)
        wheel.discard(item, slot)
        del item
        assert freed() is None
    finally:
        gc.enable()
    wheel.close()
