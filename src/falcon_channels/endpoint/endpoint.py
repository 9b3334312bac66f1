"""The endpoint of the client protocol: where official SDKs connect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
import inspect
import logging
import random
from typing import Any
from typing import TYPE_CHECKING

import falcon
import falcon.asgi

from falcon_channels.endpoint import commands
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.endpoint.rate_limit import RateLimiter
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelsError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import ExtraMissingError
from falcon_channels.errors import OptionsError
from falcon_channels.errors import ProtocolError
from falcon_channels.errors import TokenExpiredError
from falcon_channels.errors import TokenInvalidError
from falcon_channels.hub.subscription import Subscription
from falcon_channels.options import check_options
from falcon_channels.options import EndpointOptions
from falcon_channels.protocol import codes
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import ConnectResult
from falcon_channels.routing import check_resource
from falcon_channels.timer_wheel import Heartbeat
from falcon_channels.tokens import TokenVerifier
from falcon_channels.transports.asgi import AsgiTransport
from falcon_channels.transports.asgi_extensions import server_websocket
from falcon_channels.transports.asgi_extensions import ServerWebSocket
from falcon_channels.transports.client_codecs import ClientCodec
from falcon_channels.transports.client_codecs import JSON
from falcon_channels.transports.client_codecs import protobuf

if TYPE_CHECKING:
    from falcon_channels.channels import Channels
    from falcon_channels.endpoint.http import Emulation

_logger = logging.getLogger('falcon_channels')

#: Subprotocols that a client may offer; SDKs that speak JSON offer none.
PROTOBUF_SUBPROTOCOL = 'centrifuge-protobuf'
JSON_SUBPROTOCOL = 'centrifuge-json'

_RESPONDERS = ('on_connect', 'on_disconnect', 'on_message', 'on_refresh')


class Endpoint:
    """What the connections of one endpoint share.

    Args:
        channels: Whose.
        resource: The application's connection resource, or ``None``. All its
            responders are optional and ``async``: ``on_connect(req, connection)``,
            ``on_refresh(req, connection)``, ``on_disconnect(req, connection)``,
            ``on_rpc(req, call)`` and ``on_rpc_{method}(req, call)``,
            ``on_message(req, message)``. An `HTTPError` refuses.
        tokens: Verifies connection and subscription tokens, or ``None``.
        options: Limits and times.
        emulation: Knows the connections whose commands come by requests.
    """

    def __init__(
        self,
        channels: Channels,
        resource: object = None,
        tokens: TokenVerifier | None = None,
        options: EndpointOptions | None = None,
        *,
        emulation: Emulation,
    ) -> None:
        self.channels = channels
        self.emulation = emulation
        #: Whether it is the first one of its channels.
        self.is_first = emulation.claim()
        self.tokens = tokens
        self.options = EndpointOptions() if options is None else options
        check_options(self.options, EndpointOptions)
        check_resource(resource, _RESPONDERS)
        self.version = f'falcon-channels {version("falcon-channels")}'
        self.heartbeat = Heartbeat()
        #: Of users over all their connections; ``None``: no limit.
        self.user_rates: RateLimiter | None = None
        if self.options.user_commands_per_s is not None:
            self.user_rates = RateLimiter(
                self.options.user_commands_per_s, self.options.user_commands_burst
            )
        self.resource = resource
        self._pings: dict[Any, Any] = {}
        names = [name for name in dir(resource) if name.startswith('on_rpc')]
        self.has_rpc = bool(names)
        for name in (*_RESPONDERS, *names):
            responder = getattr(resource, name, None)
            if responder is not None and not inspect.iscoroutinefunction(responder):
                raise TypeError(
                    f'{responder!r} must be a coroutine function: "async def"'
                )
        self.on_message = getattr(resource, 'on_message', None)
        self._on_connect = getattr(resource, 'on_connect', None)
        self._on_refresh = getattr(resource, 'on_refresh', None)
        self._on_disconnect = getattr(resource, 'on_disconnect', None)

    # --- commands --------------------------------------------------------------------

    async def handle(self, session: ClientConnection, command: Command) -> None:
        """Carry out one command that is legal now, and answer it."""
        request = command.request
        assert request is not None
        session.command_id = command.id
        if not session.may_go_on():
            self._too_fast(session)
            return
        try:
            result = await commands.HANDLERS[type(request)](session, request)
            if result is not None:
                session.answer(result)
        except commands.EndedError as ex:
            session.disconnect(*ex.disconnect)
        except ProtocolError as ex:
            session.disconnect(ex.code, ex.reason)
        except Exception as ex:
            error = commands.refusal(ex)
            if error is None:
                # NOTE: the application's responder, or a defect of ours. Its words
                #   go to the log only.
                self.channels.hub.counters.responder_errors += 1
                _logger.exception('%r: %s failed', session, request.field)
                error = codes.INTERNAL
            self._refuse(session, request, ex, error)

    def _refuse(
        self,
        session: ClientConnection,
        request: Any,
        ex: Exception,
        error: codes.ReplyError,
    ) -> None:
        self.channels.hub.counters.refused += 1
        # NOTE: clients decide how many refusals there are: they are for debugging. But
        #   a token that is none of ours is mostly a key that two sides do not share.
        _logger.log(
            logging.WARNING if isinstance(ex, TokenInvalidError) else logging.DEBUG,
            '%r: %s %.255r refused with %d: %.500r',
            session,
            request.field,
            getattr(request, 'channel', ''),
            error.code,
            str(ex) if isinstance(ex, ChannelsError) else error.message,
        )
        if not isinstance(request, ConnectRequest):
            if session.command_id:
                session.reply_error(error)
            return
        # NOTE: a client whose connect is refused with an error that is not temporary
        #   gives up; how a disconnect ends is said by its code.
        if isinstance(ex, falcon.HTTPError):
            disconnect = codes.disconnect_for_status(ex.status_code)
            words = commands.http_words(ex)
            session.disconnect(*codes.disconnect_with_reason(disconnect, words))
        elif isinstance(ex, TokenInvalidError):
            session.disconnect(*codes.DISCONNECT_INVALID_TOKEN)
        else:
            session.refuse_connect(error)

    def _too_fast(self, session: ClientConnection) -> None:
        self.channels.hub.counters.too_fast += 1
        if session.refused > self.options.max_refused_commands:
            session.disconnect(*codes.DISCONNECT_TOO_MANY_REQUESTS)
        elif session.command_id:
            session.reply_error(codes.TOO_MANY_REQUESTS)

    # --- who it is -------------------------------------------------------------------

    async def authenticate(self, session: ClientConnection) -> None:
        """Settle who a session is: by its token, by ``on_connect``, or by both.

        Raises:
            TokenExpiredError: The client fetches another.
            TokenInvalidError: It may stay away.
            EndedError: It has no token where one is needed.
            falcon.HTTPError: ``on_connect`` refused.
        """
        if self.tokens is not None:
            if session.token:
                self._take_token(session, session.token)
            elif self._on_connect is None and not self.options.allow_anonymous:
                bad = codes.DISCONNECT_BAD_REQUEST
                raise commands.EndedError(bad._replace(reason='a token is needed'))
        if self._on_connect is not None:
            await self._on_connect(session.req, session)

    async def refresh(self, session: ClientConnection, token: str) -> None:
        """Take a new connection token, or ask ``on_refresh``.

        Raises:
            EndedError: The token is invalid, expired or another user's.
        """
        session.token = token
        if self.tokens is not None:
            user = session.user
            try:
                self._take_token(session, token)
            except TokenExpiredError:
                raise commands.EndedError(codes.DISCONNECT_EXPIRED) from None
            except TokenInvalidError:
                raise commands.EndedError(codes.DISCONNECT_INVALID_TOKEN) from None
            if session.user != user:
                raise commands.EndedError(codes.DISCONNECT_INVALID_TOKEN)
        if self._on_refresh is not None:
            await self._on_refresh(session.req, session)
        elif self.tokens is None:
            raise commands.RefusedError(codes.NOT_AVAILABLE)

    def _take_token(self, session: ClientConnection, token: str) -> None:
        assert self.tokens is not None
        claims = self.tokens.connection(token)
        session.user = claims.user
        session.info = claims.info
        session.meta = claims.meta
        session.expires_at = claims.expires_at
        for channel, claim in claims.channels.items():
            session.add_channel(channel, info=claim.info, data=claim.data)

    def take_subscription_token(self, subscription: Subscription, token: str) -> None:
        """Take a subscription token.

        Raises:
            TokenExpiredError: The client fetches another.
            TokenInvalidError: It may not subscribe.
            EndedError: The token is another user's, or for another channel.
        """
        if self.tokens is None:
            raise commands.RefusedError(codes.NOT_AVAILABLE)
        claims = self.tokens.subscription(token)
        if (claims.user, claims.channel) != (subscription.user, subscription.channel):
            raise commands.EndedError(codes.DISCONNECT_INVALID_TOKEN)
        subscription.info = claims.info
        subscription.expires_at = claims.expires_at
        subscription.token_verified = True

    # --- what sessions use -----------------------------------------------------------

    def complete(self, session: ClientConnection, result: ConnectResult) -> None:
        """Answer a connect that succeeded."""
        session.reply_to_command(result)
        session.begin_pings()

    def ping_blob(self, session: ClientConnection) -> Any:
        """Return a ping in a session's encoding and framing."""
        blob = self._pings.get(session.encoder)
        if blob is None:
            codec = session.codec
            blob = self._pings[session.encoder] = session.encoder.framing.frame(
                [codec.protocol.PING], binary=codec.binary
            )
        return blob

    def now_s(self) -> float:
        """Return the clock of the event loop."""
        return asyncio.get_running_loop().time()

    def spread(self, interval_s: float) -> float:
        """Return a time between half an interval and a whole one."""
        # NOTE: so that a thousand clients that came at once are not pinged at once.
        return interval_s * (0.5 + random.random() / 2)

    def rpc_responder(self, method: str) -> Callable[..., Any] | None:
        """Return ``on_rpc_{method}``, else ``on_rpc``, else ``None``."""
        if method.isidentifier():
            responder = getattr(self.resource, f'on_rpc_{method}', None)
            if responder is not None:
                return responder  # type: ignore[no-any-return] # the application's
        return getattr(self.resource, 'on_rpc', None)

    def on_disconnect(self, session: ClientConnection) -> None:
        """Tell the application that a session is over."""
        responder = self._on_disconnect
        if responder is not None:
            self.channels.hub.spawn(_tell(responder, session), 'on_disconnect')


