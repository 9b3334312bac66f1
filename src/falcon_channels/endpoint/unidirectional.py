"""Doors for clients without a library: one request up, publications down.

A client says once who it is and what it wants, ``{"token": "...", "subs": {"rooms:1":
{}}}``, and from then on only listens: to a plain ``new WebSocket(url)``, a plain ``new
EventSource(url)`` or ``curl``. It is sent the pushes of the client protocol without an
envelope: ``{"connect": {...}}`` first, then ``{"channel": "rooms:1", "pub": {...}}``,
an empty object as ping, and at the end ``{"disconnect": {...}}``.

Channels in ``subs`` are asked for like any subscription: ``on_subscribe`` decides. One
that is refused refuses the connection, for there is no way to say so beside it.

An EventSource that lost its connection comes back by itself and sends the last event id
that it saw. Ids are the positions in all its channels, so that it gets what it missed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from functools import partial
from typing import Any
from typing import TYPE_CHECKING

import falcon
import falcon.asgi
import msgspec

from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.endpoint.endpoint import converse
from falcon_channels.endpoint.endpoint import let_in as let_in_websocket
from falcon_channels.endpoint.endpoint import UpgradeOnly
from falcon_channels.endpoint.http import answer_preflight
from falcon_channels.endpoint.http import let_in
from falcon_channels.endpoint.http import read_body
from falcon_channels.endpoint.http import stream
from falcon_channels.endpoint.http import text_of
from falcon_channels.errors import ProtocolError
from falcon_channels.protocol import codes
from falcon_channels.protocol.command_rules import ConnectionState
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import ConnectResult
from falcon_channels.protocol.messages import EncodedPublications
from falcon_channels.protocol.messages import Result
from falcon_channels.protocol.messages import SubscribeRequest
from falcon_channels.publication import Publication
from falcon_channels.transports.asgi import AsgiTransport
from falcon_channels.transports.asgi_extensions import server_websocket
from falcon_channels.transports.client_codecs import UNIDIRECTIONAL_JSON
from falcon_channels.transports.http_stream import EVENTS
from falcon_channels.transports.http_stream import HttpStreamTransport
from falcon_channels.transports.http_stream import LINES

if TYPE_CHECKING:
    from falcon_channels.endpoint.endpoint import Endpoint
    from falcon_channels.transports.base import Transport

#: Command id of the one request; it is not sent.
_ID = 1
#: How long the event ids may get, in characters: servers bound headers.
_MAX_ID = 4096

# What an HTTP response says of a connection that ends before it began, by disconnect
# code. Codes after which clients come back are not here: an EventSource gives up at any
# status but 200, and comes back after a response that ends.
_STATUS_BY_CODE = {
    3500: 401,
    3501: 400,
    3503: 403,
    3507: 403,
}


class UnidirectionalConnection(ClientConnection):
    """A connection whose client only listens."""

    __slots__ = ('ended_with',)

    connected_state = ConnectionState.UNIDIRECTIONAL

    def __init__(self, endpoint: Endpoint, transport: Transport, req: Any) -> None:
        super().__init__(endpoint, transport, UNIDIRECTIONAL_JSON, req)
        self.says_goodbye = True
        #: Code and reason of the end, once there was one from here.
        self.ended_with: tuple[int, str] | None = None

    def decode(self, message: str | bytes) -> list[Command]:
        """Return the one request; what follows it is not listened to."""
        if self.state is not ConnectionState.NEW or self.waiting is not None:
            return []
        return [Command(_ID, self.codec.protocol.decode_connect(message))]

    def reply_to_command(self, result: Result) -> None:
        """Send the first push."""
        assert isinstance(result, ConnectResult)
        # NOTE: what was missed comes as any publication does, so that a client has one
        #   place to look at.
        missed: list[bytes] = []
        for channel, sub in result.subs.items():
            if isinstance(sub.publications, EncodedPublications):
                missed += sub.publications
            else:
                missed += map(self.part_encoder(channel), sub.publications)
            sub.publications = []
        self.uncork(self.codec.encode_push('', result), *missed)

    def part_encoder(self, channel: str) -> Callable[[Publication], bytes]:
        """Return what encodes a publication as a push."""
        return partial(self.codec.encode_publication, channel)

    def reply_error(self, error: codes.ReplyError) -> None:
        """End: there is nothing to refuse but the connection itself."""
        self.disconnect(*_disconnect_for_error(error))

    def refuse_connect(self, error: codes.ReplyError) -> None:
        """End, with a code for what was wrong."""
        self.disconnect(*_disconnect_for_error(error))

    def disconnect(self, code: int, reason: str) -> None:
        """Say why, and close."""
        if self.ended_with is None:
            self.ended_with = (code, reason)
        super().disconnect(code, reason)


def _disconnect_for_error(error: codes.ReplyError) -> codes.Disconnect:
    if error.temporary:
        return codes.DISCONNECT_INTERNAL
    if error == codes.TOKEN_EXPIRED:
        return codes.DISCONNECT_EXPIRED
    if error in (codes.PERMISSION_DENIED, codes.UNAUTHORIZED):
        return codes.DISCONNECT_PERMISSION_DENIED
    return codes.DISCONNECT_BAD_REQUEST


class UnidirectionalWebSocketResource(UpgradeOnly):
    """``{prefix}/uni_websocket``: the first message is the request."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def on_websocket(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
    ) -> None:
        """Accept a client, and stay until it has left."""
        channels = self._endpoint.channels
        await let_in_websocket(channels, req)
        await ws.accept()
        direct = server_websocket(req.scope)
        transport = direct or AsgiTransport(ws)
        session = UnidirectionalConnection(self._endpoint, transport, req)
        await converse(ws, transport, session)


