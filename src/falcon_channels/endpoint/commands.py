"""What each command of the client protocol does.

A handler gets the session and the request and returns the result that is sent as the
reply, or ``None`` where it has answered by itself. It refuses by raising:
`RefusedError` with an error of the protocol, `EndedError` with a disconnect, or
anything that `refusal` and `ending` translate, such as an `HTTPError` of the
application's responder.
"""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
import time
from typing import Any
from typing import TYPE_CHECKING

import falcon
import msgspec

from falcon_channels.access import authorization
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ChannelsError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import PositionError
from falcon_channels.errors import ProtocolError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.errors import TokenExpiredError
from falcon_channels.errors import TokenInvalidError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.hub import Joined
from falcon_channels.hub.subscription import Subscription
from falcon_channels.protocol import codes
from falcon_channels.protocol import messages
from falcon_channels.protocol.codec import json_codec
from falcon_channels.protocol.command_rules import ConnectionState
from falcon_channels.publication import Position

if TYPE_CHECKING:
    from falcon_channels.endpoint.client_connection import ClientConnection

Handler = Callable[['ClientConnection', Any], Awaitable[messages.Result | None]]


class RefusedError(ChannelsError):
    """A command that is answered with an error."""

    def __init__(self, error: codes.ReplyError) -> None:
        super().__init__(error.message)
        self.error = error


class EndedError(ChannelsError):
    """A command that ends the connection."""

    def __init__(self, disconnect: codes.Disconnect) -> None:
        super().__init__(disconnect.reason)
        self.disconnect = disconnect


def refusal(ex: Exception) -> codes.ReplyError | None:
    """Return what a command is answered that raised `ex`; ``None``: a defect."""
    if isinstance(ex, RefusedError):
        return ex.error
    if isinstance(ex, falcon.HTTPError):
        error = codes.error_for_status(ex.status_code)
        return codes.error_with_message(error, http_words(ex))
    for kind, error in _REFUSALS:
        if isinstance(ex, kind):
            # NOTE: what is wrong with a payload, its sender may know; all else that an
            #   error of ours says is for the log.
            words = str(ex) if isinstance(ex, _FOR_CLIENTS) else None
            return codes.error_with_message(error, words)
    return None


def http_words(ex: falcon.HTTPError) -> str | None:
    """Return what an error says to clients; faults of the server's side: nothing."""
    return ex.description if 400 <= ex.status_code <= 499 else None


_FOR_CLIENTS = (PublicationTooLargeError, PayloadError)


_REFUSALS: tuple[tuple[type[Exception], codes.ReplyError], ...] = (
    (UnknownChannelError, codes.UNKNOWN_CHANNEL),
    (ChannelNameError, codes.BAD_REQUEST),
    (PublicationTooLargeError, codes.LIMIT_EXCEEDED),
    (PayloadError, codes.BAD_REQUEST),
    (CapabilityError, codes.NOT_AVAILABLE),
    (PositionError, codes.UNRECOVERABLE_POSITION),
    (TokenExpiredError, codes.TOKEN_EXPIRED),
    (TokenInvalidError, codes.PERMISSION_DENIED),
    (BrokerUnavailableError, codes.INTERNAL),
    (ClosedError, codes.INTERNAL),
)


# --- connecting ----------------------------------------------------------------------


async def connect(
    session: ClientConnection, request: messages.ConnectRequest
) -> messages.Result | None:
    """Find out who it is, subscribe it to its server-side channels, and answer."""
    endpoint = session.endpoint
    session.accept_connect(request)
    session.data = decode_data(session, request.data)
    await endpoint.authenticate(session)
    if session.closed:
        return None
    limit = endpoint.options.max_connections_per_user
    here = session.hub.connections_of(session.user)
    if limit is not None and session.user and here > limit:
        raise EndedError(codes.DISCONNECT_CONNECTION_LIMIT)
    _check_count(session, len(session.channels))
    session.state = session.connected_state
    session.cork()
    results = {}
    for channel in session.channels:
        result = await _subscribe_server_side(
            session, channel, request.subs.get(channel)
        )
        if session.closed:
            return None
        if result is not None:
            results[channel] = result
    if session.state is ConnectionState.UNIDIRECTIONAL:
        for channel, asked in request.subs.items():
            if channel not in session.channels:
                results[channel] = await _subscribe_asked(session, channel, asked)
    if session.closed:
        return None
    pings = endpoint.options.ping_interval_s is not None
    expires, ttl = _ttl(session.expires_at)
    answer = messages.ConnectResult(
        client=session.id,
        version=endpoint.version,
        expires=expires,
        ttl=ttl,
        data=_encode_data(session.reply),
        subs=results,
        ping=round(endpoint.options.ping_interval_s or 0),
        pong=pings and session.state is not ConnectionState.UNIDIRECTIONAL,
        session=session.secret,
        node=endpoint.channels.nodes.id if session.secret else '',
    )
    endpoint.complete(session, answer)
    return None


