"""Decides when the logs of subscribed channels are renewed."""

from __future__ import annotations

import heapq
import time

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.sqlite.transaction import EMPTY_MS

#: Seconds after which a log that never had a publication is removed.
_EMPTY_S = EMPTY_MS / 1000

#: Largest number of items in the heap that are not needed, besides one per channel.
_MAX_STALE = 100


class Renewals:
    """The subscribed channels, and when the log of each is renewed next.

    A log is renewed three times in its `LogSettings.meta_ttl_s`, and three times a day,
    because a log without a publication is removed after a day.
    """

    def __init__(self) -> None:
        self._channels: dict[str, tuple[float, LogSettings]] = {}
        #: A heap of (time, channel). An item whose time is not that of its channel is
        #: stale.
        self._heap: list[tuple[float, str]] = []

    def add(
        self, channel: str, settings: LogSettings, *, at_once: bool = False
    ) -> None:
        """Renew the log of a channel from now on, for the first time now or later."""
        life_s = _EMPTY_S
        if settings.meta_ttl_s is not None:
            life_s = min(life_s, settings.meta_ttl_s)
        when_s = time.monotonic() + (0.0 if at_once else life_s / 3)
        self._channels[channel] = when_s, settings
        heapq.heappush(self._heap, (when_s, channel))
        self._drop_stale()

    def discard(self, channel: str) -> None:
        """Renew the log of a channel no more."""
        if self._channels.pop(channel, None) is not None:
            self._drop_stale()

    def take_due(self, limit: int) -> list[tuple[str, LogSettings]]:
        """Return at most `limit` logs to renew now, and plan their next renewals."""
        now_s = time.monotonic()
        due: list[tuple[str, LogSettings]] = []
        while self._heap and self._heap[0][0] <= now_s and len(due) < limit:
            when_s, channel = heapq.heappop(self._heap)
            found = self._channels.get(channel)
            if found is not None and found[0] == when_s:
                due.append((channel, found[1]))
        for channel, settings in due:
            self.add(channel, settings)
        return due

    @property
    def size(self) -> int:
        """Number of items in memory."""
        return len(self._heap)

    def _drop_stale(self) -> None:
        # NOTE: a client can subscribe and unsubscribe again and again, and a log can be
        #   due in ten days. Without this, the heap would grow for as long.
        if len(self._heap) > 2 * len(self._channels) + _MAX_STALE:
            self._heap = [(when, name) for name, (when, _) in self._channels.items()]
            heapq.heapify(self._heap)