class _UnidirectionalStreamResource:
    """What the two streamed responses have in common."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def on_options(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Answer a browser's question before it sends."""
        answer_preflight(self._endpoint.channels, req, resp)

    async def _body(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> ConnectRequest:
        channels = self._endpoint.channels
        await let_in(channels, req, resp)
        return _decode(
            text_of(await read_body(req, channels.options.max_message_bytes))
        )

    async def _open(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        request: ConnectRequest,
        transport: HttpStreamTransport,
        media: str,
    ) -> None:
        endpoint = self._endpoint
        session = UnidirectionalConnection(endpoint, transport, req)
        endpoint.channels.hub.add(session)
        session.working = True
        try:
            async with asyncio.timeout(endpoint.options.connect_timeout_s):
                await endpoint.handle(session, Command(_ID, request))
        except TimeoutError:
            session.disconnect(*codes.DISCONNECT_INTERNAL)
        except BaseException:
            session.disconnect(*codes.DISCONNECT_INTERNAL)
            raise
        session.working = False
        if session.ended_with is not None:
            status = _STATUS_BY_CODE.get(session.ended_with[0])
            if status is not None:
                raise falcon.HTTPError(status, description=session.ended_with[1])
        if transport.framing is EVENTS and not session.closed:
            transport.append_to_chunks(_EventIds(session))
        stream(req, resp, transport, session, media)


class UnidirectionalHttpStreamResource(_UnidirectionalStreamResource):
    """``POST {prefix}/uni_http_stream``: the body is the request, lines come back."""

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection."""
        request = await self._body(req, resp)
        transport = HttpStreamTransport(LINES)
        await self._open(req, resp, request, transport, falcon.MEDIA_JSON)


class UnidirectionalSseResource(_UnidirectionalStreamResource):
    """``GET {prefix}/uni_sse?channel=rooms:1``, for a plain ``EventSource``.

    ``cf_connect`` takes a whole request instead; so does the body of a POST.
    """

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection."""
        await let_in(self._endpoint.channels, req, resp)
        request = _decode(req.get_param('cf_connect', default='{}'))
        for channel in req.get_param_as_list('channel', default=[]):
            request.subs.setdefault(channel, SubscribeRequest())
        await self._open_events(req, resp, request)

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection with the request in the body."""
        await self._open_events(req, resp, await self._body(req, resp))

    async def _open_events(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        request: ConnectRequest,
    ) -> None:
        last_id = req.get_header('Last-Event-ID')
        if last_id:
            _recover(request, last_id)
        transport = HttpStreamTransport(EVENTS, preamble=b'\r\n')
        await self._open(req, resp, request, transport, 'text/event-stream')


def _decode(text: str) -> ConnectRequest:
    try:
        return UNIDIRECTIONAL_JSON.protocol.decode_connect(text)
    except ProtocolError as ex:
        raise falcon.HTTPBadRequest(description=str(ex)) from None


# --- event ids -----------------------------------------------------------------------

_Positions = dict[str, tuple[int, str]]


class _EventIds:
    """Makes the event ids of one connection: positions, in base64 of JSON.

    An id is an event of its own without data, which sets the browser's last event id
    and shows nothing (WHATWG HTML section 9.2.6), so that the events themselves are the
    same bytes for everybody.
    """

    def __init__(self, session: UnidirectionalConnection) -> None:
        self._session = session
        self._last = b''

    def __call__(self) -> bytes:
        session = self._session
        # NOTE: what waits in the connection is counted as delivered in the position,
        #   and is not in the body yet.
        if session.closed or session.out:
            return b''
        positions: _Positions = {}
        for channel, subscription in session.subscriptions.items():
            position = session.hub.delivered(subscription)
            if position is not None and position.epoch:
                positions[channel] = position
        event_id = base64.urlsafe_b64encode(msgspec.json.encode(positions))
        if not positions or event_id == self._last or len(event_id) > _MAX_ID:
            return b''
        self._last = event_id
        return b'id: %s\n\n' % event_id


def _recover(request: ConnectRequest, last_id: str) -> None:
    """Ask to recover from the positions in an event id, if it is one of ours."""
    try:
        raw = base64.b64decode(last_id[:_MAX_ID], altchars=b'-_', validate=True)
        positions = msgspec.json.decode(raw, type=_Positions)
    except (binascii.Error, ValueError):
        return
    for channel, (offset, epoch) in positions.items():
        sub = request.subs.setdefault(channel, SubscribeRequest())
        if 0 <= offset < 2**63:
            sub.recover, sub.offset, sub.epoch = True, offset, epoch
