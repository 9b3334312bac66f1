"""Transport over an HTTP response that does not end, for clients without a WebSocket.

The response is Falcon's ``resp.stream``. Everything that a connection writes waits in a
queue until the server has taken it; the bytes of the queue are the transport's backlog.
Messages from the client arrive in other requests, or not at all.

With the framing `CHUNKED_EVENTS`, the transport writes to the server's connection as
soon as the server allows that (`ServerHttpConnection.take_body`). A write then needs no
task, and the fan-out can write many such responses with one system call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
import random
from typing import Any

import falcon

from falcon_channels.transports.asgi_extensions import ServerHttpConnection
from falcon_channels.transports.base import Receiver

#: Media type of server-sent events.
EVENT_STREAM = 'text/event-stream'
#: Beginning of a stream of events: a browser fires `open` when the first bytes arrive.
#: The time after which it connects again replaces that of an earlier refusal.
EVENTS_PREAMBLE = b'retry: 3000\n\n'
#: Shortest and longest time in ms after which a refused EventSource tries again.
REFUSED_RETRY_MS = (5000, 15000)

#: Seconds that a client has to read the pending output when it is closed.
CLOSE_TIMEOUT_S = 10.0
#: Seconds after which a connection ends if the server has not begun to read the body.
UNREAD_TIMEOUT_S = 20.0


def set_stream_headers(resp: falcon.Response, media_type: str) -> None:
    """Set the headers of a response that does not end."""
    resp.content_type = media_type
    resp.set_header('Cache-Control', 'private, no-cache, no-store, max-age=0')
    # NOTE: a proxy that buffers a response until its end would never send this one.
    resp.set_header('X-Accel-Buffering', 'no')


def retry_later() -> bytes:
    """Return the field ``retry:`` for an EventSource that is refused for now.

    The time is random, so that not all refused clients return at once.
    """
    return b'retry: %d\n' % random.randrange(*REFUSED_RETRY_MS)


class LineFraming:
    """Framing of one message per line."""

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the payloads, each followed by a line feed."""
        return b''.join([payload + b'\n' for payload in payloads])

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return all lines of `blobs` as one blob."""
        return b''.join(blobs)


class LengthPrefixedFraming:
    """Framing of messages that already begin with their length."""

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the payloads, one after the other."""
        return b''.join(payloads)

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return all messages of `blobs` as one blob."""
        return b''.join(blobs)


class EventFraming:
    """Framing as server-sent events, ``data: {...}`` (WHATWG HTML section 9.2).

    Each line of a payload is a message of its own and becomes one event.
    """

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the payloads as events."""
        return b''.join(
            [
                b'data: %s\n\n' % line
                for payload in payloads
                for line in payload.split(b'\n')
            ]
        )

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return all events of `blobs` as one blob."""
        return b''.join(blobs)


class WholeEventFraming:
    """Framing of payloads that are whole server-sent events."""

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the events, one after the other."""
        return b''.join(payloads)

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return all events of `blobs` as one blob."""
        return b''.join(blobs)


class ChunkedEventFraming:
    """Framing of whole server-sent events as HTTP chunks (RFC 9112 section 7.1).

    ``9\\r\\ndata: x\\n\\n\\r\\n``
    """

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the events as one chunk."""
        content = b''.join(payloads)
        return b'%x\r\n%b\r\n' % (len(content), content)

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return all chunks of `blobs` as one blob."""
        return b''.join(blobs)


LINES = LineFraming()
LENGTH_PREFIXED = LengthPrefixedFraming()
EVENTS = EventFraming()
WHOLE_EVENTS = WholeEventFraming()
CHUNKED_EVENTS = ChunkedEventFraming()


def content_of_chunks(blob: bytes) -> bytes:
    """Return the content of the chunks of `CHUNKED_EVENTS`."""
    contents = []
    start = 0
    while start < len(blob):
        line_end = blob.index(b'\r\n', start)
        content = line_end + 2
        end = content + int(blob[start:line_end], 16)
        contents.append(blob[content:end])
        start = end + 2
    return b''.join(contents)


class HttpStreamTransport:
    """A transport over a streamed HTTP response.

    Set ``resp.stream = transport.body(receiver, receive, server)``. The
    connection ends with the stream.

    Args:
        framing: One of the framings of this module.
        preamble: Bytes at the beginning of the body, by default none.
        batched: Whether the hub may write blobs of the connection's encoder directly to
            the socket. They must be bytes in this framing.
    """

    __slots__ = (
        '_abort_timer',
        '_batched',
        '_closing',
        '_ended',
        '_get_field',
        '_output',
        '_queue',
        '_queue_bytes',
        '_readable',
        '_receiver',
        '_sender',
        '_sending',
        '_server',
        '_unread_timer',
        '_waiter',
        'framing',
    )

    def __init__(
        self, framing: Any, preamble: bytes = b'', *, batched: bool = True
    ) -> None:
        self.framing = framing
        self._batched = batched
        #: Size of the queue, and of the bytes that the server is taking.
        self._queue_bytes = 0
        #: Set when the connection accepts commands again; ``None`` while it does.
        self._readable: asyncio.Event | None = None
        self._get_field: Callable[[], bytes] | None = None
        # PERF: an empty deque takes 700 bytes, and an event has one. Most streams are
        #   idle (benchmarks/idle_memory.py).
        self._queue: list[bytes] = [preamble] if preamble else []
        #: Done when there is output, or the end.
        self._waiter: asyncio.Future[None] | None = None
        self._closing: tuple[int, str] | None = None
        #: Runs from `close` until the end of the body.
        self._abort_timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._sending = False
        self._sender: asyncio.Task[Any] | None = None
        self._server: ServerHttpConnection | None = None
        self._receiver: Receiver | None = None
        #: Runs until the server begins to read the body.
        self._unread_timer: asyncio.TimerHandle | None = None
        #: The server's connection while blobs are written to it and not to the queue.
        self._output: ServerHttpConnection | None = None

    @property
    def descriptor(self) -> int:
        """File descriptor of the socket, or -1 while the hub may not write to it."""
        output = self._output
        return output.descriptor if self._batched and output is not None else -1

    @property
    def backlog_bytes(self) -> int:
        """Bytes for the client that are still buffered in this process."""
        output = self._output
        return self._queue_bytes if output is None else output.backlog_bytes

    @property
    def begun(self) -> bool:
        """Whether the server has begun to read the body."""
        return self._sender is not None

    def call_if_unread(self, call: Callable[[], None]) -> None:
        """Call a function if the server has not begun to read the body in time.

        NOTE: the server never reads the body if another response is sent, for example
          because a middleware raises an error in ``process_response``. `body` then does
          not run, and never calls `on_closed`.
        """
        self._unread_timer = asyncio.get_running_loop().call_later(
            UNREAD_TIMEOUT_S, call
        )

    def add_to_events(self, get_field: Callable[[], bytes]) -> None:
        """Add a field to the last event of every chunk of the body from now on.

        Args:
            get_field: Function that returns the field as a line with its line end, or
                ``b''``.
        """
        self._get_field = get_field

    def write(self, blob: bytes) -> int:
        """Write or queue a blob; return the backlog in bytes."""
        if self._ended or self._closing is not None:
            return 0
        if self._output is not None:
            return self._output.write(blob)
        self._queue.append(blob)
        self._queue_bytes += len(blob)
        self._wake()
        return self._queue_bytes

    def close(self, code: int, reason: str) -> None:
        """End the body after the queue; abort if the client does not read in time.

        Args:
            code: Close code for the receiver; an HTTP body cannot carry it.
            reason: Close reason for the receiver; an HTTP body cannot carry it.
        """
        if self._closing is None and not self._ended:
            self._closing = (code, reason)
            self.resume_reading()
            self._wake()
            self._abort_timer = asyncio.get_running_loop().call_later(
                CLOSE_TIMEOUT_S, self.abort
            )

    def abort(self) -> None:
        """Drop the queue and end the body.

        NOTE: the backlog stays what it was. It is the number of bytes that are lost.
        """
        self._ended = True
        self.resume_reading()
        self._queue.clear()
        self._wake()
        if self._output is not None:
            self._output.abort()
            return
        if not self._sending:
            return
        if self._server is not None:
            self._server.abort()
        elif self._sender is not None:
            # NOTE: while the server waits for the client to read, only cancelling the
            #   task ends the response.
            self._sender.cancel()

    def pause_reading(self) -> None:
        """Delay requests with further commands, until the end."""
        if self._readable is None and self._closing is None and not self._ended:
            self._readable = asyncio.Event()

    def resume_reading(self) -> None:
        """Accept commands again."""
        readable, self._readable = self._readable, None
        if readable is not None:
            readable.set()

    @property
    def reading_paused(self) -> bool:
        """Whether requests with further commands are delayed."""
        return self._readable is not None

    async def wait_until_readable(self) -> None:
        """Wait while requests with further commands are delayed."""
        while self._readable is not None:
            await self._readable.wait()

    async def body(
        self,
        receiver: Receiver,
        receive: Callable[[], Awaitable[Any]],
        server: ServerHttpConnection | None = None,
        resp: falcon.Response | None = None,
    ) -> AsyncIterator[bytes]:
        """Yield written blobs until the connection ends; then call `on_closed`.

        Args:
            receiver: The owner of the connection.
            receive: ASGI's ``receive``. The request was read before, so the only event
                still to come is the client's disconnect.
            server: The server's connection, or ``None`` if the server shares none.
            resp: The response. It is needed for writes to the server's connection.
        """
        self._server = server
        self._receiver = receiver
        # NOTE: a middleware may have replaced the stream, for example to compress it.
        #   It must then receive everything.
        # PERF: the code is compared, because Python would create a frame object that
        #   lives as long as the stream (benchmarks/idle_memory.py).
        is_sent_as_is = resp is not None and (
            getattr(resp.stream, 'ag_code', None) is HttpStreamTransport.body.__code__
        )
        self._sender = asyncio.current_task()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        watch: asyncio.Task[None] | None = None
        if server is not None:
            server.watch(self._on_disconnect)
        else:
            watch = asyncio.create_task(
                self._wait_for_disconnect(receive),
                name='falcon_channels watch of a stream',
            )
        try:
            while not self._ended:
                if self._queue:
                    chunk, size_bytes = self._take_queue(), self._queue_bytes
                    self._sending = True
                    yield chunk
                    self._sending = False
                    if self._ended:
                        break
                    self._queue_bytes -= size_bytes
                    if not self._queue:
                        if is_sent_as_is:
                            self._take_output()
                        if not self.backlog_bytes:
                            receiver.on_writable()
                elif self._closing is not None and not self.backlog_bytes:
                    break
                else:
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        finally:
            self._sending = False
            if self._output is not None:
                self._queue_bytes = self._output.backlog_bytes
            self._output = self._receiver = None
            self._ended = True
            self.resume_reading()
            self._queue.clear()
            if self._abort_timer is not None:
                # NOTE: the timer would keep the ended connection in memory.
                self._abort_timer.cancel()
            if watch is not None:
                watch.cancel()
            receiver.on_closed(*(self._closing or (1006, '')))

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _take_output(self) -> None:
        """Write to the server's connection from now on, if the server allows it."""
        server = self._server
        if server is None or self.framing is not CHUNKED_EVENTS:
            return
        if server.take_body(self):
            self._output = server

    def on_writable(self) -> None:
        """Called when the server's connection has no backlog any more."""
        if self._closing is not None:
            self._wake()
        if self._receiver is not None:
            self._receiver.on_writable()

    def _take_queue(self) -> bytes:
        chunk = b''.join(self._queue)
        self._queue.clear()
        if self.framing is CHUNKED_EVENTS:
            return content_of_chunks(chunk)
        if self._get_field is None or not chunk.endswith(b'\n\n'):
            return chunk
        return chunk[:-1] + self._get_field() + b'\n'

    async def _wait_for_disconnect(self, receive: Callable[[], Awaitable[Any]]) -> None:
        while (await receive())['type'] != 'http.disconnect':
            pass
        self._on_disconnect()

    def _on_disconnect(self) -> None:
        """Called when the client has left: end the body."""
        self._ended = True
        self._queue.clear()
        self._wake()