async def _subscribe_server_side(
    session: ClientConnection, channel: str, asked: messages.SubscribeRequest | None
) -> messages.SubscribeResult | None:
    match = await session.endpoint.channels.match(channel)
    subscription = Subscription(session, channel, match.route, match.params)
    subscription.server_side = True
    subscription.info, subscription.reply = session.channels[channel]
    session.subscriptions[channel] = subscription
    since = None
    if asked is not None and asked.recover:
        since = Position(asked.offset, asked.epoch)
    results: list[messages.SubscribeResult] = []

    def on_joined(joined: Joined) -> None:
        results.append(_subscribe_result(session, subscription, joined, since))

    try:
        await session.endpoint.channels.admission.admit(subscription, since, on_joined)
    except BaseException as ex:
        session.hub.leave(subscription)
        if isinstance(ex, UnsubscribedError):
            return None
        raise
    return results[0]


async def refresh(
    session: ClientConnection, request: messages.RefreshRequest
) -> messages.RefreshResult:
    """Take a new connection token."""
    await session.endpoint.refresh(session, request.token)
    session.plan()
    expires, ttl = _ttl(session.expires_at)
    return messages.RefreshResult(
        client=session.id, version=session.endpoint.version, expires=expires, ttl=ttl
    )


# --- channels ------------------------------------------------------------------------


async def subscribe(
    session: ClientConnection, request: messages.SubscribeRequest
) -> None:
    """Subscribe to a channel, and recover."""
    channel = request.channel
    if channel in session.subscriptions:
        raise RefusedError(codes.ALREADY_SUBSCRIBED)
    subscription = await _subscribe(session, channel, request, session.reply_to_command)
    if subscription.expires_at is not None:
        session.plan()


async def _subscribe_asked(
    session: ClientConnection, channel: str, request: messages.SubscribeRequest
) -> messages.SubscribeResult:
    """Subscribe a client that can send no commands to what its one request names."""
    results: list[messages.SubscribeResult] = []
    await _subscribe(session, channel, request, results.append)
    return results[0]


async def _subscribe(
    session: ClientConnection,
    channel: str,
    request: messages.SubscribeRequest,
    answer: Callable[[messages.SubscribeResult], None],
) -> Subscription:
    if request.type:
        raise RefusedError(codes.NOT_AVAILABLE)
    if request.filtered:
        # NOTE: a filter that is ignored would show the client what it did not ask for.
        raise RefusedError(codes.BAD_REQUEST)
    channels = session.endpoint.channels
    match = await channels.match(channel)
    _check_count(session, len(session.subscriptions) + 1)
    subscription = Subscription(
        session,
        channel,
        match.route,
        match.params,
        decode_data(session, request.data),
    )
    if request.token:
        session.endpoint.take_subscription_token(subscription, request.token)
    since = Position(request.offset, request.epoch) if request.recover else None
    session.subscriptions[channel] = subscription

    def on_joined(joined: Joined) -> None:
        strict = request.flag & messages.FLAG_REJECT_UNRECOVERED
        if strict and joined.recovered is False:
            raise RefusedError(codes.UNRECOVERABLE_POSITION)
        answer(_subscribe_result(session, subscription, joined, since))

    try:
        await channels.admission.authorize(subscription)
        await channels.admission.admit(subscription, since, on_joined)
    except BaseException as ex:
        session.hub.leave(subscription)
        if isinstance(ex, UnsubscribedError):
            raise RefusedError(codes.PERMISSION_DENIED) from None
        raise
    return subscription


