"""One timer for all connections: who is due in which second.

A timer or a task for each connection would cost more memory than the connection. Here
everybody who waits for something stands in the bucket of the second in which it is due;
once a second the buckets that are due are emptied.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Due(Protocol):
    """Somebody who waits for a second."""

    #: The second that it waits for; 0 for none.
    due_s: int

    def on_due(self, now_s: float) -> None:
        """Do what is due, and set oneself again if there is more; must not raise."""


class Heartbeat:
    """Calls those who are due, within a second after their time."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Due, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_s = 0

    def set(self, due: Due, when_s: float) -> None:
        """Call `due` at `when_s` of the loop's clock, and not at its earlier second.

        Args:
            due: Whom; it waits for one second at a time.
            when_s: Rounded up to a whole second.
        """
        self.discard(due)
        second = int(when_s) + 1
        due.due_s = second
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = {}
        bucket[due] = None
        if self._timer is None or second < self._next_s:
            self._plan()

    def discard(self, due: Due) -> None:
        """Forget `due`, and keep nothing of it; it need not be here."""
        bucket = self._buckets.get(due.due_s)
        if bucket is not None:
            bucket.pop(due, None)
            if not bucket:
                del self._buckets[due.due_s]
        due.due_s = 0

    def close(self) -> None:
        """Call nobody any more."""
        self._buckets.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._buckets:
            self._next_s = min(self._buckets)
            self._timer = asyncio.get_running_loop().call_at(self._next_s, self._beat)

    def _beat(self) -> None:
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        for second in sorted(second for second in self._buckets if second <= now_s):
            for due in self._buckets.pop(second):
                if due.due_s == second:
                    due.due_s = 0
                    due.on_due(now_s)
        self._plan()
