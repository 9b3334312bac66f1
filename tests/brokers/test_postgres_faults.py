"""PostgreSQL that is killed, frozen, cut off: everything arrives once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import random

import psycopg
import pytest
from support.audience import Audience
from support.audience import is_lost
from support.audience import lost_and_back
from support.audience import open_channels
from support.audience import Publisher
from support.audience import run_fault
from support.audience import SUBSCRIBERS
from support.postgres_server import PostgresServer
from support.proxy import Proxy

from falcon_channels.brokers.postgres import migrate
from falcon_channels.channels import Channels

pytestmark = pytest.mark.xdist_group('postgres faults')

#: Short, so that faults are noticed soon.
QUICK = '?timeout_s=2&probe_s=0.2'


@pytest.fixture(scope='module')
def running() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture
def server(running: PostgresServer) -> PostgresServer:
    """A server without anything in it."""
    make_empty(running)
    return running


def make_empty(server: PostgresServer) -> None:
    """Take everything from a server but its tables."""
    with psycopg.connect(server.url) as connection:
        connection.execute('DROP SCHEMA IF EXISTS falcon_channels CASCADE')
    migrate(server.url)


async def test_a_server_killed_and_started_again(server: PostgresServer) -> None:
    """The server is killed and started: nobody misses anything."""

    async def fault(channels: Channels, audience: Audience) -> None:
        await asyncio.to_thread(server.kill)
        await audience.until(lambda: is_lost(channels), 'the link is lost')
        await asyncio.to_thread(server.start)
        await audience.until(lambda: channels.status == 'ok', 'the link is back')

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    assert publisher.failures > 0
    audience.check_all_heard(publisher.values)
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_a_server_killed_with_its_data_lost(server: PostgresServer) -> None:
    """The server comes back without what it had: everybody is told, and goes on."""
    async with Proxy(server.port) as proxy:

        async def fault(channels: Channels, audience: Audience) -> None:
            # NOTE: so that nobody sees the old data when the server is up again.
            await proxy.cut()
            await asyncio.to_thread(server.kill)
            await audience.until(lambda: is_lost(channels), 'the link is lost')
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(make_empty, server)
            await proxy.mend()
            await audience.until(lambda: channels.status == 'ok', 'the link is back')

        url = server.url.replace(str(server.port), str(proxy.port))
        audience, publisher, channels = await run_fault(f'{url}{QUICK}', fault)
    assert publisher.failures > 0
    audience.check_heard_or_told(publisher.values)
    assert [2] * SUBSCRIBERS == [len(heard) for heard in audience.heard]
    assert SUBSCRIBERS == channels.node.hub.counters.insufficient_state


async def test_a_frozen_server(server: PostgresServer) -> None:
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
    assert publisher.failures >= 2
    audience.check_all_heard(publisher.values)
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_terminated_connections(server: PostgresServer) -> None:
    """All connections are terminated: what was published meanwhile is read."""

    async def fault(channels: Channels, audience: Audience) -> None:
        for _ in range(3):
            watching = asyncio.create_task(lost_and_back(channels, audience))
            async with await psycopg.AsyncConnection.connect(server.url) as admin:
                await admin.execute(
                    'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
            await watching

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    audience.check_all_heard(publisher.values)
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_a_cut_and_a_half_open_connection(server: PostgresServer) -> None:
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

        url = server.url.replace(str(server.port), str(proxy.port))
        audience, publisher, channels = await run_fault(f'{url}{QUICK}', fault)
        assert publisher.failures > 0
        audience.check_all_heard(publisher.values)
        assert 0 == channels.node.hub.counters.insufficient_state


async def test_another_server_that_may_lack_a_tail(server: PostgresServer) -> None:
    """After a fail-over logs get new epochs, and clients are told."""

    async def fault(channels: Channels, audience: Audience) -> None:
        # NOTE: as if another server had written the log until now.
        async with await psycopg.AsyncConnection.connect(server.url) as admin:
            await admin.execute("UPDATE falcon_channels.channels SET run = 'another'")

        def all_told() -> bool:
            return all(len(heard) == 2 for heard in audience.heard)

        await audience.until(all_told, 'everybody is told')

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    audience.check_heard_or_told(publisher.values)
    assert SUBSCRIBERS == channels.node.hub.counters.insufficient_state


async def test_transactions_rolled_back(server: PostgresServer) -> None:
    """Transactions are rolled back and made again, until all have been committed."""
    committed: list[tuple[int, str]] = []
    undone = 0

    async def transact(channels: Channels, number: int) -> None:
        nonlocal undone
        dice = random.Random(number)
        for n in range(20):
            value = f'{number} {n}'
            ending = ''
            while ending != 'commit':
                ending = dice.choice(['commit', 'roll back', 'break off'])
                connection = await psycopg.AsyncConnection.connect(server.url)
                try:
                    result = await channels.publish(
                        'news', value, idempotency_key=value, connection=connection
                    )
                    if ending == 'commit':
                        await connection.commit()
                        committed.append((result.position.offset, value))
                        assert not result.duplicate
                        continue
                    undone += 1
                    if ending == 'roll back':
                        await connection.rollback()
                finally:
                    # NOTE: what was neither is undone by the server.
                    await connection.close()

    # NOTE: nobody fails because a busy machine keeps another transaction open.
    url = f'{server.url}?timeout_s=20'
    async with open_channels(url) as listening, open_channels(url) as publishing:
        plain = Publisher(publishing, 'news')
        async with Audience(listening, 'news') as audience:
            tasks = [
                asyncio.create_task(transact(publishing, number)) for number in range(5)
            ]
            gathered = asyncio.ensure_future(asyncio.gather(*tasks))
            await plain.publish_while(gathered, 'plain')
            await plain.publish('last')
            await audience.until_heard('last')
            page = await listening.history('news', limit=None)
    values = [item.value() for item in page.publications]
    audience.check_all_heard(values)
    assert {value for _, value in committed} | {*plain.values} == {*values}
    assert sorted(committed) == [
        (n, value) for n, value in enumerate(values, 1) if value not in plain.values
    ]
    assert undone >= 50
    assert 0 == listening.hub.counters.insufficient_state
