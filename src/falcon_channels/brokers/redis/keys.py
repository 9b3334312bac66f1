"""The names of keys and pub/sub channels.

A channel name goes into them only as a token, which encodes it. ``PREFIX:{TOKEN}:log``
is the log of a channel. The text in braces decides the slot of a Cluster. All keys of
one channel are therefore on one server.

A key that belongs to no channel has ``!`` in its braces, which no token contains.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from base64 import urlsafe_b64encode
from functools import lru_cache
import zlib

#: Number of slots over which presence is spread.
PARTITIONS = 8

#: Number of channels whose names are remembered, with half a kilobyte for each.
_CACHED = 4096


def token(text: str) -> str:
    """Encode any text with letters, digits, ``-`` and ``_`` only."""
    return urlsafe_b64encode(text.encode()).rstrip(b'=').decode()


def untoken(encoded: bytes) -> str:
    """Decode a token."""
    return urlsafe_b64decode(encoded + b'=' * (-len(encoded) % 4)).decode()


class Keys:
    """The names of all keys and pub/sub channels of one broker.

    Args:
        prefix: Prefix of all names.
        database: Number of the database. It is part of the pub/sub names, because
            pub/sub does not separate databases.

    Attributes:
        control: Key of the stream of control messages.
        control_name: Pub/sub name of control messages.
    """

    def __init__(self, prefix: str, database: int) -> None:
        self._prefix = prefix
        self._announced = f'{prefix}.{database}' if database else prefix
        # PERF: names of channels that are used again take 0.1 us instead of 2 us
        #   (benchmarks/redis_publish.py).
        self._of_channel = lru_cache(_CACHED)(self._encode_channel)
        self.control = f'{prefix}:{{!control}}:log'
        self.control_name = f'{self._announced}:{{!control}}'.encode()

    def name(self, channel: str) -> bytes:
        """Return the pub/sub name of a channel."""
        return self._of_channel(channel)[0]

    def probe(self, node: str) -> bytes:
        """Return the pub/sub name of the probes of one process.

        Args:
            node: A random text that identifies the process.
        """
        return f'{self._announced}:{{!probe}}:{node}'.encode()

    def log(self, channel: str) -> tuple[str, str]:
        """Return the keys of a log: the hash with its position, and its stream."""
        return self._of_channel(channel)[1]

    def idempotency(self, channel: str, key: str) -> str:
        """Return the key that stores an idempotency key."""
        return f'{self._prefix}:{{{token(channel)}}}:k:{token(key)}'

    def revocation(self, channel: str, user: str) -> str:
        """Return the key that stores a revocation."""
        return f'{self._prefix}:{{{token(channel)}}}:r:{token(user)}'

    def _encode_channel(self, channel: str) -> tuple[bytes, tuple[str, str]]:
        """Return the pub/sub name and the keys of the log of a channel."""
        encoded = token(channel)
        base = f'{self._prefix}:{{{encoded}}}'
        name = f'{self._announced}:{{{encoded}}}'.encode()
        return name, (f'{base}:meta', f'{base}:log')

    def partition(self, number: int) -> str:
        """Return the prefix of the keys of a presence partition."""
        return f'{self._prefix}:{{!p{number}}}:'

    def partition_of(self, channel: str) -> int:
        """Return the number of the presence partition of a channel."""
        return zlib.crc32(channel.encode()) % PARTITIONS
