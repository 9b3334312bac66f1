"""What each command of the client protocol does.

`dispatch` carries out one command. The function of a command receives the connection
and the request. It returns the result for the reply, or ``None`` if it has answered.
It refuses by raising an error: `RefusedError`, `EndedError`, an `HTTPError` of a
responder, or any other that `refusals` translates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
import logging
import math
import time
from typing import Any

import falcon

from falcon_channels.access.refusal_log import log_refusal
from falcon_channels.access.responders import description_for_client
from falcon_channels.access.responders import is_cancelled
from falcon_channels.access.responders import note_error
from falcon_channels.access.subscribing import SubscribeOptions
from falcon_channels.access.subscribing import TokenClaims
from falcon_channels.endpoint import auth
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.endpoint.refusals import disconnect_for_unsubscribe
from falcon_channels.endpoint.refusals import EndedError
from falcon_channels.endpoint.refusals import refusal_for
from falcon_channels.endpoint.refusals import RefusedError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ChannelsError
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import ProtocolError
from falcon_channels.errors import TokenExpiredError
from falcon_channels.errors import TokenInvalidError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.filters import TagFilter
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.json_decoding import decode_json
from falcon_channels.protocol import codes
from falcon_channels.protocol import messages
from falcon_channels.protocol.client_filters import client_filter
from falcon_channels.protocol.codec import json_codec
from falcon_channels.protocol.deltas import FOSSIL
from falcon_channels.publication import Position

_logger = logging.getLogger('falcon_channels')

#: Longest time to live in the protocol.
_MAX_TTL_S = 2**31 - 1

CommandFunction = Callable[[ClientConnection, Any], Awaitable[messages.Result | None]]


async def dispatch(connection: ClientConnection, command: messages.Command) -> None:
    """Carry out a command that is legal now, and answer it."""
    request = command.request
    assert request is not None
    try:
        result = await COMMANDS[type(request)](connection, request)
        if result is not None:
            connection.reply_with_data(result)
    except EndedError as ex:
        _log_end(connection, request, *ex.disconnect)
        connection.disconnect(*ex.disconnect)
    except ProtocolError as ex:
        _log_end(connection, request, ex.code, str(ex))
        connection.disconnect(ex.code, ex.reason)
    except asyncio.CancelledError as ex:
        if is_cancelled():
            raise
        _fail(connection, request, ex)
    except Exception as ex:
        error = refusal_for(ex)
        if error is None:
            _fail(connection, request, ex)
        else:
            _refuse(connection, request, ex, error)


def _log_end(connection: ClientConnection, request: Any, code: int, text: str) -> None:
    """Log a refusal that ends the connection."""
    log_refusal(
        connection,
        request.field,
        getattr(request, 'channel', ''),
        code,
        text,
        method=getattr(request, 'method', ''),
    )


def _fail(connection: ClientConnection, request: Any, ex: BaseException) -> None:
    """Answer a command that failed because of a bug, in a responder or in this package.

    The text of the error can hold details of the server and goes to the log only.
    """
    field = request.field
    # SECURITY: text of the client is quoted and cut.
    named = getattr(request, 'channel', '') or getattr(request, 'method', '')
    message = '%r: %s %.255r failed'
    note_error(connection, field, ex, message, connection, field, named)
    _refuse(connection, request, ex, codes.INTERNAL)


def _refuse(
    connection: ClientConnection,
    request: Any,
    ex: BaseException,
    error: codes.ReplyError,
) -> None:
    end = None
    if isinstance(request, messages.ConnectRequest):
        end = _disconnect_for_connect(connection, ex, error)
    ours = isinstance(ex, ChannelsError)
    log_refusal(
        connection,
        request.field,
        getattr(request, 'channel', ''),
        error.code if end is None else end.code,
        str(ex) if ours else error.message,
        method=getattr(request, 'method', ''),
        # NOTE: the text of our errors can contain the name of the channel.
        reason=type(ex).__name__ if ours else None,
        # NOTE: an invalid token often means that two services have different keys.
        level=logging.WARNING if isinstance(ex, TokenInvalidError) else logging.INFO,
    )
    if end is not None:
        connection.disconnect(*end)
    elif isinstance(request, messages.ConnectRequest):
        connection.refuse_connect(error)
    elif connection.command_id:
        connection.reply_error(error)


def _disconnect_for_connect(
    connection: ClientConnection, ex: BaseException, error: codes.ReplyError
) -> codes.Disconnect | None:
    """Return the disconnect that answers a refused connect.

    NOTE: an SDK whose connect is answered with a permanent error does not connect
      again. After a disconnect, the code decides whether it does.

    Returns:
        ``None`` if the connect is answered with the error.
    """
    if isinstance(ex, falcon.HTTPError):
        disconnect = codes.disconnect_for_status(ex.status_code)
        return codes.disconnect_with_reason(disconnect, description_for_client(ex))
    if isinstance(ex, TokenInvalidError):
        return codes.DISCONNECT_INVALID_TOKEN
    return connection.disconnect_for_error(error)


# --- connect and refresh -------------------------------------------------------------


async def connect(
    connection: ClientConnection, request: messages.ConnectRequest
) -> None:
    """Identify the user, subscribe to the server-side channels, and answer."""
    endpoint = connection.endpoint
    connection.accept_connect(request, decode_data(connection, request.data))
    await _follow(connection, auth.authenticate(connection))
    connection.forget_data()
    if connection.closed:
        return
    limit = endpoint.options.max_connections_per_user
    hub = connection.hub
    if limit is not None and connection.user:
        # SECURITY: `on_connect` may set a user before it refuses the client. Such a
        #   client must not use up the connections of the user.
        others = hub.connections.of_user(connection.user)
        if sum(other.connected for other in others) >= limit:
            raise EndedError(codes.DISCONNECT_CONNECTION_LIMIT)
    if len(connection.channels) > endpoint.max_channels:
        endpoint.log_server_side(
            f'{len(connection.channels)} channels exceed max_channels_per_connection '
            f'of {endpoint.max_channels}'
        )
        raise EndedError(codes.DISCONNECT_INTERNAL)
    connection.begin_subscriptions()
    results = {}
    server_side = list(connection.channels)
    for channel in server_side:
        if channel not in connection.channels:
            continue  # the application has ended it meanwhile
        result = await _subscribe_server_side(
            connection, channel, request.subs.get(channel)
        )
        if connection.closed:
            return
        if result is not None:
            results[channel] = result
    for channel, requested in connection.requested_channels(request).items():
        if channel not in server_side:
            results[channel] = await _subscribe_in_connect(
                connection, channel, requested
            )
    if connection.closed:
        return
    pings = endpoint.options.ping_interval_s is not None
    expires, ttl = _announced_ttl(
        connection, connection.expires_at, connection.has_token
    )
    connection.complete_connect(
        messages.ConnectResult(
            client=connection.id,
            version=endpoint.version,
            expires=expires,
            ttl=ttl,
            data=_encode_data(connection, connection.reply),
            subs=results,
            # NOTE: an SDK that reads 0 sends no pongs, and would be disconnected.
            ping=math.ceil(endpoint.options.ping_interval_s or 0),
            pong=pings and connection.sends_commands,
            session=connection.session,
            node=endpoint.node_id if connection.session else '',
        )
    )


async def _subscribe_server_side(
    connection: ClientConnection,
    channel: str,
    requested: messages.SubscribeRequest | None,
) -> messages.SubscribeResult | None:
    """Subscribe to a channel of `ClientConnection.add_channel`.

    Returns:
        ``None`` if the subscription was ended while it was made.

    Raises:
        EndedError: The channel cannot exist. This is a mistake of the application. The
            client therefore connects again.
    """
    info, reply, tag_filter = connection.channels[channel]
    since = wanted = None
    delta = False
    if requested is not None:
        wanted = _client_filter(requested)
        delta = requested.delta == FOSSIL
        if requested.recover:
            since = Position(requested.offset, requested.epoch)
    results: list[messages.SubscribeResult] = []

    def on_joined(subscription: Subscription, joined: Joined) -> None:
        results.append(_subscribe_result(connection, subscription, joined, since))

    subscriber = connection.endpoint.subscriber
    options = SubscribeOptions(
        since=since,
        client_filter=wanted,
        server_side=True,
        info=info,
        reply=reply,
        filter=tag_filter,
        delta=delta,
    )
    try:
        await subscriber.subscribe(connection, channel, on_joined, options)
    except UnsubscribedError as ex:
        if ex.code >= codes.FIRST_RESUBSCRIBE_CODE:
            # NOTE: as in `on_unsubscribed`, the next connect subscribes again.
            disconnect = disconnect_for_unsubscribe(ex.code)
            raise EndedError(disconnect) from None
        return None
    except (ChannelNameError, UnknownChannelError) as ex:
        connection.endpoint.log_server_side(str(ex))
        raise EndedError(codes.DISCONNECT_INTERNAL) from None
    return results[0]


async def _subscribe_in_connect(
    connection: ClientConnection, channel: str, request: messages.SubscribeRequest
) -> messages.SubscribeResult:
    """Subscribe a unidirectional client to a channel of its connect request."""
    results: list[messages.SubscribeResult] = []
    await _subscribe(connection, channel, request, results.append)
    return results[0]


async def refresh(
    connection: ClientConnection, request: messages.RefreshRequest
) -> messages.RefreshResult:
    """Verify a new connection token."""
    await _follow(connection, auth.refresh(connection, request.token))
    connection.set_timer()
    expires, ttl = _ttl(connection.expires_at)
    return messages.RefreshResult(
        client=connection.id,
        version=connection.endpoint.version,
        expires=expires,
        ttl=ttl,
    )


# --- subscribe -----------------------------------------------------------------------


async def subscribe(
    connection: ClientConnection, request: messages.SubscribeRequest
) -> None:
    """Subscribe to a channel, and recover."""
    subscription = await _subscribe(
        connection, request.channel, request, connection.reply_to_command
    )
    if subscription.expires_at is not None:
        connection.set_timer()


async def _subscribe(
    connection: ClientConnection,
    channel: str,
    request: messages.SubscribeRequest,
    answer: Callable[[messages.SubscribeResult], None],
) -> Subscription:
    if request.type:
        raise RefusedError(codes.NOT_AVAILABLE)
    since = Position(request.offset, request.epoch) if request.recover else None

    def on_joined(subscription: Subscription, joined: Joined) -> None:
        strict = request.flag & messages.FLAG_REJECT_UNRECOVERED
        if strict and joined.recovered is False:
            raise RefusedError(codes.UNRECOVERABLE_POSITION)
        answer(_subscribe_result(connection, subscription, joined, since))

    options = SubscribeOptions(
        since=since,
        data=decode_data(connection, request.data),
        client_filter=_client_filter(request),
        delta=request.delta == FOSSIL,
        token=await _verify_token(connection, channel, request.token),
        join_leave=request.join_leave,
    )
    subscriber = connection.endpoint.subscriber
    try:
        return await subscriber.subscribe(connection, channel, on_joined, options)
    except UnsubscribedError as ex:
        # NOTE: with a code from 2500 on, the client should subscribe again. An SDK does
        #   so after a temporary error only.
        again = ex.code >= codes.FIRST_RESUBSCRIBE_CODE
        error = codes.INTERNAL if again else codes.PERMISSION_DENIED
        strict = request.flag & messages.FLAG_REJECT_UNRECOVERED
        if strict and ex.code == codes.UNSUBSCRIBE_INVALIDATED.code:
            # NOTE: the client has loaded its state already, and must load it again.
            error = codes.UNRECOVERABLE_POSITION
        raise RefusedError(error) from None


def _client_filter(request: messages.SubscribeRequest) -> TagFilter | None:
    """Return the tag filter of a request, or ``None``.

    Raises:
        falcon.HTTPBadRequest: The filter is malformed or too large.
    """
    if request.tf is None:
        return None
    try:
        return client_filter(request.tf)
    except InvalidValueError as ex:
        raise falcon.HTTPBadRequest(description=str(ex)) from None


async def _verify_token(
    connection: ClientConnection, channel: str, token: str
) -> TokenClaims | None:
    if not token:
        return None
    tokens = connection.endpoint.tokens
    return await auth.verify_subscription_token(tokens, connection.user, channel, token)


def _subscribe_result(
    connection: ClientConnection,
    subscription: Subscription,
    joined: Joined,
    since: Position | None,
) -> messages.SubscribeResult:
    options = subscription.route.options
    expires, ttl = _announced_ttl(
        connection, subscription.expires_at, subscription.token_verified
    )
    offset = joined.position.offset
    # NOTE: the client counts the recovered publications itself, up from its position.
    #   Without any, it moves on, also over publications that do not match its filter.
    counts = joined.recovered and options.recovery_mode == 'stream'
    if counts and since is not None and joined.publications:
        offset = since.offset
    return messages.SubscribeResult(
        recoverable=options.recovery_mode != 'off',
        positioned=options.history_size > 0,
        epoch=joined.position.epoch,
        offset=offset,
        publications=connection.encode_publications(
            subscription.channel,
            joined.position.epoch,
            joined.publications,
            delta=subscription.delta,
        ),
        recovered=bool(joined.recovered),
        was_recovering=since is not None,
        expires=expires,
        ttl=ttl,
        data=_encode_data(connection, subscription.reply),
        delta=subscription.delta,
    )


async def unsubscribe(
    connection: ClientConnection, request: messages.UnsubscribeRequest
) -> messages.UnsubscribeResult:
    """End a subscription; do nothing if there is none."""
    subscription = connection.subscriptions.get(request.channel)
    if subscription is not None:
        connection.hub.leave(subscription)
    return messages.UnsubscribeResult()


async def sub_refresh(
    connection: ClientConnection, request: messages.SubRefreshRequest
) -> messages.SubRefreshResult:
    """Verify a new subscription token."""
    if request.type:
        raise RefusedError(codes.NOT_AVAILABLE)
    subscription = connection.subscriptions.get(request.channel)
    if subscription is None:
        raise RefusedError(codes.PERMISSION_DENIED)
    try:
        claims = await auth.verify_subscription_token(
            connection.endpoint.tokens,
            connection.user,
            subscription.channel,
            request.token,
        )
    except TokenInvalidError:
        raise EndedError(codes.DISCONNECT_INVALID_TOKEN) from None
    except TokenExpiredError:
        # NOTE: an error ends the subscription permanently. After this push the client
        #   subscribes again with a new token, and ignores the error.
        connection.hub.expire(subscription)
        raise
    if subscription.ended:
        raise RefusedError(codes.PERMISSION_DENIED)
    if claims.filter != subscription.token_filter:
        # NOTE: the filter of a subscription cannot change. The client must subscribe
        #   again with a new token, as above.
        connection.hub.unsubscribe(subscription, *codes.UNSUBSCRIBE_EXPIRED)
        raise RefusedError(codes.TOKEN_EXPIRED)
    subscription.apply_token(info=claims.info, expires_at=claims.expires_at)
    expires, ttl = _ttl(subscription.expires_at)
    return messages.SubRefreshResult(expires=expires, ttl=ttl)


# --- publish and read ----------------------------------------------------------------


async def publish(
    connection: ClientConnection, request: messages.PublishRequest
) -> messages.PublishResult:
    """Publish to a channel, if clients may."""
    if request.type:
        raise RefusedError(codes.NOT_AVAILABLE)
    if request.data is None:
        raise RefusedError(codes.BAD_REQUEST)
    binary = connection.codec.binary and not json_codec.is_json(request.data)
    publisher = connection.endpoint.publisher
    await publisher.publish_for_client(
        connection, request.channel, request.data, binary=binary
    )
    return messages.PublishResult()


async def presence(
    connection: ClientConnection, request: messages.PresenceRequest
) -> messages.PresenceResult:
    """Return the subscribed connections of a channel."""
    reader = connection.endpoint.reader
    entries = await reader.presence_for_client(connection, request.channel)
    return messages.PresenceResult(presence=dict(entries))


async def presence_stats(
    connection: ClientConnection, request: messages.PresenceStatsRequest
) -> messages.PresenceStatsResult:
    """Return the numbers of subscribed connections and users of a channel."""
    reader = connection.endpoint.reader
    stats = await reader.presence_stats_for_client(connection, request.channel)
    return messages.PresenceStatsResult(
        num_clients=stats.num_clients, num_users=stats.num_users
    )


async def history(
    connection: ClientConnection, request: messages.HistoryRequest
) -> messages.HistoryResult:
    """Return publications of a channel's log."""
    since = request.since
    if request.reverse and since is not None and not since.offset:
        raise RefusedError(codes.BAD_REQUEST)
    reader = connection.endpoint.reader
    page = await reader.history_for_client(
        connection,
        request.channel,
        since=since,
        limit=None if request.limit < 0 else request.limit,
        reverse=request.reverse,
    )
    return messages.HistoryResult(
        publications=connection.encode_publications(
            request.channel, page.position.epoch, page.publications
        ),
        epoch=page.position.epoch,
        offset=page.position.offset,
    )


