"""When to ping a silent client, and when to give it up. Pure: time comes in."""

from __future__ import annotations

from enum import auto
from enum import Enum
import math


class Due(Enum):
    """What a silence has led to."""

    NOTHING = auto()
    PING = auto()
    DEAD = auto()


class KeepAlive:
    """The pings of one connection.

    Call `heard` whenever bytes arrive; wait for bytes no longer than `wait_s`; when
    none came, act as `due` says. Any byte is a sign of life, not only a pong.

    Args:
        interval_s: Silence before a ping; None for no pings.
        timeout_s: Silence after a ping that means that the client is gone.
        now: A monotonic time in seconds, as for all methods.
    """

    __slots__ = ('_dead_at', '_interval_s', '_ping_at', '_timeout_s')

    def __init__(self, interval_s: float | None, timeout_s: float, now: float) -> None:
        self._interval_s = math.inf if interval_s is None else interval_s
        self._timeout_s = timeout_s
        self._dead_at: float | None = None
        self.heard(now)

    def heard(self, now: float) -> None:
        """Note that bytes arrived."""
        self._ping_at = now + self._interval_s
        self._dead_at = None

    def wait_s(self, now: float) -> float:
        """Return how long to wait for bytes, at most; infinite without pings."""
        at = self._ping_at if self._dead_at is None else self._dead_at
        return max(0.0, at - now)

    def due(self, now: float) -> Due:
        """Say what to do after a wait without bytes; `Due.PING` starts the timeout."""
        if self._dead_at is not None:
            return Due.DEAD if now >= self._dead_at else Due.NOTHING
        if now < self._ping_at:
            return Due.NOTHING
        self._dead_at = now + self._timeout_s
        return Due.PING
