"""Subscribers that record publications, and a publisher that retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from contextlib import asynccontextmanager

from falcon_channels import BrokerUnavailableError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import UnsubscribedError
from falcon_channels.brokers.base import Broker

#: Default number of subscribers.
SUBSCRIBERS = 50
HISTORY_SIZE = 20_000
OPTIONS = ChannelOptions(history_size=HISTORY_SIZE, history_ttl_s=3600.0)

#: After so many values, a publisher pauses after each one, so that the history keeps
#: every publication of a test however fast the server is.
QUICK_VALUES = HISTORY_SIZE // 2
PAUSE_S = 0.02


@asynccontextmanager
async def open_channels(url: str) -> AsyncIterator[Channels]:
    """Open channels of any name, with history."""
    channels = Channels(url)
    channels.add_route('{name}', object(), OPTIONS)
    await channels.start()
    try:
        yield channels
    finally:
        await channels.close()


class Audience:
    """Subscribers of one channel.

    Attributes:
        heard: For each subscriber, lists of its publications. A new list begins when
            the subscriber was told that it has missed publications.
    """

    def __init__(
        self, channels: Channels, channel: str, count: int = SUBSCRIBERS
    ) -> None:
        self._channels = channels
        self._channel = channel
        self.heard: list[list[list[tuple[int, str]]]] = [[] for _ in range(count)]
        self._tasks: list[asyncio.Task[None]] = []
        self.entered = 0

    async def __aenter__(self) -> Audience:
        self._tasks = [asyncio.create_task(self._listen(heard)) for heard in self.heard]
        await self.until(lambda: self.entered == len(self.heard), 'all subscribe')
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, heard: list[list[tuple[int, str]]]) -> None:
        while True:
            try:
                async with self._channels.subscribe(self._channel) as subscription:
                    heard.append([])
                    self.entered += 1
                    async for publication in subscription:
                        heard[-1].append((publication.offset, publication.value()))
            except UnsubscribedError as ex:
                if ex.code != 2500:
                    raise
            except BrokerUnavailableError:
                await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Return when `condition()` is true; fail if a subscriber has failed."""
        async with asyncio.timeout(40):
            while not condition():
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)
        assert condition(), what

    async def until_heard(self, value: str) -> None:
        """Return when `value` is the last publication of every subscriber."""
        await self.until(
            lambda: all(
                heard and heard[-1] and heard[-1][-1][1] == value
                for heard in self.heard
            ),
            f'{value} is heard by all',
        )

    def check_all_heard(self, values: list[str]) -> None:
        """Check that all got all values once and in order, without a gap."""
        expected = list(enumerate(values, 1))
        for heard in self.heard:
            assert [expected] == heard

    def check_heard_or_told(self, values: list[str]) -> None:
        """Check that all got their values in order, with a notice for each gap."""
        for heard in self.heard:
            got: list[str] = []
            for part in heard:
                offsets = [offset for offset, _ in part]
                first = offsets[0] if offsets else 0
                assert list(range(first, first + len(part))) == offsets
                got += [value for _, value in part]
            found = set(got)
            assert len(found) == len(got)
            assert [value for value in values if value in found] == got


class Publisher:
    """Publishes one value after the other, and repeats each until it is acknowledged.

    Attributes:
        values: Acknowledged values, in order.
        failures: Number of publishes that were not acknowledged.
    """

    def __init__(self, channels: Channels, channel: str) -> None:
        self._channels = channels
        self._channel = channel
        self.values: list[str] = []
        self.failures = 0

    async def publish(self, value: str) -> None:
        """Publish one value."""
        while True:
            try:
                await self._channels.publish(
                    self._channel, value, idempotency_key=value
                )
            except BrokerUnavailableError:
                self.failures += 1
                await asyncio.sleep(0.02)
            else:
                self.values.append(value)
                return

    async def publish_while(self, task: asyncio.Task[object], prefix: str) -> None:
        """Publish until a task is done, and ten more values.

        A value that the history no longer keeps cannot be recovered. `QUICK_VALUES`
        keeps the publisher from writing so many while a link is lost.
        """
        number = 0
        while not task.done():
            await self.publish(f'{prefix} {number}')
            number += 1
            if len(self.values) >= QUICK_VALUES:
                await asyncio.sleep(PAUSE_S)
        for _ in range(10):
            await self.publish(f'{prefix} {number}')
            number += 1
        await task


def is_lost(channels: Channels) -> bool:
    """Return whether the broker link of `channels` is lost."""
    return channels.status == 'link lost'


async def lost_and_back(channels: Channels, audience: Audience) -> None:
    """Return when the broker link was lost and has been restored."""
    await audience.until(lambda: is_lost(channels), 'the link is lost')
    await audience.until(lambda: channels.status == 'ok', 'the link is back')


async def run_fault(
    url: str, fault: Callable[[Channels, Audience], Awaitable[None]]
) -> tuple[Audience, Publisher, Channels]:
    """Publish before, during and after a fault, to subscribers on another link."""
    async with open_channels(url) as listening, open_channels(url) as publishing:
        publisher = Publisher(publishing, 'news')
        async with Audience(listening, 'news') as audience:
            for number in range(20):
                await publisher.publish(f'before {number}')
            await audience.until_heard('before 19')
            task = asyncio.create_task(fault(listening, audience))
            await publisher.publish_while(task, 'during')
            await publisher.publish('last')
            await audience.until_heard('last')
        return audience, publisher, listening


async def send_controls(broker: Broker) -> int:
    """Send numbered control messages until cancelled; return how many were sent."""
    sent = 0
    while True:
        try:
            await broker.control(b'%d' % sent)
        except asyncio.CancelledError:
            return sent
        sent += 1
