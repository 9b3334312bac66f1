"""The hub: gaps are repaired or reported, and nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import UnsubscribedError
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.publication import Publication
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import Unsubscribed


class LossyBroker(MemoryBroker):
    """A broker whose announcements can be lost, as with a lost link."""

    def stop_announcing(self, channel: str) -> None:
        self._subscribed.discard(channel)

    def announce_again(self, channel: str) -> None:
        self._subscribed.add(channel)


def make_channels(history_size: int = 100) -> tuple[Channels, LossyBroker]:
    broker = LossyBroker()
    channels = Channels(broker)
    channels.add_route(
        'log', None, ChannelOptions(subscribers='anybody', history_size=history_size)
    )
    return channels, broker


def offsets(client: SimulatedClient) -> list[int]:
    return [
        event.item.offset
        for event in client.events
        if isinstance(event, Received) and isinstance(event.item, Publication)
    ]


@on_fake_clock
async def test_lost_announcements_are_read_from_the_log() -> None:
    """If 50 of 150 announcements are lost, all 150 publications arrive in order."""
    channels, broker = make_channels(history_size=200)
    async with SimulatedClient(channels) as client:
        await client.subscribe('log')
        for number in range(150):
            if number == 50:
                broker.stop_announcing('log')
            if number == 100:
                broker.announce_again('log')
            await channels.publish('log', number)
        await asyncio.sleep(1)
        assert list(range(1, 151)) == offsets(client)
        assert (1, 1) == (
            channels.node.hub.counters.gaps,
            channels.node.hub.counters.repairs,
        )
    await channels.close()


@on_fake_clock
async def test_lost_last_announcement_is_found_by_the_position_check() -> None:
    """The regular position check finds a loss that no later publication shows."""
    channels, broker = make_channels()
    async with SimulatedClient(channels) as client:
        await client.subscribe('log')
        broker.stop_announcing('log')
        await channels.publish('log', 'the last')
        await asyncio.sleep(1)
        assert [] == offsets(client)
        await asyncio.sleep(60)
        assert [1] == offsets(client)
    await channels.close()


@on_fake_clock
async def test_gap_that_the_log_no_longer_covers_ends_subscriptions() -> None:
    """A gap that cannot be repaired ends every subscription with code 2500."""
    channels, broker = make_channels(history_size=3)
    async with SimulatedClient(channels) as client, SimulatedClient(channels) as other:
        await client.subscribe('log')
        await other.subscribe('log')
        broker.stop_announcing('log')
        for number in range(10):
            await channels.publish('log', number)
        broker.announce_again('log')
        await channels.publish('log', 10)
        await asyncio.sleep(1)
        for ended in (client, other):
            assert Unsubscribed('log', 2500, 'insufficient state') == ended.events[-1]
            assert [] == offsets(ended)
        assert 2 == channels.node.hub.counters.insufficient_state
        joined = await client.subscribe('log')
        assert 11 == joined.position.offset
        await channels.publish('log', 11)
        await asyncio.sleep(1)
        assert [12] == offsets(client)
    await channels.close()


@on_fake_clock
async def test_disconnect_during_subscribe_leaves_nothing_behind() -> None:
    """A client may disconnect at any step of its subscription. Nothing is left."""
    channels, _ = make_channels()
    await channels.publish('log', 1)
    page = await channels.history('log')
    for iterations in range(8):
        client = SimulatedClient(channels)
        await client.__aenter__()
        task = asyncio.get_running_loop().create_task(
            client.subscribe('log', page.position)
        )
        for _ in range(iterations):
            await asyncio.sleep(0)
        client.disconnect()
        await asyncio.wait([task])
        assert task.exception() is None or isinstance(
            task.exception(), UnsubscribedError
        )
        assert [] == channels.connections()
        assert 0 == channels.node.hub.num_subscriptions
        await asyncio.sleep(20)
        assert {} == channels.node.hub._channels
    await channels.close()
    assert {asyncio.current_task()} == asyncio.all_tasks()


@on_fake_clock
async def test_connection_that_ended_in_its_handshake_is_not_added() -> None:
    """`Hub.add` refuses a connection that has ended already."""
    channels, _ = make_channels()
    client = SimulatedClient(channels)
    client.disconnect()
    with pytest.raises(ClosedError, match='ended already'):
        channels.node.hub.add(client.connection)
    assert [] == channels.connections()
    await channels.close()
