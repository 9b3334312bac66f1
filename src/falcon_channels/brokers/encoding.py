"""Publications and infos as brokers store and send them: MessagePack."""

from __future__ import annotations

import msgspec

from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication


class _Stored(msgspec.Struct, array_like=True, omit_defaults=True):
    """A publication without its offset, which has a place of its own."""

    data: bytes
    time_ms: int = 0
    binary: bool = False
    tags: dict[str, str] | None = None
    info: ClientInfo | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_stored = msgspec.msgpack.Decoder(_Stored).decode
_decode_info = msgspec.msgpack.Decoder(ClientInfo).decode


def encode_publication(publication: Publication, time_ms: int = 0) -> bytes:
    """Return a publication as bytes, without its offset.

    Args:
        publication: It.
        time_ms: Its time where it has none.
    """
    return _encode(
        _Stored(
            publication.data,
            publication.time_ms or time_ms,
            publication.binary,
            publication.tags,
            publication.info,
        )
    )


def decode_publication(body: bytes, offset: int, time_ms: int = 0) -> Publication:
    """Return a publication from its bytes.

    Args:
        body: As of `encode_publication`.
        offset: Its offset.
        time_ms: Its time where the bytes have none.

    Raises:
        msgspec.DecodeError: These are no such bytes.
    """
    stored = _decode_stored(body)
    return Publication(
        data=stored.data,
        offset=offset,
        binary=stored.binary,
        time_ms=stored.time_ms or time_ms,
        tags=stored.tags,
        info=stored.info,
    )


def encode_info(info: ClientInfo) -> bytes:
    """Return who a connection is as bytes."""
    return _encode(info)


def decode_info(body: bytes) -> ClientInfo:
    """Return who a connection is from its bytes.

    Raises:
        msgspec.DecodeError: These are no such bytes.
    """
    return _decode_info(body)
