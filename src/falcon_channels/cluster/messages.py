"""Control messages: what one process asks of all, in MessagePack."""

from __future__ import annotations

from typing import Any

import msgspec

from falcon_channels.publication import Position


class SubscribeUser(msgspec.Struct, frozen=True, kw_only=True, tag='s'):
    """Subscribe the connections of a user to a channel.

    Attributes:
        user: Whose.
        channel: To which channel.
        client: Only this connection, or ``''``.
        session: Only the connection of this session, or ``''``.
        info: Public facts about the subscription, any JSON value, or ``None``.
        data: For the client, any JSON value, or ``None``.
        since: Recover from here, or ``None``.
        expires_at: Unix time in seconds at which the subscription ends, or ``None``.
    """

    user: str
    channel: str
    client: str = ''
    session: str = ''
    info: Any = None
    data: Any = None
    since: Position | None = None
    expires_at: float | None = None


class RefreshUser(msgspec.Struct, frozen=True, kw_only=True, tag='r'):
    """Say until when the connections of a user are good.

    Attributes:
        user: Whose.
        client: Only this connection, or ``''``.
        session: Only the connection of this session, or ``''``.
        expired: They are good no longer.
        expires_at: Unix time in seconds, or ``None`` where it stays as it is.
        info: New public facts about the connection, or ``None``.
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
        user: Whose.
        channel: To which channel; ``''`` for all.
        code: Unsubscribe code for the clients.
        reason: In words.
        client: Only this connection, or ``''``.
        session: Only the connection of this session, or ``''``.
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
        user: Whose.
        code: Close code.
        reason: In words.
        client: Only this connection, or ``''``.
        spare: Connections that stay.
        session: Only the connection of this session, or ``''``.
    """

    user: str
    code: int
    reason: str
    client: str = ''
    spare: tuple[str, ...] = ()
    session: str = ''


class NodeMessage(msgspec.Struct, frozen=True, tag='n'):
    """Something for one process, or for all; see `Nodes`.

    Attributes:
        node: Its id, or ``''`` for all.
        kind: Who reads it there.
        body: What it says.
    """

    node: str
    kind: str
    body: bytes


UserMessage = SubscribeUser | RefreshUser | UnsubscribeUser | DisconnectUser
Control = UserMessage | NodeMessage

_decoder: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
_encoder = msgspec.msgpack.Encoder()


def encode_control(control: Control) -> bytes:
    """Return a control message as bytes."""
    return _encoder.encode(control)


def decode_control(message: bytes) -> Control:
    """Return what a control message says.

    Raises:
        msgspec.DecodeError: It says nothing that this version knows.
    """
    return _decoder.decode(message)
