"""Unidirectional clients: one request, and then the client only listens.

A client sends one request: ``{"token": "...", "subs": {"rooms:1": {}}}``. It
needs no library: a plain ``new WebSocket(url)``, ``new EventSource(url)`` or ``curl``
is enough. It receives the pushes of the client protocol without an envelope:

* first ``{"connect": {...}}``,
* then ``{"channel": "rooms:1", "pub": {...}}`` for each publication,
* an empty object as a ping,
* last ``{"disconnect": {...}}``.

Channels in ``subs`` are requested like any subscription, and ``on_subscribe`` decides.
If one is refused, the connection is refused, because the protocol has no other answer.

An EventSource that lost its connection connects again by itself and sends the last
event id. An event id contains the client's positions in all its channels. The client
therefore recovers the publications that it missed. The id requests no channel.
The application decides again to which channels it subscribes the client.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from functools import partial
from typing import Any

import falcon
import falcon.asgi
import msgspec

from falcon_channels.access.handshake import HandshakeTiming
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.endpoint.commands import dispatch
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.endpoint.http import admit
from falcon_channels.endpoint.http import answer_event_source
from falcon_channels.endpoint.http import CorsResource
from falcon_channels.endpoint.http import decode_text
from falcon_channels.endpoint.http import read_body
from falcon_channels.endpoint.http import stream
from falcon_channels.endpoint.websocket import add_accepted
from falcon_channels.endpoint.websocket import serve_added
from falcon_channels.endpoint.websocket import UpgradeRequired
from falcon_channels.errors import ProtocolError
from falcon_channels.hub.connection import ClientKind
from falcon_channels.hub.connection import Subscription
from falcon_channels.json_decoding import decode_base64
from falcon_channels.protocol import codes
from falcon_channels.protocol.command_rules import ConnectionState
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import ConnectResult
from falcon_channels.protocol.messages import EncodedPublications
from falcon_channels.protocol.messages import SubscribeRequest
from falcon_channels.publication import Publication
from falcon_channels.transports.asgi import choose_transport
from falcon_channels.transports.base import Transport
from falcon_channels.transports.client_codecs import UNIDIRECTIONAL_JSON
from falcon_channels.transports.http_stream import EVENT_STREAM
from falcon_channels.transports.http_stream import EVENTS
from falcon_channels.transports.http_stream import EVENTS_PREAMBLE
from falcon_channels.transports.http_stream import HttpStreamTransport
from falcon_channels.transports.http_stream import LINES

#: Command id of the one request; it is not sent.
_ID = 1
#: Longest event id in characters: servers limit the size of headers.
_MAX_ID = 4096

#: HTTP status of a client that is refused permanently, by disconnect code; otherwise
#: 403.
_STATUS_BY_CODE = {
    codes.DISCONNECT_INVALID_TOKEN.code: 401,
    codes.DISCONNECT_BAD_REQUEST.code: 400,
    codes.DISCONNECT_INAPPROPRIATE_PROTOCOL.code: 415,
}


def status_for_end(code: int) -> int | None:
    """Return the HTTP status of a connection that ends before its response begins.

    NOTE: an EventSource gives up after any status except 200.

    Args:
        code: Disconnect code.

    Returns:
        ``None`` if the client connects again. Its response then has the status 200, and
        ends at once.
    """
    if codes.reconnects(code):
        return None
    return _STATUS_BY_CODE.get(code, 403)


class UnidirectionalConnection(ClientConnection):
    """A connection whose client only listens.

    Args:
        endpoint: State and options of the endpoint.
        transport: Carries bytes to the client.
        req: Request of the client.
        only_positions: Channels that the client does not request, but has a position
            in. It recovers them if the application subscribes it.

    Attributes:
        ended_with: Code and reason with which the server ended it, or ``None``.
    """

    __slots__ = ('_only_positions', 'ended_with')

    connected_state = ConnectionState.UNIDIRECTIONAL

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        req: Any,
        only_positions: Collection[str] = (),
    ) -> None:
        super().__init__(
            endpoint, transport, UNIDIRECTIONAL_JSON, req, dispatch, announces_end=True
        )
        self.ended_with: tuple[int, str] | None = None
        self._only_positions = only_positions

    @property
    def kind(self) -> ClientKind:
        """How the client is connected."""
        kind = super().kind
        return kind._replace(transport=f'uni_{kind.transport}')

    def decode(self, message: str | bytes) -> Iterator[Command]:
        """Return an iterator over the one request; later messages are ignored."""
        if self.state is ConnectionState.NEW and not (
            self.is_working or self.num_waiting
        ):
            yield Command(_ID, self.codec.protocol.decode_connect(message))

    def requested_channels(
        self, request: ConnectRequest
    ) -> dict[str, SubscribeRequest]:
        """Return the channels that a connect request asks for."""
        return {
            channel: requested
            for channel, requested in request.subs.items()
            if channel not in self._only_positions
        }

    def send_connect_result(self, result: ConnectResult) -> None:
        """Send the first push, and the recovered publications after it."""
        # NOTE: the client could otherwise decide how much memory its connection uses.
        self._only_positions = ()
        # NOTE: recovered publications are sent like live ones, so that a client has
        #   one place where publications arrive.
        recovered: list[bytes] = []
        for channel, sub in result.subs.items():
            if isinstance(sub.publications, EncodedPublications):
                recovered += sub.publications
            else:
                recovered += map(self.part_encoder(channel), sub.publications)
            sub.publications = []
        self._uncork(self.codec.encode_push('', result), *recovered)

    def part_encoder(self, channel: str) -> Callable[[Publication], bytes]:
        """Return the function that encodes a publication as a push."""
        return partial(self.codec.encode_publication, channel)

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        """Called when the server has ended a subscription: tell the client.

        A client that only listens cannot subscribe again. If the code asks for that,
        the connection ends, so that the client connects and recovers.
        """
        if code >= codes.FIRST_RESUBSCRIBE_CODE:
            self.disconnect(*codes.DISCONNECT_INSUFFICIENT)
        else:
            super().on_unsubscribed(subscription, code, reason)

    def disconnect_for_error(self, error: codes.ReplyError) -> codes.Disconnect:
        """Return the disconnect for an error: there is no other answer."""
        if error.temporary:
            return codes.DISCONNECT_INTERNAL
        if error == codes.TOKEN_EXPIRED:
            return codes.DISCONNECT_EXPIRED
        if error in (codes.PERMISSION_DENIED, codes.UNAUTHORIZED):
            return codes.DISCONNECT_PERMISSION_DENIED
        return codes.DISCONNECT_BAD_REQUEST

    def disconnect(self, code: int, reason: str) -> None:
        """Close with a code, after the queued output."""
        if self.ended_with is None:
            self.ended_with = (code, reason)
        super().disconnect(code, reason)


class UnidirectionalWebSocketResource(UpgradeRequired):
    """``{prefix}/uni_websocket``: the first message is the request."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def on_websocket(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
    ) -> None:
        """Accept a client, and serve it until it has left."""
        handshake = self._endpoint.node.handshake
        with handshake.time() as timing:
            await handshake.admit(req)
            transport = choose_transport(req, ws)
            await ws.accept()
            connection = UnidirectionalConnection(self._endpoint, transport, req)
            if not await add_accepted(handshake, ws, connection, timing):
                return
        await serve_added(transport, connection)


