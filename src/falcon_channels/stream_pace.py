"""Decides when the writers of a process store the chunks of their streams.

Storing and sending a batch costs more than collecting a chunk. While a process writes
few chunks, each writer stores the first chunk after a pause at once. While the process
writes many, its CPU is the limit: the first chunk of a batch then waits for the next
chunks of its stream (`StreamWriterOptions.busy_interval_s`).

A batch that is due waits for its turn. The process stores at most `MAX_ITEMS` batches
with one call, and `_MAX_CALLS` calls at a time. Chunks that are written meanwhile join
the batch. After a delay, for example by a slow disk, batches are therefore larger, and
the process makes up for the delay.

The decision depends on the number of written chunks, which it does not change. A
decision by the load of the process would change that load, and would swing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any
from typing import Final
from typing import TypeAlias

from falcon_channels.brokers.base import PublishResult
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

_Results: TypeAlias = list[PublishResult | None]


class Turn:
    """The turn of one writer to store a batch; call `StreamPace.turn` to get it.

    Args:
        pace: Pace of the process.
        wheel: Timers of all writers.
        on_due: Called when the batch is due.
        take: Called when the batch is about to be appended; returns an item for
            `append_all` of the pace, or ``None`` if nothing is to be appended.
        on_done: Called with the result of the item that `take` has returned; with
            ``None`` if it was not stored, or possibly not.
    """

    __slots__ = ('_call', '_pace', '_slot', '_wheel', 'on_done', 'take')

    def __init__(
        self,
        pace: StreamPace,
        wheel: TimerWheel,
        on_due: Callable[[], None],
        take: Callable[[], Any | None],
        on_done: Callable[[PublishResult | None], None],
    ) -> None:
        self._pace = pace
        self._wheel = wheel
        self._slot = 0
        self._call = on_due
        self.take = take
        self.on_done = on_done

    def start(self, due_s: float) -> None:
        """Set the time at which the batch is due."""
        self._slot = self._wheel.add(self, due_s, self._slot)

    def stop(self) -> None:
        """Forget this time."""
        if self._slot:
            self._wheel.discard(self, self._slot)
            self._slot = 0

    def queue(self) -> None:
        """Append the batch soon, together with those of other writers.

        While the turn waits, its writer may add chunks to the batch.
        """
        self._pace.append(self)

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

    def __init__(
        self,
        append_all: Callable[[list[Any]], asyncio.Future[list[PublishResult | None]]],
    ) -> None:
        self._append_all = append_all
        #: Writers whose batches wait, the oldest first.
        self._waiting: list[Turn] = []
        self._flush_planned = False
        #: Number of calls of `append_all` in progress.
        self._num_calls = 0
        self._wheel = TimerWheel(_TICK_S)
        self._num_chunks = 0
        self._counted_s = 0.0
        self._busy = False

    def turn(
        self,
        on_due: Callable[[], None],
        take: Callable[[], Any | None],
        on_done: Callable[[PublishResult | None], None],
    ) -> Turn:
        """Return the turn of one writer; see `Turn`."""
        return Turn(self, self._wheel, on_due, take, on_done)

    def append(self, turn: Turn) -> None:
        """Append the batch of a writer together with those of other writers.

        PERF: a busy process waits for more batches, because each call costs as much as
        several batches (benchmarks/event_streams.py).
        """
        self._waiting.append(turn)
        if not self._flush_planned and self._num_calls < _MAX_CALLS:
            self._flush_planned = True
            loop = asyncio.get_running_loop()
            if self._busy:
                loop.call_later(_TICK_S, self._flush)
            else:
                loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Append waiting batches, the oldest first."""
        self._flush_planned = False
        while self._waiting and self._num_calls < _MAX_CALLS:
            turns = []
            items = []
            for turn in self._waiting[:MAX_ITEMS]:
                item = turn.take()
                if item is not None:
                    turns.append(turn)
                    items.append(item)
            del self._waiting[:MAX_ITEMS]
            if not items:
                continue
            try:
                future = self._append_all(items)
            except BrokerUnavailableError:
                _call_each(turns, [None] * len(turns))
                continue
            self._num_calls += 1
            future.add_done_callback(partial(self._on_appended, turns))

    def _on_appended(self, turns: list[Turn], future: asyncio.Future[_Results]) -> None:
        self._num_calls -= 1
        if future.cancelled() or future.exception() is not None:
            _call_each(turns, [None] * len(turns))
        else:
            _call_each(turns, future.result())
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


def _call_each(turns: list[Turn], results: _Results) -> None:
    for turn, result in zip(turns, results, strict=True):
        turn.on_done(result)
