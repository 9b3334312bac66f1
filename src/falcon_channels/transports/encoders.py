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
    """A codec and a framing; call `get_encoder` to get the shared object.

    Args:
        codec: Turns items into payloads.
        framing: Prepares payloads for a transport.
        signals: Whether joins and leaves are encoded (default ``True``).
    """

    __slots__ = ('__weakref__', '_signals', 'codec', 'framing')

    def __init__(
        self, codec: ItemCodec, framing: Framing, *, signals: bool = True
    ) -> None:
        self.codec = codec
        self.framing = framing
        self._signals = signals

    @property
    def carries_binary(self) -> bool:
        """Whether publications that are not JSON can be encoded."""
        return self.codec.carries_binary

    def without_signals(self) -> Encoder:
        """Return the encoder for clients that receive no joins and leaves."""
        return get_encoder(self.codec, self.framing, signals=False)

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
        if not self._signals:
            publications = [item for item in items if isinstance(item, Publication)]
            if len(publications) < len(items):
                if not publications:
                    return None
                items, payloads_by_codec = publications, None
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


def blob_bytes(blob: Any) -> int:
    """Return the size in bytes of a blob of any framing.

    The publications of a subscription of the application count as 0, because they are
    not written.
    """
    if isinstance(blob, bytes):
        return len(blob)
    if isinstance(blob, list):
        return sum(len(getattr(part, 'content', b'')) for part in blob)
    size_bytes: int = blob.size_bytes
    return size_bytes


_encoders: dict[tuple[ItemCodec, Framing, bool], Encoder] = {}


def get_encoder(codec: ItemCodec, framing: Framing, *, signals: bool = True) -> Encoder:
    """Return the shared encoder of this codec and this framing."""
    key = codec, framing, signals
    found = _encoders.get(key)
    if found is None:
        found = _encoders[key] = Encoder(codec, framing, signals=signals)
    return found
