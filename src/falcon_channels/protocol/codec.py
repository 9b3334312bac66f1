"""The two encodings of the client protocol behind one interface.

`json_codec` and `protobuf_codec` are modules with the same functions; `Codec` is their
common interface. Import them from here:

* `json_codec`, which is always available;
* `protobuf_codec()`, which imports google.protobuf at the first call.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Protocol

from falcon_channels.errors import ExtraMissingError
from falcon_channels.protocol import json_codec
from falcon_channels.protocol.codes import ReplyError
from falcon_channels.protocol.frame_limits import FrameLimits
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import EmulationRequest
from falcon_channels.protocol.messages import Push
from falcon_channels.protocol.messages import Result
from falcon_channels.publication import Publication

__all__ = ['Codec', 'json_codec', 'protobuf_codec']


class Codec(Protocol):
    """One encoding of the client protocol; `json_codec` documents each function."""

    @property
    def BINARY(self) -> bool:
        """Whether frames are binary messages."""

    @property
    def PING(self) -> bytes:
        """Bytes of a server's ping and of a client's pong."""

    def decode_commands(
        self, frame: str | bytes, limits: FrameLimits | None = None
    ) -> Iterator[Command]:
        """Yield the commands of one frame; raise only `ProtocolError`."""

    def decode_connect(self, body: str | bytes) -> ConnectRequest:
        """Return the request that opens a unidirectional connection."""

    def decode_emulation(self, body: bytes) -> EmulationRequest:
        """Return commands of a client whose replies travel on another HTTP response."""

    def join(self, messages: Sequence[bytes]) -> bytes:
        """Return one frame with the messages in order."""

    def encode_reply(self, command_id: int, result: Result) -> bytes:
        """Return the reply to a command."""

    def encode_result_publication(self, publication: Publication) -> bytes:
        """Return a publication as an item of `EncodedPublications`."""

    def encode_error(self, command_id: int, error: ReplyError) -> bytes:
        """Return the error reply to a command."""

    def encode_push(self, channel: str, push: Push) -> bytes:
        """Return a push about a channel, or about the connection if it is ``''``."""

    def encode_unidirectional_push(self, channel: str, push: Push) -> bytes:
        """Return a push without an envelope, for unidirectional transports."""

    def encode_publication(self, channel: str, publication: Publication) -> bytes:
        """Return the push of a publication."""

    def encode_unidirectional_publication(
        self, channel: str, publication: Publication
    ) -> bytes:
        """Return a publication without an envelope, for unidirectional transports."""


def protobuf_codec() -> Codec:
    """Return the Protobuf codec.

    Raises:
        ExtraMissingError: google.protobuf is not installed.
    """
    try:
        from falcon_channels.protocol import protobuf_codec as codec
    except ImportError as ex:
        raise ExtraMissingError('The Protobuf encoding', 'protobuf') from ex
    return codec
