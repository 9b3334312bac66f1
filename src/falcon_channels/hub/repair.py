"""Repair: a local_channel that missed publications reads them from the log.

A gap in the offsets, a restored link and a regular look at the broker's position all
end here. A channel under repair keeps what is announced meanwhile; the log is read once
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
from falcon_channels.hub.fanout import FanOut
from falcon_channels.hub.local_channel import ChannelState
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.hub.local_channel import stream_settings
from falcon_channels.metrics import Counters

_logger = logging.getLogger('falcon_channels')

#: How many channels are read at the same time.
_WORKERS = 16
#: How often the log is read again, while more and more comes, before giving up.
_ATTEMPTS = 5
#: Seconds between two attempts while the broker cannot be reached: first and last.
_FIRST_DELAY_S = 0.05
_LAST_DELAY_S = 5.0


class Repairs:
    """Repairs the channels of a hub; see the module's page.

    Args:
        channels: The hub's, by channel.
        broker: Read from.
        fan_out: Delivers what was read.
        counters: The hub's.
        spawn: Runs a task that the hub owns.
        give_up: Called with a local_channel whose publications are lost.
    """

    def __init__(
        self,
        channels: Mapping[str, LocalChannel],
        broker: Broker,
        fan_out: FanOut,
        counters: Counters,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        give_up: Callable[[LocalChannel], None],
    ) -> None:
        self._channels = channels
        self._broker = broker
        self._fan_out = fan_out
        self._counters = counters
        self._spawn = spawn
        self._give_up = give_up
        #: How often the link was restored: what was read before that is too old.
        self.links = 0
        #: ChannelRegistry that wait for a worker, in order.
        self._due: dict[LocalChannel, None] = {}
        self._workers = 0
        self._waiting: dict[LocalChannel, asyncio.Future[None]] = {}

    def begin(self, local_channel: LocalChannel) -> None:
        """Repair a local_channel that is open and not under repair."""
        local_channel.state = ChannelState.REPAIRING
        self._due[local_channel] = None
        if self._workers < _WORKERS:
            self._workers += 1
            self._spawn(self._work(), 'repair')

    def begin_all(self) -> None:
        """Repair every local_channel: the link was lost, and is restored."""
        self.links += 1
        for local_channel in self._channels.values():
            if (
                local_channel.options.history_size
                and local_channel.state is ChannelState.LIVE
            ):
                self.begin(local_channel)

    async def wait(self, local_channel: LocalChannel, timeout_s: float) -> None:
        """Return when the local_channel's repair has ended, or the time is over."""
        if local_channel.state is ChannelState.REPAIRING:
            waiting = self._waiting.get(local_channel)
            if waiting is None:
                waiting = asyncio.get_running_loop().create_future()
                self._waiting[local_channel] = waiting
            await asyncio.wait([waiting], timeout=timeout_s)

    async def check_positions(self, interval_s: float) -> None:
        """Compare positions with the broker's: a lost last publication shows no gap."""
        while True:
            await asyncio.sleep(interval_s)
            for local_channel in list(self._channels.values()):
                if (
                    not local_channel.options.history_size
                    or local_channel.state is not ChannelState.LIVE
                ):
                    continue
                before = local_channel.position
                try:
                    page = await self._broker.history(
                        local_channel.channel,
                        stream_settings(local_channel.options),
                        limit=0,
                    )
                except BrokerUnavailableError:
                    break
                # NOTE: only what was missing all the while counts; the position may
                #   have been read just before its announcement arrived.
                if local_channel.position == before != page.position:
                    await asyncio.sleep(min(1.0, interval_s / 10))
                    if (
                        local_channel.position == before
                        and local_channel.state is ChannelState.LIVE
                    ):
                        self._counters.gaps += 1
                        self.begin(local_channel)

    async def _work(self) -> None:
        try:
            while self._due:
                local_channel = next(iter(self._due))
                del self._due[local_channel]
                await self._repair(local_channel)
                waiting = self._waiting.pop(local_channel, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)
        finally:
            self._workers -= 1

    async def _repair(self, local_channel: LocalChannel) -> None:
        """Read what a local_channel missed until it is LIVE."""
        delay_s = _FIRST_DELAY_S
        attempts = 0
        while self._channels.get(local_channel.channel) is local_channel:
            self._fan_out.flush_channel(local_channel)
            links = self.links
            try:
                page = await self._broker.history(
                    local_channel.channel,
                    stream_settings(local_channel.options),
                    since=local_channel.position.offset,
                    limit=max(
                        local_channel.options.recovery_limit,
                        local_channel.options.history_size,
                    ),
                )
            except BrokerUnavailableError as ex:
                _logger.warning('cannot repair %r yet: %s', local_channel.channel, ex)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LAST_DELAY_S)
                continue
            if links != self.links:
                # NOTE: more may have been missed since the log was read.
                continue
            outcome = local_channel.repair(page)
            if outcome:
                self._counters.repairs += 1
                self._fan_out.flush_channel(local_channel)
                return
            attempts += 1
            if outcome is None or attempts >= _ATTEMPTS:
                attempts = 0
                self._give_up(local_channel)
                if local_channel.state is ChannelState.LIVE:
                    return
                await asyncio.sleep(delay_s)
