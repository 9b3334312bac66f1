"""Bidirectional connections over plain HTTP, for networks that block WebSockets.

Replies and pushes arrive in one streamed response (``http_stream`` or ``sse``). The
client sends its commands in separate requests to ``/emulation``. Each of them names the
connection by a secret *session*, and names the node of the connection. A load balancer
can send the request to any node. That node forwards the commands to the right one.

SECURITY: a request with the session of a connection acts for that connection. The
session has 192 random bits, and is sent to this client only, in one reply.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any
from typing import NamedTuple

import falcon
import falcon.asgi
import msgspec

from falcon_channels.access.cors import allow_origin
from falcon_channels.access.handshake import HandshakeTiming
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.endpoint.commands import dispatch
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.endpoint.http import admit
from falcon_channels.endpoint.http import answer_event_source
from falcon_channels.endpoint.http import BODY_TIMEOUT_S
from falcon_channels.endpoint.http import CorsResource
from falcon_channels.endpoint.http import decode_text
from falcon_channels.endpoint.http import read_body
from falcon_channels.endpoint.http import stream
from falcon_channels.endpoint.websocket import require_protobuf
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ProtocolError
from falcon_channels.node import Node
from falcon_channels.protocol import codes
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import SubscribeRequest
from falcon_channels.transports.client_codecs import ClientCodec
from falcon_channels.transports.client_codecs import JSON
from falcon_channels.transports.http_stream import EVENT_STREAM
from falcon_channels.transports.http_stream import EVENTS
from falcon_channels.transports.http_stream import EVENTS_PREAMBLE
from falcon_channels.transports.http_stream import HttpStreamTransport
from falcon_channels.transports.http_stream import LENGTH_PREFIXED
from falcon_channels.transports.http_stream import LINES

PROTOBUF_MEDIA = 'application/octet-stream'

#: Largest number of waiting commands from other nodes, which cannot be paused.
_MAX_WAITING = 1024
#: Largest size of the frames from other nodes that arrive while commands wait.
_MAX_WAITING_BYTES = 4 * 1024 * 1024
#: Kind of the node messages that carry a frame for a connection.
_KIND = 'emulation'


class _Frame(NamedTuple):
    """A frame for a connection of another node."""

    session: str
    text: bool
    body: bytes


class Emulation:
    """The connections of this process whose commands arrive in separate requests.

    Args:
        node: Node of this process.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._connections: dict[str, ClientConnection] = {}
        #: Size of the frames from other nodes that have arrived while a connection
        #: takes no commands, by session.
        self._waiting_bytes: dict[str, int] = {}
        #: Apps and paths that have the route for commands.
        self._mounted: list[tuple[object, str]] = []
        node.cluster.add_handler(_KIND, self._on_frame)

    def is_mounted(self, app: object, path: str) -> bool:
        """Return whether a path of an app has the route for these connections."""
        return any(app is other and path == taken for other, taken in self._mounted)

    def on_mounted(self, app: object, path: str) -> None:
        """Called when an app has got the route for these connections."""
        if not self.is_mounted(app, path):
            self._mounted.append((app, path))

    def open(
        self,
        endpoint: Endpoint,
        req: falcon.asgi.Request,
        codec: ClientCodec,
        transport: HttpStreamTransport,
        first: str | bytes,
        timing: HandshakeTiming,
    ) -> ClientConnection:
        """Open a connection with the frame of its first request.

        Raises:
            falcon.HTTPServiceUnavailable: The process has become full or has begun to
                drain.
        """
        connection = ClientConnection(
            endpoint,
            transport,
            codec,
            req,
            dispatch,
            session=secrets.token_urlsafe(24),
            announces_end=True,
            on_ended=self._on_ended,
        )
        self._node.handshake.add(connection, timing)
        self._connections[connection.session] = connection
        connection.on_message(first)
        return connection

    def _on_ended(self, connection: ClientConnection) -> None:
        self._connections.pop(connection.session, None)
        self._waiting_bytes.pop(connection.session, None)

    async def deliver(self, node: str, session: str, frame: str | bytes) -> None:
        """Deliver a frame to its connection, on this node or another.

        Raises:
            falcon.HTTPNotFound: There is no such connection.
            falcon.HTTPServiceUnavailable: The connection takes no commands now.
        """
        if node != self._node.cluster.id:
            await self._pass_on(node, session, frame)
            return
        connection = self._find(session)
        transport = connection.transport
        if isinstance(transport, HttpStreamTransport):
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    await transport.wait_until_readable()
            except TimeoutError:
                raise falcon.HTTPServiceUnavailable(
                    description='too many commands of the connection are waiting'
                ) from None
        # NOTE: the connection may have ended meanwhile.
        self._find(session).on_message(frame)

    def _find(self, session: str) -> ClientConnection:
        """Return an open connection of this process.

        Raises:
            falcon.HTTPNotFound: There is none with this session.
        """
        connection = self._connections.get(session)
        if connection is None or connection.closed:
            raise falcon.HTTPNotFound(description='no such session')
        return connection

    async def _pass_on(self, node: str, session: str, frame: str | bytes) -> None:
        # SECURITY: a client that invents nodes would make this node send messages to
        #   all others.
        if not self._node.cluster.knows(node):
            raise falcon.HTTPNotFound(description='no such node')
        body = frame.encode() if isinstance(frame, str) else frame
        message = _Frame(session, isinstance(frame, str), body)
        try:
            await self._node.cluster.send(node, _KIND, msgspec.msgpack.encode(message))
        except BrokerUnavailableError as ex:
            raise falcon.HTTPServiceUnavailable(description=str(ex)) from None

    def _on_frame(self, body: bytes) -> None:
        frame = msgspec.msgpack.decode(body, type=_Frame)
        connection = self._connections.get(frame.session)
        if connection is None or connection.closed:
            return
        # SECURITY: a client could send large commands through other nodes while its
        #   connection works on a slow one.
        waiting_bytes = self._waiting_bytes.pop(frame.session, 0)
        transport = connection.transport
        if isinstance(transport, HttpStreamTransport) and transport.reading_paused:
            waiting_bytes += len(frame.body)
            self._waiting_bytes[frame.session] = waiting_bytes
        if connection.num_waiting > _MAX_WAITING or waiting_bytes > _MAX_WAITING_BYTES:
            connection.disconnect(*codes.DISCONNECT_TOO_MANY_REQUESTS)
            return
        connection.on_message(frame.body.decode() if frame.text else frame.body)


