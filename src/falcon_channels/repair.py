"""Repair: a feed that missed publications reads them from the log.

A gap in the offsets, a restored link and a regular look at the broker's position all
end here. A feed under repair keeps what is announced meanwhile; the log is read once
for all its subscribers, however many. Where the log does not reach back, every
subscriber is told so (*insufficient state*), and none is left waiting.

A restored link finds every channel of a process behind. They queue here and are read
by a few workers, so that the broker that has just come back is not trampled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Mapping
import logging
from typing import Any

from falcon_channels.brokers.base import Broker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.fanout import FanOut
from falcon_channels.feed import Feed
from falcon_channels.feed import FeedState
from falcon_channels.feed import stream_settings
from falcon_channels.metrics import Counters

_logger = logging.getLogger('falcon_channels')

#: How many feeds are read at the same time.
_WORKERS = 16
#: How often the log is read again, while more and more comes, before giving up.
_ATTEMPTS = 5
#: Seconds between two attempts while the broker cannot be reached: first and last.
_FIRST_DELAY_S = 0.05
_LAST_DELAY_S = 5.0


class Repairs:
    """Repairs the feeds of a hub; see the module's page.

    Args:
        feeds: The hub's, by channel.
        broker: Read from.
        fan_out: Delivers what was read.
        counters: The hub's.
        spawn: Runs a task that the hub owns.
        give_up: Called with a feed whose publications are lost.
    """

    def __init__(
        self,
        feeds: Mapping[str, Feed],
        broker: Broker,
        fan_out: FanOut,
        counters: Counters,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        give_up: Callable[[Feed], None],
    ) -> None:
        self._feeds = feeds
        self._broker = broker
        self._fan_out = fan_out
        self._counters = counters
        self._spawn = spawn
        self._give_up = give_up
        #: How often the link was restored: what was read before that is too old.
        self.links = 0
        #: Feeds that wait for a worker, in order.
        self._due: dict[Feed, None] = {}
        self._workers = 0
        self._waiting: dict[Feed, asyncio.Future[None]] = {}

    def begin(self, feed: Feed) -> None:
        """Repair a feed that is open and not under repair."""
        feed.state = FeedState.REPAIRING
        self._due[feed] = None
        if self._workers < _WORKERS:
            self._workers += 1
            self._spawn(self._work(), 'repair')

    def begin_all(self) -> None:
        """Repair every feed: the link was lost, and is restored."""
        self.links += 1
        for feed in self._feeds.values():
            if feed.options.history_size and feed.state is FeedState.LIVE:
                self.begin(feed)

    async def wait(self, feed: Feed, timeout_s: float) -> None:
        """Return when the feed's repair has ended, or the time is over."""
        if feed.state is FeedState.REPAIRING:
            waiting = self._waiting.get(feed)
            if waiting is None:
                waiting = asyncio.get_running_loop().create_future()
                self._waiting[feed] = waiting
            await asyncio.wait([waiting], timeout=timeout_s)

    async def check_positions(self, interval_s: float) -> None:
        """Compare positions with the broker's: a lost last publication shows no gap."""
        while True:
            await asyncio.sleep(interval_s)
            for feed in list(self._feeds.values()):
                if not feed.options.history_size or feed.state is not FeedState.LIVE:
                    continue
                before = feed.position
                try:
                    page = await self._broker.history(
                        feed.channel, stream_settings(feed.options), limit=0
                    )
                except BrokerUnavailableError:
                    break
                # NOTE: only what was missing all the while counts; the position may
                #   have been read just before its announcement arrived.
                if feed.position == before != page.position:
                    await asyncio.sleep(min(1.0, interval_s / 10))
                    if feed.position == before and feed.state is FeedState.LIVE:
                        self._counters.gaps += 1
                        self.begin(feed)

    async def _work(self) -> None:
        try:
            while self._due:
                feed = next(iter(self._due))
                del self._due[feed]
                await self._repair(feed)
                waiting = self._waiting.pop(feed, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)
        finally:
            self._workers -= 1

    async def _repair(self, feed: Feed) -> None:
        """Read what a feed missed until it is LIVE."""
        delay_s = _FIRST_DELAY_S
        attempts = 0
        while self._feeds.get(feed.channel) is feed:
            self._fan_out.flush_feed(feed)
            links = self.links
            try:
                page = await self._broker.history(
                    feed.channel,
                    stream_settings(feed.options),
                    since=feed.position.offset,
                    limit=max(feed.options.recovery_limit, feed.options.history_size),
                )
            except BrokerUnavailableError as ex:
                _logger.warning('cannot repair %r yet: %s', feed.channel, ex)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LAST_DELAY_S)
                continue
            if links != self.links:
                # NOTE: more may have been missed since the log was read.
                continue
            outcome = feed.repair(page)
            if outcome:
                self._counters.repairs += 1
                self._fan_out.flush_feed(feed)
                return
            attempts += 1
            if outcome is None or attempts >= _ATTEMPTS:
                attempts = 0
                self._give_up(feed)
                if feed.state is FeedState.LIVE:
                    return
                await asyncio.sleep(delay_s)