class _UnidirectionalStreamResource(CorsResource):
    """Base class of the two streamed resources."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint.node)
        self._endpoint = endpoint

    async def _read_request(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> ConnectRequest:
        node = self._endpoint.node
        await admit(node.handshake, req, resp)
        return _decode(decode_text(await read_body(req, node.options.max_batch_bytes)))

    async def _open(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        request: ConnectRequest,
        transport: HttpStreamTransport,
        media_type: str,
        timing: HandshakeTiming,
    ) -> None:
        endpoint = self._endpoint
        only_positions: Collection[str] = ()
        last_id = req.get_header('Last-Event-ID')
        if transport.framing is EVENTS and last_id:
            only_positions = _recover_from(request, last_id)
        connection = UnidirectionalConnection(endpoint, transport, req, only_positions)
        handshake = endpoint.node.handshake
        handshake.add(connection, timing)
        try:
            async with asyncio.timeout(endpoint.options.connect_timeout_s):
                await connection.carry_out_only(Command(_ID, request))
        except TimeoutError:
            connection.disconnect(*codes.DISCONNECT_INTERNAL)
        except BaseException:
            connection.disconnect(*codes.DISCONNECT_INTERNAL)
            raise
        if connection.ended_with is not None:
            code, reason = connection.ended_with
            status = status_for_end(code)
            if status is not None:
                raise falcon.HTTPError(status, description=reason)
        if transport.framing is EVENTS and not connection.closed:
            transport.add_to_events(_EventIds(connection))
        stream(req, resp, transport, connection, media_type)


class UnidirectionalHttpStreamResource(_UnidirectionalStreamResource):
    """``POST {prefix}/uni_http_stream``: a request in the body, lines in the answer."""

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection."""
        handshake = self._endpoint.node.handshake
        with handshake.time() as timing:
            request = await self._read_request(req, resp)
            transport = HttpStreamTransport(LINES)
            await self._open(req, resp, request, transport, falcon.MEDIA_JSON, timing)


