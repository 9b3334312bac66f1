"""The limit of the number of tails in a process.

There are two kinds of tails, because their readers need different things:

* `ResumableTails` of the server API serve programs. A reader that returns continues
  after its last position. Heartbeats show that the link works.
* `LiveTails` of the inspector serve people. They begin with the next publication, cut
  long payloads, and end with the session.
"""

from __future__ import annotations


class TailPlaces:
    """The places for one kind of tail in this process.

    A tail takes a place before it awaits anything. Tails that are opened at the same
    time therefore do not exceed the limit.

    Args:
        limit: Number of places.

    Attributes:
        limit: Number of places.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._num_taken = 0

    @property
    def is_full(self) -> bool:
        """Whether all places are taken."""
        return self._num_taken >= self.limit

    def take(self) -> None:
        """Take a place. The caller has checked `is_full`, and calls `release` later."""
        self._num_taken += 1

    def release(self) -> None:
        """Undo one `take`."""
        self._num_taken -= 1
