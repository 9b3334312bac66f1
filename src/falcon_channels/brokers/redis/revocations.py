"""Remembers the revocations of this process, in case the server loses its data."""

from __future__ import annotations

#: Maximum number of revocations that one process remembers.
MAX_REMEMBERED = 10_000


class RememberedRevocations:
    """The newest revocations of this process that have not expired."""

    def __init__(self) -> None:
        #: End of each revocation by channel and user, the newest last.
        self._until_s: dict[tuple[str, str], float] = {}

    def add(self, channel: str, user: str, until_s: float) -> None:
        """Remember a revocation; forget the oldest one if there are too many.

        Args:
            channel: Name of the channel.
            user: Id of the user.
            until_s: End of the revocation, on a monotonic clock.
        """
        self.remove(channel, user)
        self._until_s[channel, user] = until_s
        if len(self._until_s) > MAX_REMEMBERED:
            del self._until_s[next(iter(self._until_s))]

    def remove(self, channel: str, user: str) -> None:
        """Forget a revocation."""
        self._until_s.pop((channel, user), None)

    def left(self, now_s: float) -> list[tuple[str, str, float]]:
        """Return channel, user and remaining seconds of each; forget expired ones.

        Args:
            now_s: Current time of the monotonic clock, in seconds.
        """
        self._until_s = {
            key: until_s for key, until_s in self._until_s.items() if until_s > now_s
        }
        return [(*key, until_s - now_s) for key, until_s in self._until_s.items()]