class UnidirectionalSseResource(_UnidirectionalStreamResource):
    """``GET {prefix}/uni_sse?channel=rooms:1``, for a plain ``EventSource``.

    ``cf_connect`` takes a whole request instead, and so does the body of a POST.
    """

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection."""
        try:
            await self._open_url(req, resp)
        except falcon.HTTPServiceUnavailable as ex:
            answer_event_source(req, resp, UNIDIRECTIONAL_JSON, ex)

    async def _open_url(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        handshake = self._endpoint.node.handshake
        with handshake.time() as timing:
            await admit(handshake, req, resp)
            request = _decode(req.get_param('cf_connect', default='{}'))
            for channel in req.get_param_as_list('channel', default=[]):
                request.subs.setdefault(channel, SubscribeRequest())
            await self._open_events(req, resp, request, timing)

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Open a connection with the request in the body."""
        handshake = self._endpoint.node.handshake
        with handshake.time() as timing:
            request = await self._read_request(req, resp)
            await self._open_events(req, resp, request, timing)

    async def _open_events(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        request: ConnectRequest,
        timing: HandshakeTiming,
    ) -> None:
        transport = HttpStreamTransport(EVENTS, preamble=EVENTS_PREAMBLE)
        await self._open(req, resp, request, transport, EVENT_STREAM, timing)


def _decode(text: str) -> ConnectRequest:
    try:
        return UNIDIRECTIONAL_JSON.protocol.decode_connect(text)
    except ProtocolError as ex:
        raise falcon.HTTPBadRequest(description=str(ex)) from None


# --- event ids -----------------------------------------------------------------------

_Positions = dict[str, tuple[int, str]]


class _EventIds:
    """Makes the event ids of one connection: its positions, in base64 of JSON.

    The id is a field of the last event of each part of the response. It has no event of
    its own, because some clients ignore an id in an event without data. The bytes
    before the id are the same for all clients (WHATWG HTML section 9.2.6).
    """

    def __init__(self, connection: UnidirectionalConnection) -> None:
        self._connection = connection
        self._last = b''

    def __call__(self) -> bytes:
        connection = self._connection
        # NOTE: `Hub.delivered` counts the queued output of a connection as delivered,
        #   but that output is not in the response yet.
        if connection.closed or connection.out:
            return b''
        positions: _Positions = {}
        for channel, subscription in connection.subscriptions.items():
            position = connection.hub.delivered(subscription)
            if position is not None and position.epoch:
                positions[channel] = position
        event_id = base64.urlsafe_b64encode(msgspec.json.encode(positions))
        if not positions:
            return b''
        if len(event_id) > _MAX_ID:
            # NOTE: with its old id, the client would receive publications again.
            event_id = b''
        if event_id == self._last:
            return b''
        self._last = event_id
        return b'id: %s\n' % event_id


def _recover_from(request: ConnectRequest, last_id: str) -> Collection[str]:
    """Ask to recover from the positions in an event id, if the id is one of ours.

    Returns:
        The channels of the id that the client does not request. The application had
        subscribed the client to them.
    """
    try:
        raw = decode_base64(last_id[:_MAX_ID], urlsafe=True)
        positions = msgspec.json.decode(raw, type=_Positions)
    except ValueError:
        return ()
    not_requested = positions.keys() - request.subs.keys()
    for channel, (offset, epoch) in positions.items():
        sub = request.subs.setdefault(channel, SubscribeRequest())
        if 0 <= offset < 2**63:
            sub.recover, sub.offset, sub.epoch = True, offset, epoch
    return not_requested
