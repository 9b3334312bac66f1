"""Appends the batches of many streams with few calls of the broker.

A batch that is due waits in the queue of its process. The process appends at most
`MAX_ITEMS` batches with one call, and has at most one call in progress. A batch is
taken from its stream when its call begins. Chunks that are written until then are part
of it. After a delay, for example by a slow disk, batches are therefore larger, and the
process makes up for the delay.

A stream has at most one batch in the queue, and its buffer is bounded
(`StreamWriterOptions.max_pending_bytes`). The queue therefore has no limit of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
import logging
from typing import Any
from typing import Final
from typing import TypeAlias

from falcon_channels.brokers.base import PublishResult
from falcon_channels.chunk_rate import ChunkRate

_logger = logging.getLogger('falcon_channels')

#: Maximum number of batches that are appended with one call. Without a limit, the
#: streams of a large call would all have their next batch due at its end, and the calls
#: would become larger and larger.
MAX_ITEMS: Final = 160
#: Seconds for which a busy process waits for more batches before a call, if no call is
#: in progress.
_BUSY_PAUSE_S = 0.0005

_Results: TypeAlias = list[PublishResult | None]


class BatchSource:
    """Gives the batch of one stream to the queue, and gets its result.

    Args:
        take: Called when a call begins. It returns an item for `append_all` of the
            queue, or ``None`` if the stream does not append its batch in this way.
        on_done: Called with the result of this item; with ``None`` if it is not certain
            that it was stored.
    """

    __slots__ = ('on_done', 'take')

    def __init__(
        self,
        take: Callable[[], Any],
        on_done: Callable[[PublishResult | None], None],
    ) -> None:
        self.take = take
        self.on_done = on_done


class AppendQueue:
    """The queue of the batches of all streams of one process.

    Args:
        append_all: Appends the batches of several streams with one call of the broker.
        rate: Number of chunks that the process writes.
    """

    def __init__(
        self,
        append_all: Callable[[list[Any]], asyncio.Future[_Results]],
        rate: ChunkRate,
    ) -> None:
        self._append_all = append_all
        self._rate = rate
        #: Sources of the waiting batches, the oldest first.
        self._waiting: list[BatchSource] = []
        self._flush_planned = False
        #: Whether a call of `append_all` is in progress.
        #: PERF: SQLite has one thread for all calls. With a second call, this thread
        #:   and the event loop would interrupt each other more often. One call saves an
        #:   eighth of the CPU time of a busy process (benchmarks/event_streams.py).
        self._appending = False

    def add(self, source: BatchSource) -> None:
        """Queue the batch of a stream for the next call.

        PERF: a busy process waits for more batches, because a call costs as much as
        several batches (benchmarks/event_streams.py).
        """
        self._waiting.append(source)
        if not self._flush_planned and not self._appending:
            self._flush_planned = True
            loop = asyncio.get_running_loop()
            if self._rate.busy:
                loop.call_later(_BUSY_PAUSE_S, self._flush)
            else:
                loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Append waiting batches, the oldest first."""
        self._flush_planned = False
        while self._waiting and not self._appending:
            due = self._waiting[:MAX_ITEMS]
            del self._waiting[:MAX_ITEMS]
            sources = []
            items = []
            for source in due:
                try:
                    item = source.take()
                except Exception:
                    # NOTE: an error of one stream must not stop the others. Its task
                    #   then stores the batch, and ends the stream if that fails, too.
                    _logger.exception('taking the batch of a stream failed')
                    _tell_each([source], [None])
                    continue
                if item is not None:
                    sources.append(source)
                    items.append(item)
            if not items:
                continue
            try:
                future = self._append_all(items)
            except Exception:
                # NOTE: each stream then stores its batch itself, and gets the error.
                _tell_each(sources, [None] * len(sources))
                continue
            self._appending = True
            future.add_done_callback(partial(self._on_appended, sources))

    def _on_appended(
        self, sources: list[BatchSource], future: asyncio.Future[_Results]
    ) -> None:
        self._appending = False
        if future.cancelled() or future.exception() is not None:
            _tell_each(sources, [None] * len(sources))
        else:
            _tell_each(sources, future.result())
        self._flush()


def _tell_each(sources: list[BatchSource], results: _Results) -> None:
    for source, result in zip(sources, results, strict=True):
        try:
            source.on_done(result)
        except Exception:
            _logger.exception('a stream failed after its batch was appended')
