"""Shared code of the resources for plain HTTP requests: CORS, bodies, streams."""

from __future__ import annotations

import asyncio

import falcon
import falcon.asgi

from falcon_channels.access.cors import allow_origin
from falcon_channels.access.handshake import Handshake
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.node import Node
from falcon_channels.protocol import codes
from falcon_channels.protocol.messages import DisconnectPush
from falcon_channels.transports.asgi_extensions import server_http_connection
from falcon_channels.transports.client_codecs import ClientCodec
from falcon_channels.transports.http_stream import EVENT_STREAM
from falcon_channels.transports.http_stream import EVENTS
from falcon_channels.transports.http_stream import HttpStreamTransport
from falcon_channels.transports.http_stream import retry_later
from falcon_channels.transports.http_stream import set_stream_headers
from falcon_channels.websocket.limits import log_too_big

#: Seconds within which a request must send its body.
BODY_TIMEOUT_S = 15.0


async def admit(
    handshake: Handshake, req: falcon.asgi.Request, resp: falcon.asgi.Response
) -> None:
    """Admit a request for a connection, and let its page read the answer (CORS).

    Raises:
        falcon.HTTPError: See `Handshake.admit`.
    """
    allow_origin(handshake, req, resp)
    await handshake.admit(req)


class CorsResource:
    """Base class of the resources that pages of other origins call.

    Args:
        node: Node of this process.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    async def on_options(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Answer the request that a browser sends before it posts (CORS)."""
        allow_origin(self._node.handshake, req, resp)
        resp.set_header('Access-Control-Allow-Methods', 'GET, POST, OPTIONS')
        resp.set_header('Access-Control-Allow-Headers', 'Content-Type')
        resp.set_header('Access-Control-Max-Age', '300')
        # NOTE: Falcon's `cors_enable` removes the CORS headers of a response without
        #   it.
        resp.set_header('Allow', 'GET, POST, OPTIONS')
        resp.status = falcon.HTTP_204


async def read_body(
    req: falcon.asgi.Request, max_bytes: int, option: str = 'max_batch_bytes'
) -> bytes:
    """Read the whole body of a request.

    Args:
        req: The request.
        max_bytes: Maximum size of the body.
        option: Name of the option that limits it (default ``'max_batch_bytes'``).

    Raises:
        falcon.HTTPContentTooLarge: The body exceeds `max_bytes`.
        falcon.HTTPError: 408: the body did not arrive within `BODY_TIMEOUT_S`.
        falcon.HTTPBadRequest: The client left before the end of the body.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in req.stream:
                body += chunk
                if len(body) > max_bytes:
                    log_too_big(req.path, len(body), option, max_bytes)
                    raise falcon.HTTPContentTooLarge(
                        description=f'a message of more than {max_bytes} bytes'
                    )
    except TimeoutError:
        raise falcon.HTTPError(
            408, description=f'the body did not arrive within {BODY_TIMEOUT_S:.0f} s'
        ) from None
    # NOTE: Falcon does not report that the client has left before the end of the body.
    if len(body) < (req.content_length or 0):
        raise falcon.HTTPBadRequest(
            description=f'the body has {len(body)} of {req.content_length} bytes'
        )
    return bytes(body)


def decode_text(body: bytes) -> str:
    """Decode a body that is text.

    Raises:
        falcon.HTTPBadRequest: The body is not UTF-8.
    """
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise falcon.HTTPBadRequest(description='not UTF-8') from None


def answer_event_source(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    codec: ClientCodec,
    error: falcon.HTTPServiceUnavailable,
) -> None:
    """Answer an EventSource that cannot be served now, so that it tries again.

    NOTE: after any status except 200, an EventSource does not connect again (WHATWG
    HTML section 9.2.3). If its stream ends, it connects again.

    Raises:
        falcon.HTTPServiceUnavailable: The client is not an EventSource.
    """
    if EVENT_STREAM not in (req.get_header('Accept') or ''):
        raise error
    code, reason = codes.DISCONNECT_SHUTDOWN
    push = codec.encode_push('', DisconnectPush(code, reason, reconnect=True))
    set_stream_headers(resp, EVENT_STREAM)
    resp.data = retry_later() + EVENTS.frame([push], binary=False)


def stream(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    transport: HttpStreamTransport,
    connection: ClientConnection,
    media_type: str,
) -> None:
    """Answer with everything that a connection writes, until it ends."""
    set_stream_headers(resp, media_type)
    # NOTE: Falcon detects that the client has left only in `resp.sse`, and only after
    #   the next event. ASGI's own `receive` reports it at once.
    server = server_http_connection(req.scope)
    resp.stream = transport.body(connection, req._receive, server)
    transport.call_if_unread(connection.on_unread)
