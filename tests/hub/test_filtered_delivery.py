"""Filtered subscriptions: the fan-out, slow readers, and positions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
import contextlib
from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import filters
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.filters import TagFilter
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Publication
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import Unsubscribed


class Orders:
    """A channel in which each user sees the region of the same name."""

    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        if subscription.user:
            subscription.filter = filters.eq('region', subscription.user)


def make_channels(broker: MemoryBroker | None = None, **options: Any) -> Channels:
    channels = Channels(broker)
    channels.add_route('orders', Orders(), ChannelOptions(**options))
    return channels


async def publish(channels: Channels, *regions: str) -> None:
    for region in regions:
        await channels.publish('orders', region, tags={'region': region})


def received(client: SimulatedClient) -> list[str]:
    """Return the regions of the publications that a client received live."""
    return [
        event.item.value()
        for event in client.events
        if isinstance(event, Received) and isinstance(event.item, Publication)
    ]


@contextlib.asynccontextmanager
async def subscribed(channels: Channels, *users: str) -> Any:
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for user in users:
            client = SimulatedClient(channels, user=user)
            clients.append(await stack.enter_async_context(client))
            await client.subscribe('orders')
        yield clients
    await channels.close()


@on_fake_clock
async def test_each_distinct_filter_is_evaluated_once_per_publication(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cost of filters depends on their number, and not on the subscribers."""
    evaluations: list[str] = []
    compiled = TagFilter.predicate

    def predicate(tag_filter: TagFilter) -> Any:
        matches = compiled(tag_filter)

        def counting(tags: Mapping[str, str]) -> bool:
            evaluations.append(tag_filter.val)
            return matches(tags)

        return counting

    monkeypatch.setattr(TagFilter, 'predicate', predicate)
    channels = make_channels()
    async with subscribed(channels, *['north', 'south'] * 50, '') as clients:
        await publish(channels, 'north', 'east')
        await asyncio.sleep(1)
        assert ['north', 'north', 'south', 'south'] == sorted(evaluations)
        assert [['north'], [], ['north', 'east']] == [
            received(clients[number]) for number in (0, 1, 100)
        ]
        counters = channels.node.hub.counters
        assert 50 + 2 == counters.deliveries
        assert 2 == counters.encodings


@on_fake_clock
async def test_filters_with_the_same_result_share_the_encoding() -> None:
    """A publication is encoded once for all filters that it matches."""

    class Prices:
        async def on_subscribe(self, req: Any, subscription: Any) -> None:
            subscription.filter = filters.gte('price', int(subscription.user))

    channels = Channels()
    channels.add_route('orders', Prices(), ChannelOptions())
    users = [str(number) for number in range(20)]
    async with subscribed(channels, *users) as clients:
        await channels.publish('orders', 'first', tags={'price': '99'})
        await asyncio.sleep(1)
        assert 1 == channels.node.hub.counters.encodings
        assert 1 == len({id(client.events[-1]) for client in clients})


@on_fake_clock
async def test_publications_that_do_not_match_cause_no_gap_and_no_repair() -> None:
    """A publication that is not sent counts as delivered."""
    channels = make_channels(history_size=10)
    async with subscribed(channels, 'north') as (client,):
        await publish(channels, 'south', 'north', 'south', 'south', 'north')
        await asyncio.sleep(1)
        offsets = [e.item.offset for e in client.events if isinstance(e, Received)]
        assert [2, 5] == offsets
        counters = channels.node.hub.counters
        assert (0, 0) == (counters.gaps, counters.repairs)
        subscription = client.connection.subscriptions['orders']
        await publish(channels, 'south')
        await asyncio.sleep(1)
        delivered = channels.node.hub.delivered(subscription)
        assert delivered is not None
        assert 6 == delivered.offset


@on_fake_clock
async def test_filtered_subscriber_receives_joins_and_leaves() -> None:
    """Joins and leaves have no tags, and are not filtered."""
    channels = make_channels(presence=True, join_leave='connection')
    async with subscribed(channels, 'north', 'south') as (client, other):
        await asyncio.sleep(1)
        other.disconnect()
        await asyncio.sleep(1)
        signals = [e.item.kind for e in client.events if isinstance(e, Received)]
        assert ['join', 'join', 'leave'] == signals


@on_fake_clock
async def test_slow_reader_keeps_the_latest_publication_that_matches() -> None:
    """One that does not match replaces no pending publication, and drops none."""
    channels = make_channels(slow_reader='latest')
    async with subscribed(channels, 'north') as (client,):
        client.stop_reading()
        for region in ('north', 'north', 'north', 'south', 'south'):
            await publish(channels, region)
            await asyncio.sleep(1)
        assert 1 == channels.node.hub.counters.dropped
        client.read_again()
        await asyncio.sleep(1)
        assert ['north', 'north'] == received(client)
        await publish(channels, 'south', 'north')
        await asyncio.sleep(1)
        assert ['north'] * 3 == received(client)


