"""The messages of the client protocol, as typed values.

A *command* is one request with an id. A *reply* carries the command's id and the result
of the same name, or an error. A *push* is a message that the server sends unrequested.
The codecs convert them from and to bytes; nothing here depends on an encoding.

Field names are those of the protocol. Payloads (``data``, ``conn_info``, ``chan_info``)
are bytes everywhere: JSON text on a JSON connection, any bytes on a Protobuf
connection, ``None`` if there is no payload. They are spliced into messages and never
parsed here.
"""

from __future__ import annotations

from typing import ClassVar
from typing import TypeAlias

import msgspec

from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Position
from falcon_channels.publication import Publication


class Message(msgspec.Struct, omit_defaults=True):
    """Base class of all requests, results and pushes.

    Attributes:
        field: Name of the message in its envelope, such as ``'subscribe'``.
        always: Fields that are encoded even if they are zero, because clients read
            them without checking whether they are present.
    """

    field: ClassVar[str] = ''
    always: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        # SECURITY: tokens and payloads are hidden, because a reader of the log could
        #   use a token, and payloads are private.
        shown = (
            f'{name}=...' if name in _PRIVATE else f'{name}={value!r}'
            for name in self.__struct_fields__
            if (value := getattr(self, name))
        )
        return f'{type(self).__name__}({", ".join(shown)})'


_PRIVATE = frozenset({'token', 'data', 'headers', 'session'})


# ---- Requests ------------------------------------------------------------------


class ConnectRequest(Message):
    """The first command of every connection.

    Attributes:
        token: Connection token, or ``''``.
        data: Payload of the application's client, or ``None``.
        subs: Server-side subscriptions to recover, by channel.
        name: Name of the client library.
        version: Version of the client.
        headers: Emulated headers, because a browser cannot set them on a WebSocket.
    """

    field: ClassVar[str] = 'connect'

    token: str = ''
    data: bytes | None = None
    subs: dict[str, SubscribeRequest] = msgspec.field(default_factory=dict)
    name: str = ''
    version: str = ''
    headers: dict[str, str] = msgspec.field(default_factory=dict)


#: Bit of `SubscribeRequest.flag`: answer error 112 if recovery is impossible.
FLAG_REJECT_UNRECOVERED = 2


class FilterNode(msgspec.Struct):
    """A tag filter of a client, not checked yet; see `client_filters`.

    Attributes:
        op: ``'and'``, ``'or'`` or ``'not'`` for the conditions in `nodes`; ``''`` for a
            comparison.
        key: Name of the compared tag.
        cmp: Comparison, such as ``'eq'``.
        val: Value that the tag is compared with.
        vals: Values of the comparisons ``'in'`` and ``'nin'``.
        nodes: Conditions of an operation.
    """

    op: str = ''
    key: str = ''
    cmp: str = ''
    val: str = ''
    vals: list[str] = []
    nodes: list[FilterNode] = []


class SubscribeRequest(Message, gc=False):
    """Subscribe to a channel.

    Attributes:
        channel: Name of the channel; ``''`` inside `ConnectRequest.subs`.
        token: Subscription token, or ``''``.
        recover: Whether to recover from `offset` and `epoch`.
        offset: Offset of the last publication that the client has.
        epoch: Epoch of that offset, ``''`` if the client knows none.
        data: Payload of the application's client, or ``None``.
        positioned: Whether the client wants a position without recovery.
        recoverable: Whether the client wants recovery.
        join_leave: Whether the client wants joins and leaves.
        delta: Delta format offered by the client, or ``''``.
        tf: Tag filter of the client, or ``None``.
        flag: Bits, see `FLAG_REJECT_UNRECOVERED`.
        type: 0 for a stream of publications; any other kind is refused.
    """

    field: ClassVar[str] = 'subscribe'

    channel: str = ''
    token: str = ''
    recover: bool = False
    offset: int = 0
    epoch: str = ''
    data: bytes | None = None
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ''
    tf: FilterNode | None = None
    flag: int = 0
    type: int = 0


class UnsubscribeRequest(Message):
    """End a subscription."""

    field: ClassVar[str] = 'unsubscribe'

    channel: str = ''


