"""Open and close the channels to which this process is subscribed at the broker.

A channel is opened for the first connection that joins it. It stays open for a while
after its last subscription has ended, because clients often reconnect. While a channel
is being opened or closed, all callers wait for the same task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
import math
from typing import Any

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.burst_log import BurstLog
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ClosedError
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.hub.local_channel import SubscriptionTotals
from falcon_channels.options import ChannelOptions
from falcon_channels.options import NodeOptions

#: How many channels are unsubscribed at the broker at the same time.
_CLOSE_BATCH = 64


class ChannelRegistry:
    """Opens, finds and closes the channels of a hub.

    Args:
        broker: Broker at which channels are subscribed.
        options: Options of the hub.
        on_open: Called after a channel was opened. The first argument is the local
            channel. The second says whether the buffered publications have a gap. The
            third is the result of `links` before the channel was opened.
        links: Returns how often the link to the broker was restored.

    Attributes:
        by_channel: Local channels by channel name.
        totals: Counts over all local channels.
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
        self.totals = SubscriptionTotals()
        #: Channels that are being opened or closed.
        self._changing: dict[str, asyncio.Task[None]] = {}
        #: Channels without subscribers, and the loop time at which to close them.
        self._idle: dict[str, float] = {}
        self._errors = BurstLog()
        self._closed = False

    async def acquire(self, channel: str, options: ChannelOptions) -> LocalChannel:
        """Return the open local channel of a channel; keep it open until `release`.

        Raises:
            BrokerUnavailableError: The channel cannot be opened now; try again.
            ClosedError: The hub is closed.
        """
        while not self._closed:
            local_channel = self.by_channel.get(channel)
            task = self._changing.get(channel)
            if local_channel is not None and task is None:
                local_channel.acquire()
                self._idle.pop(channel, None)
                return local_channel
            if task is None:
                task = self._change(
                    channel, self._open_channel(channel, options), 'open'
                )
            # NOTE: other callers may wait for the same task. A caller that is
            #   cancelled here must not cancel it.
            await asyncio.wait([task])
            if not task.cancelled() and (ex := task.exception()) is not None:
                raise ex
        raise ClosedError('the hub is closed')

    def release(self, local_channel: LocalChannel) -> None:
        """Undo one `acquire` of a local channel."""
        local_channel.release()
        self.note_idle(local_channel)

    def note_idle(self, local_channel: LocalChannel) -> None:
        """Close a local channel after `NodeOptions.linger_s` if it is idle."""
        if local_channel.idle and not self._closed:
            # NOTE: the entry is removed first, so that the dict stays sorted by time.
            self._idle.pop(local_channel.channel, None)
            now_s = asyncio.get_running_loop().time()
            self._idle[local_channel.channel] = now_s + self._options.linger_s

    def close(self) -> None:
        """Refuse to open channels from now on. The caller cancels `tasks`."""
        self._closed = True

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks that open or close a channel now."""
        return list(self._changing.values())

    async def run_housekeeping(self) -> None:
        """Close channels that have been idle for long enough, until cancelled."""
        interval_s = max(self._options.linger_s, 0.1)
        while True:
            await asyncio.sleep(interval_s)
            now_s = asyncio.get_running_loop().time()
            due = []
            for channel, when_s in self._idle.items():
                if when_s > now_s:
                    break
                due.append(channel)
            for start in range(0, len(due), _CLOSE_BATCH):
                tasks = []
                for channel in due[start : start + _CLOSE_BATCH]:
                    # NOTE: it may have been used again while others closed.
                    if self._idle.get(channel, math.inf) > now_s:
                        continue
                    del self._idle[channel]
                    local_channel = self.by_channel.get(channel)
                    if (
                        local_channel is not None
                        and local_channel.idle
                        and channel not in self._changing
                    ):
                        tasks.append(
                            self._change(
                                channel, self._close_channel(local_channel), 'close'
                            )
                        )
                await asyncio.gather(*tasks)

    # --- opening and closing channels ------------------------------------------------

    def _change(
        self, channel: str, coroutine: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(
            coroutine, name=f'falcon_channels {name} {channel}'
        )
        self._changing[channel] = task
        task.add_done_callback(_retrieve)
        return task

    async def _open_channel(self, channel: str, options: ChannelOptions) -> None:
        local_channel = LocalChannel(
            channel,
            options,
            self._options.max_pending_bytes,
            self._options.max_backlog_bytes,
            self.totals,
        )
        self.by_channel[channel] = local_channel
        links = self._links()
        try:
            page = await self._broker.subscribe(channel, LogSettings.of(options))
        except BaseException as ex:
            del self.by_channel[channel]
            if isinstance(ex, BrokerUnavailableError):
                # NOTE: the broker may have subscribed, and only its answer was lost.
                await self._unsubscribe(channel)
            raise
        finally:
            del self._changing[channel]
        self._on_open(local_channel, local_channel.open(page), links)
        self.note_idle(local_channel)

    async def _close_channel(self, local_channel: LocalChannel) -> None:
        del self.by_channel[local_channel.channel]
        try:
            await self._unsubscribe(local_channel.channel)
        finally:
            del self._changing[local_channel.channel]

    async def _unsubscribe(self, channel: str) -> None:
        try:
            await self._broker.unsubscribe(channel)
        except BrokerUnavailableError as ex:
            self._errors.warning(
                'could not unsubscribe %r at the broker: %s', channel, ex
            )


def _retrieve(task: asyncio.Task[None]) -> None:
    """Mark the exception of a task as retrieved; callers of `acquire` raise it."""
    if not task.cancelled():
        task.exception()
