"""The WebSocket protocol class for uvicorn, ``ws='...'``; one object a connection.

`Connection` writes and ends, `FrameReader` reads, and this class shakes hands and
speaks with uvicorn and the application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from typing import cast

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState
from websockets.extensions import Extension
from websockets.http11 import Response

from falcon_channels.server.asgi import AsgiCycle
from falcon_channels.server.compression import outgoing_framing
from falcon_channels.server.context import ServerContext
from falcon_channels.server.frame_reader import FrameReader
from falcon_channels.server.frame_reader import HELD_BY_QUEUE
from falcon_channels.server.frame_reader import HELD_FOR_ACCEPT
from falcon_channels.server.handshake import build_scope
from falcon_channels.server.handshake import Handshake
from falcon_channels.server.handshake import HandshakeRefusedError
from falcon_channels.server.handshake import read_request
from falcon_channels.server.handshake import refusal
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.sockets import bound_unacknowledged
from falcon_channels.server.sockets import remote_address
from falcon_channels.server.states import CLOSED
from falcon_channels.server.states import CONNECTING
from falcon_channels.server.states import LINGERING
from falcon_channels.server.states import OPEN
from falcon_channels.transports.base import Receiver

#: Bytes that may arrive before the application has accepted.
_MAX_EARLY_BYTES = 65536
#: What a peer may still send after we have hung up.
_MAX_LINGER_BYTES = 4 * 1024 * 1024


class _Nobody:
    """Stands for the receiver of a connection that is gone."""

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, code: int, reason: str) -> None:
        pass


_NOBODY = _Nobody()


class WebSocketProtocol(FrameReader):
    """One WebSocket connection under uvicorn.

    It is also the `ServerWebSocket` of its connection: see
    `falcon_channels.transports.asgi_extensions`.
    """

    __slots__ = ('_lingered', '_peer')

    #: Used where the server's configuration brings no ``server_options``.
    options = ServerOptions()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        options: ServerOptions = getattr(config, 'server_options', self.options)
        super().__init__(ServerContext.of(config, server_state, app_state, options))
        self._peer: str | None = None
        self._lingered = 0

    @property
    def context(self) -> ServerContext:
        """What all connections of the server share."""
        return self._context

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a connection from uvicorn's HTTP protocol."""
        self.transport = cast(asyncio.Transport, transport)
        self._context.state.connections.add(self)  # type: ignore[arg-type]  # typed for its own classes
        self._bound()

    def take_over(
        self,
        transport: asyncio.Transport,
        handshake: Handshake,
        *,
        client: tuple[str, int] | None,
        server: tuple[str, int | None] | None,
        bounded: bool,
    ) -> None:
        """Take over a connection with a request that has been read.

        Args:
            transport: Of the connection.
            handshake: What was read.
            client: Address of the other end.
            server: Address of this end.
            bounded: Whether the kernel knows `unacknowledged_timeout_s` already.
        """
        self.transport = transport
        self._context.state.connections.add(self)  # type: ignore[arg-type]  # typed for its own classes
        if not bounded:
            self._bound()
        self._begin(handshake, client=client, server=server)

    def _bound(self) -> None:
        bound_unacknowledged(
            self.transport.get_extra_info('socket'),
            self._context.options.unacknowledged_timeout_s,
        )

    def data_received(self, data: bytes) -> None:
        """Take bytes: first the whole upgrade request, then frames."""
        self._heard = True
        try:
            # PERF: One short text in one read, which is what most reads bring, needs
            # neither a loop nor its limits (benchmarks/echo.py).
            size = len(data)
            if (
                5 < size < 132
                and data[0] == 0x81
                and data[1] == size + 122
                and self.state == OPEN
                and self._buffer is None
                and self._fragments is None
                and not self.held
                and size - 6 <= self._context.frame_limit
            ):
                self._take_short_text(data)
            elif CONNECTING < self.state < LINGERING:
                buffer = self._buffer
                if buffer is None:
                    self._parse(data)
                else:
                    buffer += data
                    if not self.held:
                        self._parse(buffer)
            elif self.state == CONNECTING:
                if self._cycle is None:
                    self._handshake(data)
                else:
                    self._keep_early(data)
            elif self.state == LINGERING:
                self._lingered += len(data)
                if self._lingered > _MAX_LINGER_BYTES:
                    self.transport.abort()
        except Exception:
            self._context.logger.exception('WebSocket connection failed')
            if self.state == CONNECTING:
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, 'Internal Server Error')
            else:
                self._fail(1011, '')

    def eof_received(self) -> None:
        """Let the transport close; `connection_lost` follows.

        NOTE: With a deadline, for a transport closes only when all is written, and a
        peer that has shut down one direction may read nothing in the other.
        """
        self.flush()
        self._fd = self.descriptor = -1
        if self.state < CLOSED:
            self.state = LINGERING
            self._set_timer(self._context.options.close_timeout_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody; nothing is written from here on."""
        context = self._context
        self.state = CLOSED
        self._fd = self.descriptor = -1
        self._set_timer(None)
        if context.keepalive is not None:
            context.keepalive.discard(self)
        context.state.connections.discard(self)
        if self._peer is not None:
            context.peers[self._peer] -= 1
            if not context.peers[self._peer]:
                del context.peers[self._peer]
            self._peer = None
        # RFC 6455 section 7.1.5: no close frame was received.
        self._tell(1006, '')
        self._release_drainers()
        self._core = self._buffer = self._fragments = self._out = None
        if self._receiver is not None:
            # NOTE: The two refer to each other: each connection would wait for the
            # garbage collector.
            self._receiver = _NOBODY

    def shutdown(self) -> None:
        """Leave when the server stops: called by uvicorn, for each connection.

        SECURITY: It never raises, for uvicorn closes the other connections after it.
        """
        try:
            self._context.begin_drain()
            if self.state == CONNECTING:
                self.go_away()
        except Exception:
            self._context.logger.exception('WebSocket shutdown failed')

    def go_away(self) -> None:
        """Close because the server stops: 1012, or 503 before the accept."""
        if self.state == CONNECTING:
            self._tell(1012, '')
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, 'The server stops.')
        elif self.state == OPEN:
            self._tell(1012, '')
            self.close(1012, '')

    # The handshake.

    def _handshake(self, data: bytes) -> None:
        transport = self.transport
        try:
            handshake = read_request(self._context, data)
        except HandshakeRefusedError as ex:
            self._refuse(ex.response)
        else:
            self._begin(
                handshake,
                client=remote_address(transport),
                server=get_local_addr(transport),
            )

    def _begin(
        self,
        handshake: Handshake,
        *,
        client: tuple[str, int] | None,
        server: tuple[str, int | None] | None,
    ) -> None:
        """Let the application decide over a proper handshake."""
        context = self._context
        limit = context.config.limit_concurrency
        if limit is not None and len(context.state.connections) > limit:
            full = refusal(HTTPStatus.SERVICE_UNAVAILABLE, 'Too many connections.')
            self._refuse(full.response)
            return
        scope = build_scope(
            context, self.transport, handshake, self, client=client, server=server
        )
        self._set_timer(context.options.open_timeout_s, self._open_timed_out)
        self._cycle = AsgiCycle(self, context, scope, handshake)

    def admit(self, client: tuple[str, int] | None) -> bool:
        """Count the connection for its client, or answer 429; called by the cycle.

        SECURITY: Floods from one address. `client` is what a trusted proxy says, for
        behind one all share its own address; nobody else's word counts.
        """
        peers = self._context.peers
        limit = self._context.options.max_connections_per_peer
        if limit is None or client is None or self.state != CONNECTING:
            return True
        if peers[client[0]] >= limit:
            self._answer(
                HTTPStatus.TOO_MANY_REQUESTS, 'Too many connections from one address.'
            )
            return False
        self._peer = client[0]
        peers[self._peer] += 1
        return True

    def _keep_early(self, data: bytes) -> None:
        """Keep frames that a client sends before it has our answer."""
        if self._buffer is None:
            self._buffer = bytearray()
        self._buffer += data
        if len(self._buffer) > _MAX_EARLY_BYTES:
            self._hold(HELD_FOR_ACCEPT)

    def _open_timed_out(self) -> None:
        self._tell(1006, '')
        self._answer(HTTPStatus.SERVICE_UNAVAILABLE, 'The application took too long.')

    def _answer(self, status: HTTPStatus, text: str) -> None:
        """Refuse the handshake on the server's own account."""
        cycle = self._cycle
        if cycle is None or not cycle.undecided:
            self._linger()
            return
        cycle.abandon()
        self._refuse(refusal(status, text).response)

    def _refuse(self, response: Response) -> None:
        self.transport.write(response.serialize())
        self._linger()

    def on_accepted(self, answer: bytes, extensions: Sequence[Extension]) -> None:
        """Write the 101 and open the connection; called by the cycle."""
        context = self._context
        transport = self.transport
        if self.state != CONNECTING or transport.is_closing():
            return
        transport.write(answer)
        if extensions:
            self._get_core().extensions = list(extensions)
            self.framing = outgoing_framing(extensions)
        self.state = OPEN
        self._set_timer(None)
        self._use_socket()
        if context.keepalive is not None and context.ping_interval_s:
            context.keepalive.add(self, context.ping_interval_s)
        silent_s = context.options.first_message_timeout_s
        if silent_s is not None:
            self._silent = True
            context.loop.call_later(silent_s, self._first_message_due)
        if self._buffer is not None:
            self._parse(self._buffer)
        self._unhold(HELD_FOR_ACCEPT)

    def _use_socket(self) -> None:
        sock = self.transport.get_extra_info('socket')
        if sock is not None and not is_ssl(self.transport):
            self._fd = sock.fileno()

    def _first_message_due(self) -> None:
        if self._silent and self.state == OPEN:
            self._tell(1008, 'no message')
            self.close(1008, 'no message')

    def on_denied(self, data: bytes, *, more: bool) -> None:
        """Write a part of a denial response; called by the cycle."""
        if self.state == CONNECTING:
            self.transport.write(data)
            if not more:
                self._tell(1006, '')
                self._linger()

    def on_app_done(self, cycle: AsgiCycle, *, failed: bool) -> None:
        """Close what the application has left open; called by the cycle."""
        if self.state == CONNECTING:
            if self._told:
                self._linger()
            else:
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, 'Internal Server Error')
        elif self.state == OPEN:
            if failed:
                self._tell(1011, '')
                self.close(1011, '')
            elif self._receiver is None:
                self.close(1000, '')
        self._cycle = None

    # The direct extension.

    def attach(self, receiver: Receiver) -> None:
        """Deliver messages to `receiver` instead of ASGI ``receive``.

        Raises:
            RuntimeError: Not accepted yet, or attached already.
        """
        cycle = self._cycle
        if self._receiver is not None:
            raise RuntimeError('a receiver is attached already')
        if cycle is None or self.state == CONNECTING:
            raise RuntimeError('websocket.accept has not been sent')
        self.flush()
        self._receiver = receiver if self.state < CLOSED else _NOBODY
        if self.state == OPEN:
            # So that `resume_writing` comes when everything is written. (TLS
            # transports take 0 to mean "always too much".)
            self.transport.set_write_buffer_limits(
                high=1 if is_ssl(self.transport) else 0, low=0
            )
            if not self.write_blocked:
                self.descriptor = self._fd
        cycle.forget_extensions()
        for message in cycle.take_messages():
            receiver.on_message(message)
        self._unhold(HELD_BY_QUEUE)
        if self._told:
            code, reason = cycle.end
            self._context.loop.call_soon(receiver.on_closed, code, reason)