# --- messages to the application -----------------------------------------------------


class RpcCall:
    """A remote procedure call of a client; ``on_rpc`` receives it.

    Attributes:
        connection: Connection of the client.
        method: Name of the method, ``''`` if the client gave none.
        data: Data of the client, as Python values, or ``None``.
        reply: Result for the client, any JSON value; can be set.
    """

    __slots__ = ('connection', 'data', 'method', 'reply')

    def __init__(self, connection: ClientConnection, method: str, data: Any) -> None:
        self.connection = connection
        self.method = method
        self.data = data
        self.reply: Any = None


class ClientMessage:
    """A message for which the client expects no reply; ``on_message`` receives it.

    Attributes:
        connection: Connection of the client.
        data: Data of the client, as Python values, or ``None``.
    """

    __slots__ = ('connection', 'data')

    def __init__(self, connection: ClientConnection, data: Any) -> None:
        self.connection = connection
        self.data = data


async def rpc(
    connection: ClientConnection, request: messages.RpcRequest
) -> messages.RpcResult:
    """Call a method of the connection resource."""
    endpoint = connection.endpoint
    responder = endpoint.rpc_responder(request.method)
    if responder is None:
        raise RefusedError(
            codes.METHOD_NOT_FOUND if endpoint.has_rpc else codes.NOT_AVAILABLE
        )
    call = RpcCall(connection, request.method, decode_data(connection, request.data))
    answer = responder(connection.req, call)
    await _follow(connection, endpoint.operations.responder('on_rpc', answer))
    return messages.RpcResult(data=_encode_data(connection, call.reply) or b'null')


