"""A WebSocket through Falcon's own object: for every ASGI server.

Sending goes through a queue and one task, for ASGI's ``send`` may block as long as the
client does not read. The queue's bytes are the transport's backlog, which the hub
bounds. `run` is the other half: it receives until the end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import falcon
import falcon.asgi

from falcon_channels.transports.base import Receiver

#: How long a client may take to read what is left when its connection is closed.
CLOSE_TIMEOUT_S = 10.0


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
        '_queue',
        '_readable',
        '_tasks',
        '_wake',
        '_ws',
        'backlog_bytes',
        'framing',
    )

    def __init__(self, ws: falcon.asgi.WebSocket, *, binary: bool = False) -> None:
        self.framing = MESSAGES
        self.backlog_bytes = 0
        self._ws = ws
        self._binary = binary
        self._queue: deque[MessageBlob] = deque()
        self._close: tuple[int, str] | None = None
        self._ended = False
        self._tasks: tuple[asyncio.Task[Any], ...] = ()
        self._wake = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()

    def write(self, blob: MessageBlob) -> int:
        """Queue a blob; return how many bytes wait."""
        if self._ended or self._close is not None:
            return 0
        self._queue.append(blob)
        self.backlog_bytes += blob.size_bytes
        self._wake.set()
        return self.backlog_bytes

    def close(self, code: int, reason: str) -> None:
        """Close after what is queued, or abort where the client does not read it."""
        if self._close is None and not self._ended:
            self._close = (code, reason)
            self._wake.set()
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.abort)

    def abort(self) -> None:
        """Drop what is queued, and end `run`."""
        self._ended = True
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
        writer = asyncio.create_task(self._write_all(receiver))
        self._tasks = (reader, writer)
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._close is not None:
                # NOTE: wait until it is sent, and for the client's answer.
                await asyncio.wait(self._tasks)
        finally:
            self.abort()
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
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
        ws = self._ws
        while not self._ended:
            while self._queue:
                blob = self._queue.popleft()
                for message in blob.messages:
                    if isinstance(message, str):
                        await ws.send_text(message)
                    else:
                        await ws.send_data(message)
                self.backlog_bytes -= blob.size_bytes
                if not self._queue and self.backlog_bytes <= 0:
                    receiver.on_writable()
            if self._close is not None:
                await ws.close(*self._close)
                return
            self._wake.clear()
            await self._wake.wait()
