"""A WebSocket through Falcon's own object: for every ASGI server.

ASGI's ``send`` may block as long as the client does not read, so that it belongs into
a task, with a queue before it. The queue's bytes are the transport's backlog, which the
hub bounds. But ``send`` hardly ever blocks: `write` therefore takes its first step
itself, and only a ``send`` that did not end with it is handed to the task. `run` is the
other half: it receives until the end.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task
from asyncio.tasks import _leave_task
from asyncio.tasks import current_task
from collections import deque
from collections.abc import Generator
from collections.abc import Sequence
import types
from typing import Any
from typing import NamedTuple

import falcon
import falcon.asgi

from falcon_channels.transports.base import Receiver

#: How long a client may take to read what is left when its connection is closed.
CLOSE_TIMEOUT_S = 10.0


#: What `_send_each` yields when a blob is sent.
_SENT = object()


class MessageBlob(NamedTuple):
    """Messages ready for ASGI, `str` for text and `bytes` for binary."""

    messages: tuple[str | bytes, ...]
    size_bytes: int


class MessageFraming:
    """Leaves the framing to the server; text is decoded once for all recipients."""

    def frame(self, payloads: Sequence[Any], *, binary: bool) -> MessageBlob:
        """Return the payloads as messages."""
        size_bytes = sum(map(len, payloads))
        if binary:
            return MessageBlob(tuple(payloads), size_bytes)
        return MessageBlob(tuple(p.decode() for p in payloads), size_bytes)

    def join(self, blobs: Sequence[Any]) -> MessageBlob:
        """Return all messages of `blobs`."""
        return MessageBlob(
            tuple(message for blob in blobs for message in blob.messages),
            sum(blob.size_bytes for blob in blobs),
        )


MESSAGES = MessageFraming()


class AsgiTransport:
    """A transport over an accepted `falcon.asgi.WebSocket`.

    Args:
        ws: Accepted, and used by nobody else from now on.
        binary: Which kind of messages the client may send; the other closes with 1003.
    """

    __slots__ = (
        '_binary',
        '_close',
        '_ended',
        '_error',
        '_loop',
        '_parked',
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

    #: ASGI, not a socket, takes what is written.
    descriptor = -1

    def __init__(self, ws: falcon.asgi.WebSocket, *, binary: bool = False) -> None:
        self.framing = MESSAGES
        self.backlog_bytes = 0
        self._ws = ws
        self._binary = binary
        self._queue: deque[MessageBlob] = deque()
        self._close: tuple[int, str] | None = None
        self._ended = False
        self._error: Exception | None = None
        self._loop = asyncio.get_running_loop()
        #: Whether the writing task waits, with nothing left to do.
        self._parked = False
        #: Sends what it is given; `_waits_for` is what it yielded last.
        self._sending: Generator[Any, Any, None] = _send_each(ws)
        self._send = self._sending.send
        self._waits_for: Any = self._send(None)
        self._tasks: tuple[asyncio.Task[Any], ...] = ()
        #: The one that writes; made by `run`, before anything is parked.
        self._writer: asyncio.Task[None]
        self._wake = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()

    def write(self, blob: MessageBlob) -> int:
        """Send a blob, or queue it; return how many bytes wait."""
        if not self._parked:
            if self._ended or self._close is not None:
                return 0
            self._queue.append(blob)
            self.backlog_bytes += blob.size_bytes
            return self.backlog_bytes
        # PERF: no task wakes up for a send that does not block; half of the cost of a
        #   delivery on stock uvicorn (benchmarks/fanout.py).
        # NOTE: the step runs in the name of the task that goes on with it, for what a
        #   server does in ``send`` may ask for the current task (asyncio.timeout does).
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
            # NOTE: raised again by the task; a writer must not fail here.
            self._error = ex
        finally:
            _leave_task(loop, writer)
            if current is not None:
                _enter_task(loop, current)
        self._parked = False
        self._wake.set()
        return self.backlog_bytes

    def close(self, code: int, reason: str) -> None:
        """Close after what is queued, or abort where the client does not read it."""
        if self._close is None and not self._ended:
            self._close = (code, reason)
            self._parked = False
            self._wake.set()
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.abort)

    def abort(self) -> None:
        """Drop what is queued, and end `run`."""
        self._ended = True
        self._parked = False
        self._queue.clear()
        self.backlog_bytes = 0
        for task in self._tasks:
            task.cancel()

    def pause_reading(self) -> None:
        """Receive no more for now; the server's back-pressure reaches the client."""
        self._readable.clear()

    def resume_reading(self) -> None:
        """Receive again."""
        self._readable.set()

    async def run(self, receiver: Receiver) -> None:
        """Receive and send until the end; tell `receiver` of it before returning."""
        reader = asyncio.create_task(self._read(receiver))
        writer = self._writer = asyncio.create_task(self._write_all(receiver))
        self._tasks = (reader, writer)
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._close is not None:
                # NOTE: wait until it is sent, and for the client's answer.
                await asyncio.wait(self._tasks)
        finally:
            self.abort()
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
            self._sending.close()
            code, reason = self._close or (1006, '')
            if isinstance(results[0], int):
                code, reason = results[0], ''
            receiver.on_closed(code, reason)
        for result in results:
            if isinstance(result, Exception) and not isinstance(
                result, falcon.WebSocketDisconnected
            ):
                raise result

    async def _read(self, receiver: Receiver) -> int:
        ws = self._ws
        receive = ws.receive_data if self._binary else ws.receive_text
        try:
            while True:
                if not self._readable.is_set():
                    await self._readable.wait()
                message = await receive()
                if not self._ended:
                    receiver.on_message(message)
        except falcon.PayloadTypeError:
            wanted = 'binary' if self._binary else 'text'
            self.close(1003, f'this endpoint takes {wanted} messages only')
            return 1003
        except (falcon.WebSocketDisconnected, falcon.OperationNotAllowed) as ex:
            return getattr(ex, 'code', 1006)

    async def _write_all(self, receiver: Receiver) -> None:
        while not self._ended:
            if self._error is not None:
                raise self._error
            if self._waits_for is not _SENT:
                await self._go_on()
                self.backlog_bytes = sum(blob.size_bytes for blob in self._queue)
                if not self._queue:
                    receiver.on_writable()
            while self._queue:
                blob = self._queue.popleft()
                self._waits_for = self._send(blob)
                await self._go_on()
                self.backlog_bytes -= blob.size_bytes
                if not self._queue and self.backlog_bytes <= 0:
                    receiver.on_writable()
            if self._close is not None:
                await self._ws.close(*self._close)
                return
            self._wake.clear()
            self._parked = True
            await self._wake.wait()
            self._parked = False

    @types.coroutine
    def _go_on(self) -> Generator[Any, Any, None]:
        """Finish what is being sent."""
        while self._waits_for is not _SENT:
            try:
                yield self._waits_for
            except BaseException as ex:
                self._waits_for = self._sending.throw(ex)
            else:
                self._waits_for = self._send(None)


@types.coroutine
def _send_each(ws: falcon.asgi.WebSocket) -> Generator[Any, Any, None]:
    """Send each blob that is given; yield `_SENT` after it, else what it waits for.

    PERF: one generator for all blobs: to begin a coroutine for each and see its end as
    an exception takes three times as long (benchmarks/fanout.py on stock uvicorn).
    """
    while True:
        blob: MessageBlob = yield _SENT
        for message in blob.messages:
            if isinstance(message, str):
                yield from ws.send_text(message)
            else:
                yield from ws.send_data(message)
