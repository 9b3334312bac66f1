"""Encodes publications and client infos for stores and servers, as MessagePack.

A publication is an array ``[data, time_ms, binary, tags, info, end, whole, trace]``.
``trace`` is left out if there is none. A reader ignores values after the ones that it
knows, so that processes with an older version can read the array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Final

import msgspec

from falcon_channels.parts import in_parts
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication

#: Length of a W3C ``traceparent`` of version 00.
TRACE_LENGTH: Final = 55


class _Stored(msgspec.Struct, array_like=True):
    """A publication without its offset, which the stores keep separately."""

    data: bytes
    time_ms: int = 0
    binary: bool = False
    tags: dict[str, str] | None = None
    info: ClientInfo | None = None
    end: ChannelEnd | None = None
    whole: bool = False
    #: Any value: a malformed one must not make the publication unreadable.
    trace: Any = ''


_encode = msgspec.msgpack.Encoder().encode
_decode_stored = msgspec.msgpack.Decoder(_Stored).decode
_decode_info = msgspec.msgpack.Decoder(ClientInfo).decode


def encode_publication(publication: Publication, time_ms: int = 0) -> bytes:
    """Encode a publication without its offset.

    Args:
        publication: The publication.
        time_ms: Unix time in milliseconds, for a publication without a time.
    """
    values = (
        publication.data,
        publication.time_ms or time_ms,
        publication.binary,
        publication.tags,
        publication.info,
        publication.end,
        not publication.delta,
    )
    if publication.trace:
        return _encode((*values, publication.trace))
    return _encode(values)


def decode_publication(body: bytes, offset: int, time_ms: int = 0) -> Publication:
    """Decode a publication.

    Args:
        body: The result of `encode_publication`.
        offset: Offset of the publication.
        time_ms: Unix time in milliseconds, if `body` contains no time.

    Raises:
        msgspec.DecodeError: `body` is not the result of `encode_publication`.
    """
    stored = _decode_stored(body)
    return Publication(
        data=stored.data,
        offset=offset,
        binary=stored.binary,
        time_ms=stored.time_ms or time_ms,
        tags=stored.tags,
        info=stored.info,
        end=stored.end,
        delta=not stored.whole,
        trace=_trace(stored.trace) if stored.trace else '',
    )


def _trace(value: object) -> str:
    """Return a trace context, or ``''`` for a value that cannot be one."""
    is_context = isinstance(value, str) and len(value) == TRACE_LENGTH
    return str(value) if is_context else ''


def encode_info(info: ClientInfo) -> bytes:
    """Encode the public facts about a connection."""
    return _encode(info)


def decode_info(body: bytes) -> ClientInfo:
    """Decode the public facts about a connection.

    Raises:
        msgspec.DecodeError: `body` is not the result of `encode_info`.
    """
    return _decode_info(body)


async def decode_presence(
    entries: Sequence[tuple[bytes, bytes]],
) -> dict[str, ClientInfo]:
    """Decode the ids of connections and the public facts about them, in parts.

    Raises:
        msgspec.DecodeError: An entry is not the result of `encode_info`.
    """
    found: dict[str, ClientInfo] = {}
    async for part in in_parts(entries):
        for client, info in part:
            found[client.decode()] = decode_info(info)
    return found
