"""The messages of the client protocol, as typed values.

A *command* is one request with an id; a *reply* carries the command's id and the
result of the same name, or an error; a *push* is what the server says unasked. The
codecs turn them into bytes and back; nothing here knows an encoding.

Names are the protocol's own field names, so that a table of them can be read beside
the wire. Payloads (``data``, ``conn_info``, ``chan_info``) are bytes throughout: JSON
text where the connection speaks JSON, any bytes where it speaks Protobuf, ``None``
where there are none. They are spliced into what is sent, never parsed here.
"""

from __future__ import annotations

from typing import ClassVar
from typing import TypeAlias

import msgspec

from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Position
from falcon_channels.publication import Publication


class Message(msgspec.Struct):
    """Base of all requests, results and pushes.

    Attributes:
        field: Name of the message in its envelope, such as ``'subscribe'``.
        always: Fields that are written even when they are zero, because a client
            reads them without asking whether they are there.
    """

    field: ClassVar[str] = ''
    always: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        # SECURITY: a token in a log is a stolen session; payloads are private too.
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
        data: What the application's client sent along.
        subs: Server-side subscriptions to recover, by channel.
        name: The client library's name.
        version: The client's version.
        headers: Headers that a browser cannot set on a WebSocket.
    """

    field: ClassVar[str] = 'connect'

    token: str = ''
    data: bytes | None = None
    subs: dict[str, SubscribeRequest] = msgspec.field(default_factory=dict)
    name: str = ''
    version: str = ''
    headers: dict[str, str] = msgspec.field(default_factory=dict)


#: Bit of `SubscribeRequest.flag`: answer error 112 where recovery is impossible.
FLAG_REJECT_UNRECOVERED = 2


class SubscribeRequest(Message):
    """Ask for the publications of a channel.

    Attributes:
        channel: Name of the channel; ``''`` inside `ConnectRequest.subs`.
        token: Subscription token, or ``''``.
        recover: Whether `offset` and `epoch` say where the client stopped.
        offset: Offset of the last publication that the client has.
        epoch: Epoch of that offset, ``''`` where the client knows none.
        data: What the application's client sent along.
        positioned: The client wishes a position without recovery.
        recoverable: The client wishes recovery.
        join_leave: The client wishes to hear of joins and leaves.
        delta: Delta format that the client offers, or ``''``.
        filtered: Whether there is a filter of tags.
        flag: Bits, see `FLAG_REJECT_UNRECOVERED`.
        type: 0 for a stream of publications, else a kind that is refused.
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
    filtered: bool = False
    flag: int = 0
    type: int = 0


class UnsubscribeRequest(Message):
    """End a subscription."""

    field: ClassVar[str] = 'unsubscribe'

    channel: str = ''


class PublishRequest(Message):
    """Publish `data` into a channel; `type` other than 0 is refused."""

    field: ClassVar[str] = 'publish'

    channel: str = ''
    data: bytes | None = None
    type: int = 0


class PresenceRequest(Message):
    """Ask who is subscribed to a channel."""

    field: ClassVar[str] = 'presence'

    channel: str = ''


class PresenceStatsRequest(Message):
    """Ask how many are subscribed to a channel."""

    field: ClassVar[str] = 'presence_stats'

    channel: str = ''


class HistoryRequest(Message):
    """Read the log of a channel.

    Attributes:
        channel: Name of the channel.
        limit: At most so many publications; 0 for the position alone, -1 for all.
        since: Start after this position (before it, in reverse), or ``None``.
        reverse: Newest first.
    """

    field: ClassVar[str] = 'history'

    channel: str = ''
    limit: int = 0
    since: Position | None = None
    reverse: bool = False


class PingRequest(Message):
    """A ping of old clients; answered like any command."""

    field: ClassVar[str] = 'ping'


class SendRequest(Message):
    """A message to the application that wants no answer; has no id."""

    field: ClassVar[str] = 'send'

    data: bytes | None = None


class RpcRequest(Message):
    """Call a method of the application; `method` may be ``''``."""

    field: ClassVar[str] = 'rpc'

    data: bytes | None = None
    method: str = ''


class RefreshRequest(Message):
    """A new connection token, before the old one expires."""

    field: ClassVar[str] = 'refresh'

    token: str = ''


class SubRefreshRequest(Message):
    """A new subscription token; `type` other than 0 is refused."""

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
    """One thing that a client asks.

    Attributes:
        id: What the reply will carry, from 1 up; 0 for `SendRequest` and a pong.
        request: The request; ``None`` for a pong, the answer to a server's ping.
    """

    id: int
    request: Request | None


