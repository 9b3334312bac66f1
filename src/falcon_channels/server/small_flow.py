"""uvicorn's flow control and events, in objects that take little memory."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class LazyEvent:
    """A small event with the methods of `asyncio.Event` that a request uses.

    PERF: each `asyncio.Event` has its own queue of 700 bytes. A connection has two
    events, and rarely waits for them (benchmarks/idle_memory.py).

    Args:
        is_set: Whether the event is set at first.
    """

    __slots__ = ('_is_set', '_waiters')

    def __init__(self, *, is_set: bool = False) -> None:
        self._is_set = is_set
        self._waiters: list[asyncio.Future[None]] | None = None

    def set(self) -> None:
        """Set the event, and wake all tasks that wait for it."""
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Reset the event."""
        self._is_set = False

    async def wait(self) -> None:
        """Wait until the event is set."""
        if self._is_set:
            return
        if self._waiters is None:
            self._waiters = []
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            # NOTE: a task that waits with a timeout, again and again, would otherwise
            #   leave a waiter each time.
            if self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)


class SmallFlow(FlowControl):
    """uvicorn's flow control of one connection, with slots and a small event."""

    __slots__ = ('_is_writable_event', '_transport', 'read_paused', 'write_paused')

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False
        self._is_writable_event = LazyEvent(is_set=True)  # type: ignore[assignment]  # it has the methods that are used