async def _tell(responder: Callable[..., Any], session: ClientConnection) -> None:
    try:
        await responder(session.req, session)
    except Exception:
        # NOTE: the application's code; the client is gone and nobody else waits.
        session.hub.counters.responder_errors += 1
        _logger.exception('on_disconnect failed for %r', session)


async def let_in(channels: Channels, req: falcon.asgi.Request) -> None:
    """Check that a request may open a connection now.

    Raises:
        falcon.HTTPError: From a page of another site, one too many, or not ready.
    """
    channels.admission.check_origin(req)
    channels.admission.check_room()
    try:
        await channels.start()
    except (BrokerUnavailableError, ClosedError) as ex:
        raise falcon.HTTPServiceUnavailable(description=str(ex)) from None


class UpgradeOnly:
    """A Falcon resource that has a WebSocket, and tells others so."""

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Say what is lacking: 426 (RFC 9110 section 15.5.22)."""
        raise falcon.HTTPError(
            falcon.HTTP_426,
            title='Only WebSockets are served here',
            description='This request did not ask for one. If it did so at first, a '
            'proxy on the way has left out its Upgrade and Connection headers.',
            headers={'Upgrade': 'websocket'},
        )


class WebSocketResource(UpgradeOnly):
    """The bidirectional WebSocket of the client protocol, as a Falcon resource."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def on_websocket(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
    ) -> None:
        """Accept a client, and stay until it has left."""
        channels = self._endpoint.channels
        await let_in(channels, req)
        codec, subprotocol = _choose_codec(req, ws)
        await ws.accept(subprotocol)
        direct = server_websocket(req.scope)
        transport = direct or AsgiTransport(ws, binary=codec.binary)
        session = ClientConnection(self._endpoint, transport, codec, req)
        await converse(ws, transport, session)


