"""The client protocol over plain HTTP, for networks that let no WebSocket through.

Replies and pushes come down one streamed response (``http_stream``, ``sse``); what the
client sends goes up in requests of its own to ``/emulation``, which name the connection
by a secret *session* and the process that holds it by its *node*. Such a request may
reach any process: it is passed on to the one that holds the stream.

SECURITY: the session is all that lets a request act for a connection. It has 192 random
bits and is told to the client alone, once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
import logging
import secrets
from typing import Any
from typing import NamedTuple
from typing import TYPE_CHECKING

import falcon
import falcon.asgi
import msgspec

from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.endpoint.endpoint import let_in as endpoint_let_in
from falcon_channels.endpoint.endpoint import protobuf_or_refuse
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ProtocolError
from falcon_channels.protocol import codes
from falcon_channels.transports.asgi_extensions import connection_abort
from falcon_channels.transports.client_codecs import ClientCodec
from falcon_channels.transports.client_codecs import JSON
from falcon_channels.transports.http_stream import EVENTS
from falcon_channels.transports.http_stream import HttpStreamTransport
from falcon_channels.transports.http_stream import LENGTH_PREFIXED
from falcon_channels.transports.http_stream import LINES

if TYPE_CHECKING:
    from falcon_channels.channels import Channels
    from falcon_channels.endpoint.endpoint import Endpoint

_logger = logging.getLogger('falcon_channels')

PROTOBUF_MEDIA = 'application/octet-stream'

#: How long a request may take to bring its body, and to find its connection ready.
_BODY_TIMEOUT_S = 15.0
#: Parts of requests for other processes: brokers carry small control messages best.
_PART_BYTES = 3072
#: How many requests from other processes may be incomplete.
_MAX_INCOMPLETE = 256
#: Commands that may wait where nobody can hold the client back.
_MAX_WAITING = 1024

#: The kind of a `NodeMessage` with a part of an emulation request.
EMULATION = 'emulation'


# --- what all doors need -------------------------------------------------------------


async def let_in(
    channels: Channels, req: falcon.asgi.Request, resp: falcon.asgi.Response
) -> None:
    """Check that a request may open a connection now, and its page read the answer.

    Raises:
        falcon.HTTPError: From a page of another site, one too many, or not ready.
    """
    allow_origin(channels, req, resp)
    await endpoint_let_in(channels, req)


def allow_origin(
    channels: Channels, req: falcon.asgi.Request, resp: falcon.asgi.Response
) -> None:
    """Check the page that a request comes from, and let it read the answer.

    Raises:
        falcon.HTTPError: It may not.
    """
    channels.admission.check_origin(req)
    origin = req.get_header('Origin')
    resp.append_header('Vary', 'Origin')
    if origin is not None:
        resp.set_header('Access-Control-Allow-Origin', origin)
        resp.set_header('Access-Control-Allow-Credentials', 'true')


def answer_preflight(
    channels: Channels, req: falcon.asgi.Request, resp: falcon.asgi.Response
) -> None:
    """Tell a browser what a page of another site may send (CORS)."""
    allow_origin(channels, req, resp)
    resp.set_header('Access-Control-Allow-Methods', 'GET, POST, OPTIONS')
    resp.set_header('Access-Control-Allow-Headers', 'Content-Type')
    resp.set_header('Access-Control-Max-Age', '300')
    resp.status = falcon.HTTP_204


async def read_body(req: falcon.asgi.Request, max_bytes: int) -> bytes:
    """Return the whole body of a request.

    Raises:
        falcon.HTTPContentTooLarge: It is larger than a message may be.
        falcon.HTTPError: 408: it does not come.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in req.stream:
                body += chunk
                if len(body) > max_bytes:
                    raise falcon.HTTPContentTooLarge(
                        description=f'a message of more than {max_bytes} bytes'
                    )
    except TimeoutError:
        raise falcon.HTTPError(408, description='the body did not come') from None
    return bytes(body)


def text_of(body: bytes) -> str:
    """Return a body that is text.

    Raises:
        falcon.HTTPBadRequest: It is not UTF-8.
    """
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise falcon.HTTPBadRequest(description='not UTF-8') from None


def stream(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    transport: HttpStreamTransport,
    session: ClientConnection,
    media: str,
) -> None:
    """Answer with what a session writes, until it ends."""
    resp.content_type = media
    resp.set_header('Cache-Control', 'private, no-cache, no-store, max-age=0')
    # NOTE: proxies that gather a response before passing it on would hold it for ever.
    resp.set_header('X-Accel-Buffering', 'no')
    # NOTE: Falcon watches for the client's leaving in `resp.sse` only, and there looks
    #   after each event; ASGI's own callable is what says it at once.
    resp.stream = transport.body(session, req._receive, connection_abort(req.scope))


# --- bidirectional -------------------------------------------------------------------


class _StreamResource:
    """What the two ways down have in common."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def on_options(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Answer a browser's question before it sends."""
        answer_preflight(self._endpoint.channels, req, resp)

    def _begin(
        self,
        req: falcon.asgi.Request,
        codec: ClientCodec,
        transport: HttpStreamTransport,
        first: str | bytes,
    ) -> ClientConnection:
        endpoint = self._endpoint
        session = ClientConnection(endpoint, transport, codec, req)
        session.says_goodbye = True
        session.secret = secrets.token_urlsafe(24)
        endpoint.channels.hub.add(session)
        endpoint.emulation.add(session)
        session.on_message(first)
        return session


