"""The JSON form of commands: the types that `json_codec` decodes into.

Their fields are those of messages.py. Payloads stay raw, and numbers have limits. Every
field may be ``null``, which has the same meaning as a missing field.
"""

from __future__ import annotations

from typing import Annotated
from typing import Final

import msgspec

from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import FilterNode
from falcon_channels.protocol.messages import HistoryRequest
from falcon_channels.protocol.messages import PingRequest
from falcon_channels.protocol.messages import PresenceRequest
from falcon_channels.protocol.messages import PresenceStatsRequest
from falcon_channels.protocol.messages import PublishRequest
from falcon_channels.protocol.messages import RefreshRequest
from falcon_channels.protocol.messages import RpcRequest
from falcon_channels.protocol.messages import SendRequest
from falcon_channels.protocol.messages import SubRefreshRequest
from falcon_channels.protocol.messages import SubscribeRequest
from falcon_channels.protocol.messages import UnsubscribeRequest
from falcon_channels.publication import Position

#: Id of a command.
WireId = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
# NOTE: the protocol has 64 bits, but stores have signed integers. 63 bits are enough
#   for any number of publications.
_Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Raw = msgspec.Raw
_NOTHING: Final = msgspec.Raw()


class WireFilter(msgspec.Struct, gc=False):
    """A tag filter, or a condition inside it."""

    op: str | None = None
    key: str | None = None
    cmp: str | None = None
    val: str | None = None
    vals: list[str] | None = None
    nodes: list[WireFilter] | None = None

    def to_node(self) -> FilterNode:
        """Return the filter with nulls as zero values."""
        return FilterNode(
            op=self.op or '',
            key=self.key or '',
            cmp=self.cmp or '',
            val=self.val or '',
            vals=self.vals or [],
            nodes=[node.to_node() for node in self.nodes or ()],
        )


class WireSubscribe(msgspec.Struct, gc=False):
    """A subscribe request, and one of the subscriptions of a connect request."""

    channel: str | None = None
    token: str | None = None
    recover: bool | None = None
    offset: _Offset | None = None
    epoch: str | None = None
    data: _Raw = _NOTHING
    positioned: bool | None = None
    recoverable: bool | None = None
    join_leave: bool | None = None
    delta: str | None = None
    tf: WireFilter | None = None
    flag: _Int64 | None = None
    type: _Int32 | None = None

    def to_request(self) -> SubscribeRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return SubscribeRequest(
            channel=self.channel or '',
            token=self.token or '',
            recover=self.recover or False,
            offset=self.offset or 0,
            epoch=self.epoch or '',
            data=bytes(self.data) or None,
            positioned=self.positioned or False,
            recoverable=self.recoverable or False,
            join_leave=self.join_leave or False,
            delta=self.delta or '',
            tf=self.tf.to_node() if self.tf else None,
            flag=self.flag or 0,
            type=self.type or 0,
        )


class WireConnect(msgspec.Struct):
    """A connect request."""

    token: str | None = None
    data: _Raw = _NOTHING
    subs: dict[str, WireSubscribe | None] | None = None
    name: str | None = None
    version: str | None = None
    headers: dict[str, str] | None = None

    def to_request(self) -> ConnectRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return ConnectRequest(
            token=self.token or '',
            data=bytes(self.data) or None,
            subs={
                channel: sub.to_request() if sub else SubscribeRequest()
                for channel, sub in (self.subs or {}).items()
            },
            name=self.name or '',
            version=self.version or '',
            headers=self.headers or {},
        )


class WireUnsubscribe(msgspec.Struct):
    """JSON form of `UnsubscribeRequest`."""

    channel: str | None = None

    def to_request(self) -> UnsubscribeRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return UnsubscribeRequest(self.channel or '')


class WirePublish(msgspec.Struct):
    """JSON form of `PublishRequest`."""

    channel: str | None = None
    data: _Raw = _NOTHING
    type: _Int32 | None = None

    def to_request(self) -> PublishRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return PublishRequest(
            self.channel or '', bytes(self.data) or None, self.type or 0
        )


class WirePublishCommand(msgspec.Struct):
    """A whole command with a publish request."""

    id: WireId = 0
    publish: WirePublish | None = None


class WirePresence(msgspec.Struct):
    """JSON form of `PresenceRequest`."""

    channel: str | None = None

    def to_request(self) -> PresenceRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return PresenceRequest(self.channel or '')


class WirePresenceStats(msgspec.Struct):
    """JSON form of `PresenceStatsRequest`."""

    channel: str | None = None

    def to_request(self) -> PresenceStatsRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return PresenceStatsRequest(self.channel or '')


class WireSince(msgspec.Struct):
    """The position in a history request."""

    offset: _Offset | None = None
    epoch: str | None = None


class WireHistory(msgspec.Struct):
    """JSON form of `HistoryRequest`."""

    channel: str | None = None
    limit: _Int32 | None = None
    since: WireSince | None = None
    reverse: bool | None = None

    def to_request(self) -> HistoryRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        since = self.since
        return HistoryRequest(
            channel=self.channel or '',
            limit=self.limit or 0,
            since=Position(since.offset or 0, since.epoch or '') if since else None,
            reverse=self.reverse or False,
        )


class WirePing(msgspec.Struct):
    """JSON form of `PingRequest`."""

    def to_request(self) -> PingRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return PingRequest()


class WireSend(msgspec.Struct):
    """JSON form of `SendRequest`."""

    data: _Raw = _NOTHING

    def to_request(self) -> SendRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return SendRequest(bytes(self.data) or None)


class WireRpc(msgspec.Struct):
    """JSON form of `RpcRequest`."""

    data: _Raw = _NOTHING
    method: str | None = None

    def to_request(self) -> RpcRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return RpcRequest(bytes(self.data) or None, self.method or '')


class WireRefresh(msgspec.Struct):
    """JSON form of `RefreshRequest`."""

    token: str | None = None

    def to_request(self) -> RefreshRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return RefreshRequest(self.token or '')


class WireSubRefresh(msgspec.Struct):
    """JSON form of `SubRefreshRequest`."""

    channel: str | None = None
    token: str | None = None
    type: _Int32 | None = None

    def to_request(self) -> SubRefreshRequest:
        """Return the request with payloads as bytes and nulls as zero values."""
        return SubRefreshRequest(self.channel or '', self.token or '', self.type or 0)


#: Types of the requests, by their names in a command.
WIRE_REQUESTS: Final = {
    'connect': WireConnect,
    'subscribe': WireSubscribe,
    'unsubscribe': WireUnsubscribe,
    'publish': WirePublish,
    'presence': WirePresence,
    'presence_stats': WirePresenceStats,
    'history': WireHistory,
    'ping': WirePing,
    'send': WireSend,
    'rpc': WireRpc,
    'refresh': WireRefresh,
    'sub_refresh': WireSubRefresh,
}


class WireEmulation(msgspec.Struct):
    """A frame of commands for a connection whose replies are streamed elsewhere."""

    session: str = ''
    node: str = ''
    data: str = ''
