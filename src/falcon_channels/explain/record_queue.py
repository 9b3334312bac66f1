"""Holds all records of a node in one queue, and forgets the oldest ones.

* All records share one limit in approximate bytes, measured on CPython 3.12.
* Above the limit, the oldest records are forgotten. The queue remembers up to which
  time records are missing, so that no answer relies on a record that is not there.
* A record can be forgotten while it is being kept, if the limit is small.
* Connections and channels are counted, but have no place in the queue: they end with
  their last record.
"""

from __future__ import annotations

import abc
from collections import deque


class Record(abc.ABC):
    """A record in the queue.

    Args:
        size_bytes: Approximate size of the record.

    Attributes:
        size_bytes: Approximate size of the record, 0 after it was forgotten. Only
            `RecordQueue` changes it.
    """

    __slots__ = ('size_bytes',)

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    @abc.abstractmethod
    def forget(self) -> float:
        """Remove the record; return the Unix time up to which it is missing."""


class RecordQueue:
    """The records of a node, the oldest first.

    Args:
        max_bytes: Largest size of all records, in approximate bytes.

    Attributes:
        forgotten_until: Unix time in seconds up to which records were forgotten, or
            ``None``.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._records: deque[Record] = deque()
        self._size_bytes = 0
        self.forgotten_until: float | None = None

    def keep(self, record: Record) -> None:
        """Keep a new record, and forget the oldest ones above the limit."""
        self._records.append(record)
        self._size_bytes += record.size_bytes
        self._forget_oldest()

    def grow(self, record: Record, size_bytes: int) -> None:
        """Count more bytes of a record, and forget the oldest ones above the limit.

        A record that was forgotten, perhaps while it was added, does not grow.
        """
        if not record.size_bytes:
            return
        record.size_bytes += size_bytes
        self._size_bytes += size_bytes
        if self._size_bytes > self._max_bytes:
            self._forget_oldest()

    def count(self, size_bytes: int) -> None:
        """Count bytes of a connection or channel; negative when it ends."""
        self._size_bytes += size_bytes

    def note_forgotten(self, until: float) -> None:
        """Remember up to which Unix time records are missing."""
        if until > (self.forgotten_until or 0.0):
            self.forgotten_until = until

    def _forget_oldest(self) -> None:
        while self._size_bytes > self._max_bytes and self._records:
            oldest = self._records.popleft()
            self._size_bytes -= oldest.size_bytes
            oldest.size_bytes = 0
            self.note_forgotten(oldest.forget())
