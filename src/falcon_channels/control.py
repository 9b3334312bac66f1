"""Control messages: what one process asks of all, in MessagePack."""

from __future__ import annotations

import msgspec


class UnsubscribeUser(msgspec.Struct, frozen=True, tag='u'):
    """End the subscriptions of a user to a channel.

    Attributes:
        user: Whose.
        channel: To which channel; ``''`` for all.
        code: Unsubscribe code for the clients.
        reason: In words.
        client: Only this connection, or ``''``.
    """

    user: str
    channel: str
    code: int
    reason: str
    client: str = ''


class DisconnectUser(msgspec.Struct, frozen=True, tag='d'):
    """Close the connections of a user.

    Attributes:
        user: Whose.
        code: Close code.
        reason: In words.
        client: Only this connection, or ``''``.
        spare: Connections that stay.
    """

    user: str
    code: int
    reason: str
    client: str = ''
    spare: tuple[str, ...] = ()


class NodeMessage(msgspec.Struct, frozen=True, tag='n'):
    """Something for one process.

    Attributes:
        node: Its id.
        kind: Who reads it there.
        body: What it says.
    """

    node: str
    kind: str
    body: bytes


Control = UnsubscribeUser | DisconnectUser | NodeMessage

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
