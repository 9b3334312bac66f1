"""Shared code of the resources for plain HTTP requests: CORS, bodies, streams."""

from __future__ import annotations

import asyncio

import falcon
import falcon.asgi

from falcon_channels.access.handshake import Handshake
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.transports.asgi_extensions import connection_abort
from falcon_channels.transports.http_stream import HttpStreamTransport

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


def allow_origin(
    handshake: Handshake, req: falcon.asgi.Request, resp: falcon.asgi.Response
) -> None:
    """Check the origin of a request, and let its page read the answer (CORS).

    Raises:
        falcon.HTTPError: See `Handshake.check_origin`.
    """
    handshake.check_origin(req)
    origin = req.get_header('Origin')
    resp.append_header('Vary', 'Origin')
    if origin is not None:
        resp.set_header('Access-Control-Allow-Origin', origin)
        resp.set_header('Access-Control-Allow-Credentials', 'true')


def answer_preflight(
    handshake: Handshake, req: falcon.asgi.Request, resp: falcon.asgi.Response
) -> None:
    """Answer the OPTIONS request that a browser sends before it posts (CORS)."""
    allow_origin(handshake, req, resp)
    resp.set_header('Access-Control-Allow-Methods', 'GET, POST, OPTIONS')
    resp.set_header('Access-Control-Allow-Headers', 'Content-Type')
    resp.set_header('Access-Control-Max-Age', '300')
    # NOTE: Falcon's `cors_enable` removes the CORS headers of a response without it.
    resp.set_header('Allow', 'GET, POST, OPTIONS')
    resp.status = falcon.HTTP_204


async def read_body(req: falcon.asgi.Request, max_bytes: int) -> bytes:
    """Read the whole body of a request.

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
                    raise falcon.HTTPContentTooLarge(
                        description=f'a message of more than {max_bytes} bytes'
                    )
    except TimeoutError:
        raise falcon.HTTPError(
            408, description=f'the body did not arrive within {BODY_TIMEOUT_S:.0f} s'
        ) from None
    # NOTE: Falcon does not report that the client has left.
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


def stream(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    transport: HttpStreamTransport,
    connection: ClientConnection,
    media_type: str,
) -> None:
    """Answer with everything that a connection writes, until it ends."""
    resp.content_type = media_type
    resp.set_header('Cache-Control', 'private, no-cache, no-store, max-age=0')
    # NOTE: a proxy that buffers a response until its end would never send this one.
    resp.set_header('X-Accel-Buffering', 'no')
    # NOTE: Falcon notices that the client has left only in `resp.sse`, and only after
    #   the next event. ASGI's own `receive` reports it at once.
    resp.stream = transport.body(connection, req._receive, connection_abort(req.scope))
