"""The hub: gaps are closed or reported, and nobody waits in vain."""

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


class DeafBroker(MemoryBroker):
    """A broker whose announcements can be lost, as if a link was."""

    def lose(self, channel: str) -> None:
        self._subscribed.discard(channel)

    def hear(self, channel: str) -> None:
        self._subscribed.add(channel)


def made(history_size: int = 100) -> tuple[Channels, DeafBroker]:
    broker = DeafBroker()
    channels = Channels(broker)
    channels.add_route('log', None, ChannelOptions(history_size=history_size))
    return channels, broker


def offsets(client: SimulatedClient) -> list[int]:
    return [
        event.item.offset
        for event in client.events
        if isinstance(event, Received) and isinstance(event.item, Publication)
    ]


@on_fake_clock
async def test_a_gap_is_read_from_the_log() -> None:
    """150 are sent, 50 announcements are lost, and 150 arrive, in order."""
    channels, broker = made(history_size=200)
    async with SimulatedClient(channels) as client:
        await client.subscribe('log')
        for number in range(150):
            if number == 50:
                broker.lose('log')
            if number == 100:
                broker.hear('log')
            await channels.publish('log', number)
        await asyncio.sleep(1)
        assert list(range(1, 151)) == offsets(client)
        assert (1, 1) == (
            channels.node.hub.counters.gaps,
            channels.node.hub.counters.repairs,
        )
    await channels.close()


@on_fake_clock
async def test_a_lost_last_publication_is_found() -> None:
    """What no later publication shows to be missing is found by looking."""
    channels, broker = made()
    async with SimulatedClient(channels) as client:
        await client.subscribe('log')
        broker.lose('log')
        await channels.publish('log', 'the last')
        await asyncio.sleep(1)
        assert [] == offsets(client)
        await asyncio.sleep(60)
        assert [1] == offsets(client)
    await channels.close()


@on_fake_clock
async def test_what_cannot_be_read_is_reported() -> None:
    """A gap that the log no longer covers ends each subscription, with a reason."""
    channels, broker = made(history_size=3)
    async with SimulatedClient(channels) as client, SimulatedClient(channels) as other:
        await client.subscribe('log')
        await other.subscribe('log')
        broker.lose('log')
        for number in range(10):
            await channels.publish('log', number)
        broker.hear('log')
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
async def test_a_disconnect_while_subscribing_leaves_nothing() -> None:
    """However far a subscription has come when its client goes, it is gone."""
    channels, _ = made()
    await channels.publish('log', 1)
    page = await channels.history('log')
    for turns in range(8):
        client = SimulatedClient(channels)
        await client.__aenter__()
        task = asyncio.get_running_loop().create_task(
            client.subscribe('log', page.position)
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        client.disconnect()
        await asyncio.wait([task])
        assert task.exception() is None or isinstance(
            task.exception(), UnsubscribedError
        )
        assert [] == channels.connections()
        assert {} == channels.node.hub.channel_counts()
        await asyncio.sleep(20)
        assert {} == channels.node.hub._channels
    await channels.close()
    assert {asyncio.current_task()} == asyncio.all_tasks()


@on_fake_clock
async def test_what_has_ended_is_not_added() -> None:
    """A connection that ended during its handshake is not kept."""
    channels, _ = made()
    client = SimulatedClient(channels)
    client.disconnect()
    with pytest.raises(ClosedError, match='ended already'):
        await client.__aenter__()
    assert [] == channels.connections()
    await channels.close()
