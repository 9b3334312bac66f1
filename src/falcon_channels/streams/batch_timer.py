"""Decides when the next batch of a stream is due.

Storing and sending a batch costs more than collecting a chunk. While a process writes
few chunks, each stream stores the first chunk after a pause at once. While the process
writes many, its CPU is the limit: the first chunk of a batch then waits for the next
chunks of its stream (`StreamWriterOptions.busy_interval_s`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import math
import time

from falcon_channels.chunk_rate import ChunkRate
from falcon_channels.options import StreamWriterOptions
from falcon_channels.timer_wheel import TimerWheel


class BatchTimer:
    """The timer of one stream.

    It collects one batch at a time. When the batch is due, it calls `on_due` once. The
    next batch is due only after `begin`.

    Args:
        options: Options of the stream.
        rate: Number of chunks that the process writes.
        wheel: Timers of all streams of the process.
        on_due: Called when the batch is due.
    """

    __slots__ = (
        '_clock',
        '_collecting',
        '_earliest_s',
        '_first_s',
        '_options',
        '_planned_s',
        '_rate',
        '_slot',
        '_tell',
        '_until_s',
        '_wheel',
        '_written_s',
    )

    def __init__(
        self,
        options: StreamWriterOptions,
        rate: ChunkRate,
        wheel: TimerWheel,
        on_due: Callable[[], None],
    ) -> None:
        self._options = options
        self._rate = rate
        self._wheel = wheel
        self._tell = on_due
        #: The event loop's clock, after `start`.
        self._clock = time.monotonic
        #: Whether the batch can become due: it is not due yet, and no other batch of
        #: the stream is being stored.
        self._collecting = False
        #: Time of the first chunk of the next batch; ``None`` without a chunk.
        self._first_s: float | None = None
        #: Time of the newest chunk.
        self._written_s = 0.0
        #: Earliest time at which the next batch is due, if nothing is urgent.
        #: NOTE: it counts from the moment at which the previous batch was due, and not
        #:   from the moment at which it was taken or stored. Otherwise, one delay of
        #:   the broker would also delay many of the next chunks.
        self._earliest_s = -math.inf
        #: Time until which the batch of a busy process waits for more chunks; infinite
        #: without such a batch.
        self._until_s = math.inf
        #: Time for which the timer was set. The wheel calls a little later. If the next
        #: batch counted from then, it would be later each time.
        self._planned_s = 0.0
        #: Slot of the timer wheel; 0 while the timer does not run.
        self._slot = 0

    def start(self) -> None:
        """Use the clock of the running event loop; call this first."""
        self._clock = asyncio.get_running_loop().time

    def begin(self, *, has_chunks: bool, urgent: bool) -> None:
        """Collect the next batch, because no other is being stored.

        Args:
            has_chunks: Whether chunks were written that are not stored.
            urgent: Whether these must not wait.
        """
        self._collecting = True
        if not has_chunks:
            # NOTE: the previous batch can contain chunks that were written after it was
            #   due. The time of the first of them is no longer valid.
            self._first_s = None
            return
        if self._first_s is None:
            self._first_s = self._clock()
        if urgent:
            self._become_due(self._clock())
        else:
            self._plan(self._clock())

    def on_chunk(self) -> None:
        """Called when a chunk was written."""
        self._rate.count()
        now_s = self._clock()
        if self._first_s is None:
            self._first_s = now_s
            self._plan(now_s)
        elif now_s + (now_s - self._written_s) > self._until_s:
            # The next chunk is expected too late for this batch.
            self._set_due(max(now_s, self._earliest_s), now_s)
        self._written_s = now_s

    def hurry(self) -> None:
        """Make the batch due now, if it has a chunk."""
        if self._first_s is not None:
            self._become_due(self._clock())

    def on_taken(self) -> None:
        """Called when the batch was taken: the next chunk belongs to the next batch."""
        self._first_s = None

    def stop(self) -> None:
        """Stop the timer: no batch becomes due until `begin`."""
        self._collecting = False
        self._wheel.discard(self, self._slot)
        self._slot = 0

    def on_due(self, now_s: float) -> None:
        """Called by the timer wheel.

        Args:
            now_s: The event loop's clock.
        """
        self._slot = 0
        self._become_due(self._planned_s)

    def _plan(self, now_s: float) -> None:
        """Set the time at which the batch is due."""
        first_s = self._first_s
        if not self._collecting or first_s is None:
            return
        options = self._options
        due_s = max(first_s, self._earliest_s)
        if options.busy_interval_s and self._rate.is_busy(now_s):
            due_s = self._until_s = max(due_s, first_s + options.busy_interval_s)
        self._set_due(due_s, now_s)

    def _set_due(self, due_s: float, now_s: float) -> None:
        """Make the batch due at a time; if this time has passed, make it due now."""
        if due_s > now_s:
            self._planned_s = due_s
            self._slot = self._wheel.add(self, due_s, self._slot)
        else:
            self._become_due(due_s)

    def _become_due(self, due_s: float) -> None:
        if not self._collecting:
            return
        self.stop()
        self._earliest_s = due_s + self._options.interval_s
        self._until_s = math.inf
        self._tell()
