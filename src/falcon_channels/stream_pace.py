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
BUSY_CHUNKS_PER_S: Final = 10_000
#: Seconds over which chunks are counted.
_COUNT_S = 0.25
#: Batches that are due within these seconds are stored together.
_TICK_S = 0.005
#: Maximum number of publications that are appended with one call, and of calls in
#: progress. Without a limit, the streams of a large call would all have their next
#: batch due at its end, and the calls would become larger and larger.
MAX_ITEMS: Final = 128
_MAX_CALLS = 2


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
        #: Publications that wait, and what is called with their results.
        self._items: list[Any] = []
        self._on_done: list[Callable[[Any], None]] = []
        #: Number of calls of `append_all` in progress.
        self._num_calls = 0
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
        if not self._items and self._num_calls < _MAX_CALLS:
            asyncio.get_running_loop().call_soon(self._flush)
        self._items.append(item)
        self._on_done.append(on_done)

    def _flush(self) -> None:
        """Append waiting publications, the oldest first."""
        while self._items and self._num_calls < _MAX_CALLS:
            items = self._items[:MAX_ITEMS]
            on_done = self._on_done[:MAX_ITEMS]
            del self._items[:MAX_ITEMS], self._on_done[:MAX_ITEMS]
            try:
                future = self._append_all(items)
            except BrokerUnavailableError:
                _call_each(on_done, [None] * len(items))
                continue
            self._num_calls += 1
            future.add_done_callback(partial(self._on_appended, on_done))

    def _on_appended(
        self, on_done: list[Callable[[Any], None]], future: asyncio.Future[Any]
    ) -> None:
        self._num_calls -= 1
        if future.cancelled() or future.exception() is not None:
            _call_each(on_done, [None] * len(on_done))
        else:
            _call_each(on_done, future.result())
        self._flush()

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


def _call_each(calls: list[Callable[[Any], None]], results: list[Any]) -> None:
    for call, result in zip(calls, results, strict=True):
        call(result)
