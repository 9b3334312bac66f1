"""Transport over Falcon's own WebSocket object, for every ASGI server.

ASGI's ``send`` may block while the client does not read. It therefore needs a queue
and a task. The bytes of the queue are the transport's backlog, which the hub limits.
But ``send`` rarely blocks. `write` therefore runs the first step of a ``send`` itself,
and hands only an unfinished ``send`` to the task. `run` receives messages and runs the
writing task until the connection ends.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task
from asyncio.tasks import _leave_task
from asyncio.tasks import current_task
from collections import deque
from collections.abc import Generator
from collections.abc import Sequence
import contextlib
import logging
import types
from typing import Any
from typing import NamedTuple

import falcon
import falcon.asgi

from falcon_channels.transports.asgi_extensions import server_websocket
from falcon_channels.transports.asgi_extensions import ServerWebSocket
from falcon_channels.transports.base import Receiver

_logger = logging.getLogger('falcon_channels')

#: Close code for a message that is too big (RFC 6455 section 7.4.1).
_MESSAGE_TOO_BIG = 1009
#: Stands for a close frame without a code (RFC 6455 section 7.4.1).
_NO_STATUS = 1005
#: Seconds that a client has to read the pending output when it is closed.
CLOSE_TIMEOUT_S = 10.0


#: Value that `_send_each` yields after a blob was sent.
_SENT = object()


class MessageBlob(NamedTuple):
    """Messages ready for ASGI: `str` for text, `bytes` for binary."""

    messages: tuple[str | bytes, ...]
    size_bytes: int


class MessageFraming:
    """Framing by the server; text is decoded once for all recipients."""

    def frame(self, payloads: Sequence[Any], *, binary: bool) -> MessageBlob:
        """Return the payloads as ASGI messages."""
        size_bytes = sum(map(len, payloads))
        if binary:
            return MessageBlob(tuple(payloads), size_bytes)
        return MessageBlob(tuple(p.decode() for p in payloads), size_bytes)

    def join(self, blobs: Sequence[Any]) -> MessageBlob:
        """Return all messages of `blobs` as one blob."""
        return MessageBlob(
            tuple(message for blob in blobs for message in blob.messages),
            sum(blob.size_bytes for blob in blobs),
        )


MESSAGES = MessageFraming()


class AsgiTransport:
    """A transport over an accepted `falcon.asgi.WebSocket`.

    Args:
        ws: Accepted WebSocket; no other code may use it from now on.
        binary: Whether the client may send binary messages only (default: text only).
            A message of the other kind closes the connection with 1003.
    """

    __slots__ = (
        '_abort_timer',
        '_binary',
        '_close',
        '_ended',
        '_error',
        '_idle',
        '_loop',
        '_peer_has_left',
        '_queue',
        '_readable',
        '_send',
        '_sending',
        '_tasks',
        '_waits_for',
        '_wake',
        '_writer',
        '_ws',
        'backlog_bytes',
        'framing',
    )

    #: -1: bytes are written through ASGI, not to a socket.
    descriptor = -1

    def __init__(self, ws: falcon.asgi.WebSocket, *, binary: bool = False) -> None:
        self.framing = MESSAGES
        self.backlog_bytes = 0
        self._ws = ws
        self._binary = binary
        self._queue: deque[MessageBlob] = deque()
        self._close: tuple[int, str] | None = None
        #: Runs from `close` until the connection has ended.
        self._abort_timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._peer_has_left = False
        self._error: Exception | None = None
        self._loop = asyncio.get_running_loop()
        #: Whether the writing task is idle and waits.
        self._idle = False
        #: Sends each blob that it receives; `_waits_for` is its last yielded value.
        self._sending: Generator[Any, Any, None] = _send_each(ws)
        self._send = self._sending.send
        self._waits_for: Any = self._send(None)
        self._tasks: tuple[asyncio.Task[Any], ...] = ()
        #: The writing task. `run` creates it before `_idle` can become true.
        self._writer: asyncio.Task[None]
        self._wake = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()

    def write(self, blob: MessageBlob) -> int:
        """Send or queue a blob; return the size of the queue in bytes."""
        if not self._idle:
            if self._ended or self._peer_has_left or self._close is not None:
                return 0
            self._queue.append(blob)
            self.backlog_bytes += blob.size_bytes
            return self.backlog_bytes
        # PERF: a ``send`` that does not block wakes no task. That saves half of the
        #   cost of a delivery on stock uvicorn (benchmarks/fanout.py).
        # NOTE: a server's ``send`` may ask for the current task (asyncio.timeout does).
        #   This step therefore runs as the writing task, which continues the ``send``.
        loop, writer = self._loop, self._writer
        current = current_task(loop)
        if current is not None:
            _leave_task(loop, current)
        _enter_task(loop, writer)
        try:
            waits_for = self._send(blob)
            if waits_for is _SENT:
                return 0
            self._waits_for = waits_for
            self.backlog_bytes += blob.size_bytes
        except Exception as ex:
            # NOTE: `write` must not raise. The writing task raises the error again.
            self._error = ex
        finally:
            _leave_task(loop, writer)
            if current is not None:
                _enter_task(loop, current)
        self._idle = False
        self._wake.set()
        return self.backlog_bytes

    def close(self, code: int, reason: str) -> None:
        """Close after the queue is sent; abort if the client does not read in time."""
        if self._close is None and not self._ended:
            self._close = (code, reason)
            self._idle = False
            self._wake.set()
            # NOTE: the answer to the close frame comes after the messages that the
            #   client has sent. They are received and dropped.
            self._readable.set()
            self._abort_timer = self._loop.call_later(CLOSE_TIMEOUT_S, self.abort)

    def abort(self) -> None:
        """Drop the queue and end `run`.

        NOTE: the backlog stays what it was. It is the number of bytes that are lost.
        """
        self._ended = True
        self._idle = False
        self._queue.clear()
        for task in self._tasks:
            task.cancel()

    def pause_reading(self) -> None:
        """Stop receiving, so that the server applies back-pressure to the client."""
        if self._close is None:
            self._readable.clear()

    def resume_reading(self) -> None:
        """Start receiving again."""
        self._readable.set()

    async def run(self, receiver: Receiver) -> None:
        """Receive and send until the connection ends; then call `on_closed`."""
        reader = asyncio.create_task(self._read(receiver))
        writer = self._writer = asyncio.create_task(self._write_all(receiver))
        self._tasks = (reader, writer)
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._close is not None:
                # NOTE: wait until the close frame is sent and the client has answered
                #   it.
                await asyncio.wait(self._tasks)
            elif not reader.done():
                # NOTE: sending failed, because the client has left. The server may
                #   still have messages that the client sent before.
                self._queue.clear()
                self._peer_has_left = True
                await asyncio.wait([reader], timeout=CLOSE_TIMEOUT_S)
        finally:
            self.abort()
            if self._abort_timer is not None:
                # NOTE: the timer would keep the ended connection in memory.
                self._abort_timer.cancel()
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
            self._sending.close()
            code, reason = self._close or (1006, '')
            if isinstance(results[0], int):
                code, reason = results[0], ''
            if code == _MESSAGE_TOO_BIG:
                _logger.warning(
                    '%r was closed with 1009: its client sent a message over the limit '
                    'of the server, or received one over its own limit',
                    receiver,
                )
            receiver.on_closed(code, reason)
        for result in results:
            if isinstance(result, Exception) and not isinstance(
                result, falcon.WebSocketDisconnected
            ):
                raise result

    @property
    def _takes_messages(self) -> bool:
        """Whether messages of the client still count."""
        return self._close is None and not self._ended

    async def _read(self, receiver: Receiver) -> int:
        ws = self._ws
        receive = ws.receive_data if self._binary else ws.receive_text
        try:
            while True:
                if not self._readable.is_set():
                    await self._readable.wait()
                message = await receive()
                if self._takes_messages:
                    receiver.on_message(message)
        except falcon.PayloadTypeError:
            wanted = 'binary' if self._binary else 'text'
            self.close(1003, f'this endpoint accepts {wanted} messages only')
            return 1003
        except (falcon.WebSocketDisconnected, falcon.OperationNotAllowed) as ex:
            await self._read_rest(receiver)
            return getattr(ex, 'code', 1006)

    async def _read_rest(self, receiver: Receiver) -> None:
        """Receive what the client sent before it left.

        Messages can be buffered before the disconnect. Falcon nevertheless raises
        `WebSocketDisconnected` as soon as its own task has received the disconnect, or
        sending has failed.
        """
        buffered = getattr(self._ws, '_buffered_receiver', None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while getattr(buffered, '_pump_task', None) is not None:
                    if not self._readable.is_set():
                        await self._readable.wait()
                    event = await buffered.receive()  # type: ignore[union-attr] # as above
                    message = event.get('bytes' if self._binary else 'text')
                    if message is None or not self._takes_messages:
                        return
                    receiver.on_message(message)

    async def _write_all(self, receiver: Receiver) -> None:
        while not self._ended:
            if self._error is not None:
                raise self._error
            if self._waits_for is not _SENT:
                await self._finish_send()
                self.backlog_bytes = sum(blob.size_bytes for blob in self._queue)
                if not self._queue:
                    receiver.on_writable()
            while self._queue:
                blob = self._queue.popleft()
                self._waits_for = self._send(blob)
                await self._finish_send()
                self.backlog_bytes -= blob.size_bytes
                if not self._queue and self.backlog_bytes <= 0:
                    receiver.on_writable()
            if self._close is not None:
                if self._close[0] == _NO_STATUS:
                    # NOTE: ASGI cannot close without a code. For clients, 1000 has the
                    #   same meaning.
                    await self._ws.close()
                else:
                    await self._ws.close(*self._close)
                return
            self._wake.clear()
            self._idle = True
            await self._wake.wait()
            self._idle = False

    @types.coroutine
    def _finish_send(self) -> Generator[Any, Any, None]:
        """Wait until the current ``send`` is done."""
        while self._waits_for is not _SENT:
            try:
                yield self._waits_for
            except BaseException as ex:
                self._waits_for = self._sending.throw(ex)
            else:
                self._waits_for = self._send(None)


@types.coroutine
def _send_each(ws: falcon.asgi.WebSocket) -> Generator[Any, Any, None]:
    """Send each received blob; yield `_SENT` after it, or the future it waits for.

    PERF: one generator sends all blobs. A new coroutine for each, whose end is an
    exception, takes three times as long (benchmarks/fanout.py on stock uvicorn).
    """
    while True:
        blob: MessageBlob = yield _SENT
        for message in blob.messages:
            if isinstance(message, str):
                yield from ws.send_text(message)
            else:
                yield from ws.send_data(message)


def choose_transport(
    req: falcon.asgi.Request, ws: falcon.asgi.WebSocket, *, binary: bool = False
) -> AsgiTransport | ServerWebSocket:
    """Return the transport for a WebSocket: that of our server, or one over ASGI.

    Call it before `ws` is accepted, or with a WebSocket that the application accepted.

    Args:
        req: Request of the handshake.
        ws: The WebSocket.
        binary: Kind of messages that the client may send.
    """
    lent = server_websocket(req.scope)
    if lent is None or (not ws.unaccepted and _is_read_by_falcon(ws)):
        return AsgiTransport(ws, binary=binary)
    return lent


def _is_read_by_falcon(ws: falcon.asgi.WebSocket) -> bool:
    """Return whether Falcon's own task receives messages of an accepted WebSocket.

    NOTE: the task has received messages that the application has not read. They can
    only be received through Falcon, and would be lost in the server's transport.
    """
    receiver = getattr(ws, '_buffered_receiver', None)
    return getattr(receiver, '_pump_task', None) is not None