class PublishRequest(Message):
    """Publish `data` to a channel; a `type` other than 0 is refused."""

    field: ClassVar[str] = 'publish'

    channel: str = ''
    data: bytes | None = None
    type: int = 0


class PresenceRequest(Message):
    """Request the presence of a channel."""

    field: ClassVar[str] = 'presence'

    channel: str = ''


class PresenceStatsRequest(Message):
    """Request the number of subscribers of a channel."""

    field: ClassVar[str] = 'presence_stats'

    channel: str = ''


class HistoryRequest(Message):
    """Read the log of a channel.

    Attributes:
        channel: Name of the channel.
        limit: Maximum number of publications; 0: only the position, -1: all.
        since: Position to start after (in reverse: before), or ``None``.
        reverse: Whether the newest publication is first.
    """

    field: ClassVar[str] = 'history'

    channel: str = ''
    limit: int = 0
    since: Position | None = None
    reverse: bool = False


class PingRequest(Message):
    """A ping of an old client; it gets a reply like any command."""

    field: ClassVar[str] = 'ping'


class SendRequest(Message):
    """A message to the application; it has no id and gets no reply."""

    field: ClassVar[str] = 'send'

    data: bytes | None = None


class RpcRequest(Message):
    """Call a method of the application; `method` may be ``''``."""

    field: ClassVar[str] = 'rpc'

    data: bytes | None = None
    method: str = ''


class RefreshRequest(Message):
    """Replace the connection token before it expires."""

    field: ClassVar[str] = 'refresh'

    token: str = ''


class SubRefreshRequest(Message):
    """Replace a subscription token; a `type` other than 0 is refused."""

    field: ClassVar[str] = 'sub_refresh'

    channel: str = ''
    token: str = ''
    type: int = 0


Request: TypeAlias = (
    ConnectRequest
    | SubscribeRequest
    | UnsubscribeRequest
    | PublishRequest
    | PresenceRequest
    | PresenceStatsRequest
    | HistoryRequest
    | PingRequest
    | SendRequest
    | RpcRequest
    | RefreshRequest
    | SubRefreshRequest
)


class Command(msgspec.Struct):
    """One request of a client, or a pong.

    Attributes:
        id: Id for the reply, from 1; 0 for `SendRequest` and a pong.
        request: The request; ``None`` for a pong (the answer to the server's ping).
    """

    id: int
    request: Request | None


class EmulationRequest(msgspec.Struct):
    """Commands for a connection whose replies travel on another HTTP response.

    Attributes:
        session: Secret id of the connection, from the connect reply.
        node: Id of the process that has the connection.
        data: A frame of commands.
    """

    session: str
    node: str
    data: bytes


# ---- Results -------------------------------------------------------------------


class EncodedPublications(list[bytes]):
    """Encoded publications of a result, by `Codec.encode_result_publication`."""


class SubscribeResult(Message):
    """The answer to `SubscribeRequest`.

    Attributes:
        recoverable: Whether the client may recover later.
        epoch: Epoch of the channel's log.
        offset: Top of the log; the offset of the request if `recovered`.
        publications: Missed publications in offset order.
        recovered: Whether `publications` is complete.
        was_recovering: Whether the client asked to recover.
        positioned: Whether publications carry offsets.
        expires: Whether the subscription expires if it is not refreshed.
        ttl: Seconds until it expires.
        data: Payload of the application, or ``None``.
        delta: Whether publications are in the form for subscriptions with delta.
    """

    field: ClassVar[str] = 'subscribe'

    recoverable: bool = False
    epoch: str = ''
    offset: int = 0
    publications: list[Publication] | EncodedPublications = msgspec.field(
        default_factory=list
    )
    recovered: bool = False
    was_recovering: bool = False
    positioned: bool = False
    expires: bool = False
    ttl: int = 0
    data: bytes | None = None
    delta: bool = False