class EmulationRequest(msgspec.Struct):
    """Commands for a connection whose replies travel on another HTTP response.

    Attributes:
        session: The secret name that the connect reply gave the connection.
        node: The process that holds the connection.
        data: A frame of commands.
    """

    session: str
    node: str
    data: bytes


# ---- Results -------------------------------------------------------------------


class Parts(list[bytes]):
    """Publications of a result that were encoded before, by `Codec.encode_part`."""


class SubscribeResult(Message):
    """A subscription as it begins.

    Attributes:
        recoverable: Whether the client may recover later.
        epoch: Epoch of the channel's log.
        offset: Top of the log; the offset of the request where `recovered`.
        publications: What was missed, in offset order.
        recovered: Whether `publications` is all that was missed.
        was_recovering: Whether the client asked to recover.
        positioned: Whether publications carry offsets.
        expires: Whether the subscription ends unless refreshed.
        ttl: Seconds until then.
        data: What the application sends along.
    """

    field: ClassVar[str] = 'subscribe'

    recoverable: bool = False
    epoch: str = ''
    offset: int = 0
    publications: list[Publication] | Parts = msgspec.field(default_factory=list)
    recovered: bool = False
    was_recovering: bool = False
    positioned: bool = False
    expires: bool = False
    ttl: int = 0
    data: bytes | None = None


class ConnectResult(Message):
    """A connection as it begins; also the first push of a unidirectional one.

    Attributes:
        client: Id of the connection.
        version: The server's version.
        expires: Whether the connection ends unless refreshed.
        ttl: Seconds until then.
        data: What the application sends along.
        subs: Server-side subscriptions by channel.
        ping: Seconds between the server's pings; 0 for none.
        pong: Whether the server waits for an answer to them.
        session: Secret name for emulated transports.
        node: The process that holds the connection, for emulated transports.
        time: Server's clock, milliseconds of Unix time; 0: not told.
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
    """The subscription is over, if there was one."""

    field: ClassVar[str] = 'unsubscribe'


class PublishResult(Message):
    """The publication is in the channel."""

    field: ClassVar[str] = 'publish'


class PresenceResult(Message):
    """Who is subscribed, by id of the connection."""

    field: ClassVar[str] = 'presence'
    always: ClassVar[frozenset[str]] = frozenset({'presence'})

    presence: dict[str, ClientInfo] = msgspec.field(default_factory=dict)


class PresenceStatsResult(Message):
    """How many connections and how many different users are subscribed."""

    field: ClassVar[str] = 'presence_stats'
    always: ClassVar[frozenset[str]] = frozenset({'num_clients', 'num_users'})

    num_clients: int = 0
    num_users: int = 0


class HistoryResult(Message):
    """A page of a channel's log, and the top of the log."""

    field: ClassVar[str] = 'history'
    always: ClassVar[frozenset[str]] = frozenset({'publications', 'epoch', 'offset'})

    publications: list[Publication] | Parts = msgspec.field(default_factory=list)
    epoch: str = ''
    offset: int = 0


class PingResult(Message):
    """The server is there."""

    field: ClassVar[str] = 'ping'


class RpcResult(Message):
    """What a method of the application returned."""

    field: ClassVar[str] = 'rpc'

    data: bytes | None = None


class RefreshResult(Message):
    """The new end of the connection, like `ConnectResult`."""

    field: ClassVar[str] = 'refresh'

    client: str = ''
    version: str = ''
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Message):
    """The new end of the subscription."""

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
# A publication's push has functions of its own in the codecs: it is the hot one.


class JoinPush(Message):
    """Somebody has subscribed to the channel."""

    field: ClassVar[str] = 'join'

    info: ClientInfo


class LeavePush(Message):
    """Somebody has left the channel."""

    field: ClassVar[str] = 'leave'

    info: ClientInfo


class UnsubscribePush(Message):
    """The server has ended a subscription; codes from 2500 up: subscribe again."""

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
    """A message of the application to this connection alone."""

    field: ClassVar[str] = 'message'

    data: bytes | None = None


class DisconnectPush(Message):
    """The end of a connection whose transport has no close frame."""

    field: ClassVar[str] = 'disconnect'

    code: int
    reason: str = ''
    reconnect: bool = False


class RefreshPush(Message):
    """A new end of a unidirectional connection."""

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
