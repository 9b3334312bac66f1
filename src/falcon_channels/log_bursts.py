"""Finds the first of many similar log lines, so that a failure is logged once."""

from __future__ import annotations


class LogBursts:
    """Divides events into bursts.

    Args:
        quiet_s: Seconds without an event after which a burst has ended.
    """

    def __init__(self, quiet_s: float = 30.0) -> None:
        self._quiet_s = quiet_s
        self._last_s: float | None = None

    def begins(self, now_s: float) -> bool:
        """Return whether an event at this time begins a new burst.

        Args:
            now_s: Current time in seconds, of a monotonic clock.
        """
        last_s, self._last_s = self._last_s, now_s
        return last_s is None or now_s - last_s > self._quiet_s