class ConnectResult(Message):
    """The answer to `ConnectRequest`; also the first push to a unidirectional client.

    Attributes:
        client: Id of the connection.
        version: Version of the server.
        expires: Whether the connection expires if it is not refreshed.
        ttl: Seconds until it expires.
        data: Payload of the application, or ``None``.
        subs: Server-side subscriptions by channel.
        ping: Seconds between the server's pings; 0: no pings.
        pong: Whether the server expects a pong for each ping.
        session: Secret id of the connection, for emulated transports.
        node: Id of the process that has the connection, for emulated transports.
        time: Unix time of the server in milliseconds; 0: not sent.
    """

    field: ClassVar[str] = 'connect'

    client: str = ''
    version: str = ''
    expires: bool = False
    ttl: int = 0
    data: bytes | None = None
    subs: dict[str, SubscribeResult] = msgspec.field(default_factory=dict)
    ping: int = 0
    pong: bool = False
    session: str = ''
    node: str = ''
    time: int = 0


class UnsubscribeResult(Message):
    """The subscription has ended, if there was one."""

    field: ClassVar[str] = 'unsubscribe'


class PublishResult(Message):
    """The publication was accepted."""

    field: ClassVar[str] = 'publish'


class PresenceResult(Message):
    """The subscribers, by connection id."""

    field: ClassVar[str] = 'presence'
    always: ClassVar[frozenset[str]] = frozenset({'presence'})

    presence: dict[str, ClientInfo] = msgspec.field(default_factory=dict)


class PresenceStatsResult(Message):
    """Number of subscribed connections and of different users."""

    field: ClassVar[str] = 'presence_stats'
    always: ClassVar[frozenset[str]] = frozenset({'num_clients', 'num_users'})

    num_clients: int = 0
    num_users: int = 0


class HistoryResult(Message):
    """A page of a channel's log, with the top position."""

    field: ClassVar[str] = 'history'
    always: ClassVar[frozenset[str]] = frozenset({'publications', 'epoch', 'offset'})

    publications: list[Publication] | EncodedPublications = msgspec.field(
        default_factory=list
    )
    epoch: str = ''
    offset: int = 0


class PingResult(Message):
    """The answer to `PingRequest`."""

    field: ClassVar[str] = 'ping'


class RpcResult(Message):
    """The result of a method of the application."""

    field: ClassVar[str] = 'rpc'

    data: bytes | None = None


class RefreshResult(Message):
    """The new expiry of the connection, as in `ConnectResult`."""

    field: ClassVar[str] = 'refresh'

    client: str = ''
    version: str = ''
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Message):
    """The new expiry of the subscription."""

    field: ClassVar[str] = 'sub_refresh'

    expires: bool = False
    ttl: int = 0


Result: TypeAlias = (
    ConnectResult
    | SubscribeResult
    | UnsubscribeResult
    | PublishResult
    | PresenceResult
    | PresenceStatsResult
    | HistoryResult
    | PingResult
    | RpcResult
    | RefreshResult
    | SubRefreshResult
)


# ---- Pushes --------------------------------------------------------------------
# The codecs have separate functions for the push of a publication: it is the hot path.


class JoinPush(Message):
    """A client has subscribed to the channel."""

    field: ClassVar[str] = 'join'

    info: ClientInfo


class LeavePush(Message):
    """A client has left the channel."""

    field: ClassVar[str] = 'leave'

    info: ClientInfo


class UnsubscribePush(Message):
    """The server has ended a subscription; from code 2500 on, subscribe again."""

    field: ClassVar[str] = 'unsubscribe'

    code: int
    reason: str = ''


class SubscribePush(Message):
    """The server has subscribed this connection to a channel."""

    field: ClassVar[str] = 'subscribe'

    recoverable: bool = False
    epoch: str = ''
    offset: int = 0
    positioned: bool = False
    data: bytes | None = None


class MessagePush(Message):
    """A message of the application to this connection only."""

    field: ClassVar[str] = 'message'

    data: bytes | None = None


class DisconnectPush(Message):
    """The end of a connection on a transport without close frames."""

    field: ClassVar[str] = 'disconnect'

    code: int
    reason: str = ''
    reconnect: bool = False


class RefreshPush(Message):
    """The new expiry of a unidirectional connection."""

    field: ClassVar[str] = 'refresh'

    expires: bool = False
    ttl: int = 0


Push: TypeAlias = (
    JoinPush
    | LeavePush
    | UnsubscribePush
    | SubscribePush
    | MessagePush
    | DisconnectPush
    | ConnectResult
    | RefreshPush
)