def _subscribe_result(
    session: ClientConnection,
    subscription: Subscription,
    joined: Joined,
    since: Position | None,
) -> messages.SubscribeResult:
    options = subscription.route.options
    expires, ttl = _ttl(subscription.expires_at)
    offset = joined.position.offset
    # NOTE: the client counts the recovered publications itself, up from where it was.
    if joined.recovered and since is not None and options.recovery_mode == 'stream':
        offset = since.offset
    return messages.SubscribeResult(
        recoverable=options.recovery_mode != 'off',
        positioned=options.history_size > 0,
        epoch=joined.position.epoch,
        offset=offset,
        publications=session.parts(
            subscription.channel, joined.position.epoch, joined.publications
        ),
        recovered=bool(joined.recovered),
        was_recovering=since is not None,
        expires=expires,
        ttl=ttl,
        data=_encode_data(subscription.reply),
    )


async def unsubscribe(
    session: ClientConnection, request: messages.UnsubscribeRequest
) -> messages.UnsubscribeResult:
    """End a subscription, if there is one."""
    subscription = session.subscriptions.get(request.channel)
    if subscription is not None:
        session.hub.leave(subscription)
    return messages.UnsubscribeResult()


async def sub_refresh(
    session: ClientConnection, request: messages.SubRefreshRequest
) -> messages.SubRefreshResult:
    """Take a new subscription token."""
    if request.type:
        raise RefusedError(codes.NOT_AVAILABLE)
    subscription = session.subscriptions.get(request.channel)
    if subscription is None:
        raise RefusedError(codes.PERMISSION_DENIED)
    try:
        session.endpoint.take_subscription_token(subscription, request.token)
    except TokenInvalidError:
        raise EndedError(codes.DISCONNECT_INVALID_TOKEN) from None
    except TokenExpiredError:
        # NOTE: an error would end the subscription for good; after this push the
        #   client subscribes again with a fresh token, and passes over the error.
        session.hub.unsubscribe(subscription, *codes.UNSUBSCRIBE_EXPIRED)
        raise
    session.plan()
    expires, ttl = _ttl(subscription.expires_at)
    return messages.SubRefreshResult(expires=expires, ttl=ttl)


async def publish(
    session: ClientConnection, request: messages.PublishRequest
) -> messages.PublishResult:
    """Publish to a channel, where its resource lets clients."""
    if request.type:
        raise RefusedError(codes.NOT_AVAILABLE)
    if request.data is None:
        raise RefusedError(codes.BAD_REQUEST)
    channels = session.endpoint.channels
    match = await channels.match(request.channel)
    binary = session.codec.binary and not json_codec.is_json(request.data)
    draft = authorization.PublicationDraft(
        request.channel,
        session,
        request.data,
        binary=binary,
        data_type=match.route.options.data_type,
    )
    publication = await authorization.authorize_publish(match, session, draft)
    await channels.publish_checked(
        match,
        request.channel,
        publication,
        idempotency_key=draft.idempotency_key,
    )
    return messages.PublishResult()


async def presence(
    session: ClientConnection, request: messages.PresenceRequest
) -> messages.PresenceResult:
    """Say who is in a channel."""
    match = await session.endpoint.channels.match(request.channel)
    await authorization.authorize_presence(match, session, request.channel)
    there = await session.endpoint.channels.presence(request.channel)
    return messages.PresenceResult(presence=dict(there))


async def presence_stats(
    session: ClientConnection, request: messages.PresenceStatsRequest
) -> messages.PresenceStatsResult:
    """Say how many are in a channel."""
    match = await session.endpoint.channels.match(request.channel)
    await authorization.authorize_presence(match, session, request.channel)
    stats = await session.endpoint.channels.presence_stats(request.channel)
    return messages.PresenceStatsResult(
        num_clients=stats.num_clients, num_users=stats.num_users
    )


