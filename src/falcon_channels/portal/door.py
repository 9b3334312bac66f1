"""A blocking WebSocket in a channel: between its threads and the hub's.

Three parties. The *hub* (the loop's thread) writes blobs into a queue and rings. The
*writer* (a thread or greenlet of this connection) takes them out and sends, which
blocks as long as the client does not read. The *reader* (the responder's own thread or
greenlet) receives and hands each message to the hub, and waits until it is taken.

Rules:

* The queue's bytes are the transport's backlog, and the hub bounds them: it closes or
  thins out a client that does not read.
* Each counter has one thread that changes it: `written` the hub's, `sent` the writer.
* The end is told to the hub once, by the reader, whoever began it: the writer closes
  the WebSocket, and the reader's `receive` then raises.
"""

from __future__ import annotations

import asyncio
from collections import deque
import contextlib
import logging
import threading
from typing import Any

import falcon

from falcon_channels.channels import Channels
from falcon_channels.errors import ClosedError
from falcon_channels.plain.websocket import join
from falcon_channels.plain.websocket import open_raw
from falcon_channels.plain.websocket import RawDoor
from falcon_channels.plain.websocket import talk
from falcon_channels.plain.websocket import TRY_AGAIN_LATER
from falcon_channels.portal.loop_thread import LoopThread
from falcon_channels.publication import Position
from falcon_channels.transports.asgi import MessageBlob
from falcon_channels.transports.asgi import MESSAGES
from falcon_channels.transports.base import Receiver
from falcon_channels.wsgi.websocket import WebSocket

_logger = logging.getLogger('falcon_channels')

#: Close code where the link was lost (RFC 6455 section 7.4.1).
_ABNORMAL = 1006


class PortalTransport:
    """The hub's side of a blocking WebSocket, and the writer's.

    Args:
        thread: The hub's.
    """

    #: The thread that serves the client writes.
    descriptor = -1

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._queue: deque[MessageBlob] = deque()
        self._written_bytes = 0
        self._sent_bytes = 0
        self._rung = False
        self._bell = threading.Event()
        self._end: tuple[int, str] | None = None
        self._gone = False
        #: Set while the hub takes messages; made and used in the loop's thread.
        self.readable = asyncio.Event()
        self.readable.set()

    # --- for the hub, in its thread --------------------------------------------------

    @property
    def framing(self) -> Any:
        """What makes payloads ready."""
        return MESSAGES

    @property
    def backlog_bytes(self) -> int:
        """How many bytes wait for the client to read."""
        return self._written_bytes - self._sent_bytes

    def write(self, blob: MessageBlob) -> int:
        """Queue a blob; return the backlog."""
        if self._end is not None or self._gone:
            return 0
        self._queue.append(blob)
        self._written_bytes += blob.size_bytes
        self._ring()
        return self.backlog_bytes

    def close(self, code: int, reason: str) -> None:
        """Close after what is queued."""
        if self._end is None:
            self._end = (code, reason)
        self.readable.set()
        self._ring()

    def abort(self) -> None:
        """End at once."""
        self._queue.clear()
        self.close(_ABNORMAL, '')

    def pause_reading(self) -> None:
        """Let the reader wait."""
        self.readable.clear()

    def resume_reading(self) -> None:
        """Let the reader go on."""
        self.readable.set()

    def _ring(self) -> None:
        # PERF: a fan-out of many publications wakes the writer once.
        if not self._rung:
            self._rung = True
            self._thread.wake(self._bell.set)

    # --- for the writer and the reader, in theirs ------------------------------------

    def send_all(self, ws: WebSocket, receiver: Receiver) -> None:
        """Send what the hub writes, until the end; the writer's whole life."""
        try:
            while not self._gone:
                self._bell.wait()
                self._bell.clear()
                # NOTE: in this order: whatever is queued after this line rings again.
                self._rung = False
                if self._send_queued(ws):
                    self._thread.post(receiver.on_writable)
                if self._end is not None and not self._queue:
                    code, reason = self._end
                    ws.close(1011 if code == _ABNORMAL else code, reason)
                    return
        except falcon.WebSocketDisconnected:
            # The reader learns it, too, and tells the hub.
            return
        except Exception:
            _logger.exception('a WebSocket of the portal could not be written')
            ws.close(1011)

    def _send_queued(self, ws: WebSocket) -> bool:
        sent = False
        while not self._gone:
            try:
                blob = self._queue.popleft()
            except IndexError:
                break
            for message in blob.messages:
                ws.send(message)
            self._sent_bytes += blob.size_bytes
            sent = True
        return sent

    def give_up(self) -> None:
        """Let the writer end: the connection is over."""
        self._gone = True
        self._bell.set()