class _StreamResource(CorsResource):
    """Base class of the two streamed resources."""

    def __init__(self, endpoint: Endpoint, emulation: Emulation) -> None:
        super().__init__(endpoint.node)
        self._endpoint = endpoint
        self._emulation = emulation


class HttpStreamResource(_StreamResource):
    """``POST {prefix}/http_stream``: commands in the body, replies in a stream."""

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection."""
        node = self._endpoint.node
        with node.handshake.time() as timing:
            await admit(node.handshake, req, resp)
            body = await read_body(req, node.options.max_batch_bytes)
            first: str | bytes
            if req.content_type == PROTOBUF_MEDIA:
                codec, first, media_type = require_protobuf(), body, PROTOBUF_MEDIA
                transport = HttpStreamTransport(LENGTH_PREFIXED)
            else:
                codec, first, media_type = JSON, decode_text(body), falcon.MEDIA_JSON
                transport = HttpStreamTransport(LINES)
            connection = self._emulation.open(
                self._endpoint, req, codec, transport, first, timing
            )
        stream(req, resp, transport, connection, media_type)


class SseResource(_StreamResource):
    """``GET {prefix}/sse?cf_connect=...``: commands in the URL, server-sent events."""

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection with the commands in the URL."""
        try:
            handshake = self._endpoint.node.handshake
            with handshake.time() as timing:
                await admit(handshake, req, resp)
                first = req.get_param('cf_connect', required=True)
                _require_reading_commands(first)
                self._open(req, resp, first, timing)
        except falcon.HTTPServiceUnavailable as ex:
            answer_event_source(req, resp, JSON, ex)

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection with the commands in the body."""
        node = self._endpoint.node
        with node.handshake.time() as timing:
            await admit(node.handshake, req, resp)
            body = await read_body(req, node.options.max_batch_bytes)
            self._open(req, resp, decode_text(body), timing)

    def _open(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        first: str,
        timing: HandshakeTiming,
    ) -> None:
        transport = HttpStreamTransport(EVENTS, preamble=EVENTS_PREAMBLE)
        connection = self._emulation.open(
            self._endpoint, req, JSON, transport, first, timing
        )
        stream(req, resp, transport, connection, EVENT_STREAM)


def _require_reading_commands(frame: str) -> None:
    """Refuse a frame of a URL that does more than connect and subscribe.

    SECURITY: a page of another site can make a browser open any URL with the cookies of
    its user. A GET request must therefore change nothing.

    Raises:
        falcon.HTTPBadRequest: The frame is malformed, or has another command.
    """
    try:
        for command in JSON.protocol.decode_commands(frame):
            if not isinstance(command.request, ConnectRequest | SubscribeRequest):
                raise falcon.HTTPBadRequest(
                    description='a URL may only connect and subscribe: send other '
                    'commands in the body of a POST request'
                )
    except ProtocolError as ex:
        raise falcon.HTTPBadRequest(description=str(ex)) from None


class EmulationResource(CorsResource):
    """``POST /emulation``: commands for a connection whose replies are streamed."""

    def __init__(self, node: Node, emulation: Emulation) -> None:
        super().__init__(node)
        self._emulation = emulation

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Take one frame: ``{"session": "...", "node": "...", "data": "..."}``."""
        allow_origin(self._node.handshake, req, resp)
        # NOTE: in JSON, the frame is a string with escaped quotes. The body can
        #   therefore have twice the size of the frame.
        body = await read_body(req, 2 * self._node.options.max_batch_bytes)
        binary = req.content_type == PROTOBUF_MEDIA
        codec = require_protobuf() if binary else JSON
        try:
            asked = codec.protocol.decode_emulation(body)
        except ProtocolError as ex:
            raise falcon.HTTPBadRequest(description=str(ex)) from None
        frame: Any = asked.data if binary else asked.data.decode()
        await self._emulation.deliver(asked.node, asked.session, frame)
        resp.status = falcon.HTTP_204
