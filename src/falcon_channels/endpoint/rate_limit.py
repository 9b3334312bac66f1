"""Rate limits of commands, by token buckets.

A bucket gains tokens each second up to its size, and gives one token for each command.
Only one figure is stored for a bucket: the time at which it will be full. A full bucket
needs no entry. Memory is therefore used only for users that sent a command recently,
within the time that fills an empty bucket.
"""

from __future__ import annotations

from typing import NamedTuple

#: How many old entries are looked at with each command.
_SWEEP = 2


class Rate(NamedTuple):
    """The rate of a bucket.

    Attributes:
        per_s: Tokens that a bucket gains each second.
        burst: Tokens in a full bucket.
    """

    per_s: float
    burst: int

    def take(self, full_s: float, now_s: float) -> tuple[bool, float]:
        """Take a token from a bucket.

        Args:
            full_s: Time at which the bucket is full; any time in the past for a full
                bucket.
            now_s: Current time in seconds, of a monotonic clock.

        Returns:
            Whether there was a token, and the new time at which the bucket is full.
        """
        full_s = max(now_s, full_s)
        tokens = self.burst - (full_s - now_s) * self.per_s
        # NOTE: rounding can make a whole token slightly smaller than 1.
        if tokens < 1 - 1e-9:
            return False, full_s
        return True, full_s + 1 / self.per_s


class RateLimiter:
    """A bucket for each key, such as a user over all connections to this process.

    Args:
        per_s: Tokens that a bucket gains each second.
        burst: Tokens in a full bucket.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._rate = Rate(per_s, burst)
        #: Times at which the buckets are full; the bucket used last is last.
        self._full_s: dict[str, float] = {}

    def __len__(self) -> int:
        """Return the number of stored buckets."""
        return len(self._full_s)

    def take(self, key: str, now_s: float, burst: int | None = None) -> bool:
        """Take a token from the bucket of a key; return whether there was one.

        Args:
            key: For example the id of a user.
            now_s: Current time in seconds, of a monotonic clock.
            burst: Size of this bucket now (default ``None``: that of all buckets).
        """
        rate = self._rate if burst is None else self._rate._replace(burst=burst)
        taken, full_s = rate.take(self._full_s.pop(key, now_s), now_s)
        self._full_s[key] = full_s
        self._forget_full(now_s)
        return taken

    def _forget_full(self, now_s: float) -> None:
        for _ in range(_SWEEP):
            oldest = next(iter(self._full_s))
            if self._full_s[oldest] > now_s:
                return
            del self._full_s[oldest]