async def history(
    session: ClientConnection, request: messages.HistoryRequest
) -> messages.HistoryResult:
    """Read what a channel keeps."""
    channels = session.endpoint.channels
    match = await channels.match(request.channel)
    if not match.route.options.history_size:
        raise RefusedError(codes.NOT_AVAILABLE)
    await authorization.authorize_history(match, session, request.channel)
    since = request.since
    if request.reverse and since is not None and not since.offset:
        raise RefusedError(codes.BAD_REQUEST)
    most = channels.options.history_limit
    limit = most if request.limit < 0 else min(request.limit, most)
    page = await channels.history(
        request.channel, since=since, limit=limit, reverse=request.reverse
    )
    return messages.HistoryResult(
        publications=session.parts(
            request.channel, page.position.epoch, page.publications
        ),
        epoch=page.position.epoch,
        offset=page.position.offset,
    )


# --- the application -----------------------------------------------------------------


class RpcCall:
    """A client's call of a method; ``on_rpc`` receives it.

    Attributes:
        connection: Whose it is.
        method: Name of the method, ``''`` where the client gave none.
        data: What the client sent, as Python values, or ``None``.
        reply: What the client gets back, any JSON value; may be set.
    """

    __slots__ = ('connection', 'data', 'method', 'reply')

    def __init__(self, connection: ClientConnection, method: str, data: Any) -> None:
        self.connection = connection
        self.method = method
        self.data = data
        self.reply: Any = None


class ClientMessage:
    """Something that a client sends without waiting; ``on_message`` receives it.

    Attributes:
        connection: Whose it is.
        data: What the client sent, as Python values, or ``None``.
    """

    __slots__ = ('connection', 'data')

    def __init__(self, connection: ClientConnection, data: Any) -> None:
        self.connection = connection
        self.data = data


async def rpc(
    session: ClientConnection, request: messages.RpcRequest
) -> messages.RpcResult:
    """Call a method of the connection resource."""
    responder = session.endpoint.rpc_responder(request.method)
    if responder is None:
        known = session.endpoint.has_rpc
        raise RefusedError(codes.METHOD_NOT_FOUND if known else codes.NOT_AVAILABLE)
    call = RpcCall(session, request.method, decode_data(session, request.data))
    await responder(session.req, call)
    return messages.RpcResult(data=_encode_data(call.reply) or b'null')


async def send(session: ClientConnection, request: messages.SendRequest) -> None:
    """Give a message to the connection resource."""
    responder = session.endpoint.on_message
    if responder is None:
        raise EndedError(codes.DISCONNECT_NOT_AVAILABLE)
    data = decode_data(session, request.data)
    await responder(session.req, ClientMessage(session, data))


async def ping(
    session: ClientConnection, request: messages.PingRequest
) -> messages.PingResult:
    """Answer a ping of an old client."""
    return messages.PingResult()


#: Every command, by the type of its request.
HANDLERS: dict[type[messages.Message], Handler] = {
    messages.ConnectRequest: connect,
    messages.SubscribeRequest: subscribe,
    messages.UnsubscribeRequest: unsubscribe,
    messages.PublishRequest: publish,
    messages.PresenceRequest: presence,
    messages.PresenceStatsRequest: presence_stats,
    messages.HistoryRequest: history,
    messages.RpcRequest: rpc,
    messages.SendRequest: send,
    messages.RefreshRequest: refresh,
    messages.SubRefreshRequest: sub_refresh,
    messages.PingRequest: ping,
}


# --- values --------------------------------------------------------------------------


def decode_data(session: ClientConnection, data: bytes | None) -> Any:
    """Return a payload as Python values; bytes that are no JSON stay bytes."""
    if data is None:
        return None
    if session.codec.binary and not json_codec.is_json(data):
        return data
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as ex:
        raise ProtocolError(f'payload is not JSON: {ex}') from None


def _encode_data(value: Any) -> bytes | None:
    return None if value is None else authorization.encode_payload(value)[0]


def _ttl(expires_at: float | None) -> tuple[bool, int]:
    """Return whether there is an end, and in how many seconds, at least one."""
    if expires_at is None:
        return False, 0
    return True, max(1, int(expires_at - time.time()))


def _check_count(session: ClientConnection, count: int) -> None:
    if count > session.endpoint.channels.options.max_channels_per_connection:
        raise RefusedError(codes.LIMIT_EXCEEDED)
