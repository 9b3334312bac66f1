"""The client protocol's encodings as codecs of the fan-out."""

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
    """One encoding of the client protocol: what a turn brings is one message.

    Args:
        protocol: The encoding.
        bare: Whether pushes go without an envelope, as to unidirectional clients.
    """

    def __init__(self, protocol: ProtocolCodec, *, bare: bool = False) -> None:
        self.protocol = protocol
        self.binary = protocol.BINARY
        self.encode_push: Callable[[str, Push], bytes] = (
            protocol.encode_bare_push if bare else protocol.encode_push
        )
        self.encode_publication: Callable[[str, Publication], bytes] = (
            protocol.encode_bare_publication if bare else protocol.encode_publication
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
BARE_JSON = ClientCodec(json_codec, bare=True)

_protobuf: dict[bool, ClientCodec] = {}


def protobuf(*, bare: bool = False) -> ClientCodec:
    """Return the Protobuf encoding.

    Raises:
        ExtraMissingError: google.protobuf is not installed.
    """
    found = _protobuf.get(bare)
    if found is None:
        found = _protobuf[bare] = ClientCodec(protobuf_codec(), bare=bare)
    return found
