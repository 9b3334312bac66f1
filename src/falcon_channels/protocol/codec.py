"""The two encodings behind one interface.

`json_codec` and `protobuf_codec` are modules with the same functions; `Codec` is what
they have in common. Take them from here:

* `json_codec`, always there;
* `protobuf_codec()`, which imports google.protobuf when it is first called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from falcon_channels.errors import ExtraMissingError
from falcon_channels.protocol import json_codec
from falcon_channels.protocol.codes import ReplyError
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import EmulationRequest
from falcon_channels.protocol.messages import Push
from falcon_channels.protocol.messages import Result
from falcon_channels.publication import Publication

__all__ = ['Codec', 'json_codec', 'protobuf_codec']


class Codec(Protocol):
    """One encoding of the client protocol; see `json_codec` for each function."""

    @property
    def BINARY(self) -> bool:
        """Whether frames are binary messages."""

    @property
    def PING(self) -> bytes:
        """A server's ping, and a client's pong."""

    def decode_commands(self, frame: str | bytes) -> list[Command]:
        """Return the commands of one frame; raise nothing but `ProtocolError`."""

    def decode_connect(self, body: str | bytes) -> ConnectRequest:
        """Return the request that opens a unidirectional connection."""

    def decode_emulation(self, body: bytes) -> EmulationRequest:
        """Return commands that came on another request than the replies leave on."""

    def join(self, messages: Sequence[bytes]) -> bytes:
        """Return one frame that carries the messages in order."""

    def encode_reply(self, command_id: int, result: Result) -> bytes:
        """Return the answer to a command."""

    def encode_part(self, publication: Publication) -> bytes:
        """Return a publication for the `Parts` of a result."""

    def encode_error(self, command_id: int, error: ReplyError) -> bytes:
        """Return the refusal of a command."""

    def encode_push(self, channel: str, push: Push) -> bytes:
        """Return a push about a channel, or about the connection for ``''``."""

    def encode_bare_push(self, channel: str, push: Push) -> bytes:
        """Return a push as unidirectional transports send it."""

    def encode_publication(self, channel: str, publication: Publication) -> bytes:
        """Return the push of a publication."""

    def encode_bare_publication(self, channel: str, publication: Publication) -> bytes:
        """Return a publication as unidirectional transports send it."""


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
