"""Timers of many objects, run by one timer of the event loop.

A timer or a task for each connection would cost more memory than the connection. Here
all objects that are due within the same tick share one slot. The event loop wakes up
once for each slot that is in use.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

_logger = logging.getLogger('falcon_channels')


class Timed(Protocol):
    """An object that can be put into a `TimerWheel`."""

    def on_due(self, now_s: float) -> None:
        """Called when the object is due; may add the object again.

        Args:
            now_s: The event loop's clock.
        """


class TimerWheel:
    """Calls objects at most one tick after their time.

    The wheel sets no attribute of the objects. `add` returns the slot of the object,
    and the caller passes that slot to the next `add` or `discard`. An object is in one
    slot at a time. While the wheel is empty, no timer runs.

    Args:
        tick_s: Width of a slot in seconds; 1.0 by default. Longer ticks wake the event
            loop less often.
    """

    __slots__ = ('_emptied', '_emptying', '_slots', '_tick_s', '_timer', '_timer_slot')

    def __init__(self, tick_s: float = 1.0) -> None:
        self._tick_s = tick_s
        # NOTE: Dicts keep the order of `add`, and objects need not be comparable.
        self._slots: dict[int, dict[Timed, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: The slot that `_timer` waits for.
        self._timer_slot = 0
        #: The last slot that has been or is being emptied.
        self._emptied = 0
        self._emptying = False

    def add(self, item: Timed, when_s: float, slot: int = 0) -> int:
        """Call `item` at `when_s`; this replaces its earlier time.

        Args:
            item: The object to call.
            when_s: Time of the event loop's clock, rounded up to the next tick.
            slot: The object's slot from the last `add`; 0, the default, if it has none.

        Returns:
            The object's new slot, which is greater than 0.
        """
        if slot:
            self.discard(item, slot)
        # NOTE: A slot that has been emptied is not looked at again.
        slot = max(int(when_s / self._tick_s), self._emptied) + 1
        items = self._slots.get(slot)
        if items is None:
            items = self._slots[slot] = {}
        items[item] = None
        if not self._emptying and (self._timer is None or slot < self._timer_slot):
            self._schedule()
        return slot

    def discard(self, item: Timed, slot: int) -> None:
        """Remove an object; do nothing if it is not in the slot.

        Args:
            item: The object.
            slot: Its slot from the last `add`; 0 if it has none.
        """
        items = self._slots.get(slot)
        if items is None or item not in items:
            return
        del items[item]
        if not items:
            del self._slots[slot]
            if not self._slots and not self._emptying:
                self._schedule()

    def close(self) -> None:
        """Remove all objects and stop the timer."""
        for items in self._slots.values():
            items.clear()
        self._slots.clear()
        self._schedule()

    def _schedule(self) -> None:
        """Set the timer to the first slot in use; stop it if there is none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._slots:
            self._timer_slot = min(self._slots)
            self._timer = asyncio.get_running_loop().call_at(
                self._timer_slot * self._tick_s, self._empty_due_slots
            )

    def _empty_due_slots(self) -> None:
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        # NOTE: The timer may run a little early, because the loop's clock is coarse.
        current = max(int(now_s / self._tick_s), self._timer_slot)
        self._emptied = max(self._emptied, current)
        self._emptying = True
        try:
            for slot in sorted(slot for slot in self._slots if slot <= current):
                self._empty(slot, now_s)
        finally:
            self._emptying = False
            self._schedule()

    def _empty(self, slot: int, now_s: float) -> None:
        items = self._slots.get(slot, {})
        for item in list(items):
            # NOTE: An object called before may have discarded this one.
            if item in items:
                del items[item]
                self._call(item, now_s)
        self._slots.pop(slot, None)

    def _call(self, item: Timed, now_s: float) -> None:
        try:
            item.on_due(now_s)
        except Exception:
            _logger.exception('The timer callback of %r failed', item)
