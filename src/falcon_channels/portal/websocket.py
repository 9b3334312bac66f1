"""A blocking WebSocket in a channel: its threads, and the thread of the hub.

Three threads or greenlets take part:

* The *hub*, in the thread of the event loop, puts output into a queue and wakes the
  writer.
* The *writer* of this connection takes output from the queue and sends it. It blocks
  as long as the client does not read.
* The *reader*, in which the responder runs, receives. It hands each message to the hub
  and waits until the hub has taken it.

Rules:

* The bytes in the queue are the backlog of the transport. The hub bounds them by the
  channel's policy for slow readers.
* Each counter is changed by one thread: `_written_bytes` by the hub, `_sent_bytes` by
  the writer.
* The reader alone reports the end to the hub, once. If the hub ends the connection, the
  writer closes the WebSocket, and `receive` then raises in the reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
import contextlib
import logging
import threading
from typing import Any

import falcon

from falcon_channels.access.handshake import HandshakeTiming
from falcon_channels.errors import ClosedError
from falcon_channels.node import Node
from falcon_channels.plain.websocket import PlainConnection
from falcon_channels.plain.websocket import position_to_recover
from falcon_channels.portal.loop_thread import LoopThread
from falcon_channels.publication import Position
from falcon_channels.transports.asgi import MessageBlob
from falcon_channels.transports.asgi import MESSAGES
from falcon_channels.transports.base import Receiver
from falcon_channels.websocket.close_codes import ABNORMAL
from falcon_channels.websocket.close_codes import INTERNAL_ERROR
from falcon_channels.websocket.close_codes import TRY_AGAIN_LATER
from falcon_channels.wsgi.websocket import WebSocket

_logger = logging.getLogger('falcon_channels')


class PortalTransport:
    """The queue between the hub and the writer of a blocking WebSocket.

    Args:
        thread: Thread of the event loop.
    """

    #: The writer sends, and not the hub.
    descriptor = -1

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._queue: deque[MessageBlob] = deque()
        self._written_bytes = 0
        self._sent_bytes = 0
        self._writer_is_awake = False
        self._wake_writer = threading.Event()
        self._end: tuple[int, str] | None = None
        self._ended = False
        #: Set while the hub takes messages; used in the thread of the event loop only.
        self.readable = asyncio.Event()
        self.readable.set()

    # --- for the hub, in the thread of the event loop --------------------------------

    @property
    def framing(self) -> Any:
        """Framing of messages."""
        return MESSAGES

    @property
    def backlog_bytes(self) -> int:
        """Bytes for the client that are still buffered in this process."""
        return self._written_bytes - self._sent_bytes

    def write(self, blob: MessageBlob) -> int:
        """Queue output; return the backlog in bytes."""
        if self._end is not None or self._ended:
            return 0
        self._queue.append(blob)
        self._written_bytes += blob.size_bytes
        self._wake()
        return self.backlog_bytes

    def close(self, code: int, reason: str) -> None:
        """Close after the queued output."""
        if self._end is None:
            self._end = (code, reason)
        self.readable.set()
        self._wake()

    def abort(self) -> None:
        """Drop the queued output, and close."""
        self._queue.clear()
        self.close(ABNORMAL, '')

    def pause_reading(self) -> None:
        """Make the reader wait."""
        self.readable.clear()

    def resume_reading(self) -> None:
        """Wake the reader."""
        self.readable.set()

    def _wake(self) -> None:
        # PERF: a fan-out of many publications wakes the writer only once.
        if not self._writer_is_awake:
            self._writer_is_awake = True
            self._thread.wake(self._wake_writer.set)

    # --- for the writer and the reader, in their threads -----------------------------

    def send_all(self, ws: WebSocket, receiver: Receiver) -> None:
        """Send what the hub writes, until the end. The writer runs this function."""
        try:
            while not self._ended:
                self._wake_writer.wait()
                self._wake_writer.clear()
                # NOTE: output that is queued after this line wakes the writer again.
                self._writer_is_awake = False
                if self._send_queued(ws):
                    self._thread.post(receiver.on_writable)
                if self._end is not None and not self._queue:
                    code, reason = self._end
                    ws.close(INTERNAL_ERROR if code == ABNORMAL else code, reason)
                    return
        except falcon.WebSocketDisconnected:
            # The same error is raised in the reader, which reports the end.
            return
        except Exception:
            _logger.exception('sending on a WebSocket of the portal failed')
            ws.close(INTERNAL_ERROR)

    def _send_queued(self, ws: WebSocket) -> bool:
        sent = False
        while not self._ended:
            try:
                blob = self._queue.popleft()
            except IndexError:
                break
            for message in blob.messages:
                ws.send(message)
            self._sent_bytes += blob.size_bytes
            sent = True
        return sent

    def stop_writer(self) -> None:
        """Wake the writer, so that it returns: the connection has ended."""
        self._ended = True
        self._wake_writer.set()


class _PortalConnection:
    """One client; all methods run in the thread of the event loop.

    Args:
        connection: Connection of the client.
        transport: Its transport.
    """

    def __init__(self, connection: PlainConnection, transport: PortalTransport) -> None:
        self._connection = connection
        self._transport = transport
        self._publishing: asyncio.Task[None] | None = None

    async def subscribe(
        self, since: Position | None, timing: HandshakeTiming, *, accepted: bool
    ) -> None:
        """Subscribe the client, and begin to publish what it sends.

        Args:
            since: Position from which publications are recovered, or ``None``.
            timing: Timing of the handshake.
            accepted: Whether the application has accepted the handshake.

        Raises:
            falcon.HTTPError: The client was refused.
        """

        async def admit() -> None:
            self._connection.admit(self._transport, timing)

        await self._connection.subscribe(since, admit, accepted=accepted)
        self._publishing = asyncio.get_running_loop().create_task(
            self._connection.publish_messages(), name='falcon_channels portal WebSocket'
        )

    async def take(self, message: str | bytes) -> bool:
        """Queue a message, and wait for room; return whether more may come."""
        if not self._connection.closed:
            self._connection.on_message(message)
            await self._transport.readable.wait()
        return not self._connection.closed

    def release(self) -> None:
        """End the connection: nobody waits for its client."""
        self._connection.on_closed(ABNORMAL, '')

    async def end(self, code: int, reason: str) -> None:
        """End the connection, and raise the error of its publishing task."""
        self._connection.on_closed(code, reason)
        self._transport.readable.set()
        if self._publishing is not None:
            await self._publishing


def _release_all(clients: list[_PortalConnection]) -> None:
    for client in clients:
        client.release()


def serve_websocket(
    thread: LoopThread,
    node: Node,
    req: falcon.Request,
    ws: WebSocket,
    channel: str,
    *,
    timeout_s: float,
    user: str | None,
    info: Any,
    media: bool,
    since: Position | None,
) -> None:
    """Implement `Portal.serve`."""

    async def subscribe() -> tuple[PlainConnection, _PortalConnection]:
        with node.handshake.time() as timing:
            position = position_to_recover(node.handshake, req, since, media)
            connection = PlainConnection(
                node, transport, channel, req, user=user, info=info, media=media
            )
            client = _PortalConnection(connection, transport)
            clients.append(client)
            await client.subscribe(position, timing, accepted=accepted)
            return connection, client

    accepted = not ws.unaccepted
    transport = PortalTransport(thread)
    clients: list[_PortalConnection] = []
    try:
        connection, client = thread.call(subscribe, timeout_s=timeout_s)
    except BaseException as ex:
        # NOTE: the client may be subscribed, although this call has not waited for it.
        #   Nothing else would then end its connection.
        thread.post(_release_all, clients)
        is_unavailable = isinstance(ex, ClosedError | TimeoutError)
        if accepted and (
            is_unavailable
            or (isinstance(ex, falcon.HTTPError) and ex.status_code == 503)
        ):
            # NOTE: the App would close with 3503, after which clients do not return.
            ws.close(TRY_AGAIN_LATER)
        if is_unavailable:
            raise falcon.HTTPServiceUnavailable(description=str(ex)) from None
        raise
    writer = threading.Thread(
        target=transport.send_all,
        args=(ws, connection),
        name='falcon_channels writer',
        daemon=True,
    )
    code, reason = ABNORMAL, ''
    try:
        # NOTE: the client is subscribed before its WebSocket opens. It therefore misses
        #   no publication after that.
        if ws.unaccepted:
            ws.accept()
        writer.start()
        while True:
            message = ws.receive()
            if not thread.call(client.take, message, timeout_s=None):
                break
        # NOTE: the hub has ended the connection. The writer sends the queued output and
        #   the close frame.
        writer.join()
    except falcon.WebSocketDisconnected as ex:
        code, reason = ex.code, getattr(ex, 'reason', '')
    except (ClosedError, TimeoutError) as ex:
        if ws.unaccepted:
            raise falcon.HTTPServiceUnavailable(description=str(ex)) from None
        ws.close(TRY_AGAIN_LATER)
    finally:
        transport.stop_writer()
        # NOTE: a hub that is closed has released all connections.
        with contextlib.suppress(ClosedError):
            thread.call(client.end, code, reason, timeout_s=timeout_s)
