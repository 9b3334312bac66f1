"""Keys and pub/sub names: channel names go into them encoded, and nowhere else.

``PREFIX:{TOKEN}:log`` is the log of the channel that TOKEN encodes. What is in braces
decides the slot of a Cluster, so that all keys of one channel are in one place. What is
no channel's has a tag with ``!``, which no token has.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from base64 import urlsafe_b64encode
import zlib

#: Over how many slots presence is spread.
PARTITIONS = 8


def token(text: str) -> str:
    """Return any text as one word of letters, digits, ``-`` and ``_``."""
    return urlsafe_b64encode(text.encode()).rstrip(b'=').decode()


def untoken(word: bytes) -> str:
    """Return the text that a token encodes."""
    return urlsafe_b64decode(word + b'=' * (-len(word) % 4)).decode()


class Keys:
    """The names of everything.

    Args:
        prefix: What they all begin with.
        database: Number of the database, for pub/sub names: pub/sub has no databases.
    """

    def __init__(self, prefix: str, database: int) -> None:
        self._prefix = prefix
        self._announced = f'{prefix}.{database}' if database else prefix
        self.control = f'{prefix}:{{!control}}:log'
        self.control_name = f'{self._announced}:{{!control}}'.encode()

    def name(self, channel: str) -> bytes:
        """Return the pub/sub name of a channel."""
        return f'{self._announced}:{{{token(channel)}}}'.encode()

    def probe(self, node: str) -> bytes:
        """Return the pub/sub name of the probes of one process."""
        return f'{self._announced}:{{!probe}}:{node}'.encode()

    def log(self, channel: str) -> tuple[str, str]:
        """Return the keys of a log: its hash and its stream."""
        base = f'{self._prefix}:{{{token(channel)}}}'
        return f'{base}:meta', f'{base}:log'

    def idempotency(self, channel: str, key: str) -> str:
        """Return the key of an idempotency key."""
        return f'{self._prefix}:{{{token(channel)}}}:k:{token(key)}'

    def revocation(self, channel: str, user: str) -> str:
        """Return the key of a revocation."""
        return f'{self._prefix}:{{{token(channel)}}}:r:{token(user)}'

    def partition(self, number: int) -> str:
        """Return what the keys of a partition of presence begin with."""
        return f'{self._prefix}:{{!p{number}}}:'

    def partition_of(self, channel: str) -> int:
        """Return the number of a channel's partition."""
        return zlib.crc32(channel.encode()) % PARTITIONS
