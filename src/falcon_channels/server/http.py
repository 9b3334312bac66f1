"""uvicorn's HTTP protocol with limits that uvicorn does not have.

Use it with ``uvicorn --http falcon_channels.server.http:BoundedHttpProtocol``. The
command ``falcon-channels serve`` always uses it. Everything else about HTTP is
uvicorn's.

`BoundedHttpProtocol` looks at the first bytes of each connection. A usual upgrade
request goes to the WebSocket class. Everything else goes to `HttpRequests`, which has
the parser.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr
from uvicorn.server import ServerState

from falcon_channels.server.context import ServerContext
from falcon_channels.server.handshake import read_usual
from falcon_channels.server.http_requests import HEAD_TIMEOUT_S
from falcon_channels.server.http_requests import HttpRequests
from falcon_channels.server.protocol import WebSocketProtocol
from falcon_channels.server.sockets import remote_address


class BoundedHttpProtocol(asyncio.Protocol):
    """HTTP/1.1 with limits for the head of each request and deadlines for all parts.

    SECURITY: without these limits, one connection can send endless headers and fill the
    memory. Clients can also keep connections open without limit: they send half a head
    or half a body (slow loris), or read nothing of a response (slow read).

    PERF: An object of this class waits for the first bytes of a connection. Most
    WebSockets then never need an HTTP parser and its object. These cost a quarter of a
    new connection (benchmarks/centrifugo.py).
    """

    __slots__ = (
        '__weakref__',
        '_app_state',
        '_config',
        '_head_timer',
        '_loop',
        '_server_state',
        '_transport',
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Called at the TCP accept: start the deadline of the first request.

        NOTE: a TLS handshake can end while the server stops. `shutdown` is not called
        for such a connection, and the stop would wait for it.
        """
        self._transport = transport
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # typed for its own classes
        self._head_timer = self._loop.call_later(HEAD_TIMEOUT_S, self._on_head_timeout)
        if ServerContext.drains(self._server_state):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called with the first bytes: pass the connection to WebSocket or HTTP."""
        websocket = self._read_usual(data)
        if websocket is None:
            self._serve_http().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the TCP connection has ended without a byte."""
        self._release()

    def shutdown(self) -> None:
        """Begin the drain, and end the connection: no request has begun."""
        assert self._transport is not None
        ServerContext.begin_drain_of(self._config, self._server_state, self._app_state)
        self._transport.abort()

    def _read_usual(self, data: bytes) -> WebSocketProtocol | None:
        """Pass the connection to the WebSocket class if it begins with a handshake.

        Returns:
            The object of the WebSocket class; ``None`` if `data` is not one whole
            upgrade request of the usual form.
        """
        kind = self._config.ws_protocol_class
        if not (
            data.startswith(b'GET ')
            and isinstance(kind, type)
            and issubclass(kind, WebSocketProtocol)
        ):
            return None
        server = self._config, self._server_state, self._app_state
        handshake = read_usual(kind.context_of(*server), data)
        if handshake is None:
            return None
        websocket = kind(*server)
        transport = self._release()
        websocket.take_over(
            transport,
            handshake,
            client=remote_address(transport),
            server=get_local_addr(transport),
        )
        transport.set_protocol(websocket)
        return websocket

    def _on_head_timeout(self) -> None:
        self._serve_http().on_head_timeout()

    def _serve_http(self) -> HttpRequests:
        """Pass the connection to the HTTP parser."""
        timer = self._head_timer
        assert timer is not None
        transport = self._release()
        http = HttpRequests(
            self._config, self._server_state, self._app_state, self._loop
        )
        transport.set_protocol(http)
        http.begin(transport, timer.when())
        return http

    def _release(self) -> asyncio.Transport:
        """Stop the deadline and forget the connection; return its transport."""
        transport, self._transport = self._transport, None
        assert transport is not None
        self._server_state.connections.discard(self)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        return transport
