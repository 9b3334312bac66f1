"""Joining and repairing while the log moves under the reader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import Unsubscribed


class BusyBroker(MemoryBroker):
    """A broker to whose log something happens while it is read.

    Attributes:
        meanwhile: Called after each read, before the reader has its page.
        opening: Called after a channel was subscribed, before the answer is there.
        stale: Handed out instead of the page, once.
        reads: How often something was read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], Awaitable[Any]] | None = None
        self.opening: Callable[[], Awaitable[Any]] | None = None
        self.stale: HistoryPage | None = None
        self.reads = 0

    async def history(self, *args: Any, **options: Any) -> HistoryPage:
        page = await super().history(*args, **options)
        stale, self.stale = self.stale, None
        self.reads += 1
        if self.meanwhile is not None:
            await self.meanwhile()
        return stale or page

    async def subscribe(self, channel: str, settings: StreamSettings) -> Position:
        position = await super().subscribe(channel, settings)
        if self.opening is not None:
            await self.opening()
        return position

    def lose_log(self, channel: str) -> None:
        """Lose a log, as a server that restarts without its disk."""
        del self._logs[channel]
        self._generation += 1

    def deafen(self, channel: str) -> None:
        """Announce nothing of a channel, as where the link is lost."""
        self._subscribed.discard(channel)

    def hear(self, channel: str) -> None:
        """Announce a channel again."""
        self._subscribed.add(channel)


def made() -> tuple[Channels, BusyBroker]:
    broker = BusyBroker()
    # NOTE: nobody looks for what was missed but who has a reason to.
    options = NodeOptions(position_check_s=None, max_pending_bytes=100)
    channels = Channels(broker, options)
    channels.add_route('log', None, ChannelOptions(history_size=100))
    channels.add_route('state', None, ChannelOptions(history_size=1, recovery='latest'))
    return channels, broker


def values(publications: list[Publication]) -> list[Any]:
    return [publication.value() for publication in publications]


def received(client: SimulatedClient) -> list[tuple[Any, str]]:
    """Return what a client was sent after it had joined, with the epochs."""
    return [
        (event.item.value(), event.epoch)
        for event in client.events
        if isinstance(event, Received) and isinstance(event.item, Publication)
    ]


@on_fake_clock
async def test_recovery_while_others_publish() -> None:
    """What is published while the log is read is recovered with it, by one read."""
    channels, broker = made()
    async with SimulatedClient(channels) as client:
        since = (await channels.publish('log', 1)).position
        await channels.publish('log', 2)
        broker.meanwhile = lambda: channels.publish('log', 3)
        before = broker.reads
        joined = await client.subscribe('log', since)
        assert (True, [2, 3], 3) == (
            joined.recovered,
            values(joined.publications),
            joined.position.offset,
        )
        assert 1 == broker.reads - before
        await channels.publish('log', 4)
        await asyncio.sleep(1)
        assert [(4, since.epoch)] == received(client)
    await channels.close()


@on_fake_clock
async def test_a_state_that_changes_while_it_is_read() -> None:
    """Who joins a state gets the newest, also one that came while it was read."""
    channels, broker = made()
    async with SimulatedClient(channels) as client:
        since = (await channels.publish('state', 1)).position
        broker.meanwhile = lambda: channels.publish('state', 2)
        joined = await client.subscribe('state', since)
        assert ([2], 2) == (values(joined.publications), joined.position.offset)
        await channels.publish('state', 3)
        await asyncio.sleep(1)
        assert [(3, since.epoch)] == received(client)
    await channels.close()


@on_fake_clock
async def test_a_page_older_than_what_was_announced_is_read_again() -> None:
    """Nobody joins behind the channel: what they had missed would never come."""
    channels, broker = made()
    async with SimulatedClient(channels) as other, SimulatedClient(channels) as client:
        since = (await channels.publish('log', 1)).position
        await other.subscribe('log')
        await channels.publish('log', 2)
        stale = await channels.history('log', since=since)
        await channels.publish('log', 3)
        await asyncio.sleep(1)
        assert [(2, since.epoch), (3, since.epoch)] == received(other)
        broker.stale = stale
        joined = await client.subscribe('log', since)
        assert (True, [2, 3]) == (joined.recovered, values(joined.publications))
    await channels.close()


