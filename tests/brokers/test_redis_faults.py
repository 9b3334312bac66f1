"""Redis that is killed, frozen, cut off: everything arrives once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
import subprocess

import pytest
from support.audience import Audience
from support.audience import is_lost
from support.audience import lost_and_back
from support.audience import run_fault
from support.audience import SUBSCRIBERS
from support.proxy import Proxy
from support.redis_server import RedisCluster
from support.redis_server import RedisServer

from falcon_channels.brokers.redis.keys import token
from falcon_channels.channels import Channels

pytestmark = pytest.mark.xdist_group('redis faults')

#: Short, so that faults are noticed soon.
QUICK = '?timeout_s=1&probe_s=0.2'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def careful_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that writes everything to the disk before it acknowledges."""
    words = ('--appendonly', 'yes', '--appendfsync', 'always')
    server = RedisServer(tmp_path, *words)
    yield server
    server.stop()


async def test_a_server_killed_with_its_data_kept(careful_server: RedisServer) -> None:
    """The server is killed and started with its data: nobody misses anything."""

    async def fault(channels: Channels, audience: Audience) -> None:
        careful_server.kill()
        await audience.until(lambda: is_lost(channels), 'the link is lost')
        careful_server.start()
        await audience.until(lambda: channels.status == 'ok', 'the link is back')

    url = f'{careful_server.url}{QUICK}&trusted=yes'
    audience, publisher, channels = await run_fault(url, fault)
    assert publisher.failures > 0
    audience.check_all_heard(publisher.values)
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_a_server_killed_that_may_have_lost_a_tail(
    careful_server: RedisServer,
) -> None:
    """A restarted server that is not trusted begins new epochs; clients are told."""

    async def fault(channels: Channels, audience: Audience) -> None:
        careful_server.kill()
        await audience.until(lambda: is_lost(channels), 'the link is lost')
        careful_server.start()
        await audience.until(lambda: channels.status == 'ok', 'the link is back')

    url = f'{careful_server.url}{QUICK}'
    audience, publisher, channels = await run_fault(url, fault)
    audience.check_heard_or_told(publisher.values)
    assert [2] * SUBSCRIBERS == [len(heard) for heard in audience.heard]
    assert SUBSCRIBERS == channels.node.hub.counters.insufficient_state


async def test_a_server_killed_with_its_data_lost(server: RedisServer) -> None:
    """The server is killed and comes back empty: everybody is told, and goes on."""

    async def fault(channels: Channels, audience: Audience) -> None:
        server.kill()
        await audience.until(lambda: is_lost(channels), 'the link is lost')
        server.start()
        await audience.until(lambda: channels.status == 'ok', 'the link is back')

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    assert publisher.failures > 0
    audience.check_heard_or_told(publisher.values)
    assert [2] * SUBSCRIBERS == [len(heard) for heard in audience.heard]
    assert SUBSCRIBERS == channels.node.hub.counters.insufficient_state


async def test_a_frozen_server(server: RedisServer) -> None:
    """The server stops for ten seconds: calls fail in time, and nothing is lost."""

    async def fault(channels: Channels, audience: Audience) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        server.freeze()
        await audience.until(lambda: is_lost(channels), 'the link is lost')
        await audience.until(lambda: loop.time() > begun_s + 10, '10 s are over')
        server.thaw()
        await audience.until(lambda: channels.status == 'ok', 'the link is back')

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    # NOTE: with a deadline of one second more than one try fits in.
    assert publisher.failures >= 2
    audience.check_all_heard(publisher.values)
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_killed_pubsub_connections(server: RedisServer) -> None:
    """Pub/sub connections are killed: what was published meanwhile is read."""

    async def fault(channels: Channels, audience: Audience) -> None:
        for _ in range(3):
            command = ['redis-cli', '-p', str(server.port), 'CLIENT', 'KILL']
            watching = asyncio.create_task(lost_and_back(channels, audience))
            await asyncio.to_thread(
                subprocess.run,
                [*command, 'TYPE', 'pubsub'],
                check=True,
                capture_output=True,
            )
            await watching

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    audience.check_all_heard(publisher.values)
    assert channels.node.hub.counters.repairs >= 3
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_a_cut_and_a_half_open_connection(server: RedisServer) -> None:
    """Connections are cut, refused, and swallow bytes: nothing is lost."""
    async with Proxy(server.port) as proxy:

        async def fault(channels: Channels, audience: Audience) -> None:
            watching = asyncio.create_task(lost_and_back(channels, audience))
            proxy.drop()
            await watching
            await proxy.cut()
            await audience.until(lambda: is_lost(channels), 'the link is lost')
            await proxy.mend()
            await audience.until(lambda: channels.status == 'ok', 'the link is back')
            proxy.swallow = True
            await audience.until(lambda: is_lost(channels), 'silence is noticed')
            proxy.swallow = False
            proxy.drop()
            await audience.until(lambda: channels.status == 'ok', 'the link is back')

        url = f'redis://127.0.0.1:{proxy.port}{QUICK}'
        audience, publisher, channels = await run_fault(url, fault)
        assert publisher.failures > 0
        audience.check_all_heard(publisher.values)
        assert 0 == channels.node.hub.counters.insufficient_state


async def test_a_slot_that_moves_in_a_cluster(tmp_path: Path) -> None:
    """The slot of a channel moves to another server: everybody is told, and goes on."""
    with RedisCluster(tmp_path) as cluster:

        async def fault(channels: Channels, audience: Audience) -> None:
            watching = asyncio.create_task(lost_and_back(channels, audience))
            await asyncio.to_thread(cluster.move_slot, f'{{{token("news")}}}')
            await watching

        audience, publisher, _ = await run_fault(f'{cluster.url}{QUICK}', fault)
    audience.check_heard_or_told(publisher.values)
    assert [2] * SUBSCRIBERS == [len(heard) for heard in audience.heard]
