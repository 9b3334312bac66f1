"""Joins and repairs while the log changes during the read."""

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
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import Unsubscribed


class BusyBroker(MemoryBroker):
    """A broker whose log changes while it is read.

    Attributes:
        meanwhile: Called after each read, before the page is returned.
        opening: Called after a channel was subscribed, before its position is returned.
        stale: A page that is returned once instead of the current one.
        reads: Number of reads.
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

    async def subscribe(self, channel: str, settings: LogSettings) -> Position:
        position = await super().subscribe(channel, settings)
        if self.opening is not None:
            await self.opening()
        return position

    def lose_log(self, channel: str) -> None:
        """Lose a log, like a server that restarts without its disk."""
        del self._logs[channel]
        self._generation += 1

    def stop_announcing(self, channel: str) -> None:
        """Stop announcing a channel, as with a lost link."""
        self._subscribed.discard(channel)

    def announce_again(self, channel: str) -> None:
        """Announce a channel again."""
        self._subscribed.add(channel)


def make_channels() -> tuple[Channels, BusyBroker]:
    broker = BusyBroker()
    # NOTE: without position checks, only a gap or a restored link starts a repair.
    options = NodeOptions(position_check_s=None, max_pending_bytes=100)
    channels = Channels(broker, options)
    channels.add_route(
        'log',
        None,
        ChannelOptions(
            subscribers='anybody', max_publication_bytes=100, history_size=100
        ),
    )
    channels.add_route(
        'state',
        None,
        ChannelOptions(
            subscribers='anybody',
            max_publication_bytes=100,
            history_size=1,
            recovery='latest',
        ),
    )
    return channels, broker


def values(publications: list[Publication]) -> list[Any]:
    return [publication.value() for publication in publications]


def received(client: SimulatedClient) -> list[tuple[Any, str]]:
    """Return the values that a client received after its join, with epochs."""
    return [
        (event.item.value(), event.epoch)
        for event in client.events
        if isinstance(event, Received) and isinstance(event.item, Publication)
    ]


@on_fake_clock
async def test_recovery_includes_publications_announced_during_the_read() -> None:
    """Publications announced during the read are recovered with it, by one read."""
    channels, broker = make_channels()
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
async def test_latest_mode_returns_a_publication_announced_during_the_read() -> None:
    """A join in the mode "latest" returns the newest publication, even if it was
    announced during the read."""
    channels, broker = make_channels()
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
async def test_page_older_than_the_channel_is_read_again() -> None:
    """A page that ends before the position of the channel is read again. Otherwise the
    publications between the two would never arrive."""
    channels, broker = make_channels()
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
async def test_join_after_a_lost_log_moves_the_channel_to_the_new_log() -> None:
    """A client that recovers from a new log moves the channel there. The subscriptions
    of the old log end."""
    channels, broker = make_channels()
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
async def test_join_in_latest_mode_after_a_lost_log_moves_everyone() -> None:
    """In the mode "latest", all subscriptions move to the new log with the channel."""
    channels, broker = make_channels()
    async with SimulatedClient(channels) as other, SimulatedClient(channels) as client:
        for number in (1, 2, 3):
            await channels.publish('state', number)
        old = (await other.subscribe('state')).position
        broker.lose_log('state')
        new = await channels.position('state')
        joined = await client.subscribe('state', old)
        assert (False, new) == (joined.recovered, joined.position)
        # NOTE: a late announcement of the old log.
        late = Publication(data=b'"late"', offset=4)
        channels.node.hub.receiver.on_publication('state', late, old.epoch)
        await asyncio.sleep(1)
        await channels.publish('state', 4)
        await asyncio.sleep(1)
        for reader in (client, other):
            assert [(4, new.epoch)] == received(reader)
    await channels.close()


@on_fake_clock
async def test_link_restored_during_a_repair_reads_the_log_again() -> None:
    """Publications missed after the log was read are read as well."""
    channels, broker = make_channels()
    async with SimulatedClient(channels) as client:
        await client.subscribe('log')
        hub = channels.node.hub

        async def break_again() -> None:
            broker.meanwhile = None
            await channels.publish('log', 2)
            hub.receiver.on_link_lost()
            broker.announce_again('log')
            hub.receiver.on_link_restored()

        broker.stop_announcing('log')
        await channels.publish('log', 1)
        broker.meanwhile = break_again
        hub.receiver.on_link_lost()
        hub.receiver.on_link_restored()
        assert [1, 2] == [(await client.receive()).value() for _ in range(2)]
    await channels.close()


@on_fake_clock
async def test_link_restored_while_a_channel_opens_repairs_it() -> None:
    """Publications missed between the position and its arrival are read."""
    channels, broker = make_channels()
    await channels.start()
    hub = channels.node.hub

    async def break_link() -> None:
        broker.stop_announcing('log')
        hub.receiver.on_link_lost()
        await channels.publish('log', 1)
        broker.announce_again('log')
        hub.receiver.on_link_restored()

    broker.opening = break_link
    async with SimulatedClient(channels) as client:
        joined = await client.subscribe('log')
        await asyncio.sleep(1)
        assert 1 == joined.position.offset + len(received(client))
    await channels.close()


@pytest.mark.parametrize('count', [1, 3, 50])
@on_fake_clock
async def test_publications_announced_while_a_channel_opens_arrive(count: int) -> None:
    """Publications announced before the position arrive, even above the limit."""
    channels, broker = make_channels()

    async def flood() -> None:
        for number in range(count):
            await channels.publish('log', [number, 'some words'])

    broker.opening = flood
    async with SimulatedClient(channels) as client:
        joined = await client.subscribe('log')
        await asyncio.sleep(1)
        assert count == joined.position.offset + len(received(client))
    await channels.close()
