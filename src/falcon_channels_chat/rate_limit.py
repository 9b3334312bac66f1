"""Limit how often a person may do something, in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import math
import time

import falcon


class RateLimit:
    """A token bucket for each person.

    Args:
        per_s: Tokens added to a bucket each second.
        burst: Maximum number of tokens in a bucket.
        max_people: Maximum number of buckets. Beyond it, the least recently used
            bucket is removed.
        clock: Monotonic clock that returns seconds.
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
        #: For each person: the number of tokens, and the time of that number.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, person: str) -> None:
        """Take one token.

        Args:
            person: Id of the person whose token is taken.

        Raises:
            falcon.HTTPTooManyRequests: The bucket is empty. ``Retry-After`` holds the
                seconds until there is a token.
        """
        now = self._clock()
        tokens, since = self._buckets.pop(person, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._per_s)
        allowed = tokens >= 1
        self._buckets[person] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._max_people:
            self._buckets.popitem(last=False)
        if not allowed:
            raise falcon.HTTPTooManyRequests(
                description='Too many requests. Wait a moment.',
                retry_after=math.ceil((1 - tokens) / self._per_s),
            )
