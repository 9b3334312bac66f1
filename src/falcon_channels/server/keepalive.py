"""Keep-alive pings of all connections by one timer.

A wheel of slots turns once per ping interval; each connection sits in one slot and is
asked, when the wheel gets there, when it wants to be asked next. An idle connection
costs a set entry instead of a timer or a task.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

#: How finely deadlines are kept: an interval takes at least so many slots.
_SLOTS_PER_INTERVAL = 16


class KeptAlive(Protocol):
    """A connection in the wheel."""

    #: The slot where it sits; the wheel's own, -1 outside of it.
    wheel_slot: int

    def keep_alive(self) -> float | None:
        """Ping or judge the peer; return the seconds until next time, or None."""


class KeepAliveWheel:
    """One timer for the pings of many connections.

    Args:
        loop: Where the timer runs, while there are connections.
        shortest_s: The shortest delay that connections will ask for.
        longest_s: The longest one.
    """

    __slots__ = ('_at', '_loop', '_population', '_slots', '_tick_s', '_timer')

    def __init__(
        self, loop: asyncio.AbstractEventLoop, shortest_s: float, longest_s: float
    ) -> None:
        self._loop = loop
        self._tick_s = max(shortest_s / _SLOTS_PER_INTERVAL, 0.01)
        count = min(math.ceil(longest_s / self._tick_s) + 2, 4096)
        self._slots: list[set[KeptAlive]] = [set() for _ in range(count)]
        self._at = 0
        self._population = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: KeptAlive, delay_s: float) -> None:
        """Ask `connection` after about `delay_s`."""
        ticks = min(max(round(delay_s / self._tick_s), 1), len(self._slots) - 1)
        slot = (self._at + ticks) % len(self._slots)
        self._slots[slot].add(connection)
        connection.wheel_slot = slot
        self._population += 1
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick_s, self._turn)

    def discard(self, connection: KeptAlive) -> None:
        """Forget `connection`; nothing happens where it is not in the wheel."""
        if connection.wheel_slot >= 0:
            self._slots[connection.wheel_slot].discard(connection)
            connection.wheel_slot = -1
            self._population -= 1
            if not self._population and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _turn(self) -> None:
        self._timer = None
        self._at = (self._at + 1) % len(self._slots)
        due, self._slots[self._at] = self._slots[self._at], set()
        for connection in due:
            if connection.wheel_slot < 0:
                continue  # one asked before has ended this one
            connection.wheel_slot = -1
            self._population -= 1
            delay_s = connection.keep_alive()
            if delay_s is not None:
                self.add(connection, delay_s)
        if self._timer is None and self._population:
            self._timer = self._loop.call_later(self._tick_s, self._turn)
