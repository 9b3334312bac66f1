"""Encoders: a publication becomes bytes once for all connections that speak alike.

A *codec* turns what happened in a channel into payloads; a *framing* makes payloads
ready for a kind of transport. An `Encoder` is a pair of them. Encoders are compared by
identity: the hub groups the subscribers of a channel by encoder, and calls each encoder
once, however many subscribers a group has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Protocol

from falcon_channels.publication import Publication
from falcon_channels.publication import Signal
from falcon_channels.transports.base import Framing

#: What is sent to the subscribers of a channel.
Item = Publication | Signal


class Codec(Protocol):
    """Turns items into payloads. Codecs are shared objects, one per encoding."""

    #: Whether the payloads go into binary messages.
    binary: bool

    def encode_items(
        self, channel: str, items: Sequence[Item], epoch: str
    ) -> list[Any]:
        """Return the payloads for `items`, leaving out what this encoding has not.

        Raises:
            PayloadError: A publication cannot be sent in this encoding.
        """


class Encoder:
    """A codec and a framing; get one from `encoder`."""

    __slots__ = ('codec', 'framing')

    def __init__(self, codec: Codec, framing: Framing) -> None:
        self.codec = codec
        self.framing = framing

    def encode(
        self,
        channel: str,
        items: Sequence[Item],
        epoch: str,
        payloads_by_codec: dict[Codec, list[Any]] | None = None,
    ) -> Any:
        """Return one blob for `items`, or ``None`` where nothing is to be sent.

        Args:
            channel: Name of the channel.
            items: In order.
            epoch: Of the publications.
            payloads_by_codec: Payloads that another framing needed for the same items;
                looked up and filled in.
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


_encoders: dict[tuple[Codec, Framing], Encoder] = {}


def encoder(codec: Codec, framing: Framing) -> Encoder:
    """Return the one encoder of this codec and this framing."""
    found = _encoders.get((codec, framing))
    if found is None:
        found = _encoders[codec, framing] = Encoder(codec, framing)
    return found
