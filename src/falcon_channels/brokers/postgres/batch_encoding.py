"""Encodes publications as the arguments of the SQL function ``publish_batch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import Version
from falcon_channels.brokers.milliseconds import to_ms
from falcon_channels.publication import ChannelEnd


class QueuedPublication(NamedTuple):
    """A publication that waits for its transaction.

    Attributes:
        body: The encoded publication.
        key: The encoded idempotency key, or ``None``.
        settings: How long the publication is stored.
        version: The version of the publication, or ``None``.
        end: The end of the channel, or ``None``.
        skip_history: Whether it is not stored in the log of the channel.
    """

    body: bytes
    key: bytes | None
    settings: LogSettings
    version: Version | None = None
    end: ChannelEnd | None = None
    skip_history: bool = False

    @property
    def special(self) -> bool:
        """Whether it has a key, a version or an end."""
        return any(part is not None for part in (self.key, self.version, self.end))

    @property
    def size(self) -> int:
        """Size of the log; 0 for no log, and -1 if the publication skips the log."""
        return -1 if self.skip_history and self.settings.size else self.settings.size

    def fits(self, other: QueuedPublication) -> bool:
        """Return whether two publications to a channel can be in one batch."""
        return (
            self.settings == other.settings and self.skip_history == other.skip_history
        )


class Batch(NamedTuple):
    """Publications to one channel that fit into one batch.

    Attributes:
        channel: Name of the channel.
        publications: The publications in their order.
    """

    channel: str
    publications: list[QueuedPublication]


def encode_batches(batches: Sequence[Batch]) -> tuple[list[int], bytes]:
    """Encode batches of different channels.

    Args:
        batches: The batches, sorted by channel.

    Returns:
        The arguments ``p_numbers`` and ``p_bytes``.
    """
    numbers: list[int] = []
    parts: list[bytes] = []
    for channel, publications in batches:
        name = channel.encode()
        settings = publications[0].settings
        special = any(publication.special for publication in publications)
        parts.append(name)
        numbers += (
            len(name),
            len(publications),
            int(special),
            publications[0].size,
            to_ms(settings.ttl_s) or -1,
            to_ms(settings.meta_ttl_s) or -1,
            to_ms(settings.idempotency_ttl_s),
        )
        for body, key, _, version, end, _ in publications:
            parts.append(body)
            numbers.append(len(body))
            if special:
                epoch = b'' if version is None else version.epoch.encode()
                error = b'' if end is None else end.error.encode()
                parts += (key or b'', epoch, error)
                numbers += (
                    -1 if key is None else len(key),
                    -1 if version is None else version.number,
                    len(epoch),
                    -1 if end is None else len(error),
                )
    return numbers, b''.join(parts)
