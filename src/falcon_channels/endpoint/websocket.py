"""The bidirectional WebSocket of the client protocol."""

from __future__ import annotations

import logging

import falcon
import falcon.asgi

from falcon_channels.access.handshake import Handshake
from falcon_channels.access.handshake import HandshakeTiming
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.endpoint.commands import dispatch
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.errors import ExtraMissingError
from falcon_channels.protocol import codes
from falcon_channels.transports.asgi import AsgiTransport
from falcon_channels.transports.asgi import choose_transport
from falcon_channels.transports.asgi_extensions import ServerWebSocket
from falcon_channels.transports.client_codecs import ClientCodec
from falcon_channels.transports.client_codecs import JSON
from falcon_channels.transports.client_codecs import protobuf

_logger = logging.getLogger('falcon_channels')

#: Subprotocols that a client may offer; SDKs that speak JSON offer none.
PROTOBUF_SUBPROTOCOL = 'centrifuge-protobuf'
JSON_SUBPROTOCOL = 'centrifuge-json'


class UpgradeRequired:
    """A resource that answers GET requests without an upgrade to WebSocket."""

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Answer 426 (RFC 9110 section 15.5.22) with the likely cause."""
        raise falcon.HTTPError(
            falcon.HTTP_426,
            title='Only WebSockets are served here',
            description='This request did not ask for a WebSocket. If the client did, '
            'a proxy has removed its Upgrade and Connection headers.',
            headers={'Upgrade': 'websocket'},
        )


class WebSocketResource(UpgradeRequired):
    """``{prefix}/websocket``: the bidirectional WebSocket of the client protocol."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def on_websocket(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
    ) -> None:
        """Accept a client, and serve it until it has left."""
        handshake = self._endpoint.node.handshake
        with handshake.time() as timing:
            await handshake.admit(req)
            codec, subprotocol = _choose_codec(req, ws)
            transport = choose_transport(req, ws, binary=codec.binary)
            await ws.accept(subprotocol)
            connection = ClientConnection(
                self._endpoint, transport, codec, req, dispatch
            )
            if not await add_accepted(handshake, ws, connection, timing):
                return
        await serve_added(transport, connection)


async def add_accepted(
    handshake: Handshake,
    ws: falcon.asgi.WebSocket,
    connection: ClientConnection,
    timing: HandshakeTiming,
) -> bool:
    """Add the connection of an accepted WebSocket, or close it.

    Returns:
        Whether it was added.
    """
    try:
        handshake.add(connection, timing)
    except falcon.HTTPServiceUnavailable:
        # NOTE: the process began to drain or became full during the handshake. The
        #   client connects again.
        await ws.close(*codes.DISCONNECT_SHUTDOWN)
        return False
    return True


async def serve_added(
    transport: AsgiTransport | ServerWebSocket, connection: ClientConnection
) -> None:
    """Serve the connection of a WebSocket that was added to the hub."""
    if isinstance(transport, AsgiTransport):
        await transport.run(connection)
    else:
        # PERF: no coroutine waits for the end, because our server calls the connection
        #   (benchmarks/idle_memory.py).
        transport.attach(connection)


def _choose_codec(
    req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
) -> tuple[ClientCodec, str | None]:
    """Return the encoding that a client asks for, and the subprotocol to select."""
    if PROTOBUF_SUBPROTOCOL in ws.subprotocols:
        return require_protobuf(), PROTOBUF_SUBPROTOCOL
    wanted = req.get_param('format') or req.get_param('cf_protocol')
    if wanted == 'protobuf':
        return require_protobuf(), None
    if JSON_SUBPROTOCOL in ws.subprotocols:
        return JSON, JSON_SUBPROTOCOL
    return JSON, None


def require_protobuf() -> ClientCodec:
    """Return the Protobuf encoding for a client that asks for it.

    Raises:
        falcon.HTTPUnsupportedMediaType: falcon-channels[protobuf] is not installed.
    """
    try:
        return protobuf()
    except ExtraMissingError as ex:
        _logger.warning('a client was refused: %s', ex)
        raise falcon.HTTPUnsupportedMediaType(description=str(ex)) from None
