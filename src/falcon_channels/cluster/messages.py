"""Control messages between nodes, in MessagePack.

A `NodeMessage` carries bytes from node to node. The others are commands about one user,
which every node carries out for its own connections.
"""

from __future__ import annotations

from typing import Any
from typing import Final

import msgspec

from falcon_channels.filters import TagFilter
from falcon_channels.publication import Position


class SubscribeUser(msgspec.Struct, frozen=True, kw_only=True, tag='s'):
    """Subscribe the connections of a user to a channel.

    Attributes:
        user: Id of the user.
        channel: Name of the channel.
        client: Id of one connection, or ``''`` for all of them.
        session: Emulation session of one connection, or ``''``.
        info: Public information about the subscription, any JSON value, or ``None``.
        data: Data for the client, any JSON value, or ``None``.
        since: Position from which publications are recovered, or ``None``.
        expires_at: Unix time in seconds at which the subscription ends, or ``None``.
        filter: Tag filter of the subscription, or ``None``.
    """

    user: str
    channel: str
    client: str = ''
    session: str = ''
    info: Any = None
    data: Any = None
    since: Position | None = None
    expires_at: float | None = None
    filter: TagFilter | None = None


class RefreshUser(msgspec.Struct, frozen=True, kw_only=True, tag='r'):
    """Change the expiry or the public information of a user's connections.

    Attributes:
        user: Id of the user.
        client: Id of one connection, or ``''`` for all of them.
        session: Emulation session of one connection, or ``''``.
        expired: Whether the connections have expired and must be closed.
        expires_at: Unix time in seconds of the new expiry, or ``None`` for no change.
        info: New public information about the connection, or ``None`` for no change.
    """

    user: str
    client: str = ''
    session: str = ''
    expired: bool = False
    expires_at: float | None = None
    info: Any = None


class UnsubscribeUser(msgspec.Struct, frozen=True, tag='u'):
    """End the subscriptions of a user to a channel.

    Attributes:
        user: Id of the user.
        channel: Name of the channel, or ``''`` for all channels.
        code: Unsubscribe code that the clients receive.
        reason: Text that the clients receive.
        client: Id of one connection, or ``''`` for all of them.
        session: Emulation session of one connection, or ``''``.
    """

    user: str
    channel: str
    code: int
    reason: str
    client: str = ''
    session: str = ''


class DisconnectUser(msgspec.Struct, frozen=True, tag='d'):
    """Close the connections of a user.

    Attributes:
        user: Id of the user.
        code: Close code.
        reason: Text that the clients receive.
        client: Id of one connection, or ``''`` for all of them.
        exclude: Ids of connections that stay open.
        session: Emulation session of one connection, or ``''``.
    """

    user: str
    code: int
    reason: str
    client: str = ''
    exclude: tuple[str, ...] = ()
    session: str = ''


class NodeMessage(msgspec.Struct, frozen=True, tag='n'):
    """A piece of a message for one node, or for all nodes.

    Attributes:
        node: Id of the node, or ``''`` for all.
        kind: Name of the handler that receives the body.
        body: Body, or a piece of it.
        message: Id of a body that is split into pieces; ``''`` for a whole body.
        number: Number of this piece, from 0.
        total: How many pieces the body has.
    """

    node: str
    kind: str
    body: bytes
    message: str = ''
    number: int = 0
    total: int = 1


#: Errors of bytes that this version cannot decode. `ValueError` is the base of the
#: errors of msgspec, and of the error for text that is not UTF-8.
UNDECODABLE: Final = (ValueError, RecursionError)

UserCommand = SubscribeUser | RefreshUser | UnsubscribeUser | DisconnectUser
Control = UserCommand | NodeMessage

_decoder: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
_encoder = msgspec.msgpack.Encoder()


def encode_control(control: Control) -> bytes:
    """Encode a control message."""
    return _encoder.encode(control)


def decode_control(message: bytes) -> Control:
    """Decode a control message.

    Raises:
        UNDECODABLE: This version cannot decode the message.
    """
    return _decoder.decode(message)
