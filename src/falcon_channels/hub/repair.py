"""Repair: a local channel that missed publications reads them from the log.

* There are three causes: a gap in the offsets, a restored link to the broker, and the
  regular comparison with the broker's position.
* A channel under repair buffers new publications. The log is read once for all its
  subscribers.
* If the log does not reach back far enough, every subscription ends with *insufficient
  state*. No subscriber is left waiting.
* After a restored link, every channel of the process needs a repair. The channels queue
  here for a few workers, so that the recovering broker is not overloaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Mapping
import logging
from typing import Any

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.burst_log import BurstLog
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.hub.fanout import FanOut
from falcon_channels.hub.local_channel import ChannelState
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.metrics import Counters
from falcon_channels.publication import first_offset

_logger = logging.getLogger('falcon_channels')

#: How many channels are repaired at the same time.
_WORKERS = 16
#: How often the log is read again while more publications arrive.
_ATTEMPTS = 5
#: Seconds between two attempts while the broker cannot be reached: first and longest.
_FIRST_DELAY_S = 0.05
_LAST_DELAY_S = 5.0


class Repairs:
    """Repairs the channels of a hub; the module docstring has the rules.

    Args:
        channels: Local channels of the hub by channel name.
        broker: Broker whose log is read.
        fan_out: Delivers the publications that were read.
        counters: Counters of the hub.
        spawn: Runs a task that the hub owns.
        on_lost: Called with a local channel whose publications are lost.

    Attributes:
        links: How often the link was restored. A page that was read before the last
            restoration is outdated.
    """

    def __init__(
        self,
        channels: Mapping[str, LocalChannel],
        broker: Broker,
        fan_out: FanOut,
        counters: Counters,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        on_lost: Callable[[LocalChannel], None],
    ) -> None:
        self._channels = channels
        self._broker = broker
        self._fan_out = fan_out
        self._counters = counters
        self._spawn = spawn
        self._on_lost = on_lost
        self.links = 0
        #: Local channels that wait for a worker, in order.
        self._due: dict[LocalChannel, None] = {}
        self._workers = 0
        self._waiting: dict[LocalChannel, asyncio.Future[None]] = {}
        self._errors = BurstLog()

    def begin(self, local_channel: LocalChannel) -> None:
        """Queue the repair of a local channel that is LIVE or has found a gap."""
        local_channel.start_repair()
        self._due[local_channel] = None
        if self._workers < _WORKERS:
            self._workers += 1
            self._spawn(self._work(), 'repair')

    def begin_all(self) -> None:
        """Repair every local channel after the link was restored."""
        self.links += 1
        for local_channel in self._channels.values():
            if (
                local_channel.options.history_size
                and local_channel.state is ChannelState.LIVE
            ):
                self.begin(local_channel)

    async def wait(self, local_channel: LocalChannel, timeout_s: float) -> None:
        """Wait for the end of a local channel's repair, at most `timeout_s` seconds."""
        if local_channel.state is ChannelState.REPAIRING:
            waiting = self._waiting.get(local_channel)
            if waiting is None:
                waiting = asyncio.get_running_loop().create_future()
                self._waiting[local_channel] = waiting
            await asyncio.wait([waiting], timeout=timeout_s)

    async def check_positions(self, interval_s: float) -> None:
        """Compare positions with the broker's regularly, until cancelled.

        If the last publication of a channel is lost, no gap shows it. Only this check
        finds it.
        """
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
                        LogSettings.of(local_channel.options),
                        limit=0,
                    )
                except BrokerUnavailableError:
                    break
                # NOTE: the broker may return a new position just before its publication
                #   arrives here. It counts as a gap only if it is still missing later.
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
                try:
                    await self._repair(local_channel)
                except Exception:
                    self._counters.task_errors += 1
                    _logger.exception('repair of %r failed', local_channel.channel)
                    self._on_lost(local_channel)
                    await asyncio.sleep(_LAST_DELAY_S)
                    # NOTE: a channel under repair delivers nothing, and is therefore
                    #   repaired until it is LIVE.
                    if local_channel.state is ChannelState.REPAIRING:
                        self._due[local_channel] = None
                        continue
                waiting = self._waiting.pop(local_channel, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)
        finally:
            self._workers -= 1

    async def _repair(self, local_channel: LocalChannel) -> None:
        """Read the log for a local channel until it is LIVE."""
        delay_s = _FIRST_DELAY_S
        attempts = 0
        while self._channels.get(local_channel.channel) is local_channel:
            self._fan_out.flush_channel(local_channel)
            links = self.links
            try:
                page = await self._broker.history(
                    local_channel.channel,
                    LogSettings.of(local_channel.options),
                    since=local_channel.position.offset,
                    limit=max(
                        local_channel.options.recovery_limit,
                        local_channel.options.history_size,
                    ),
                )
            except BrokerUnavailableError as ex:
                self._errors.warning(
                    'cannot repair %r yet: %s', local_channel.channel, ex
                )
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LAST_DELAY_S)
                continue
            if links != self.links:
                # NOTE: more may have been missed since the log was read.
                continue
            before = local_channel.position
            outcome = local_channel.repair(page)
            observer = local_channel.observer
            if observer is not None and local_channel.position != before:
                observer.on_repaired(
                    before,
                    page.position if outcome else local_channel.position,
                    first_offset(local_channel.batch),
                    lost=outcome is None,
                )
            if outcome:
                self._counters.repairs += 1
                self._fan_out.flush_channel(local_channel)
                return
            attempts += 1
            if outcome is None or attempts >= _ATTEMPTS:
                attempts = 0
                self._on_lost(local_channel)
                if local_channel.state is ChannelState.LIVE:
                    return
                await asyncio.sleep(delay_s)