@on_fake_clock
async def test_a_log_that_was_lost_before_a_join() -> None:
    """Who recovers from a new log finds the channel there, and the others are told."""
    channels, broker = made()
    async with SimulatedClient(channels) as other, SimulatedClient(channels) as client:
        for number in (1, 2, 3):
            await channels.publish('log', number)
        old = (await other.subscribe('log')).position
        broker.lose_log('log')
        new = await channels.position('log')
        assert old.epoch != new.epoch
        joined = await client.subscribe('log', new)
        assert (True, new) == (joined.recovered, joined.position)
        assert Unsubscribed('log', 2500, 'insufficient state') == other.events[-1]
        await channels.publish('log', 4)
        await asyncio.sleep(1)
        assert [(4, new.epoch)] == received(client)
    await channels.close()


@on_fake_clock
async def test_a_state_that_was_lost_before_a_join() -> None:
    """Who joins a state stands in the log that there is, and all go on in it."""
    channels, broker = made()
    async with SimulatedClient(channels) as other, SimulatedClient(channels) as client:
        for number in (1, 2, 3):
            await channels.publish('state', number)
        old = (await other.subscribe('state')).position
        broker.lose_log('state')
        new = await channels.position('state')
        joined = await client.subscribe('state', old)
        assert (False, new) == (joined.recovered, joined.position)
        # NOTE: an announcement of the old log that was long on its way.
        late = Publication(data=b'"late"', offset=4)
        channels.node.hub.on_publication('state', late, old.epoch)
        await asyncio.sleep(1)
        await channels.publish('state', 4)
        await asyncio.sleep(1)
        for reader in (client, other):
            assert [(4, new.epoch)] == received(reader)
    await channels.close()


@on_fake_clock
async def test_a_link_that_is_restored_during_a_repair() -> None:
    """What was missed since the log was read is read as well."""
    channels, broker = made()
    async with SimulatedClient(channels) as client:
        await client.subscribe('log')
        hub = channels.node.hub

        async def break_again() -> None:
            broker.meanwhile = None
            await channels.publish('log', 2)
            hub.on_link_lost()
            broker.hear('log')
            hub.on_link_restored()

        broker.deafen('log')
        await channels.publish('log', 1)
        broker.meanwhile = break_again
        hub.on_link_lost()
        hub.on_link_restored()
        assert [1, 2] == [(await client.receive()).value() for _ in range(2)]
    await channels.close()


@on_fake_clock
async def test_a_link_that_is_restored_while_a_channel_opens() -> None:
    """What was missed between the position and its arrival is read."""
    channels, broker = made()
    await channels.start()
    hub = channels.node.hub

    async def break_link() -> None:
        broker.deafen('log')
        hub.on_link_lost()
        await channels.publish('log', 1)
        broker.hear('log')
        hub.on_link_restored()

    broker.opening = break_link
    async with SimulatedClient(channels) as client:
        joined = await client.subscribe('log')
        await asyncio.sleep(1)
        assert 1 == joined.position.offset + len(received(client))
    await channels.close()


@pytest.mark.parametrize('count', [1, 3, 50])
@on_fake_clock
async def test_a_flood_while_a_channel_opens(count: int) -> None:
    """What is announced before the position is there arrives, be it too much."""
    channels, broker = made()

    async def flood() -> None:
        for number in range(count):
            await channels.publish('log', [number, 'some words'])

    broker.opening = flood
    async with SimulatedClient(channels) as client:
        joined = await client.subscribe('log')
        await asyncio.sleep(1)
        assert count == joined.position.offset + len(received(client))
    await channels.close()
