"""An HTTP response that does not end: one connection's way out without a WebSocket.

The response is Falcon's ``resp.stream``; what a connection writes waits in a queue,
whose bytes are the transport's backlog, until the server has taken it. What the client
sends comes by other requests, or not at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from falcon_channels.transports.base import Receiver

#: How long a client may take to read what is left when its connection is closed.
CLOSE_TIMEOUT_S = 10.0


class LineFraming:
    """A message is a line."""

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the payloads, each with a line end."""
        return b''.join([payload + b'\n' for payload in payloads])

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return all lines of `blobs`."""
        return b''.join(blobs)


class DelimitedFraming:
    """A message brings its own length."""

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the payloads."""
        return b''.join(payloads)

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return all messages of `blobs`."""
        return b''.join(blobs)


class EventFraming:
    """A message is a server-sent event, ``data: {...}``; WHATWG HTML section 9.2.

    A payload of several lines, each a message of its own, becomes as many events.
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
        """Return all events of `blobs`."""
        return b''.join(blobs)


LINES = LineFraming()
DELIMITED = DelimitedFraming()
EVENTS = EventFraming()


class StreamTransport:
    """A transport over a streamed HTTP response.

    Set ``resp.stream = transport.body(receiver, receive, cut)``; the connection ends
    with the stream, whoever ends it.

    Args:
        framing: One of `LINES`, `DELIMITED` and `EVENTS`.
        preamble: What the body begins with.
    """

    __slots__ = (
        '_appendix',
        '_closing',
        '_cut',
        '_ended',
        '_queue',
        '_sender',
        '_sending',
        '_wake',
        'backlog_bytes',
        'framing',
        'readable',
    )

    #: ASGI, not a socket, takes what is written.
    descriptor = -1

    def __init__(self, framing: Any, preamble: bytes = b'') -> None:
        self.framing = framing
        self.backlog_bytes = 0
        #: Set while the connection takes commands.
        self.readable = asyncio.Event()
        self.readable.set()
        self._appendix: Callable[[], bytes] | None = None
        self._queue: deque[bytes] = deque([preamble] if preamble else ())
        self._wake = asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._ended = False
        self._sending = False
        self._sender: asyncio.Task[Any] | None = None
        self._cut: Callable[[], None] | None = None

    def append_with(self, appendix: Callable[[], bytes]) -> None:
        """Add to the last event of each part of the body a field.

        Args:
            appendix: Returns the field, a line with its end, or ``b''``.
        """
        self._appendix = appendix

    def write(self, blob: bytes) -> int:
        """Queue a blob; return how many bytes wait."""
        if self._ended or self._closing is not None:
            return 0
        self._queue.append(blob)
        self.backlog_bytes += len(blob)
        self._wake.set()
        return self.backlog_bytes

    def close(self, code: int, reason: str) -> None:
        """End the body after what is queued, or abort where the client reads nothing.

        Args:
            code: For the receiver; a body has no place for it.
            reason: The same.
        """
        if self._closing is None and not self._ended:
            self._closing = (code, reason)
            self._wake.set()
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.abort)

    def abort(self) -> None:
        """Drop what is queued, and end the body."""
        self._ended = True
        self._queue.clear()
        self.backlog_bytes = 0
        self._wake.set()
        if not self._sending:
            return
        if self._cut is not None:
            self._cut()
        elif self._sender is not None:
            # NOTE: a server that waits for a client to read can only be cancelled.
            self._sender.cancel()

    def pause_reading(self) -> None:
        """Let requests with further commands wait."""
        self.readable.clear()

    def resume_reading(self) -> None:
        """Take commands again."""
        self.readable.set()

    async def body(
        self,
        receiver: Receiver,
        receive: Callable[[], Awaitable[Any]],
        cut: Callable[[], None] | None = None,
    ) -> AsyncIterator[bytes]:
        """Yield what is written until the end; tell `receiver` of it.

        Args:
            receiver: Whose connection it is.
            receive: ASGI's: the request was read, so that all it can still say is
                that the client has gone.
            cut: Ends the connection at once, where the server offers that.
        """
        self._cut = cut
        self._sender = asyncio.current_task()
        watch = asyncio.create_task(
            self._watch(receive), name='falcon_channels watch of a stream'
        )
        try:
            while not self._ended:
                if self._queue:
                    chunk = self._take()
                    self._sending = True
                    yield chunk
                    self._sending = False
                    self.backlog_bytes = max(0, self.backlog_bytes - len(chunk))
                    if not self._queue and not self._ended:
                        self.backlog_bytes = 0
                        receiver.on_writable()
                elif self._closing is not None:
                    break
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._sending = False
            self._ended = True
            self._queue.clear()
            watch.cancel()
            receiver.on_closed(*(self._closing or (1006, '')))

    def _take(self) -> bytes:
        chunk = b''.join(self._queue)
        self._queue.clear()
        if self._appendix is None or not chunk.endswith(b'\n\n'):
            return chunk
        return chunk[:-1] + self._appendix() + b'\n'

    async def _watch(self, receive: Callable[[], Awaitable[Any]]) -> None:
        while (await receive())['type'] != 'http.disconnect':
            pass
        self._ended = True
        self._queue.clear()
        self._wake.set()