class HttpStreamResource(_StreamResource):
    """``POST {prefix}/http_stream``: a body of commands, a stream of replies."""

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection."""
        channels = self._endpoint.channels
        await let_in(channels, req, resp)
        body = await read_body(req, channels.options.max_message_bytes)
        if req.content_type == PROTOBUF_MEDIA:
            codec, first, transport = (
                protobuf_or_refuse(),
                body,
                HttpStreamTransport(LENGTH_PREFIXED),
            )
            session = self._begin(req, codec, transport, first)
            stream(req, resp, transport, session, PROTOBUF_MEDIA)
        else:
            transport = HttpStreamTransport(LINES)
            session = self._begin(req, JSON, transport, text_of(body))
            stream(req, resp, transport, session, falcon.MEDIA_JSON)


class SseResource(_StreamResource):
    """``GET {prefix}/sse?cf_connect=...``: the same as server-sent events, in JSON."""

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection with the commands in the URL."""
        await let_in(self._endpoint.channels, req, resp)
        self._open(req, resp, req.get_param('cf_connect', required=True))

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection with the commands in the body."""
        channels = self._endpoint.channels
        await let_in(channels, req, resp)
        body = await read_body(req, channels.options.max_message_bytes)
        self._open(req, resp, text_of(body))

    def _open(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, first: str
    ) -> None:
        # NOTE: the line end makes a browser's EventSource fire `open` at once.
        transport = HttpStreamTransport(EVENTS, preamble=b'\r\n')
        session = self._begin(req, JSON, transport, first)
        stream(req, resp, transport, session, 'text/event-stream')


# --- the way up ----------------------------------------------------------------------


class _Part(NamedTuple):
    """A part of a frame for a connection of another process."""

    session: str
    frame: str
    number: int
    total: int
    text: bool
    body: bytes


class Emulation:
    """The connections of this process whose commands come by requests.

    Args:
        channels: Whose.
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._sessions: dict[str, ClientConnection] = {}
        self._incomplete: OrderedDict[tuple[str, str], dict[int, bytes]] = OrderedDict()
        self._claimed = False
        channels.nodes.read(EMULATION, self._on_part)

    def claim(self) -> bool:
        """Return whether this was not called before."""
        before, self._claimed = self._claimed, True
        return not before

    def add(self, session: ClientConnection) -> None:
        """Know a session by its secret, until it ends."""
        self._sessions[session.secret] = session

    def forget(self, session: ClientConnection) -> None:
        """Learn that a session has ended."""
        self._sessions.pop(session.secret, None)

    async def deliver(self, node: str, secret: str, frame: str | bytes) -> None:
        """Give a frame to its connection, wherever that is.

        Raises:
            falcon.HTTPNotFound: There is none.
            falcon.HTTPServiceUnavailable: It does not take commands now.
        """
        if node != self._channels.nodes.id:
            await self._pass_on(node, secret, frame)
            return
        session = self._sessions.get(secret)
        if session is None or session.closed:
            raise falcon.HTTPNotFound(description='no such session')
        transport = session.transport
        if isinstance(transport, HttpStreamTransport):
            try:
                async with asyncio.timeout(_BODY_TIMEOUT_S):
                    await transport.readable.wait()
            except TimeoutError:
                raise falcon.HTTPServiceUnavailable(
                    description='the connection has too many commands to do'
                ) from None
        session.on_message(frame)

    async def _pass_on(self, node: str, secret: str, frame: str | bytes) -> None:
        if not self._channels.hub.broker.capabilities.shared:
            raise falcon.HTTPNotFound(description='no such node')
        text = isinstance(frame, str)
        body = frame.encode() if isinstance(frame, str) else frame
        token = secrets.token_urlsafe(9)
        total = max(1, -(-len(body) // _PART_BYTES))
        try:
            for index in range(total):
                piece = body[index * _PART_BYTES : (index + 1) * _PART_BYTES]
                part = _Part(secret, token, index, total, text, piece)
                await self._channels.nodes.send(
                    node, EMULATION, msgspec.msgpack.encode(part)
                )
        except BrokerUnavailableError as ex:
            raise falcon.HTTPServiceUnavailable(description=str(ex)) from None

    def _on_part(self, body: bytes) -> None:
        part = msgspec.msgpack.decode(body, type=_Part)
        session = self._sessions.get(part.session)
        if session is None or session.closed:
            return
        key = (part.session, part.frame)
        parts = self._incomplete.setdefault(key, {})
        parts[part.number] = part.body
        if len(parts) < part.total:
            while len(self._incomplete) > _MAX_INCOMPLETE:
                self._incomplete.popitem(last=False)
            return
        del self._incomplete[key]
        frame = b''.join(parts[index] for index in sorted(parts))
        if session.waiting is not None and len(session.waiting) > _MAX_WAITING:
            session.disconnect(*codes.DISCONNECT_TOO_MANY_REQUESTS)
            return
        session.on_message(frame.decode() if part.text else frame)


class EmulationResource:
    """``POST /emulation``: commands for a connection that streams its replies."""

    def __init__(self, channels: Channels, emulation: Emulation) -> None:
        self._channels = channels
        self._emulation = emulation

    async def on_options(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Answer a browser's question before it sends."""
        answer_preflight(self._channels, req, resp)

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Take one frame, ``{"session": "...", "node": "...", "data": "..."}``."""
        allow_origin(self._channels, req, resp)
        # NOTE: in JSON the frame is text within text, and longer than it is.
        body = await read_body(req, 2 * self._channels.options.max_message_bytes)
        binary = req.content_type == PROTOBUF_MEDIA
        codec = protobuf_or_refuse() if binary else JSON
        try:
            asked = codec.protocol.decode_emulation(body)
        except ProtocolError as ex:
            raise falcon.HTTPBadRequest(description=str(ex)) from None
        frame: Any = asked.data if binary else asked.data.decode()
        await self._emulation.deliver(asked.node, asked.session, frame)
        resp.status = falcon.HTTP_204
