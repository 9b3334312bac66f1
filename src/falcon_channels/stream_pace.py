"""Decides when the writers of a process store the chunks of their streams.

Storing and sending a batch costs more than collecting a chunk. While a process writes
few chunks, each writer stores the first chunk after a pause at once. While the process
writes many, its CPU is the limit: the first chunk of a batch then waits for the next
chunks of its stream (`StreamWriterOptions.busy_interval_s`).

The decision depends on the number of written chunks, which it does not change. A
decision by the load of the process would change that load, and would swing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any
from typing import Final

from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.timer_wheel import TimerWheel

#: Number of chunks a second, in all streams of the process, above which it is busy.
BUSY_CHUNKS_PER_S: Final = 5000
#: Seconds over which chunks are counted.
_COUNT_S = 0.25
#: Batches that are due within these seconds are stored together.
_TICK_S = 0.002


class BatchTimer:
    """The timer of one writer; call `StreamPace.timer` to get it.

    Args:
        wheel: Timers of all writers.
        call: Called when the batch is due.
    """

    __slots__ = ('_call', '_slot', '_wheel')

    def __init__(self, wheel: TimerWheel, call: Callable[[], None]) -> None:
        self._wheel = wheel
        self._call = call
        self._slot = 0

    def start(self, due_s: float) -> None:
        """Set the time at which the batch is due."""
        self._slot = self._wheel.add(self, due_s, self._slot)

    def stop(self) -> None:
        """Stop the timer; do nothing if it does not run."""
        if self._slot:
            self._wheel.discard(self, self._slot)
            self._slot = 0

    def on_due(self, now_s: float) -> None:
        """Called by the timer wheel.

        Args:
            now_s: The event loop's clock.
        """
        self._slot = 0
        self._call()


class StreamPace:
    """The pace of all stream writers of one process.

    Args:
        append_all: Appends the publications of several writers together;
            `Publisher.append_all`.
    """

    def __init__(self, append_all: Callable[[list[Any]], asyncio.Future[Any]]) -> None:
        self._append_all = append_all
        #: What is appended at the end of this event-loop iteration.
        self._items: list[Any] = []
        self._calls: list[Callable[[Any], None]] = []
        self._wheel = TimerWheel(_TICK_S)
        self._num_chunks = 0
        self._counted_s = 0.0
        self._busy = False

    def timer(self, call: Callable[[], None]) -> BatchTimer:
        """Return a timer for one writer.

        Args:
            call: Called when the batch of the writer is due.
        """
        return BatchTimer(self._wheel, call)

    def append(self, item: Any, on_done: Callable[[Any], None]) -> None:
        """Append a publication together with those of other writers.

        Args:
            item: An item for `Publisher.append_all`.
            on_done: Called with the result; with ``None`` if the publication was not
                stored, or possibly not.
        """
        if not self._items:
            asyncio.get_running_loop().call_soon(self._flush)
        self._items.append(item)
        self._calls.append(on_done)

    def _flush(self) -> None:
        items, self._items = self._items, []
        calls, self._calls = self._calls, []
        try:
            future = self._append_all(items)
        except BrokerUnavailableError:
            for call in calls:
                call(None)
            return
        future.add_done_callback(partial(_call_each, calls))

    def count_chunk(self) -> None:
        """Count a chunk that a producer has written."""
        self._num_chunks += 1

    def is_busy(self, now_s: float) -> bool:
        """Return whether the process writes many chunks a second."""
        elapsed_s = now_s - self._counted_s
        if elapsed_s >= _COUNT_S:
            self._busy = self._num_chunks > BUSY_CHUNKS_PER_S * elapsed_s
            self._num_chunks = 0
            self._counted_s = now_s
        return self._busy


def _call_each(calls: list[Callable[[Any], None]], future: asyncio.Future[Any]) -> None:
    """Pass each result to its writer; ``None`` if there are no results."""
    if future.cancelled() or future.exception() is not None:
        results = [None] * len(calls)
    else:
        results = future.result()
    for call, result in zip(calls, results, strict=True):
        call(result)
