"""The fan-out: one encoding, one write per iteration, and limits for slow readers."""

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


def make_channels(**options: Any) -> Channels:
    channels = Channels(options=NodeOptions(max_backlog_bytes=65536))
    options = {'max_publication_bytes': 2048, 'max_backlog_bytes': 8192, **options}
    channels.add_route(
        'a:{name}', None, ChannelOptions(subscribers='anybody', **options)
    )
    channels.add_route('b:{name}', None, ChannelOptions(subscribers='anybody'))
    return channels


def numbers(client: SimulatedClient) -> list[int]:
    return [
        event.item.value()[0]
        for event in client.events
        if isinstance(event, Received) and isinstance(event.item, Publication)
    ]


@on_fake_clock
async def test_publication_for_100_subscribers_is_encoded_once() -> None:
    """A publication is encoded once for all subscribers that share an encoder."""
    channels = make_channels()
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
async def test_publications_of_one_iteration_leave_in_one_write() -> None:
    """Publications of one event-loop iteration leave in one write, also of several
    channels."""
    channels = make_channels()
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
async def test_slow_reader_with_policy_close_is_disconnected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client that does not read is closed at the limit; others receive everything."""
    channels = make_channels()
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
async def test_slow_reader_with_policy_drop_oldest_misses_the_oldest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A slow client misses the oldest publications: counted, and logged once."""
    channels = make_channels(slow_reader='drop_oldest')
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
async def test_slow_reader_with_policy_latest_gets_the_newest_and_all_joins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A slow client that reads again gets the newest publication and every join."""
    caplog.set_level(logging.INFO)
    channels = make_channels(slow_reader='latest', join_leave='connection')
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
async def test_recovery_larger_than_the_backlog_limit_keeps_the_connection() -> None:
    """Recovered publications do not count towards the backlog limit."""
    channels = make_channels(history_size=100)
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
async def test_backlog_limit_applies_after_recovered_publications_were_read() -> None:
    """Once a client has read what it recovered, the usual limit applies to it."""
    channels = make_channels(history_size=100)
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
async def test_recovered_output_that_was_flushed_before_does_not_count() -> None:
    """Output that other code has written counts like output of the fan-out.

    The fan-out found nothing to write, and took that for a client that has read
    everything. Its recovered publications then counted towards the backlog limit.
    """
    channels = make_channels(history_size=100)
    for number in range(50):
        await channels.publish('a:1', [number, KIB])
    page = await channels.history('a:1', limit=1)
    async with SimulatedClient(channels) as client:
        client.stop_reading()
        await client.subscribe('a:1', page.position._replace(offset=10))
        client.connection.flush()
        assert client.connection.backlog_bytes > 8192
        await asyncio.sleep(1)
        await channels.publish('a:1', [50])
        await asyncio.sleep(1)
        assert None is client.end
        client.read_again()
        await asyncio.sleep(1)
        assert [50] == numbers(client)
    await channels.close()


@on_fake_clock
async def test_recovery_above_its_limit_in_bytes_returns_nothing() -> None:
    """A client that missed more than the limit is not recovered, not even in part."""
    channels = make_channels(history_size=100, recovery_limit_bytes=10_000)
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
async def test_binary_publication_arrives_unchanged() -> None:
    """A binary payload reaches a client of a binary encoding byte by byte."""
    channels = make_channels(binary=True)
    async with SimulatedClient(channels) as client:
        await client.subscribe('a:1')
        await channels.publish('a:1', b'\x00\xff')
        assert b'\x00\xff' == (await client.receive()).value()
    await channels.close()
