"""Which channels this process is subscribed to at the broker.

A channel is opened for the first who joins it, and stays open for a while after
the last has left, for they often come back. While a channel is being opened or shut,
everybody else who wants it waits for the same task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
import logging
import math
from typing import Any

from falcon_channels.brokers.base import Broker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ClosedError
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.hub.local_channel import stream_settings
from falcon_channels.options import ChannelOptions
from falcon_channels.options import NodeOptions

_logger = logging.getLogger('falcon_channels')

#: How many channels are unsubscribed at the broker at the same time.
_SHUT_BATCH = 64


class ChannelRegistry:
    """Opens, finds and shuts the channels of a hub.

    Args:
        broker: Where channels are subscribed.
        options: Limits.
        on_open: Called with each channel that has been opened, whether what came
            meanwhile has a gap, and what `links` returned when it began to open.
        links: Returns how often the link to the broker was restored.

    Attributes:
        by_channel: ChannelRegistry by channel name.
        changing: Channels that are being opened or shut.
        idle: Channels without subscribers, and when to shut them.
        closed: Whether nothing is opened any more.
    """

    def __init__(
        self,
        broker: Broker,
        options: NodeOptions,
        on_open: Callable[[LocalChannel, bool, int], None],
        links: Callable[[], int],
    ) -> None:
        self._broker = broker
        self._options = options
        self._on_open = on_open
        self._links = links
        self.by_channel: dict[str, LocalChannel] = {}
        self.changing: dict[str, asyncio.Task[None]] = {}
        self.idle: dict[str, float] = {}
        self.closed = False

    async def hold(self, channel: str, options: ChannelOptions) -> LocalChannel:
        """Return the local_channel of a channel, open, and held until `release`.

        Raises:
            BrokerUnavailableError: It cannot be opened now.
            ClosedError: The hub is closed.
        """
        while not self.closed:
            local_channel = self.by_channel.get(channel)
            task = self.changing.get(channel)
            if local_channel is not None and task is None:
                local_channel.holds += 1
                self.idle.pop(channel, None)
                return local_channel
            if task is None:
                task = self._change(channel, self._open(channel, options), 'open')
            # NOTE: others may wait for the same task, so that who is cancelled here
            #   does not cancel it.
            await asyncio.wait([task])
            if not task.cancelled() and (ex := task.exception()) is not None:
                raise ex
        raise ClosedError('the hub is closed')

    def release(self, local_channel: LocalChannel) -> None:
        """Let go of a local_channel that was held."""
        local_channel.holds -= 1
        self.note_idle(local_channel)

    def note_idle(self, local_channel: LocalChannel) -> None:
        """Shut a local_channel after a while, if nobody subscribes."""
        if local_channel.idle and not self.closed:
            # NOTE: taken out first, so that the dict stays in the order of its times.
            self.idle.pop(local_channel.channel, None)
            now_s = asyncio.get_running_loop().time()
            self.idle[local_channel.channel] = now_s + self._options.linger_s

    async def keep_house(self) -> None:
        """Shut what has been idle for long enough, for ever."""
        interval_s = max(self._options.linger_s, 0.1)
        while True:
            await asyncio.sleep(interval_s)
            now_s = asyncio.get_running_loop().time()
            due = []
            for channel, when_s in self.idle.items():
                if when_s > now_s:
                    break
                due.append(channel)
            for start in range(0, len(due), _SHUT_BATCH):
                tasks = []
                for channel in due[start : start + _SHUT_BATCH]:
                    # NOTE: while others were shut it may have come to life again.
                    if self.idle.get(channel, math.inf) > now_s:
                        continue
                    del self.idle[channel]
                    local_channel = self.by_channel.get(channel)
                    if (
                        local_channel is not None
                        and local_channel.idle
                        and channel not in self.changing
                    ):
                        tasks.append(
                            self._change(channel, self._shut(local_channel), 'shut')
                        )
                await asyncio.gather(*tasks)

    # --- inside ----------------------------------------------------------------------

    def _change(
        self, channel: str, coroutine: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(
            coroutine, name=f'falcon_channels {name} {channel}'
        )
        self.changing[channel] = task
        task.add_done_callback(_retrieve)
        return task

    async def _open(self, channel: str, options: ChannelOptions) -> None:
        local_channel = LocalChannel(
            channel,
            options,
            self._options.max_pending_bytes,
            self._options.max_backlog_bytes,
        )
        self.by_channel[channel] = local_channel
        links = self._links()
        try:
            position = await self._broker.subscribe(channel, stream_settings(options))
        except BaseException as ex:
            del self.by_channel[channel]
            if isinstance(ex, BrokerUnavailableError):
                # NOTE: it may have happened, and only the answer was lost.
                await self._unsubscribe(channel)
            raise
        finally:
            del self.changing[channel]
        self._on_open(local_channel, local_channel.open(position), links)
        self.note_idle(local_channel)

    async def _shut(self, local_channel: LocalChannel) -> None:
        del self.by_channel[local_channel.channel]
        try:
            await self._unsubscribe(local_channel.channel)
        finally:
            del self.changing[local_channel.channel]

    async def _unsubscribe(self, channel: str) -> None:
        try:
            await self._broker.unsubscribe(channel)
        except BrokerUnavailableError as ex:
            _logger.warning('could not unsubscribe %r at the broker: %s', channel, ex)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Mark the exception of a task as seen: whoever waits for the task raises it."""
    if not task.cancelled():
        task.exception()
