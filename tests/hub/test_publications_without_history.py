"""Publications with `skip_history` are sent, but are no part of the log."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.deltas import DeltaReader
from support.fake_clock import on_fake_clock

from falcon_channels import CapabilityError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.publication import Publication
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk


def make_channels(broker: Any = None, **options: Any) -> Channels:
    channels = Channels(broker)
    channels.add_route(
        'room',
        None,
        ChannelOptions(subscribers='anybody', **{'history_size': 10, **options}),
    )
    return channels


def received(client: SimulatedClient) -> list[tuple[int, Any]]:
    """Return the offsets and data that a client received after its join."""
    return [
        (event.item.offset, event.item.value())
        for event in client.events
        if isinstance(event, Received) and isinstance(event.item, Publication)
    ]


@on_fake_clock
async def test_publication_without_history_is_sent_between_others() -> None:
    """The publication has no offset, is not in the history, and causes no gap."""
    async with make_channels() as channels, SimulatedClient(channels) as client:
        joined = await client.subscribe('room')
        await channels.publish('room', 'a')
        result = await channels.publish('room', 'typing', skip_history=True)
        await channels.publish('room', 'b')
        await channels.broadcast(['room'], 'typing', skip_history=True)
        await asyncio.sleep(1)
        assert (0, '') == result.position
        assert [(1, 'a'), (0, 'typing'), (2, 'b'), (0, 'typing')] == received(client)
        page = await channels.history('room')
        assert ['a', 'b'] == [item.value() for item in page.publications]
        assert 0 == channels.node.hub.counters.gaps
        client.unsubscribe('room')
        again = await client.subscribe('room', joined.position)
        assert ['a', 'b'] == [item.value() for item in again.publications]


class LossyBroker(MemoryBroker):
    """A broker that does not announce some publications."""

    lost: tuple[int, ...] = ()

    def start(self, receiver: Any) -> Any:
        on_publication = receiver.on_publication

        class Receiver:
            def __getattr__(self, name: str) -> Any:
                return getattr(receiver, name)

            def on_publication(
                self, channel: str, publication: Publication, epoch: str
            ) -> None:
                if publication.offset not in broker.lost:
                    on_publication(channel, publication, epoch)

        broker = self
        return super().start(Receiver())  # type: ignore[arg-type] # has all methods


@on_fake_clock
async def test_publication_without_history_does_not_disturb_a_repair() -> None:
    """The publication waits for the missing ones, and follows them."""
    broker = LossyBroker()
    async with make_channels(broker) as channels, SimulatedClient(channels) as client:
        await client.subscribe('room')
        broker.lost = (1,)
        for number in (1, 2):
            await channels.publish('room', number)
        await channels.publish('room', 'typing', skip_history=True)
        await asyncio.sleep(1)
        assert [(1, 1), (2, 2), (0, 'typing')] == received(client)
        assert 1 == channels.node.hub.counters.repairs


@on_fake_clock
async def test_publication_without_history_does_not_replace_the_latest_state() -> None:
    """A slow client gets the newest state, and not a message that is no state."""
    channels = make_channels(
        recovery='latest',
        slow_reader='latest',
        max_publication_bytes=1000,
        max_backlog_bytes=2000,
    )
    async with channels, SimulatedClient(channels) as client:
        await client.subscribe('room')
        client.stop_reading()
        for number in range(20):
            await channels.publish('room', f'{number}' + ' ' * 500)
            await asyncio.sleep(0.01)
        await channels.publish('room', 'typing', skip_history=True)
        await asyncio.sleep(0.01)
        client.read_again()
        await asyncio.sleep(1)
        assert 20 == received(client)[-1][0]


@on_fake_clock
async def test_version_of_a_publication_without_history_is_refused() -> None:
    """A version is compared with that of the log, so it must be stored there."""
    async with make_channels() as channels:
        with pytest.raises(CapabilityError, match='leave out skip_history'):
            await channels.publish('room', 1, version=1, skip_history=True)


@on_fake_clock
async def test_client_with_delta_receives_a_publication_without_history() -> None:
    """The next delta is against what the client received last, stored or not."""
    state = [f'part {number}' for number in range(40)]
    async with (
        make_channels(delta=True) as channels,
        SimulatedSdk(channels) as client,
    ):
        assert (await client.subscribe('room', delta='fossil'))['delta']
        reader = DeltaReader()
        for number, skip in enumerate([False, True, False, True]):
            await channels.publish('room', [number, *state], skip_history=skip)
            payload = reader.read((await client.receive())['pub'])
            assert [number, *state] == json.loads(payload)
        assert 3 == reader.num_deltas