class _Visit:
    """One client's stay; all methods run in the hub's thread."""

    def __init__(
        self, channels: Channels, transport: PortalTransport, door: RawDoor
    ) -> None:
        self._channels = channels
        self._transport = transport
        self._door = door
        self._talking: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        # NOTE: again, for others came, or the end, while this one was authorised.
        self._channels.admission.check_room()
        self._channels.hub.add(self._door.connection)
        await join(self._channels, self._door)
        self._talking = asyncio.get_running_loop().create_task(
            talk(self._channels, self._door), name='falcon_channels portal door'
        )

    async def take(self, message: str | bytes) -> bool:
        """Take a message when there is room; return whether more may come."""
        connection = self._door.connection
        if not connection.closed:
            connection.on_message(message)
            await self._transport.readable.wait()
        return not connection.closed

    async def end(self, code: int, reason: str) -> None:
        """Let the connection end, and raise what went wrong in it."""
        self._door.connection.on_closed(code, reason)
        self._transport.readable.set()
        if self._talking is not None:
            await self._talking


def serve_door(
    thread: LoopThread,
    channels: Channels,
    req: falcon.Request,
    ws: WebSocket,
    channel: str,
    *,
    timeout_s: float,
    user: str,
    info: Any,
    media: bool,
    since: Position | None,
) -> None:
    """Do what `Portal.serve` promises."""

    async def open_door() -> tuple[PortalTransport, RawDoor]:
        transport = PortalTransport(thread)
        door = await open_raw(
            channels,
            req,
            transport,
            channel,
            user=user,
            info=info,
            media=media,
            since=since,
        )
        return transport, door

    try:
        transport, door = thread.call(open_door, timeout_s=timeout_s)
    except (ClosedError, TimeoutError) as ex:
        raise falcon.HTTPServiceUnavailable(description=str(ex)) from None
    visit = _Visit(channels, transport, door)
    writer = threading.Thread(
        target=transport.send_all,
        args=(ws, door.connection),
        name='falcon_channels writer',
        daemon=True,
    )
    code, reason = _ABNORMAL, ''
    try:
        thread.call(visit.begin, timeout_s=timeout_s)
        # NOTE: now, so that a client whose WebSocket is open is subscribed.
        if ws.unaccepted:
            ws.accept()
        writer.start()
        while True:
            message = ws.receive()
            if not thread.call(visit.take, message, timeout_s=None):
                break
        # The hub has ended it; the writer sends what is left and the close frame.
        writer.join()
    except falcon.WebSocketDisconnected as ex:
        code, reason = ex.code, getattr(ex, 'reason', '')
    except (ClosedError, TimeoutError, falcon.HTTPServiceUnavailable) as ex:
        if ws.unaccepted:
            raise falcon.HTTPServiceUnavailable(description=str(ex)) from None
        ws.close(TRY_AGAIN_LATER)
    finally:
        transport.give_up()
        # NOTE: a hub that is closed has let go of all connections.
        with contextlib.suppress(ClosedError):
            thread.call(visit.end, code, reason, timeout_s=timeout_s)
