"""Snapshots of PostgreSQL: which transactions a query has seen."""

from __future__ import annotations

from typing import NamedTuple


class Snapshot(NamedTuple):
    """The transactions that a query has seen.

    Attributes:
        next_xid: The first id that no transaction had yet.
        running: Ids of the transactions that had not ended.
    """

    next_xid: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Decode the text of a ``pg_snapshot``, such as ``10:20:10,14``."""
        _, next_xid, running = text.split(':')
        return cls(int(next_xid), frozenset(map(int, filter(None, running.split(',')))))

    def sees(self, xid: int) -> bool:
        """Return whether a transaction that was committed is visible."""
        return xid < self.next_xid and xid not in self.running
