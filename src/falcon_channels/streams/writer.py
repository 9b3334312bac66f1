"""The writer of a stream.

`StreamWriter.write` puts chunks into a buffer. `BatchTimer` decides when a batch is
due. A batch is stored as one publication. Meanwhile, the buffer collects the chunks of
the next batch. There are two ways to store a batch:

* Some brokers can append the batches of many streams with one call
  (`Broker.append_all`). With them, the batch waits in the `AppendQueue` of the process.
* Otherwise, a task of the writer stores it. The task also stores batches that the queue
  could not store, because the call failed or the broker skipped the batch. If the
  chunks do not fit into one batch, the task stores the rest.

PERF: without the queue, a batch costs twice as much (benchmarks/event_streams.py).

The end of the ``async with`` block decides how the stream ends:

=============================  ========================================================
the block ends                 the stream
=============================  ========================================================
without an exception           is finished with success
because a reader aborts it     was finished by `abort_stream`; no exception is raised
after `StreamWriter.fail`      was finished with the error of this call
with an exception              is finished with `StreamWriterOptions.error_text`
with `StreamConflictError`     stays open for the other writer
with `BrokerUnavailableError`  stays open; another process may continue it
because its task is cancelled  stays open; another process may continue it
=============================  ========================================================

Two writers of one stream cannot corrupt it. At each position, the log stores the
publication of one writer only. The other writer compares its chunks with this
publication. If they are equal, it continues after them. Otherwise it stops with
`StreamConflictError`.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import Context
from contextvars import copy_context
import logging
import secrets
from types import TracebackType
from typing import Any
from typing import Self

import msgspec

from falcon_channels.access import publication_parts
from falcon_channels.access.publishing import StreamAppend
from falcon_channels.append_queue import BatchSource
from falcon_channels.brokers.base import Append
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PublishResult
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import ChannelsError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import PositionError
from falcon_channels.errors import StreamAbortedError
from falcon_channels.errors import StreamConflictError
from falcon_channels.node import Node
from falcon_channels.options import check_options
from falcon_channels.options import StreamWriterOptions
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import new_named_tuple
from falcon_channels.publication import Position
from falcon_channels.routing import ChannelRoute
from falcon_channels.streams.batch_timer import BatchTimer
from falcon_channels.streams.block_task import BlockTask
from falcon_channels.streams.chunks import Batch
from falcon_channels.streams.chunks import ChunkBuffer
from falcon_channels.streams.chunks import is_text_payload
from falcon_channels.streams.log import StreamLog

_logger = logging.getLogger('falcon_channels')

#: Pause before the first retry, and maximum pause between two retries, in seconds.
_RETRY_S, _MAX_RETRY_S = 0.05, 1.0

#: PERF: one object for all streams, which is then in the cache of the core
#:   (benchmarks/event_streams.py).
_DEFAULT_OPTIONS = StreamWriterOptions()


class StreamWriter:
    """Writes a stream to a channel: an async context manager.

    ::

        async with channels.stream('answers:42') as stream:
            async for text in generate(prompt):
                await stream.write(text)

    A stream is a channel with history that has an end. When the block ends, the stream
    is finished. After an exception, it is finished with an error for readers. If a
    reader aborts the stream, the task of the block is cancelled at its current
    ``await``. The block then ends without an exception, and `aborted` is ``True``.

    Only one task at a time should write a stream. If its process dies, open the stream
    in another process, and continue after `length`.
    """

    # PERF: when a chunk is written, the data of its stream is seldom in the CPU cache.
    #   An object without a dictionary takes less of it (benchmarks/event_streams.py).
    __slots__ = (
        '_aborted',
        '_block',
        '_buffer',
        '_can_append_all',
        '_channel',
        '_context',
        '_early_abort',
        '_end_key',
        '_error',
        '_failure_end',
        '_finished',
        '_finishing',
        '_has_warned',
        '_log',
        '_node',
        '_num_flushing',
        '_num_waiting',
        '_options',
        '_progress',
        '_route',
        '_sender',
        '_settings',
        '_source',
        '_taken',
        '_timer',
        '_wake',
    )

    def __init__(
        self, node: Node, channel: str, options: StreamWriterOptions | None
    ) -> None:
        self._options = _DEFAULT_OPTIONS if options is None else options
        check_options(self._options, StreamWriterOptions)
        #: The end that tells readers that the block has raised an exception.
        self._failure_end = publication_parts.make_end(self._options.error_text)
        self._node = node
        self._channel = channel
        self._route: ChannelRoute | None = None
        self._settings = LogSettings()
        self._can_append_all = node.publisher.can_append_all
        self._log = StreamLog(node, channel)
        self._buffer = ChunkBuffer(0)
        self._timer = BatchTimer(
            self._options, node.chunk_rate, node.batch_timers, self._on_due
        )
        self._source = BatchSource(self._take, self._on_appended)
        #: The batch that the queue has taken.
        self._taken: Batch | None = None
        #: Context variables of the stream, for tracing.
        self._context = Context()
        #: The task that stores batches, and what wakes it.
        self._sender: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._block = BlockTask()
        #: Idempotency key of the end.
        self._end_key = f'end:{secrets.token_urlsafe(9)}'
        #: Exception that each further call raises, or ``None``; see `_end`.
        self._error: BaseException | None = None
        self._aborted = False
        #: Whether this writer appends the end, and whether it has finished the stream.
        self._finishing = self._finished = False
        #: Position of the end, if the stream was aborted while it was being opened.
        self._early_abort: Position | None = None
        #: Set and immediately cleared when a batch was stored, or the stream has ended.
        self._progress = asyncio.Event()
        #: Number of calls that wait for progress, and of calls of `flush` among them.
        self._num_waiting = self._num_flushing = 0
        self._has_warned = False

    # --- for the producer ------------------------------------------------------------

    @property
    def length(self) -> int:
        """Length of the stream. Each character of text and each value counts as 1.

        It includes the chunks of earlier writers. A producer that starts again
        continues after this length.
        """
        return self._log.length + self._buffer.units

    @property
    def aborted(self) -> bool:
        """Whether a reader has aborted the stream."""
        return self._aborted

    async def write(self, chunk: Any) -> None:
        """Append a chunk to the stream.

        Consecutive texts may be joined, or split at other places, before readers
        receive them. Any other chunk is one publication.

        The call waits while more than `StreamWriterOptions.max_pending_bytes` are not
        stored.

        Args:
            chunk: Text, or other data that `Channels.publish` accepts.

        Raises:
            StreamAbortedError: The stream was aborted. Do not catch it.
            ChannelFinishedError: The stream has ended.
            StreamConflictError: Another writer has continued the stream.
            PayloadError: The chunk cannot be written as JSON.
            PublicationTooLargeError: The chunk is not text, and its payload exceeds
                `max_publication_bytes`.
            BrokerUnavailableError: The broker was not available for `retry_timeout_s`.
            PositionError: The broker has lost the log of the stream.
        """
        if self._error is not None or self._sender is None:
            self._check_writable()
        buffer = self._buffer
        if isinstance(chunk, str):
            buffer.add_text(chunk)
        else:
            self._add_value(chunk)
        size_bytes = buffer.size_bytes
        # NOTE: without a unit in the buffer, there is nothing to store: the chunk is
        #   empty, or is stored already.
        if buffer.units:
            self._timer.on_chunk()
        if size_bytes >= self._options.max_batch_bytes:
            self._timer.hurry()
        if size_bytes > self._options.max_pending_bytes:
            await self._wait_until_pending(self._options.max_pending_bytes)

    def _add_value(self, value: Any) -> None:
        assert self._route is not None
        payload, binary = publication_parts.encode_publication(
            self._route.options, self._channel, value
        )
        if is_text_payload(payload, binary):
            self._buffer.add_text(msgspec.json.decode(payload))
            return
        publication_parts.check_size(self._route, payload)
        self._buffer.add_value(payload, binary)

    async def flush(self) -> None:
        """Wait until the broker has stored all chunks; see `write` for the errors."""
        self._check_writable()
        self._num_flushing += 1
        self._timer.hurry()
        try:
            await self._wait_until_pending(0)
        finally:
            self._num_flushing -= 1

    async def fail(self, error: str) -> None:
        """Store all chunks, and finish the stream with an error for readers.

        Nothing can be written afterwards.

        Args:
            error: Text for readers, at most 123 bytes of UTF-8.

        Raises:
            PayloadError: The text is empty or too long.
        """
        end = publication_parts.make_end(error)
        if not error:
            raise PayloadError('error must be a text for readers, and not empty')
        await self.flush()
        await self._finish(end)

    # --- open and close --------------------------------------------------------------

    async def open(self) -> None:
        """Read the length of the stream, and start the task that stores chunks."""
        if self._sender is not None:
            raise RuntimeError('a stream is opened once: call channels.stream again')
        self._context = copy_context()
        self._timer.start()
        route = self._route = (await self._node.match(self._channel)).route
        options = route.options
        publication_parts.check_log(route, 'a stream')
        self._buffer = ChunkBuffer(
            min(self._options.max_batch_bytes, options.max_publication_bytes)
        )
        self._settings = self._node.publisher.settings_of(route)
        self._node.stream_aborts.listen(self._channel, self._on_aborted)
        try:
            await self._log.open()
        except BaseException:
            self._node.stream_aborts.ignore(self._channel, self._on_aborted)
            raise
        if self._options.replay:
            self._buffer.skip_units = self._log.length
        self._sender = asyncio.create_task(
            self._send(), name=f'falcon_channels stream {self._channel}'
        )
        self._sender.add_done_callback(self._on_sender_done)
        if self._early_abort is not None:
            self._on_aborted(self._early_abort)
        if self._error is not None:
            await self._stop()
            raise self._error

    async def close(self, error: BaseException | None) -> bool:
        """Finish the stream or leave it open; see the table in the module's docstring.

        Args:
            error: The exception that ended the block, or ``None``.

        Returns:
            Whether the exception must be suppressed.
        """
        try:
            if error is None:
                await self._close_finished()
            elif isinstance(error, Exception):
                await self._close_failed()
        finally:
            await self._stop()
        return self._aborted and isinstance(error, StreamAbortedError)

    async def _close_finished(self) -> None:
        if self._finished or self._aborted:
            return
        if self._buffer.skip_units:
            _logger.warning(
                'the stream %r ends %d characters or values before the position that '
                'is stored: its producer does not repeat itself exactly',
                self._channel,
                self._buffer.skip_units,
            )
        with contextlib.suppress(StreamAbortedError):
            await self.flush()
            await self._finish(ChannelEnd())

    async def _close_failed(self) -> None:
        """Finish with the error for readers; the block raises its own exception."""
        # NOTE: after `PositionError`, the log has only the last part of the stream, and
        #   no writer can continue it. After any other error of the writer, the stream
        #   has ended already, or stays open for another writer.
        is_lost = isinstance(self._error, PositionError)
        if self._error is not None and not is_lost:
            return
        try:
            if not is_lost:
                await self.flush()
            await self._finish(self._failure_end)
        except StreamAbortedError:
            return
        except ChannelsError as ex:
            _logger.warning(
                'the stream %r could not be finished with an error: %s',
                self._channel,
                ex,
            )

    async def _stop(self) -> None:
        """Release everything; nothing can be written any more."""
        self._node.stream_aborts.ignore(self._channel, self._on_aborted)
        self._timer.stop()
        self._buffer.clear()
        self._end(
            RuntimeError(
                f'the block of the stream {self._channel!r} has ended: write within it'
            )
        )
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])

    async def __aenter__(self) -> Self:
        """Open the stream, and read its length.

        Raises:
            UnknownChannelError: No route matches.
            CapabilityError: The channel has no history.
            StreamAbortedError: The stream was aborted.
            ChannelFinishedError: The stream has ended.
            BrokerUnavailableError: Try again.
        """
        await self.open()
        self._block.enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Finish the stream.

        Raises:
            StreamConflictError: Another writer has continued the stream.
            BrokerUnavailableError: The stream may have ended or not. Open it again.
        """
        if self._block.take_back(value):
            value = StreamAbortedError(self._channel)
        suppress = await self.close(value)
        return value is not None and suppress

    # --- batches ---------------------------------------------------------------------

    def _begin_next_batch(self) -> None:
        """Collect the next batch: nothing is being stored."""
        is_full = self._buffer.size_bytes >= self._options.max_batch_bytes
        self._timer.begin(
            has_chunks=self._buffer.units > 0, urgent=is_full or self._num_flushing > 0
        )

    def _on_due(self) -> None:
        """Called when the batch is due: add it to the queue, or wake the task."""
        if self._can_append_all:
            self._node.append_queue.add(self._source)
        else:
            self._wake.set()

    def _take(self) -> StreamAppend | None:
        """Called by the queue: return the batch, with all chunks until now."""
        if self._error is not None:
            return None
        batch = self._buffer.first_batch()
        if batch.units < self._buffer.units:
            self._wake.set()
            return None
        self._taken = batch
        self._timer.on_taken()
        publication, version = self._log.next_publication(
            batch.payload, batch.binary, batch.units
        )
        assert self._route is not None
        append = new_named_tuple(
            Append, (self._channel, publication, self._settings, version)
        )
        return new_named_tuple(StreamAppend, (append, self._route, self._context))

    def _on_appended(self, result: PublishResult | None) -> None:
        """Called when the queue has appended the batch, or could not.

        Args:
            result: The result; ``None`` if the task must try to store the batch.
        """
        batch, self._taken = self._taken, None
        if self._error is not None:
            return
        if batch is None or result is None:
            self._wake.set()
            return
        try:
            is_stored = self._log.accept(result, batch.units)
        except PositionError as ex:
            self._end(ex)
            return
        if is_stored:
            self._on_stored(batch)
            self._begin_next_batch()
        else:
            self._wake.set()

    async def _send(self) -> None:
        """Store each batch that the queue does not store, until cancelled."""
        while True:
            self._begin_next_batch()
            await self._wake.wait()
            self._wake.clear()
            # NOTE: chunks that are added from now on belong to the next batch.
            self._timer.on_taken()
            remaining = self._buffer.units
            while remaining > 0 and self._buffer:
                batch = self._buffer.first_batch()
                await self._store(batch)
                remaining -= batch.units

    async def _store(self, batch: Batch) -> None:
        """Store a batch, or remove the chunks that another writer has stored."""
        if await self._retry(
            self._log.append, batch.payload, batch.binary, batch.units
        ):
            self._on_stored(batch)
            return
        for stored in await self._retry(self._log.read_newer):
            if not self._buffer.remove_stored(*stored):
                raise StreamConflictError(self._channel)
        self._signal_progress()

    def _on_stored(self, batch: Batch) -> None:
        self._buffer.remove(batch)
        log = self._log
        if log.newest.offset >= log.first + self._settings.size:
            self._warn_of_small_history()
        self._signal_progress()

    async def _retry(self, function: Any, *args: Any) -> Any:
        """Call a function; retry until the timeout while the broker is unavailable."""
        clock = asyncio.get_running_loop().time
        deadline_s = None
        pause_s = _RETRY_S
        while True:
            try:
                return await function(*args)
            except BrokerUnavailableError:
                if deadline_s is None:
                    deadline_s = clock() + self._options.retry_timeout_s
                if clock() >= deadline_s:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_RETRY_S)

    # --- end -------------------------------------------------------------------------

    async def _finish(self, end: ChannelEnd) -> None:
        """Append the end of the stream."""
        self._finishing = True
        try:
            await self._retry(self._log.finish, end, self._end_key)
        except StreamAbortedError as ex:
            self._end(ex)
            # NOTE: another task of the block may have called `fail`.
            self._block.cancel()
            raise
        finally:
            self._finishing = False
        self._finished = True
        if self._aborted:
            # NOTE: the stream had already ended, but the message of the abort arrived
            #   before the answer of the broker.
            self._error = None
        self._end(ChannelFinishedError(self._channel))

    def _on_sender_done(self, sender: asyncio.Task[None]) -> None:
        """Called when the task has ended: its error ends the stream."""
        if not sender.cancelled() and (error := sender.exception()) is not None:
            self._end(error)

    def _end(self, error: BaseException) -> None:
        """Make each further call raise this error, unless there is an earlier one."""
        if self._error is None:
            self._error = error
            self._aborted = isinstance(error, StreamAbortedError)
        self._signal_progress()

    # --- waiting ---------------------------------------------------------------------

    def _signal_progress(self) -> None:
        if self._num_waiting:
            self._progress.set()
            self._progress.clear()

    async def _wait_until_pending(self, size_bytes: int) -> None:
        """Wait until at most `size_bytes` are not stored; with 0, until nothing is."""
        buffer = self._buffer
        # NOTE: a binary value can have no bytes. It is stored, too.
        while buffer.size_bytes > size_bytes or (not size_bytes and buffer):
            self._num_waiting += 1
            try:
                await self._progress.wait()
            finally:
                self._num_waiting -= 1
            self._check_writable()

    def _check_writable(self) -> None:
        if self._error is not None:
            raise self._error
        if self._sender is None:
            raise RuntimeError('enter the stream first: "async with"')

    # --- abort -----------------------------------------------------------------------

    def _on_aborted(self, end: Position) -> None:
        """Called when the stream was aborted: cancel the task of the block.

        Args:
            end: Position of the end. If it is not after the newest publication, it is
                the end of an earlier stream of the channel, and is ignored.
        """
        if self._sender is None:
            self._early_abort = end
            return
        newest = self._log.newest
        is_of_this_stream = end.epoch == newest.epoch and end.offset > newest.offset
        if self._error is not None or not is_of_this_stream:
            return
        self._end(StreamAbortedError(self._channel))
        self._sender.cancel()
        if self._finishing:
            # NOTE: the end of the writer may be stored already. `_finish` finds out.
            return
        # NOTE: a block that aborts its own stream goes on until its next `write`.
        self._block.cancel()

    def _warn_of_small_history(self) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        _logger.warning(
            'the stream %r has more publications than history_size of %d: readers '
            'that come late miss its beginning. Raise history_size or interval_s',
            self._channel,
            self._settings.size,
        )


async def abort_stream(node: Node, channel: str) -> bool:
    """Implement `Channels.abort_stream`."""
    publication_parts.check_log((await node.match(channel)).route, 'abort_stream')
    end, is_new = await StreamLog(node, channel).abort()
    await node.stream_aborts.send(channel, end)
    return is_new
