"""The fan-out: encoded once, written once a turn, and nobody waits for the slow."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.publication import Publication
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient

KIB = 'x' * 1022


def made(**options: Any) -> Channels:
    channels = Channels(options=NodeOptions(max_backlog_bytes=65536))
    options = {'max_publication_bytes': 2048, 'max_backlog_bytes': 8192, **options}
    channels.add_route('a:{name}', None, ChannelOptions(**options))
    channels.add_route('b:{name}', None, ChannelOptions())
    return channels


def numbers(client: SimulatedClient) -> list[int]:
    return [
        event.item.value()[0]
        for event in client.events
        if isinstance(event, Received) and isinstance(event.item, Publication)
    ]


@on_fake_clock
async def test_encodes_once_however_many_subscribers() -> None:
    """A publication is encoded once for a hundred subscribers that speak alike."""
    channels = made()
    clients = [SimulatedClient(channels) for _ in range(100)]
    for client in clients:
        await client.__aenter__()
        await client.subscribe('a:1')
    await channels.publish('a:1', [0])
    await asyncio.sleep(1)
    assert 1 == channels.node.hub.counters.encodings
    assert 100 == channels.node.hub.counters.deliveries
    blobs = {id(client.events[-1]) for client in clients}
    assert 1 == len(blobs)
    await channels.close()


@on_fake_clock
async def test_one_turn_is_one_write() -> None:
    """What is published in one turn leaves in one write, over several channels, too."""
    channels = made()
    async with SimulatedClient(channels) as client:
        await client.subscribe('a:1')
        await client.subscribe('a:2')
        await asyncio.sleep(1)
        before = client.transport.writes
        for number in range(10):
            await channels.publish('a:1', [number])
            await channels.publish('a:2', [number])
        assert before == client.transport.writes
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert before + 1 == client.transport.writes
        assert 2 == channels.node.hub.counters.encodings
        assert 20 == len(numbers(client))
    await channels.close()


@on_fake_clock
async def test_slow_reader_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """A reader that does not read is closed at its limit; the others get all."""
    channels = made()
    async with SimulatedClient(channels) as stuck, SimulatedClient(channels) as other:
        await stuck.subscribe('a:1')
        await other.subscribe('a:1')
        await asyncio.sleep(1)
        stuck.stop_reading()
        for number in range(100):
            await channels.publish('a:1', [number, KIB])
            await asyncio.sleep(0.01)
        assert (3008, 'slow') == stuck.end
        assert stuck.transport.peak_bytes <= 8192 + 1100
        assert list(range(100)) == numbers(other)
        assert 1 == channels.node.hub.counters.slow_disconnects
        (record,) = [r for r in caplog.records if 'too slowly' in r.getMessage()]
        assert "'a:1'" in record.getMessage()
        assert 'Position' in record.getMessage()
        assert [other.connection] == channels.connections()
    await channels.close()


@on_fake_clock
async def test_slow_reader_misses_the_oldest(caplog: pytest.LogCaptureFixture) -> None:
    """A reader that falls behind misses the oldest, counted, and logged once."""
    channels = made(slow_reader='drop_oldest')
    async with SimulatedClient(channels) as stuck, SimulatedClient(channels) as other:
        await stuck.subscribe('a:1')
        await other.subscribe('a:1')
        await asyncio.sleep(1)
        stuck.stop_reading()
        for number in range(100):
            await channels.publish('a:1', [number, KIB])
            await asyncio.sleep(0.01)
        (subscription,) = stuck.connection.subscriptions.values()
        waiting_bytes = stuck.transport.backlog_bytes + subscription.pending_bytes
        assert waiting_bytes <= 8192 + 1100
        stuck.read_again()
        await channels.publish('a:1', [100])
        await asyncio.sleep(1)
        got = numbers(stuck)
        dropped = 101 - len(got)
        assert sorted(set(got)) == got
        assert [97, 98, 99, 100] == got[-4:]
        assert dropped == channels.node.hub.counters.dropped
        assert dropped > 80
        assert list(range(101)) == numbers(other)
        assert 1 == sum('too slowly' in r.getMessage() for r in caplog.records)
        assert None is stuck.end
    await channels.close()


@on_fake_clock
async def test_slow_reader_gets_the_latest(caplog: pytest.LogCaptureFixture) -> None:
    """A reader of a state gets the newest when it reads again, and every join."""
    caplog.set_level(logging.INFO)
    channels = made(slow_reader='latest', join_leave='connection')
    async with SimulatedClient(channels) as stuck:
        await stuck.subscribe('a:1')
        await asyncio.sleep(1)
        stuck.stop_reading()
        for number in range(50):
            await channels.publish('a:1', [number, KIB])
            await asyncio.sleep(0.01)
        async with SimulatedClient(channels, user='late') as late:
            await late.subscribe('a:1')
            await asyncio.sleep(1)
            stuck.read_again()
            await asyncio.sleep(1)
            assert [0, 49] == numbers(stuck)
            assert 48 == channels.node.hub.counters.dropped
            assert 'late' == stuck.events[-1].item.info.user
        await channels.publish('a:1', [50])
        await asyncio.sleep(1)
        assert [0, 49, 50] == numbers(stuck)
    assert 1 == sum('too slowly' in r.getMessage() for r in caplog.records)
    await channels.close()


@on_fake_clock
async def test_recovery_is_not_slowness() -> None:
    """Who recovers more than a backlog may hold is not closed over it."""
    channels = made(history_size=100)
    for number in range(50):
        await channels.publish('a:1', [number, KIB])
    page = await channels.history('a:1', limit=1)
    async with SimulatedClient(channels) as client:
        client.stop_reading()
        joined = await client.subscribe('a:1', page.position._replace(offset=10))
        assert True is joined.recovered
        assert 40 == len(joined.publications)
        await channels.publish('a:1', [50])
        await asyncio.sleep(1)
        assert None is client.end
        client.read_again()
        await asyncio.sleep(1)
        assert [50] == numbers(client)
        client.stop_reading()
        for number in range(50):
            await channels.publish('a:1', [number, KIB])
            await asyncio.sleep(0.01)
        assert (3008, 'slow') == client.end
    await channels.close()


@on_fake_clock
async def test_what_was_recovered_and_read_is_no_credit() -> None:
    """Who has read what it recovered may lag behind no further than others."""
    channels = made(history_size=100)
    for number in range(50):
        await channels.publish('a:1', [number, KIB])
    page = await channels.history('a:1', limit=1)
    async with SimulatedClient(channels) as client:
        joined = await client.subscribe('a:1', page.position._replace(offset=10))
        assert 40 == len(joined.publications)
        await asyncio.sleep(1)
        client.stop_reading()
        for number in range(50):
            await channels.publish('a:1', [number, KIB])
            await asyncio.sleep(0.01)
        assert (3008, 'slow') == client.end
        assert client.transport.peak_bytes < 8192 + 2048
    await channels.close()


@on_fake_clock
async def test_recovery_is_bounded_in_bytes() -> None:
    """Who missed more than the limit is told so, and gets nothing by halves."""
    channels = made(history_size=100, recovery_limit_bytes=10_000)
    for number in range(50):
        await channels.publish('a:1', [number, KIB])
    page = await channels.history('a:1', limit=1)
    async with SimulatedClient(channels) as client:
        joined = await client.subscribe('a:1', page.position._replace(offset=10))
        assert (False, []) == (joined.recovered, joined.publications)
        client.unsubscribe('a:1')
        joined = await client.subscribe('a:1', page.position._replace(offset=45))
        assert True is joined.recovered
        assert [46, 47, 48, 49, 50] == [p.offset for p in joined.publications]
    await channels.close()


@on_fake_clock
async def test_binary_publications_arrive_as_they_are() -> None:
    """A binary payload reaches a client that can have it, byte by byte."""
    channels = made()
    async with SimulatedClient(channels) as client:
        await client.subscribe('a:1')
        await channels.publish('a:1', b'\x00\xff')
        assert b'\x00\xff' == (await client.receive()).value()
    await channels.close()