async def converse(
    ws: falcon.asgi.WebSocket,
    transport: AsgiTransport | ServerWebSocket,
    session: ClientConnection,
) -> None:
    """Serve an accepted WebSocket to its end, or leave it to the server."""
    try:
        session.hub.add(session)
    except ClosedError:
        # NOTE: draining began during the handshake; the client comes back.
        await ws.close(*codes.DISCONNECT_SHUTDOWN)
        return
    if isinstance(transport, AsgiTransport):
        await transport.run(session)
    else:
        # PERF: nothing waits for the end: the server calls the session.
        transport.attach(session)


def _choose_codec(
    req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
) -> tuple[ClientCodec, str | None]:
    """Return the encoding that a client wants, and the subprotocol to select."""
    if PROTOBUF_SUBPROTOCOL in ws.subprotocols:
        return protobuf_or_refuse(), PROTOBUF_SUBPROTOCOL
    wanted = req.get_param('format') or req.get_param('cf_protocol')
    if wanted == 'protobuf':
        return protobuf_or_refuse(), None
    if JSON_SUBPROTOCOL in ws.subprotocols:
        return JSON, JSON_SUBPROTOCOL
    return JSON, None


def protobuf_or_refuse() -> ClientCodec:
    """Return the Protobuf encoding, for a client that asks for it.

    Raises:
        falcon.HTTPUnsupportedMediaType: The extra is not installed.
    """
    try:
        return protobuf()
    except ExtraMissingError as ex:
        _logger.warning('a client was refused: %s', ex)
        raise falcon.HTTPUnsupportedMediaType(description=str(ex)) from None


def check_prefix(prefix: object) -> str:
    """Return a path prefix without a slash at its end.

    Raises:
        OptionsError: It does not begin with a slash.
    """
    if not isinstance(prefix, str) or not prefix.startswith('/'):
        raise OptionsError(f'prefix {prefix!r} must begin with a slash')
    return prefix.rstrip('/')