@on_fake_clock
async def test_subscribers_of_all_groups_leave_the_channel() -> None:
    """No group of a filter stays behind, and each subscriber is told about a loss."""
    channels = make_channels()
    async with subscribed(channels, 'north', 'south', 'north', '') as clients:
        await channels.unsubscribe_user('south', 'orders')
        clients[0].unsubscribe('orders')
        await asyncio.sleep(1)
        assert 2 == channels.node.hub.count_subscribers('orders')
        await channels.unsubscribe_user('north', 'orders')
        await channels.unsubscribe_user('', 'orders', client=clients[3].connection.id)
        await asyncio.sleep(1)
        assert 0 == channels.node.hub.num_subscriptions
        assert all(isinstance(client.events[-1], Unsubscribed) for client in clients)
        await publish(channels, 'north')
        await asyncio.sleep(1)
        assert 0 == channels.node.hub.counters.deliveries


class QuietBroker(MemoryBroker):
    """A broker that can stop announcing a channel, as with a lost link."""

    def stop_announcing(self, channel: str) -> None:
        self._subscribed.discard(channel)

    def announce_again(self, channel: str) -> None:
        self._subscribed.add(channel)


@pytest.mark.parametrize(
    ('recovery', 'history_size', 'expected'),
    [('stream', 10, ['north', 'north']), ('latest', 3, ['north'])],
)
def test_repair_delivers_what_matches(
    recovery: str, history_size: int, expected: list[str]
) -> None:
    """After a repair, each subscriber has the publications of its filter.

    The newest publication of all may match no filter. With ``'latest'``, a subscriber
    gets the newest one of those that match.
    """

    async def scenario() -> None:
        broker = QuietBroker()
        channels = make_channels(
            broker,
            recovery=recovery,
            history_size=history_size,
        )
        async with subscribed(channels, 'north', 'east') as (north, east):
            broker.stop_announcing('orders')
            await publish(channels, 'north', 'south', 'north', 'south')
            broker.announce_again('orders')
            await publish(channels, 'south')
            await asyncio.sleep(1)
            assert expected == received(north)
            assert [] == received(east)
            assert 1 == channels.node.hub.counters.repairs

    on_fake_clock(scenario)()


class BusyBroker(MemoryBroker):
    """A broker whose log is published to right after it was read."""

    meanwhile: tuple[str, ...] = ()
    channels: Channels

    async def history(self, *args: Any, **options: Any) -> HistoryPage:
        page = await super().history(*args, **options)
        regions, self.meanwhile = self.meanwhile, ()
        await publish(self.channels, *regions)
        return page


@pytest.mark.parametrize(
    ('before', 'meanwhile', 'expected'),
    [
        ('north south', '', [1]),
        ('north south', 'south', [1]),
        ('north south', 'north south', [3]),
        ('south', 'south', []),
        ('north south south', '', [1]),
        ('north south south south', '', None),
    ],
)
def test_latest_publication_that_matches_is_recovered(
    before: str, meanwhile: str, expected: list[int] | None
) -> None:
    """A client recovers the newest matching one, also if others follow it.

    `None`: more publications than `recovery_limit` would have to be read, so that the
    client is told that it did not recover.
    """

    async def scenario() -> None:
        broker = BusyBroker()
        channels = make_channels(
            broker, recovery='latest', history_size=10, recovery_limit=3
        )
        broker.channels = channels
        await publish(channels, *before.split())
        position = await channels.position('orders')
        async with SimulatedClient(channels, user='north') as client:
            broker.meanwhile = tuple(meanwhile.split())
            since = position._replace(offset=0)
            joined = await client.subscribe('orders', since=since)
            await asyncio.sleep(1)
            assert (expected is not None) == joined.recovered
            assert (expected or []) == [item.offset for item in joined.publications]
            assert [] == received(client)
        await channels.close()

    on_fake_clock(scenario)()


@pytest.mark.parametrize(
    ('offset', 'recovered', 'expected'),
    [
        (1, True, [3]),  # an older one that matched
        (3, True, []),  # the latest that matches
        (4, True, []),  # later ones did not match
        (9, True, [3]),  # not a position of this log
    ],
)
@on_fake_clock
async def test_latest_publication_that_matches_is_not_repeated(
    offset: int, recovered: bool, expected: list[int]
) -> None:
    """A client that has the latest publication of its filter does not get it again."""
    channels = make_channels(recovery='latest', history_size=10)
    await publish(channels, 'north', 'south', 'north', 'south')
    since = (await channels.position('orders'))._replace(offset=offset)
    async with SimulatedClient(channels, user='north') as client:
        joined = await client.subscribe('orders', since=since)
        assert recovered == joined.recovered
        assert expected == [item.offset for item in joined.publications]
    await channels.close()
