"""Decides when to ping a silent client, and when to abort its connection.

Pure: the time is an argument. Blocking threads need no timer, because each one wakes up
by the timeout of its own socket.
"""

from __future__ import annotations

from enum import auto
from enum import Enum
import math


class Due(Enum):
    """The next step after a wait without bytes."""

    NOTHING = auto()
    PING = auto()
    DEAD = auto()


class PingSchedule:
    """The pings of one connection.

    Call `heard` when bytes arrive, and wait for bytes no longer than `wait_s`. If none
    came, call `due` and act accordingly. Call `pinged` when a ping has been sent. Any
    byte shows that the client is alive, not only a pong.

    Args:
        interval_s: Seconds of silence before a ping; ``None`` for no pings.
        timeout_s: Seconds of silence after a ping that mean that the client is gone.
        now: Monotonic time in seconds, as for all methods.
    """

    __slots__ = ('_dead_at', '_interval_s', '_ping_at', '_timeout_s')

    def __init__(self, interval_s: float | None, timeout_s: float, now: float) -> None:
        self._interval_s = math.inf if interval_s is None else interval_s
        self._timeout_s = timeout_s
        self._dead_at: float | None = None
        self.heard(now)

    def heard(self, now: float) -> None:
        """Record that bytes arrived."""
        self._ping_at = now + self._interval_s
        self._dead_at = None

    def wait_s(self, now: float) -> float:
        """Return the maximum wait for bytes; infinite without pings."""
        at = self._ping_at if self._dead_at is None else self._dead_at
        return max(0.0, at - now)

    def due(self, now: float) -> Due:
        """Return what to do after a wait without bytes."""
        if self._dead_at is not None:
            return Due.DEAD if now >= self._dead_at else Due.NOTHING
        return Due.NOTHING if now < self._ping_at else Due.PING

    def pinged(self, now: float) -> None:
        """Start the timeout of a ping that has been sent."""
        self._dead_at = now + self._timeout_s
