"""The writer of a stream.

`StreamWriter.write` puts chunks into a buffer. A task stores them in order. It stores
one batch at a time, as one publication. Meanwhile, the buffer collects the chunks of
the next batch. `StreamPace` decides when a batch is due.

PERF: if the broker can append the batches of many streams with one call
(`Broker.append_all`), the task waits meanwhile. It stores a batch only after this call
has failed or the batch was skipped (benchmarks/event_streams.py).

The end of the ``async with`` block decides how the stream ends:

=============================  ========================================================
the block ends                 the stream
=============================  ========================================================
without an exception           is finished with success
because a reader aborts it     was finished by `abort_stream`; no exception is raised
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
import math
import secrets
import time
from types import TracebackType
from typing import Any
from typing import Self

import msgspec

from falcon_channels.access import publication_parts
from falcon_channels.access.publishing import StreamAppend
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
from falcon_channels.publication import Position
from falcon_channels.routing import ChannelMatch
from falcon_channels.streams.chunks import Batch
from falcon_channels.streams.chunks import ChunkBuffer
from falcon_channels.streams.chunks import is_text_payload
from falcon_channels.streams.log import StreamLog

_logger = logging.getLogger('falcon_channels')

#: Pause before the first retry, and maximum pause between two retries, in seconds.
_RETRY_S, _MAX_RETRY_S = 0.05, 1.0


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
    in another process, and continue at `position`.
    """

    def __init__(
        self, node: Node, channel: str, options: StreamWriterOptions | None
    ) -> None:
        self._options = StreamWriterOptions() if options is None else options
        check_options(self._options, StreamWriterOptions)
        self._failed = publication_parts.make_end(self._options.error_text)
        self._node = node
        self._channel = channel
        self._log = StreamLog(node, channel)
        self._key = f'end:{secrets.token_urlsafe(9)}'
        self._match: ChannelMatch | None = None
        self._buffer = ChunkBuffer(0)
        #: Number of units that the producer will write although they are stored.
        self._to_skip = 0
        self._warned = False
        self._aborted = False
        #: Position of the end, if the stream was aborted while it was being opened.
        self._early_abort: Position | None = None
        self._finished = False
        #: Exception that each further call raises, or ``None``.
        self._error: BaseException | None = None
        self._sender: asyncio.Task[None] | None = None
        self._pace = node.stream_pace
        self._turn = self._pace.turn(self._on_due, self._take, self._on_stored)
        #: Whether the turn waits, or the broker stores its batch.
        self._has_turn = False
        #: Context variables of the stream, for tracing.
        self._context = Context()
        #: The event loop's clock, from `open` on.
        self._clock = time.monotonic
        #: Time of the newest chunk.
        self._written_s = 0.0
        #: Time until which the batch of a busy process waits for more chunks; infinite
        #: without such a batch.
        self._until_s = math.inf
        #: Time of the first chunk of the next batch; ``None`` without a chunk.
        self._first_s: float | None = None
        #: Time at which the batch before was taken.
        self._taken_s = -math.inf
        #: Done when the next batch is due; ``None`` while the task stores.
        self._due: asyncio.Future[None] | None = None
        #: The batch that the broker stores together with those of other streams.
        self._together: Batch | None = None
        #: Whether the next batch must be stored before the interval has passed.
        self._urgent = False
        self._flushing = 0
        #: Set and cleared at once when a batch was stored or `_error` was set.
        self._moved = asyncio.Event()
        #: Number of calls that wait for `_moved`.
        self._num_waiting = 0
        #: The task that runs the block, which an abort cancels.
        self._body: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._cancelled_body = False

    # --- for the producer ------------------------------------------------------------

    @property
    def position(self) -> int:
        """Length of the stream. Each character of text and each value counts as 1.

        It includes the chunks of earlier writers. A producer that starts again
        continues at this position.
        """
        return self._log.units + self._buffer.units

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
        if not isinstance(chunk, str):
            self._add_value(chunk)
        elif self._to_skip or not chunk:
            self._add_text(chunk)
        else:
            # PERF: the usual case, with few calls (benchmarks/event_streams.py).
            self._buffer.add_text(chunk)
        self._pace.count_chunk()
        now_s = self._clock()
        if self._first_s is None:
            if self._buffer.units:
                self._first_s = now_s
                self._plan(now_s)
        elif now_s + (now_s - self._written_s) > self._until_s:
            # The next chunk is expected too late for this batch.
            self._on_due()
        self._written_s = now_s
        size_bytes = self._buffer.size_bytes
        if size_bytes >= self._options.max_batch_bytes:
            self._hurry()
        if size_bytes > self._options.max_pending_bytes:
            await self._wait_until_pending(self._options.max_pending_bytes)

    def _add_text(self, text: str) -> None:
        if self._to_skip:
            skipped = min(self._to_skip, len(text))
            self._to_skip -= skipped
            text = text[skipped:]
        if text:
            self._buffer.add_text(text)

    def _add_value(self, value: Any) -> None:
        assert self._match is not None
        payload, binary = publication_parts.encode_publication(
            self._match.route.options, self._channel, value
        )
        if is_text_payload(payload, binary):
            self._add_text(msgspec.json.decode(payload))
            return
        publication_parts.check_size(self._match.route, payload)
        if self._to_skip:
            self._to_skip -= 1
        else:
            self._buffer.add_value(payload, binary)

    async def flush(self) -> None:
        """Wait until the broker has stored all chunks; see `write` for the errors."""
        self._check_writable()
        self._flushing += 1
        self._hurry()
        try:
            await self._wait_until_pending(0)
        finally:
            self._flushing -= 1

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
        """Read the position of the stream, and start the task that stores chunks."""
        if self._sender is not None:
            raise RuntimeError('a stream is opened once: call channels.stream again')
        self._clock = asyncio.get_running_loop().time
        self._context = copy_context()
        self._match = await self._node.match(self._channel)
        options = self._match.route.options
        publication_parts.check_log(self._match.route, 'a stream')
        self._buffer = ChunkBuffer(
            min(self._options.max_batch_bytes, options.max_publication_bytes)
        )
        self._node.stream_aborts.listen(self._channel, self._on_aborted)
        try:
            await self._log.open()
        except BaseException:
            self._node.stream_aborts.ignore(self._channel, self._on_aborted)
            raise
        if self._options.replay:
            self._to_skip = self._log.units
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
        self._body = None
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
        if self._to_skip:
            _logger.warning(
                'the stream %r ends %d characters or values before the position that '
                'is stored: its producer does not repeat itself exactly',
                self._channel,
                self._to_skip,
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
            await self._finish(self._failed)
        except StreamAbortedError:
            return
        except ChannelsError as ex:
            _logger.warning(
                'the stream %r could not be finished with an error: %s',
                self._channel,
                ex,
            )

    async def _stop(self) -> None:
        self._node.stream_aborts.ignore(self._channel, self._on_aborted)
        self._buffer.clear()
        if self._error is None:
            self._error = RuntimeError(
                f'the block of the stream {self._channel!r} has ended: write within it'
            )
        self._moved.set()
        if self._sender is not None:
            self._turn.stop()
            self._sender.cancel()
            await asyncio.wait([self._sender])

    async def __aenter__(self) -> Self:
        """Open the stream, and read its position.

        Raises:
            UnknownChannelError: No route matches.
            CapabilityError: The channel has no history.
            StreamAbortedError: The stream was aborted.
            ChannelFinishedError: The stream has ended.
            BrokerUnavailableError: Try again.
        """
        await self.open()
        self._body = asyncio.current_task()
        if self._body is not None:
            self._cancelling = self._body.cancelling()
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
        body = self._body
        if self._cancelled_body and body is not None:
            # NOTE: `asyncio.timeout` does the same. If other code has cancelled the
            #   task too, it stays cancelled.
            others = body.uncancel() > self._cancelling
            if isinstance(value, asyncio.CancelledError) and not others:
                value = StreamAbortedError(self._channel)
        suppress = await self.close(value)
        return value is not None and suppress

    # --- the task that stores --------------------------------------------------------

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._note_rest()
            self._due = loop.create_future()
            self._plan(self._clock())
            await self._due
            self._due = None
            self._start_batch()
            remaining = self._buffer.units
            while remaining > 0 and self._buffer:
                batch = self._buffer.first_batch()
                await self._store(batch)
                remaining -= batch.units

    def _plan(self, now_s: float) -> None:
        """Set the timer of the next batch, if it has a chunk and the task waits."""
        first_s = self._first_s
        if self._due is None or self._has_turn or first_s is None:
            return
        if not self._urgent and not self._flushing:
            options = self._options
            due_s = self._taken_s + options.interval_s
            if options.busy_interval_s and self._pace.is_busy(now_s):
                due_s = self._until_s = first_s + options.busy_interval_s
            if due_s > now_s:
                self._turn.start(due_s)
                return
        self._on_due()

    def _hurry(self) -> None:
        """Store the next batch before its interval has passed."""
        self._urgent = True
        if self._first_s is not None:
            self._on_due()

    def _on_due(self) -> None:
        """Called when the next batch is due: wait for the turn, or wake the task."""
        self._turn.stop()
        self._until_s = math.inf
        due = self._due
        if due is None or due.done() or self._has_turn:
            return
        if self._buffer.units and self._node.publisher.has_append_all:
            self._has_turn = True
            self._turn.queue()
        else:
            due.set_result(None)

    def _take(self) -> StreamAppend | None:
        """Called when the turn has come: return the batch with all chunks until now.

        Returns:
            ``None`` if the stream has ended, or the task must store several batches.
        """
        due = self._due
        if self._error is not None or due is None:
            self._has_turn = False
            return None
        batch = self._buffer.first_batch()
        if batch.units < self._buffer.units:
            self._has_turn = False
            due.set_result(None)
            return None
        self._together = batch
        self._start_batch()
        publication, version = self._log.next_publication(
            batch.payload, batch.binary, batch.units
        )
        assert self._match is not None
        return StreamAppend(
            self._match.route, self._channel, publication, version, self._context
        )

    def _start_batch(self) -> None:
        # NOTE: chunks that are added from now on belong to the next batch.
        self._taken_s = self._clock()
        self._first_s = None
        self._urgent = False

    def _on_stored(self, result: PublishResult | None) -> None:
        """Called when a batch was stored together with others, or was not.

        Args:
            result: The result; ``None`` if the task must try to store the batch.
        """
        batch, self._together = self._together, None
        self._has_turn = False
        if self._error is not None or self._due is None or batch is None:
            return
        try:
            is_stored = result is not None and self._log.accept(result, batch.units)
        except PositionError as ex:
            # NOTE: the task raises it, as if it had stored the batch.
            self._due.set_exception(ex)
            return
        if not is_stored:
            self._due.set_result(None)
            return
        self._on_batch_stored(batch)
        self._note_rest()
        self._plan(self._clock())

    def _on_batch_stored(self, batch: Batch) -> None:
        self._buffer.remove(batch)
        self._warn_of_small_history()
        self._signal_moved()

    def _note_rest(self) -> None:
        """Called after a batch: look at the chunks that were added meanwhile."""
        self._urgent = self._buffer.size_bytes >= self._options.max_batch_bytes
        if self._buffer.units and self._first_s is None:
            self._first_s = self._clock()

    async def _store(self, batch: Batch) -> None:
        if await self._retry(
            self._log.append, batch.payload, batch.binary, batch.units
        ):
            self._on_batch_stored(batch)
            return
        for stored in await self._retry(self._log.read_newer):
            missing = self._buffer.remove_stored(*stored)
            if missing is None:
                raise StreamConflictError(self._channel)
            self._to_skip += missing
        self._signal_moved()

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

    async def _finish(self, end: ChannelEnd) -> None:
        try:
            await self._retry(self._log.finish, end, self._key)
        except StreamAbortedError:
            self._aborted = True
            raise
        self._finished = True
        self._error = ChannelFinishedError(self._channel)

    def _on_sender_done(self, sender: asyncio.Task[None]) -> None:
        """Called when the task has ended: store its error for the producer."""
        if sender.cancelled() or self._error is not None:
            return
        self._error = sender.exception()
        self._aborted = isinstance(self._error, StreamAbortedError)
        self._signal_moved()

    # --- waiting ---------------------------------------------------------------------

    def _signal_moved(self) -> None:
        if self._num_waiting:
            self._moved.set()
            self._moved.clear()

    async def _wait_until_pending(self, size_bytes: int) -> None:
        """Wait until at most `size_bytes` are not stored."""
        while self._buffer.size_bytes > size_bytes:
            self._num_waiting += 1
            try:
                await self._moved.wait()
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
        top = self._log.top
        is_of_this_stream = end.epoch == top.epoch and end.offset > top.offset
        if self._error is not None or not is_of_this_stream:
            return
        self._error = StreamAbortedError(self._channel)
        self._aborted = True
        self._signal_moved()
        self._sender.cancel()
        # NOTE: a block that aborts its own stream goes on until its next `write`.
        if self._body is not None and self._body is not asyncio.current_task():
            self._cancelled_body = True
            self._body.cancel()

    def _warn_of_small_history(self) -> None:
        assert self._match is not None
        size = self._match.route.options.history_size
        if self._log.top.offset - self._log.first >= size and not self._warned:
            self._warned = True
            _logger.warning(
                'the stream %r has more publications than history_size of %d: readers '
                'that come late miss its beginning. Raise history_size or interval_s',
                self._channel,
                size,
            )


async def abort_stream(node: Node, channel: str) -> bool:
    """Implement `Channels.abort_stream`."""
    publication_parts.check_log((await node.match(channel)).route, 'abort_stream')
    end, is_new = await StreamLog(node, channel).abort()
    await node.stream_aborts.send(channel, end)
    return is_new
