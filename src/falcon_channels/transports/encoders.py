"""Encoders: encode each publication once for all connections with the same encoding.

A *codec* turns the items of a channel into payloads. A *framing* prepares payloads for
one kind of transport. An `Encoder` is a pair of both. Encoders are compared by
identity. The hub groups the subscribers of a channel by encoder, and calls each encoder
once for its whole group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Protocol

from falcon_channels.publication import Publication
from falcon_channels.publication import Signal
from falcon_channels.transports.base import Framing

#: An item that is sent to the subscribers of a channel.
Item = Publication | Signal


class ItemCodec(Protocol):
    """Turns items into payloads. There is one shared object per encoding."""

    #: Whether the payloads are sent as binary messages.
    binary: bool
    #: Whether publications that are not JSON can be encoded.
    carries_binary: bool

    def encode_items(
        self, channel: str, items: Sequence[Item], epoch: str
    ) -> list[Any]:
        """Return the payloads for `items`; an encoding may omit joins and leaves.

        Raises:
            PayloadError: A publication has no form in this encoding.
        """


class Encoder:
    """A codec and a framing; call `get_encoder` to get the shared object."""

    __slots__ = ('__weakref__', 'codec', 'framing')

    def __init__(self, codec: ItemCodec, framing: Framing) -> None:
        self.codec = codec
        self.framing = framing

    def encode(
        self,
        channel: str,
        items: Sequence[Item],
        epoch: str,
        payloads_by_codec: dict[ItemCodec, list[Any]] | None = None,
    ) -> Any:
        """Return one blob for `items`, or ``None`` if there is nothing to send.

        Args:
            channel: Name of the channel.
            items: Items in the order to send.
            epoch: Epoch of the publications.
            payloads_by_codec: Cache of payloads for the same items, shared by encoders
                with different framings; read and filled in. By default none.
        """
        payloads = None
        if payloads_by_codec is not None:
            payloads = payloads_by_codec.get(self.codec)
        if payloads is None:
            payloads = self.codec.encode_items(channel, items, epoch)
            if payloads_by_codec is not None:
                payloads_by_codec[self.codec] = payloads
        if not payloads:
            return None
        return self.framing.frame(payloads, binary=self.codec.binary)


_encoders: dict[tuple[ItemCodec, Framing], Encoder] = {}


def get_encoder(codec: ItemCodec, framing: Framing) -> Encoder:
    """Return the shared encoder of this codec and this framing."""
    found = _encoders.get((codec, framing))
    if found is None:
        found = _encoders[codec, framing] = Encoder(codec, framing)
    return found
