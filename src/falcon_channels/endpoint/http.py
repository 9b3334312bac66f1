"""Shared code of the resources for plain HTTP requests: CORS, bodies, streams."""

from __future__ import annotations

import asyncio
import random

import falcon
import falcon.asgi

from falcon_channels.access.handshake import Handshake
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.protocol import codes
from falcon_channels.protocol.messages import DisconnectPush
from falcon_channels.transports.asgi_extensions import connection_abort
from falcon_channels.transports.client_codecs import ClientCodec
from falcon_channels.transports.http_stream import EVENTS
from falcon_channels.transports.http_stream import HttpStreamTransport
from falcon_channels.websocket.limits import log_too_big

#: Seconds within which a request must send its body.
BODY_TIMEOUT_S = 15.0

#: Media type of server-sent events.
EVENT_STREAM = 'text/event-stream'
#: Beginning of a stream of events. A browser fires `open` when the first bytes arrive.
#: The `retry` time replaces the time of an earlier refusal.
EVENTS_PREAMBLE = b'retry: 3000\n\n'
#: Shortest and longest time in ms after which a refused EventSource tries again.
REFUSED_RETRY_MS = (5000, 15000)


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
    # NOTE: the time is random, so that not all refused clients return at once.
    retry_ms = random.randrange(*REFUSED_RETRY_MS)
    _set_headers(resp, EVENT_STREAM)
    resp.data = b'retry: %d\n' % retry_ms + EVENTS.frame([push], binary=False)


def stream(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    transport: HttpStreamTransport,
    connection: ClientConnection,
    media_type: str,
) -> None:
    """Answer with everything that a connection writes, until it ends."""
    _set_headers(resp, media_type)
    # NOTE: Falcon detects that the client has left only in `resp.sse`, and only after
    #   the next event. ASGI's own `receive` reports it at once.
    resp.stream = transport.body(connection, req._receive, connection_abort(req.scope))


def _set_headers(resp: falcon.asgi.Response, media_type: str) -> None:
    resp.content_type = media_type
    resp.set_header('Cache-Control', 'private, no-cache, no-store, max-age=0')
    # NOTE: a proxy that buffers a response until its end would never send this one.
    resp.set_header('X-Accel-Buffering', 'no')
