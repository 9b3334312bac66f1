"""Decides when the writers of a process store the chunks of their streams.

Storing and sending a batch costs more than collecting a chunk. While a process writes
few chunks, each writer stores the first chunk after a pause at once. While the process
writes many, its CPU is the limit: the first chunk of a batch then waits for the next
chunks of its stream (`StreamWriterOptions.busy_interval_s`).

The decision depends on the number of written chunks, which it does not change. A
decision by the load of the process would change that load, and would swing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

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
    """The pace of all stream writers of one process."""

    def __init__(self) -> None:
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
