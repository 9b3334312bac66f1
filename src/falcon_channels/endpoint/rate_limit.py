"""How fast users may send commands, over all their connections to this process.

A bucket holds tokens, gains some each second up to its size, and gives one for each
command. A full bucket says nothing, so that it is forgotten: what is kept is bounded by
how many users sent a command in the time that fills an empty one.
"""

from __future__ import annotations

_SWEEP = 2


class RateLimiter:
    """A bucket for each user.

    Args:
        per_s: Tokens gained each second.
        burst: Tokens in a full bucket.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        #: When each bucket will be full, in seconds; who sent last stands last.
        self._full_s: dict[str, float] = {}

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._full_s)

    def take(self, user: str, now_s: float) -> bool:
        """Take a token; return whether there was one.

        Args:
            user: Whose.
            now_s: Seconds of a clock that only grows.
        """
        full_s = max(now_s, self._full_s.pop(user, now_s))
        left = self._burst - (full_s - now_s) * self._per_s
        # NOTE: sums of floats may miss a whole token by a little.
        taken = left >= 1 - 1e-9
        self._full_s[user] = full_s + 1 / self._per_s if taken else full_s
        self._forget(now_s)
        return taken

    def _forget(self, now_s: float) -> None:
        """Forget a few of those who sent nothing for the longest time, if they may."""
        for _ in range(_SWEEP):
            oldest = next(iter(self._full_s))
            if self._full_s[oldest] > now_s:
                return
            del self._full_s[oldest]
