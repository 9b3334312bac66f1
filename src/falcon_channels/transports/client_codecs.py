"""Codecs of the client protocol, in the form that the fan-out needs."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

from falcon_channels.errors import PayloadError
from falcon_channels.errors import ProtocolError
from falcon_channels.protocol.codec import Codec as ProtocolCodec
from falcon_channels.protocol.codec import json_codec
from falcon_channels.protocol.codec import protobuf_codec
from falcon_channels.protocol.messages import JoinPush
from falcon_channels.protocol.messages import LeavePush
from falcon_channels.protocol.messages import Push
from falcon_channels.publication import Publication
from falcon_channels.transports.encoders import Item


class ClientCodec:
    """One encoding of the client protocol.

    All items of one event-loop iteration become one message.

    Args:
        protocol: Encoding of single pushes.
        unidirectional: Whether pushes have no envelope, as unidirectional clients
            expect them (default ``False``).
    """

    def __init__(
        self, protocol: ProtocolCodec, *, unidirectional: bool = False
    ) -> None:
        self.protocol = protocol
        self.binary = self.carries_binary = protocol.BINARY
        self.encode_push: Callable[[str, Push], bytes] = (
            protocol.encode_unidirectional_push
            if unidirectional
            else protocol.encode_push
        )
        self.encode_publication: Callable[[str, Publication], bytes] = (
            protocol.encode_unidirectional_publication
            if unidirectional
            else protocol.encode_publication
        )

    def encode_items(
        self, channel: str, items: Sequence[Item], epoch: str
    ) -> list[bytes]:
        """Return one message with a push for each item."""
        if not items:
            return []
        try:
            pushes = [self._encode(channel, item) for item in items]
        except ProtocolError as ex:
            raise PayloadError(str(ex)) from ex
        return [pushes[0] if len(pushes) == 1 else self.protocol.join(pushes)]

    def _encode(self, channel: str, item: Item) -> bytes:
        if isinstance(item, Publication):
            return self.encode_publication(channel, item)
        push = JoinPush if item.kind == 'join' else LeavePush
        return self.encode_push(channel, push(info=item.info))


JSON = ClientCodec(json_codec)
UNIDIRECTIONAL_JSON = ClientCodec(json_codec, unidirectional=True)

_protobuf: dict[bool, ClientCodec] = {}


def protobuf(*, unidirectional: bool = False) -> ClientCodec:
    """Return the codec for Protobuf.

    Raises:
        ExtraMissingError: google.protobuf is not installed.
    """
    found = _protobuf.get(unidirectional)
    if found is None:
        found = _protobuf[unidirectional] = ClientCodec(
            protobuf_codec(), unidirectional=unidirectional
        )
    return found
