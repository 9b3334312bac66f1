"""Limit the rate of requests of a person and of an address, in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import ipaddress
import math
import time

import falcon
import falcon.asgi


class RateLimit:
    """A token bucket for each person, or for each address.

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


class RequestLimit:
    """A limit for each person, and a higher limit for all people of one address.

    SECURITY: an attacker can create any number of sessions. The limit of an address
    applies to all its sessions together.

    Args:
        per_s: Requests of one person per second.
        burst: Requests of one person at once.
        people_per_address: Factor: an address may send this many times as much as one
            person.
    """

    def __init__(self, per_s: float, burst: int, people_per_address: int) -> None:
        self._people = RateLimit(per_s, burst)
        self._addresses = RateLimit(
            per_s * people_per_address, burst * people_per_address
        )

    def take(self, req: falcon.asgi.Request) -> None:
        """Count a request of a member.

        Raises:
            falcon.HTTPTooManyRequests: The person or the address exceeds its limit.
        """
        self._people.take(req.context.member.id)
        self.take_address(req)

    def take_address(self, req: falcon.asgi.Request) -> None:
        """Count a request of an address only, such as one for a new session.

        Raises:
            falcon.HTTPTooManyRequests: The address exceeds its limit.
        """
        address = client_address(req)
        if address is not None:
            self._addresses.take(address)


def client_address(req: falcon.asgi.Request) -> str | None:
    """Return the address of a client; an IPv6 network of 64 bits counts as one.

    SECURITY: a client can send a header with an invented address. This function
    therefore reads no headers. The server reads them if they come from proxies that the
    operator trusts (``--forwarded-allow-ips``).

    Returns:
        ``None`` if the server does not know the address, for example on a UNIX socket.
    """
    # NOTE: in ASGI, the client is an iterable of host and port.
    host = next(iter(req.scope.get('client') or ()), '')
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)
