"""A blocking event stream: the thread of a WSGI response, and the thread of the hub.

The hub, in the thread of the event loop, puts output into a queue. The server reads the
body in the thread or greenlet of the request, which waits for that output. The bytes in
the queue are the backlog of the transport. The hub limits them by the channel's policy
for slow readers. Each counter is changed by one thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
import threading
from typing import Any

import falcon

from falcon_channels.errors import ClosedError
from falcon_channels.node import Node
from falcon_channels.options import EventStreamOptions
from falcon_channels.plain.event_request import ChannelNames
from falcon_channels.plain.event_request import read_request
from falcon_channels.plain.event_request import wants_poll
from falcon_channels.plain.events import allow_page
from falcon_channels.plain.events import answer_ended
from falcon_channels.plain.events import answer_refused
from falcon_channels.plain.events import EventStream
from falcon_channels.plain.poll import answer_poll
from falcon_channels.plain.poll import Poll
from falcon_channels.plain.poll import poll
from falcon_channels.portal.loop_thread import LoopThread
from falcon_channels.transports.base import Receiver
from falcon_channels.transports.http_stream import EVENT_STREAM
from falcon_channels.transports.http_stream import set_stream_headers
from falcon_channels.transports.http_stream import WHOLE_EVENTS
from falcon_channels.websocket.close_codes import ABNORMAL


class _QueueTransport:
    """The queue between the hub and the thread that reads the body.

    Args:
        thread: Thread of the event loop.
    """

    #: The server writes to the socket.
    descriptor = -1
    framing = WHOLE_EVENTS

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._queue: deque[bytes] = deque()
        self._written_bytes = 0
        self._sent_bytes = 0
        self._wake_reader = threading.Event()
        self._ended = False
        self.begun = False

    # --- for the hub, in the thread of the event loop --------------------------------

    @property
    def backlog_bytes(self) -> int:
        """Bytes for the client that are still buffered in this process."""
        return self._written_bytes - self._sent_bytes

    def write(self, blob: bytes) -> int:
        """Queue output; return the backlog in bytes."""
        if self._ended:
            return 0
        self._queue.append(blob)
        self._written_bytes += len(blob)
        self._thread.wake(self._wake_reader.set)
        return self.backlog_bytes

    def close(self, code: int, reason: str) -> None:
        """End the body after the queued output."""
        self._ended = True
        self._thread.wake(self._wake_reader.set)

    def abort(self) -> None:
        """Drop the queued output, and end the body."""
        self._queue.clear()
        self.close(ABNORMAL, '')

    def pause_reading(self) -> None:
        """Ignore the call: the client sends nothing."""

    def resume_reading(self) -> None:
        """Ignore the call: the client sends nothing."""

    # --- for the thread of the request -----------------------------------------------

    def read(self, sent_bytes: int, receiver: Receiver) -> bytes:
        """Return all queued output, or wait for it; return ``b''`` at the end.

        Args:
            sent_bytes: Size of the output that the server has sent since the last call.
            receiver: The owner of the connection.
        """
        self.begun = True
        self._sent_bytes += sent_bytes
        if sent_bytes and not self.backlog_bytes:
            self._thread.post(receiver.on_writable)
        while True:
            self._wake_reader.clear()
            # NOTE: output that is queued after this line sets the event again. Nothing
            #   is queued after the end, which is therefore read first.
            ended = self._ended
            chunk = self._take()
            if chunk or ended:
                return chunk
            self._wake_reader.wait()

    def _take(self) -> bytes:
        blobs = []
        while self._queue:
            try:
                blobs.append(self._queue.popleft())
            except IndexError:
                # NOTE: the other thread has dropped the queue.
                break
        return b''.join(blobs)


class _Body:
    """The body of a response, as the server iterates over it.

    Args:
        thread: Thread of the event loop.
        transport: Transport of the connection.
        connection: The connection.
    """

    def __init__(
        self, thread: LoopThread, transport: _QueueTransport, connection: EventStream
    ) -> None:
        self._thread = thread
        self._transport = transport
        self._connection = connection
        self._sent_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """Return the next events; wait until there are any."""
        chunk = self._transport.read(self._sent_bytes, self._connection)
        self._sent_bytes = len(chunk)
        if not chunk:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Called by the server after the response, also if the client has left."""
        self._thread.post(self._connection.on_closed, ABNORMAL, '')


def serve_events(
    thread: LoopThread,
    node: Node,
    req: falcon.Request,
    resp: falcon.Response,
    channels: ChannelNames,
    *,
    timeout_s: float,
    user: str | None,
    info: Any,
    options: EventStreamOptions | None,
) -> None:
    """Implement `Portal.serve_events`."""
    allow_page(node, req, resp)
    request = read_request(node, req, channels, options)

    async def answer() -> bytes:
        with node.handshake.time() as timing:
            await node.handshake.admit(req)
            client = Poll(node, req, user=user, info=info)
            return await poll(client, request, timing)

    async def start() -> EventStream | None:
        with node.handshake.time() as timing:
            await node.handshake.admit(req)
            connection = EventStream(
                node, transport, req, request, user=user, info=info
            )
            started.append(connection)
            return connection if await connection.start(request, timing) else None

    if wants_poll(req):
        wait_s = request.options.poll_wait_s + timeout_s
        answer_poll(resp, _call(thread, answer, wait_s))
        return
    transport = _QueueTransport(thread)
    started: list[EventStream] = []
    try:
        connection = _call(thread, start, timeout_s)
    except BaseException as ex:
        # NOTE: the stream may have started, although this call has not waited for it.
        #   Nothing would read it.
        thread.post(_release_all, started)
        if not isinstance(ex, falcon.HTTPError):
            raise
        answer_refused(req, resp, ex)
        return
    if connection is None:
        answer_ended(resp)
        return
    set_stream_headers(resp, EVENT_STREAM)
    resp.stream = _Body(thread, transport, connection)


def _release_all(connections: list[EventStream]) -> None:
    for connection in connections:
        connection.on_closed(ABNORMAL, '')


def _call(thread: LoopThread, function: Any, timeout_s: float) -> Any:
    try:
        return thread.call(function, timeout_s=timeout_s)
    except (ClosedError, TimeoutError) as ex:
        raise falcon.HTTPServiceUnavailable(description=str(ex)) from None
