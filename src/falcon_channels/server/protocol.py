"""The WebSocket protocol class for uvicorn, ``ws='...'``.

Each connection has one object of this class.

Frames in: nearly all frames are whole, unfragmented, masked and without reserved bits.
They are decoded here. All others go to `protocol_core`, one whole frame at a time.
`frame_heads` has the rules of RFC 6455 that the head of a frame can break.

Frames out: the socket is written directly while no output is pending in the transport.
`asgi` gathers the frames of an ASGI application. `backlog_watch` ends a connection
whose client does not read.

The end: states change in one direction, see `falcon_channels.server.states`. Every
state that waits for the peer has a timer that aborts the connection.

Keep-alive: `heartbeat` decides when to ping, and when a peer is gone.

NOTE: The rest is one class: reading, writing, the handshake as a phase, and the end.
Each of them needs the state of all others in every call. A reader or writer object for
each connection would refer back to its connection. Such a reference cycle would leave
every closed connection to the garbage collector (`tests/server/test_freed.py`). It
would also add an object to the memory of every idle connection. The parts above have no
state, or exist only while they are needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from os import write as write_descriptor
from typing import Any
from typing import cast

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState
from websockets.extensions import Extension
from websockets.http11 import Response

from falcon_channels.server.asgi import AsgiCycle
from falcon_channels.server.backlog_watch import BacklogWatch
from falcon_channels.server.compression import outgoing_framing
from falcon_channels.server.context import ServerContext
from falcon_channels.server.frame_heads import is_illegal
from falcon_channels.server.frame_heads import MAX_FRAME_HEAD_BYTES
from falcon_channels.server.handshake import build_scope
from falcon_channels.server.handshake import HandshakeRefusedError
from falcon_channels.server.handshake import read_request
from falcon_channels.server.handshake import refusal
from falcon_channels.server.handshake import UpgradeRequest
from falcon_channels.server.heartbeat import next_beat
from falcon_channels.server.heartbeat import Step
from falcon_channels.server.loggers import log_refusal
from falcon_channels.server.loggers import server_logger
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.protocol_core import ProtocolCore
from falcon_channels.server.sockets import limit_unacknowledged_time
from falcon_channels.server.sockets import remote_address
from falcon_channels.server.states import CLOSED
from falcon_channels.server.states import CLOSING
from falcon_channels.server.states import CONNECTING
from falcon_channels.server.states import LINGERING
from falcon_channels.server.states import OPEN
from falcon_channels.transports.base import Receiver
from falcon_channels.transports.base import UNKNOWN_BACKLOG
from falcon_channels.transports.websocket_framing import DeflateFraming
from falcon_channels.transports.websocket_framing import UNCOMPRESSED
from falcon_channels.transports.websocket_framing import UncompressedFraming
from falcon_channels.websocket.close_codes import ABNORMAL
from falcon_channels.websocket.close_codes import check_close_code
from falcon_channels.websocket.close_codes import INTERNAL_ERROR
from falcon_channels.websocket.close_codes import MESSAGE_TOO_BIG
from falcon_channels.websocket.close_codes import NO_STATUS
from falcon_channels.websocket.close_codes import NORMAL
from falcon_channels.websocket.close_codes import POLICY_VIOLATION
from falcon_channels.websocket.close_codes import PROTOCOL_ERROR
from falcon_channels.websocket.close_codes import SERVICE_RESTART

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its C extension
    from websockets.utils import apply_mask

# Reasons why reading is paused: bits of `read_pauses`.
PAUSED_BY_QUEUE = 1
PAUSED_BY_RECEIVER = 2
PAUSED_FOR_OTHERS = 4
PAUSED_FOR_CONTROL = 8
PAUSED_FOR_ACCEPT = 16

#: Maximum number of frames of one connection that are processed before others.
_MAX_FRAMES_AT_ONCE = 256
#: Number of control frames after which reading pauses, and the length of the pause.
_MAX_CONTROL_FRAMES = 64
_CONTROL_PAUSE_S = 0.05
#: Maximum number of pings that are all answered if they arrive together. If more
#: arrive, only the last ones are answered.
_MAX_PONGS = 16
#: Maximum number of bytes that may arrive before the application has accepted.
_MAX_EARLY_BYTES = 65536
#: Maximum number of bytes that a peer may still send after we have closed.
_MAX_LINGER_BYTES = 4 * 1024 * 1024

_PING = b'\x89\x00'
#: First byte of a pong.
_PONG_HEAD = 0x8A


class _NullReceiver:
    """Replaces the receiver of a connection that has ended."""

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, code: int, reason: str) -> None:
        pass


_NULL_RECEIVER = _NullReceiver()


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket connection under uvicorn.

    It is also the `ServerWebSocket` of its connection: see
    `falcon_channels.transports.asgi_extensions`.

    Args:
        config: uvicorn's configuration; its ``server_options`` replace `options`.
        server_state: uvicorn's state that all connections share.
        app_state: State of the application's lifespan.
    """

    __slots__ = (
        '_buffer',
        '_context',
        '_core',
        '_cycle',
        '_discarded_bytes',
        '_drainers',
        '_end_reported',
        '_fd',
        '_first_message_timer',
        '_heard',
        '_keepalive_slot',
        '_parsing',
        '_peer',
        '_pongs',
        '_queued_bytes',
        '_receiver',
        '_timer',
        '_unanswered',
        'descriptor',
        'framing',
        'read_pauses',
        'state',
        'transport',
        'write_blocked',
    )

    #: Used if the server's configuration has no ``server_options``.
    options = ServerOptions()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._context = self.context_of(config, server_state, app_state)
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made
        self.framing: UncompressedFraming | DeflateFraming = UNCOMPRESSED
        self.state = CONNECTING
        self.write_blocked = False
        #: Reasons why reading is paused, as bits; 0 for none.
        self.read_pauses = 0
        #: The socket's descriptor while it may be written, or -1.
        self._fd = -1
        #: The same while no output is pending in the transport, or -1; only if a
        #: receiver is attached, because the transport then reports every backlog. See
        #: `falcon_channels.transports.base`.
        self.descriptor = -1
        self._core: ProtocolCore | None = None
        self._cycle: AsgiCycle | None = None
        self._receiver: Receiver | None = None
        #: Address that the connection is counted for, if there is a limit.
        self._peer: str | None = None
        #: Bytes of an incomplete frame, or bytes that arrived while reading is paused.
        self._buffer: bytearray | None = None
        self._parsing = False
        #: Timer while the client has sent no message; only if that has a deadline.
        self._first_message_timer: asyncio.TimerHandle | None = None
        self._drainers: list[asyncio.Future[None]] | None = None
        self._timer: asyncio.TimerHandle | BacklogWatch | None = None
        self._pongs: list[bytes] | None = None
        #: Bytes given to the transport, instead of written here.
        self._queued_bytes = 0
        #: Whether bytes have arrived since the last ping.
        self._heard = False
        #: Pings since bytes arrived.
        self._unanswered = 0
        self._keepalive_slot = 0
        self._end_reported = False
        self._discarded_bytes = 0

    @classmethod
    def context_of(
        cls, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> ServerContext:
        """Return the state that all connections of a server share."""
        options: ServerOptions = getattr(config, 'server_options', cls.options)
        return ServerContext.of(config, server_state, app_state, options)

    @property
    def backlog_bytes(self) -> int:
        """Bytes for the client that are still buffered in this process.

        NOTE: With TLS, the pending bytes of the encrypted side, at most 64 KiB, are not
        included. When a connection is lost, asyncio drops the pending output without
        telling its size. The result is then `UNKNOWN_BACKLOG`.
        """
        if self.state in (OPEN, CLOSING):
            return self.transport.get_write_buffer_size()
        return UNKNOWN_BACKLOG if self.write_blocked else 0

    # Called by asyncio and uvicorn.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when uvicorn's HTTP protocol hands over a connection."""
        self.transport = cast(asyncio.Transport, transport)
        state = self._context.state
        state.connections.add(self)  # type: ignore[arg-type]  # typed for its own classes
        self._limit_unacknowledged_time()

    def take_over(
        self,
        transport: asyncio.Transport,
        handshake: UpgradeRequest,
        *,
        client: tuple[str, int] | None,
        server: tuple[str, int | None] | None,
    ) -> None:
        """Take over a connection with a request that has been read.

        Args:
            transport: Transport of the connection.
            handshake: The request.
            client: Address of the client.
            server: Address of this end.
        """
        self.connection_made(transport)
        self._start_application(handshake, client=client, server=server)

    def _limit_unacknowledged_time(self) -> None:
        limit_unacknowledged_time(
            self.transport.get_extra_info('socket'),
            self._context.options.unacknowledged_timeout_s,
        )

    def data_received(self, data: bytes) -> None:
        """Called with bytes: first the whole upgrade request, then frames."""
        self._heard = True
        try:
            # PERF: Most reads return one short text message. It needs neither the loop
            # over frames nor its limits (benchmarks/echo.py).
            size = len(data)
            if (
                5 < size < 132
                and data[0] == 0x81
                and data[1] == size + 122
                and self.state == OPEN
                and self._buffer is None
                and ((core := self._core) is None or not core.incomplete)
                and not self.read_pauses
                and size - 6 <= self._context.frame_limit
            ):
                self._receive_short_text(data)
            elif CONNECTING < self.state < LINGERING:
                buffer = self._buffer
                if buffer is None:
                    self._parse(data)
                else:
                    buffer += data
                    if not self.read_pauses:
                        self._parse(buffer)
            elif self.state == CONNECTING:
                if self._cycle is None:
                    self._read_handshake(data)
                else:
                    self._buffer_early(data)
            elif self.state == LINGERING:
                self._discarded_bytes += len(data)
                if self._discarded_bytes > _MAX_LINGER_BYTES:
                    self.transport.abort()
        except Exception:
            server_logger.exception('WebSocket connection failed')
            if self.state == CONNECTING:
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, 'Internal Server Error')
            else:
                self._fail(INTERNAL_ERROR, '')

    def eof_received(self) -> None:
        """Called when the peer sends no more; `connection_lost` follows.

        NOTE: A transport closes only when all output is written. A peer that has shut
        down one direction may not read the other, so the close has a deadline.
        """
        self._flush()
        self._fd = self.descriptor = -1
        if self.state < CLOSED:
            self.state = LINGERING
            self._set_timer(self._context.options.close_timeout_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the TCP connection has ended: report it."""
        context = self._context
        self.state = CLOSED
        self._fd = self.descriptor = -1
        self._set_timer(None)
        self._stop_first_message_timer()
        if context.keepalive is not None:
            context.keepalive.discard(self, self._keepalive_slot)
        state = context.state
        state.connections.discard(self)
        if self._peer is not None:
            context.uncount_peer(self._peer)
            self._peer = None
        # RFC 6455 section 7.1.5: no close frame was received.
        self._report_end(ABNORMAL, '')
        self._release_drainers()
        self._core = self._buffer = None
        if self._receiver is not None:
            # NOTE: Connection and receiver refer to each other. Without this, each
            # connection would wait for the garbage collector.
            self._receiver = _NULL_RECEIVER

    def shutdown(self) -> None:
        """Begin the drain: called by uvicorn for each connection when it stops.

        SECURITY: An exception here would keep uvicorn from closing the other
        connections. This method therefore never raises.
        """
        try:
            self._context.drain.begin()
            if self.state == CONNECTING:
                self.go_away()
        except Exception:
            server_logger.exception('WebSocket shutdown failed')

    def go_away(self) -> None:
        """Close because the server stops: 1012, or 503 before the accept."""
        if self.state == CONNECTING:
            self._report_end(SERVICE_RESTART, '')
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, 'The server stops.')
        elif self.state == OPEN:
            self._report_end(SERVICE_RESTART, '')
            self.close(SERVICE_RESTART, '')

    # The handshake.

    def _read_handshake(self, data: bytes) -> None:
        transport = self.transport
        try:
            handshake = read_request(self._context, data)
        except HandshakeRefusedError as ex:
            self._refuse(ex.response)
        else:
            self._start_application(
                handshake,
                client=remote_address(transport),
                server=get_local_addr(transport),
            )

    def _start_application(
        self,
        handshake: UpgradeRequest,
        *,
        client: tuple[str, int] | None,
        server: tuple[str, int | None] | None,
    ) -> None:
        """Call the application, which decides about a valid handshake."""
        context = self._context
        limit = context.config.limit_concurrency
        if limit is not None and len(context.state.connections) > limit:
            full = refusal(HTTPStatus.SERVICE_UNAVAILABLE, 'Too many connections.')
            self._refuse(full.response)
            return
        if context.drain.begun:
            stops = refusal(HTTPStatus.SERVICE_UNAVAILABLE, 'The server stops.')
            self._refuse(stops.response)
            return
        scope = build_scope(
            context, self.transport, handshake, self, client=client, server=server
        )
        self._set_timer(context.options.open_timeout_s, self._on_open_timeout)
        self._cycle = AsgiCycle(self, context, scope, handshake)

    def check_peer_limit(self, client: tuple[str, int] | None) -> bool:
        """Count the connection for its client's address, or answer 429.

        SECURITY: One address may flood the server with connections. Behind a trusted
        proxy all connections have the proxy's address, so `client` is the address that
        the proxy forwards. Addresses forwarded by others are not used.

        Args:
            client: Address and port of the client.

        Returns:
            False if the handshake was refused.
        """
        limit = self._context.options.max_connections_per_peer
        if limit is None or client is None or self.state != CONNECTING:
            return True
        if not self._context.count_peer(client[0]):
            self._answer(
                HTTPStatus.TOO_MANY_REQUESTS, 'Too many connections from one address.'
            )
            return False
        self._peer = client[0]
        return True

    def _buffer_early(self, data: bytes) -> None:
        """Buffer frames that a client sends before it has received the answer."""
        if self._buffer is None:
            self._buffer = bytearray()
        self._buffer += data
        if len(self._buffer) > _MAX_EARLY_BYTES:
            self._add_pause(PAUSED_FOR_ACCEPT)

    def _on_open_timeout(self) -> None:
        self._report_end(ABNORMAL, '')
        self._answer(HTTPStatus.SERVICE_UNAVAILABLE, 'The application took too long.')

    def _answer(self, status: HTTPStatus, text: str) -> None:
        """Refuse the handshake before the application has answered."""
        cycle = self._cycle
        if cycle is None or not cycle.undecided:
            self._linger()
            return
        cycle.abandon()
        self._refuse(refusal(status, text).response)

    def _refuse(self, response: Response) -> None:
        """Write the refusal of an invalid handshake."""
        text = (response.body or b'').decode().strip()
        log_refusal(remote_address(self.transport), response.status_code, text)
        self.transport.write(response.serialize())
        self._linger()

    def on_accepted(self, answer: bytes, extensions: Sequence[Extension]) -> None:
        """Called when the application has accepted: write the 101 and open.

        Args:
            answer: The 101 response.
            extensions: The agreed extensions.
        """
        context = self._context
        transport = self.transport
        if self.state != CONNECTING:
            return
        if transport.is_closing():
            # NOTE: The client has left, and `connection_lost` follows. A receiver can
            # be attached, and is told then.
            self._linger()
            return
        transport.write(answer)
        if extensions:
            self._core = self._new_core(extensions)
            self.framing = outgoing_framing(extensions)
        self.state = OPEN
        self._set_timer(None)
        sock = transport.get_extra_info('socket')
        if sock is not None and not is_ssl(transport):
            self._fd = sock.fileno()
        if context.keepalive is not None and context.ping_interval_s:
            self._keepalive_slot = context.keepalive.add(
                self, context.loop.time() + context.ping_interval_s
            )
        first_message_s = context.options.first_message_timeout_s
        if first_message_s is not None:
            self._first_message_timer = context.loop.call_later(
                first_message_s, self._on_first_message_timeout
            )
        if self._buffer is not None:
            self._parse(self._buffer)
        self._remove_pause(PAUSED_FOR_ACCEPT)

    def _stop_first_message_timer(self) -> None:
        """Stop the timer, which refers to this connection."""
        if self._first_message_timer is not None:
            self._first_message_timer.cancel()
            self._first_message_timer = None

    def _on_first_message_timeout(self) -> None:
        if self.state == OPEN:
            self._report_end(POLICY_VIOLATION, 'no message')
            self.close(POLICY_VIOLATION, 'no message')

    def on_denied(self, data: bytes, *, more: bool) -> None:
        """Called with each part of a denial response: write it.

        Args:
            data: The bytes.
            more: Whether further parts follow.
        """
        if self.state == CONNECTING:
            self.transport.write(data)
            if not more:
                self._report_end(ABNORMAL, '')
                self._linger()

    def on_application_done(self, *, failed: bool) -> None:
        """Called when the application has ended: close the connection if it is open.

        Args:
            failed: Whether it raised an exception.
        """
        if self.state == CONNECTING:
            if self._end_reported:
                self._linger()
            else:
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, 'Internal Server Error')
        elif self.state == OPEN:
            if failed:
                self._report_end(INTERNAL_ERROR, '')
                self.close(INTERNAL_ERROR, '')
            elif self._receiver is None:
                self.close(NORMAL, '')
        self._cycle = None

    # Frames in.

    def _parse(self, data: bytes | bytearray) -> None:
        """Process the whole frames at the start of `data`, buffer the rest."""
        self._parsing = True
        try:
            used = self._parse_frames(data)
        finally:
            self._parsing = False
        if self._pongs is not None:
            self._flush_pongs()
        if data is self._buffer:
            if used == len(data):
                self._buffer = None
            else:
                del self._buffer[:used]
        elif used != len(data) and self.state <= CLOSING:
            self._buffer = bytearray(memoryview(data)[used:])

    def _parse_frames(self, data: bytes | bytearray) -> int:
        """Process whole frames; return how many bytes of `data` they are."""
        context = self._context
        end = len(data)
        pos = frames = controls = 0
        while end - pos >= 2:
            core = self._core
            head = data[pos]
            length = data[pos + 1] - 128
            start = pos + 6
            if length >= 126:
                start = pos + (8 if length == 126 else 14)
                if end < start - 4:
                    break
                size = int.from_bytes(data[pos + 2 : start - 4], 'big')
                if size < (126 if length == 126 else 65536) or size >> 63:
                    # RFC 6455 section 5.2: the minimal number of bytes.
                    self._fail(PROTOCOL_ERROR, 'invalid length')
                    return end
                length = size
            usual = (
                (head == 0x81 or head == 0x82)
                and (core is None or not core.incomplete)
                and self.state == OPEN
                and 0 <= length <= context.frame_limit
            )
            if not usual and is_illegal(
                head,
                length,
                context.frame_limit,
                # NOTE: A connection with an extension always has its core.
                has_extensions=core is not None and core.has_extensions,
            ):
                self._refuse_frame(data, pos)
                return end
            stop = start + length
            if stop > end:
                break
            frames += 1
            if usual:
                payload = apply_mask(data[start:stop], data[start - 4 : start])
                if head == 0x81:
                    try:
                        text = payload.decode()
                    except UnicodeDecodeError as ex:
                        self._fail_for_encoding(ex)
                        return end
                    self._deliver(text)
                else:
                    self._deliver(payload)
            else:
                # PERF: Each idle client sends pongs. A pong has no consequence, and
                # would need a core only to find that out: ten times the cost.
                if head != _PONG_HEAD or core is not None:
                    self._parse_by_core(data[pos:stop])
                controls += head & 0x08 == 0x08
            pos = stop
            if self.read_pauses or self.state > CLOSING:
                break
            if controls >= _MAX_CONTROL_FRAMES:
                # SECURITY: A flood of pings delays the peer that sends it, and not the
                # other connections.
                self._add_pause(PAUSED_FOR_CONTROL)
                context.loop.call_later(
                    _CONTROL_PAUSE_S, self._remove_pause, PAUSED_FOR_CONTROL
                )
                break
            if frames >= _MAX_FRAMES_AT_ONCE:
                self._add_pause(PAUSED_FOR_OTHERS)
                context.loop.call_soon(self._remove_pause, PAUSED_FOR_OTHERS)
                break
        return pos if self.state <= CLOSING else end

    def _receive_short_text(self, data: bytes) -> None:
        """Process a read that is one short text message: see `data_received`."""
        payload = apply_mask(data[6:], data[2:6])
        try:
            text = payload.decode()
        except UnicodeDecodeError as ex:
            self._fail_for_encoding(ex)
            return
        if self._first_message_timer is not None:
            self._stop_first_message_timer()
        receiver = self._receiver
        if receiver is not None:
            receiver.on_message(text)
        elif self._cycle is not None and not self._cycle.on_message(text):
            self._add_pause(PAUSED_BY_QUEUE)

    def _refuse_frame(self, data: bytes | bytearray, pos: int) -> None:
        """Close because of an illegal frame header; the core finds the reason."""
        core = self._get_core()
        core.refuse(bytes(data[pos : pos + MAX_FRAME_HEAD_BYTES]))
        self._end_by_core(core)

    def _parse_by_core(self, frame: bytes | bytearray) -> None:
        """Process one whole frame with the core."""
        core = self._get_core()
        message = core.receive(frame)
        if message is not None:
            self._deliver(message)
            if self.state > CLOSING:
                return
        if core.ended:
            self._end_by_core(core)
            return
        answer = core.take_output()
        if answer:
            # RFC 6455 section 5.5.3: only the most recent ping needs its pong.
            if self._pongs is None or len(self._pongs) >= _MAX_PONGS:
                self._pongs = []
            self._pongs.append(answer)
        if self.state == OPEN and not core.needed:
            self._core = None

    def _deliver(self, message: str | bytes) -> None:
        if self.state != OPEN:
            return  # the peer's close frame is awaited, nothing else
        if self._first_message_timer is not None:
            self._stop_first_message_timer()
        receiver = self._receiver
        if receiver is not None:
            receiver.on_message(message)
        elif self._cycle is not None and not self._cycle.on_message(message):
            self._add_pause(PAUSED_BY_QUEUE)

    # Back-pressure on reading.

    def _add_pause(self, reason: int) -> None:
        if not self.read_pauses and self.state < LINGERING:
            self.transport.pause_reading()
        self.read_pauses |= reason

    def _remove_pause(self, reason: int) -> None:
        if not self.read_pauses & reason:
            return
        self.read_pauses &= ~reason
        if self.read_pauses or self.state not in (OPEN, CLOSING):
            return
        # NOTE: If `_parse` is running, its loop continues by itself.
        if self._buffer is not None and not self._parsing:
            self._parse(self._buffer)
        if not self.read_pauses and self.state in (OPEN, CLOSING):
            self.transport.resume_reading()

    def _remove_all_pauses(self) -> None:
        self._remove_pause(self.read_pauses)

    def on_queue_empty(self) -> None:
        """Called when the application has taken all messages: resume reading."""
        self._remove_pause(PAUSED_BY_QUEUE)

    def pause_reading(self) -> None:
        """Receive no more messages; TCP makes the peer wait."""
        self._add_pause(PAUSED_BY_RECEIVER)

    def resume_reading(self) -> None:
        """Receive messages again."""
        self._remove_pause(PAUSED_BY_RECEIVER)

    # Frames out.

    def write(self, blob: bytes) -> int:
        """Send finished frames.

        PERF: The descriptor is written directly while no output is pending. The event
        loop's own way costs about a microsecond more for each recipient
        (benchmarks/fanout.py).

        Args:
            blob: Frames of this connection's framing.

        Returns:
            Bytes of pending output.
        """
        fd = self.descriptor
        if fd >= 0:
            try:
                sent = write_descriptor(fd, blob)
            except OSError:
                # NOTE: The socket's buffer is full or the connection is broken: the
                # transport handles both.
                sent = 0
            if sent == len(blob):
                return 0
            self._write_by_transport(blob[sent:])
        else:
            if self.state != OPEN:
                return 0
            self.write_in_order(blob)
        return self.transport.get_write_buffer_size()

    def write_in_order(self, blob: bytes) -> None:
        """Write after the pending output, directly if there is none."""
        transport = self.transport
        if self._fd >= 0 and not transport.get_write_buffer_size():
            try:
                sent = write_descriptor(self._fd, blob)
            except OSError:
                sent = 0
            if sent == len(blob):
                return
            blob = blob[sent:]
        self._write_by_transport(blob)

    def _write_by_transport(self, blob: bytes) -> None:
        """Append to the pending output of the transport."""
        self._queued_bytes += len(blob)
        self.transport.write(blob)

    def _flush(self) -> None:
        """Write what the application has sent in this event-loop iteration."""
        if self._cycle is not None:
            self._cycle.flush()

    def _flush_pongs(self) -> None:
        """Answer the last pings, unless the peer does not read."""
        pongs = self._pongs
        if pongs is not None and not self.write_blocked and self.state == OPEN:
            self._pongs = None
            self._flush()
            self.write_in_order(b''.join(pongs))

    # Back-pressure on writing.

    async def drain(self) -> None:
        """Wait until little output is pending, or the connection has ended."""
        while self.write_blocked and self.state in (CONNECTING, OPEN):
            if self._drainers is None:
                self._drainers = []
            waiter = self._context.loop.create_future()
            self._drainers.append(waiter)
            await waiter

    def _release_drainers(self) -> None:
        drainers, self._drainers = self._drainers, None
        for waiter in drainers or ():
            if not waiter.done():
                waiter.set_result(None)

    def pause_writing(self) -> None:
        """Called when too much output is pending: start `write_timeout_s`."""
        self.write_blocked = True
        self.descriptor = -1
        if self.state == OPEN:
            self._set_timer(None)
            self._timer = BacklogWatch(
                self._context.loop,
                self._context.options.write_timeout_s,
                self._written_bytes,
                self.abort,
            )

    def resume_writing(self) -> None:
        """Called when little output is pending: wake the waiting senders."""
        self.write_blocked = False
        self._release_drainers()
        if self.state == OPEN:
            self._set_timer(None)
            if self._receiver is not None:
                self.descriptor = self._fd
            self._flush_pongs()
            if self._receiver is not None:
                self._receiver.on_writable()

    def _written_bytes(self) -> int:
        """Return a number that grows when the peer reads some of the backlog."""
        return self._queued_bytes - self.transport.get_write_buffer_size()

    # Keep-alive.

    def on_due(self, now_s: float) -> None:
        """Called by the keep-alive wheel: ping the peer, or close if it is gone.

        Args:
            now_s: The event loop's clock.
        """
        self._keepalive_slot = 0
        context = self._context
        keepalive = context.keepalive
        interval_s = context.ping_interval_s
        if self.state != OPEN or keepalive is None or interval_s is None:
            return
        if self.write_blocked:
            # NOTE: A ping would wait behind the pending output. `BacklogWatch` ends the
            # connection of a peer that reads nothing of it.
            self._unanswered = 0
            self._keepalive_slot = keepalive.add(self, now_s + interval_s)
            return
        # NOTE: While reading is paused, no answer can arrive. Only the kernel's
        # TCP_USER_TIMEOUT can then detect a peer that is gone.
        heard = self._heard or self.read_pauses != 0
        step, self._unanswered, delay_s = next_beat(
            self._unanswered, interval_s, context.ping_timeout_s, heard=heard
        )
        if step is Step.END:
            self._report_end(ABNORMAL, '')
            self._fail(INTERNAL_ERROR, 'keepalive ping timeout')
            return
        if step is Step.PING:
            self._heard = False
            self._ping()
        self._keepalive_slot = keepalive.add(self, now_s + delay_s)

    def _ping(self) -> None:
        # NOTE: Any bytes show that the peer is alive, so a ping needs no payload to
        # recognise its pong.
        self._flush()
        self.write_in_order(_PING)

    # The end.

    def close(self, code: int, reason: str) -> None:
        """Close after the pending output; abort after `close_timeout_s`.

        Args:
            code: Close code; 1005 for a close frame without a code.
            reason: Close reason, truncated to 123 bytes of UTF-8.

        Raises:
            ValueError: The code must not be sent (RFC 6455 section 7.4).
        """
        if self.state != OPEN:
            return
        if code != NO_STATUS:
            check_close_code(code)
        self._flush()
        core = self._get_core()
        core.close(code, reason)
        self.transport.write(core.take_output())
        self.state = CLOSING
        self._fd = self.descriptor = -1
        self._set_timer(self._context.options.close_timeout_s, self.abort)
        self._release_drainers()
        # NOTE: Not at once: it may call the receiver, which `close` must not.
        self._context.loop.call_soon(self._remove_all_pauses)

    def abort(self) -> None:
        """End the TCP connection at once and discard the pending output."""
        if self.state < CLOSED:
            self.state = LINGERING
            self._fd = self.descriptor = -1
            self.transport.abort()

    def _fail(self, code: int, reason: str) -> None:
        """Close without waiting for the peer's answer (RFC 6455 section 7.1.7)."""
        if self.state in (OPEN, CLOSING):
            core = self._get_core()
            core.fail(code, reason)
            self._end_by_core(core)

    def _fail_for_encoding(self, error: UnicodeDecodeError) -> None:
        if self.state in (OPEN, CLOSING):
            core = self._get_core()
            core.fail_for_encoding(error)
            self._end_by_core(core)

    def _end_by_core(self, core: ProtocolCore) -> None:
        """Write the core's last frames and report the resulting close code."""
        end = core.end
        if end.failed and end.code == MESSAGE_TOO_BIG:
            server_logger.warning(
                'closing a WebSocket of %s with 1009: %s. ws_max_size is %s',
                self.transport.get_extra_info('peername'),
                end.reason,
                self._context.max_size,
            )
        self._flush()
        data = core.take_output()
        if data:
            self.transport.write(data)
        self._linger(wait=end.failed)
        self._report_end(end.code, end.reason)

    def _linger(self, *, wait: bool = True) -> None:
        """End the TCP connection.

        Args:
            wait: Whether to wait until the peer has read the last frames.
        """
        if self.state >= LINGERING:
            return
        self.state = LINGERING
        self._fd = self.descriptor = -1
        transport = self.transport
        self._set_timer(self._context.options.close_timeout_s, transport.abort)
        if transport.is_closing():
            return
        # NOTE: Within `_remove_pause` the transport may be paused without a reason in
        # `read_pauses`.
        transport.resume_reading()
        if wait and transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _report_end(self, code: int, reason: str) -> None:
        """Report the end to the application and the receiver, once."""
        if self._end_reported:
            return
        self._end_reported = True
        if self._cycle is not None:
            self._cycle.on_end(code, reason)
        if self._receiver is not None:
            self._receiver.on_closed(code, reason)

    def _set_timer(
        self, delay_s: float | None, call: Any = None, *args: object
    ) -> None:
        """Replace the connection's one timer; ``None`` only stops it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay_s is not None:
            self._timer = self._context.loop.call_later(delay_s, call, *args)

    def _get_core(self) -> ProtocolCore:
        core = self._core
        if core is None:
            core = self._core = self._new_core()
        return core

    def _new_core(self, extensions: Sequence[Extension] = ()) -> ProtocolCore:
        context = self._context
        return ProtocolCore(context.max_size, context.options.max_fragments, extensions)

    # The direct extension.

    def attach(self, receiver: Receiver) -> None:
        """Deliver messages to `receiver` instead of ASGI ``receive``.

        Args:
            receiver: The receiver; it gets the queued messages first.

        Raises:
            RuntimeError: The handshake is not accepted yet, or a receiver is attached
                already.
        """
        cycle = self._cycle
        if self._receiver is not None:
            raise RuntimeError('a receiver is attached already')
        if cycle is None or self.state == CONNECTING:
            raise RuntimeError('websocket.accept has not been sent')
        messages = cycle.hand_over()
        self._receiver = receiver if self.state < CLOSED else _NULL_RECEIVER
        if self.state == OPEN:
            # NOTE: `resume_writing` then comes when all output is written. TLS
            # transports take 0 to mean "always too much".
            self.transport.set_write_buffer_limits(
                high=1 if is_ssl(self.transport) else 0, low=0
            )
            if not self.write_blocked:
                self.descriptor = self._fd
        for message in messages:
            receiver.on_message(message)
        self._remove_pause(PAUSED_BY_QUEUE)
        if self._end_reported:
            code, reason = cycle.end
            self._context.loop.call_soon(receiver.on_closed, code, reason)
