"""How often somebody may do something, per process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import math
import time

import falcon


class RateLimit:
    """A bucket of tokens for each person.

    Args:
        per_s: Tokens that come back each second.
        burst: Tokens in a full bucket.
        max_people: How many buckets are remembered; the one unused the longest goes.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        per_s: float,
        burst: int,
        max_people: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._max_people = max_people
        self._clock = clock
        #: Tokens left, and when that was true.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> None:
        """Take one token.

        Raises:
            falcon.HTTPTooManyRequests: None is left; ``Retry-After`` says how long.
        """
        now = self._clock()
        tokens, since = self._buckets.pop(who, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._per_s)
        allowed = tokens >= 1
        self._buckets[who] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._max_people:
            self._buckets.popitem(last=False)
        if not allowed:
            raise falcon.HTTPTooManyRequests(
                description='That was a little fast. Wait a moment.',
                retry_after=math.ceil((1 - tokens) / self._per_s),
            )
