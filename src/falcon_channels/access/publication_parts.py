"""Encodes and checks the parts of a publication: payload, labels, version and end."""

from __future__ import annotations

from typing import Any
from typing import TypeGuard

from falcon_channels.brokers.base import MAX_VERSION
from falcon_channels.brokers.base import Version
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.options import ChannelOptions
from falcon_channels.protocol.codes import MAX_REASON_BYTES
from falcon_channels.protocol.json_codec import is_json
from falcon_channels.protocol.json_values import encode_json
from falcon_channels.protocol.json_values import NOT_JSON
from falcon_channels.publication import ChannelEnd
from falcon_channels.routing import ChannelRoute

#: Types of payloads that are not encoded.
_BINARY = (bytes, bytearray, memoryview)


def encode_payload(data: Any) -> tuple[bytes, bool]:
    """Encode a value of the application; return the payload and whether it is binary.

    Raises:
        PayloadError: The value cannot be written as JSON.
    """
    if isinstance(data, _BINARY):
        return bytes(data), True
    return _encode_value(data), False


def encode_publication(
    options: ChannelOptions, channel: str, data: Any
) -> tuple[bytes, bool]:
    """Encode data for a channel; return the payload and whether it is binary.

    Bytes that are JSON text are a JSON payload, unless the channel carries binary.

    Raises:
        PayloadError: The channel cannot carry the data.
    """
    # PERF: only bytes are checked. Other values are JSON when they are written.
    if not isinstance(data, _BINARY):
        return _encode_value(data), False
    payload = bytes(data)
    if options.binary:
        return payload, True
    if not is_json(payload):
        raise PayloadError(
            f'channel {channel!r} carries JSON, and these {len(payload)} bytes are not '
            'JSON: publish a JSON value, or add the route with '
            'ChannelOptions(binary=True)'
        )
    return payload, False


def _encode_value(value: Any) -> bytes:
    try:
        return encode_json(value)
    except NOT_JSON as ex:
        raise PayloadError(f'data cannot be written as JSON: {ex}') from None


def check_labels(tags: object, idempotency_key: object) -> None:
    """Check the tags and the idempotency key of a publication.

    Raises:
        PayloadError: A tag is not text, or the key does not have 1 to 255 bytes.
    """
    if tags is not None and not (
        isinstance(tags, dict)
        and all(_is_text(item) for pair in tags.items() for item in pair)
    ):
        raise PayloadError('tags must be a dict of text by text')
    if idempotency_key is not None and not (
        _is_text(idempotency_key) and 0 < len(idempotency_key.encode()) < 256
    ):
        raise PayloadError('an idempotency key must have 1 to 255 bytes of UTF-8')


def make_version(number: Any, epoch: Any, skip_history: bool) -> Version | None:
    """Return the version of a publication; ``None`` if `number` is ``None``.

    Raises:
        PayloadError: The number is not an integer in the range, the epoch is not text
            of at most 255 bytes, or there is an epoch without a number.
        CapabilityError: The publication skips the log.
    """
    # PERF: nearly all publications have neither (benchmarks/centrifugo.py).
    if number is None and epoch == '':
        return None
    if not _is_text(epoch) or len(epoch.encode()) > 255:
        raise PayloadError('version_epoch must be text of at most 255 bytes of UTF-8')
    if number is None:
        raise PayloadError('version_epoch needs a version beside it')
    is_integer = isinstance(number, int) and not isinstance(number, bool)
    if not is_integer or not 0 <= number <= MAX_VERSION:
        raise PayloadError(
            f'version is {number!r:.40}, and must be an integer from 0 to {MAX_VERSION}'
        )
    if skip_history:
        raise CapabilityError('a version needs the log: leave out skip_history')
    return Version(int(number), epoch)


def make_end(error: Any) -> ChannelEnd:
    """Return the end of a channel, with the error that readers get.

    Raises:
        PayloadError: The error is not text that a close frame can carry.
    """
    if not _is_text(error) or len(error.encode()) > MAX_REASON_BYTES:
        raise PayloadError(
            f'error must be text of at most {MAX_REASON_BYTES} bytes of UTF-8: '
            f'{error!r:.40}'
        )
    return ChannelEnd(error)


def check_log(route: ChannelRoute, feature: str) -> None:
    """Check that a route has a log, which a feature needs.

    Raises:
        CapabilityError: The route has no history.
    """
    if not route.options.history_size:
        raise CapabilityError(
            f'{feature} needs a log, and the route {route.template!r} has none: '
            'add it with ChannelOptions(history_size=...)'
        )


def check_size(
    route: ChannelRoute, payload: bytes, tags: dict[str, str] | None = None
) -> None:
    """Check the size of a payload together with its tags.

    Raises:
        PublicationTooLargeError: It exceeds `ChannelOptions.max_publication_bytes`.
    """
    limit_bytes = route.options.max_publication_bytes
    size_bytes = len(payload)
    if tags:
        size_bytes += sum(len(item.encode()) for pair in tags.items() for item in pair)
    if size_bytes > limit_bytes:
        raise PublicationTooLargeError(size_bytes, limit_bytes)


def _is_text(value: Any) -> TypeGuard[str]:
    """Return whether a value is text that UTF-8 can encode."""
    if not isinstance(value, str):
        return False
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True