async def send(connection: ClientConnection, request: messages.SendRequest) -> None:
    """Give a message to the connection resource."""
    endpoint = connection.endpoint
    responder = endpoint.on_message
    if responder is None:
        raise EndedError(codes.DISCONNECT_NOT_AVAILABLE)
    data = decode_data(connection, request.data)
    message = ClientMessage(connection, data)
    taken = responder(connection.req, message)
    await _follow(connection, endpoint.operations.responder('on_message', taken))


async def ping(
    connection: ClientConnection, request: messages.PingRequest
) -> messages.PingResult:
    """Answer a ping of an old client."""
    return messages.PingResult()


#: All commands by the type of their request.
COMMANDS: dict[type[messages.Message], CommandFunction] = {
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


async def _follow(connection: ClientConnection, call: Awaitable[None]) -> None:
    """Await a responder that may set the user.

    SECURITY: a command such as `disconnect_user` does not find a connection whose user
    is not set yet. It is applied when the responder has returned.
    """
    dispatcher = connection.endpoint.dispatcher
    dispatcher.follow(connection)
    try:
        await call
    except BaseException:
        dispatcher.unfollow(connection)
        raise
    dispatcher.catch_up(connection)


# --- values --------------------------------------------------------------------------


def decode_data(connection: ClientConnection, data: bytes | None) -> Any:
    """Decode a payload to Python values; bytes that are not JSON stay bytes.

    Raises:
        ProtocolError: A client that speaks JSON sent invalid JSON.
    """
    if data is None:
        return None
    if connection.codec.binary and not json_codec.is_json(data):
        return data
    try:
        return decode_json(data)
    except (ValueError, RecursionError) as ex:
        raise ProtocolError(f'payload is not JSON: {ex}') from None


def _encode_data(connection: ClientConnection, value: Any) -> bytes | None:
    """Encode data that a responder sets for the client.

    Raises:
        InvalidValueError: The value cannot be sent to this client.
    """
    if value is None:
        return None
    try:
        return connection.encode_value(value)
    except InvalidValueError as ex:
        raise InvalidValueError(f'reply: {ex}') from None


def _announced_ttl(
    connection: ClientConnection, expires_at: float | None, has_token: bool
) -> tuple[bool, int]:
    """Return what a client is told about an expiry of itself or a subscription.

    NOTE: an SDK that has sent no token has no function that fetches one. At an expiry
    that it knows, it ends the connection or the subscription for ever. After 3005 or
    2501, it tries again. A unidirectional client has no SDK.
    """
    told = has_token or not connection.sends_commands
    return _ttl(expires_at if told else None)


def _ttl(expires_at: float | None) -> tuple[bool, int]:
    """Return whether there is an expiry, and the seconds until it, at least one.

    The protocol has 32 bits for the seconds. A later expiry is announced as the latest
    possible one; the client then refreshes too early.
    """
    if expires_at is None:
        return False, 0
    return True, min(max(1, int(expires_at - time.time())), _MAX_TTL_S)
