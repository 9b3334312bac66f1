"""The deadline of a client that reads nothing of its pending output."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class BacklogWatch:
    """Ends a connection if its client reads nothing for `timeout_s`.

    It lives while too much output of the connection is pending.

    SECURITY: A client that never reads could otherwise keep its connection and its
    pending output in memory without limit. A slow client is not cut off, as long as it
    reads something.

    Args:
        loop: The event loop.
        timeout_s: Maximum time in which the client reads nothing, in seconds.
        written_bytes: Returns a number that grows when the client reads.
        abort: Ends the connection.
    """

    __slots__ = ('_abort', '_loop', '_timeout_s', '_timer', '_written_bytes')

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        written_bytes: Callable[[], int],
        abort: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._written_bytes = written_bytes
        self._abort = abort
        self._timer = self._start_timer()

    def cancel(self) -> None:
        """Stop: the client has read the backlog, or the connection ends."""
        self._timer.cancel()

    def _start_timer(self) -> asyncio.TimerHandle:
        return self._loop.call_later(
            self._timeout_s, self._check, self._written_bytes()
        )

    def _check(self, written_before: int) -> None:
        if self._written_bytes() <= written_before:
            self._abort()
        else:
            self._timer = self._start_timer()
