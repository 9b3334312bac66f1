"""Faults of PostgreSQL: all publications still arrive once and in order."""

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

#: Short times, so that faults are noticed soon.
QUICK = '?timeout_s=2&probe_s=0.2'


@pytest.fixture(scope='module')
def running() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture
def server(running: PostgresServer) -> PostgresServer:
    """An empty server."""
    make_empty(running)
    return running


def make_empty(server: PostgresServer) -> None:
    """Remove all data from a server, and create the tables again."""
    with psycopg.connect(server.url) as connection:
        connection.execute('DROP SCHEMA IF EXISTS falcon_channels CASCADE')
    migrate(server.url)


async def test_killed_and_restarted_server_loses_no_publication(
    server: PostgresServer,
) -> None:
    """After the server was killed and restarted, no subscriber misses anything."""

    async def fault(channels: Channels, audience: Audience) -> None:
        await asyncio.to_thread(server.kill)
        await audience.until(lambda: is_lost(channels), 'the link is lost')
        await asyncio.to_thread(server.start)
        await audience.until(lambda: channels.status == 'ok', 'the link is back')

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    assert publisher.failures > 0
    audience.check_all_heard(publisher.values)
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_server_that_lost_its_data_is_reported_to_all_subscribers(
    server: PostgresServer,
) -> None:
    """If the server restarts empty, all subscribers are told and continue."""
    async with Proxy(server.port) as proxy:

        async def fault(channels: Channels, audience: Audience) -> None:
            # NOTE: cut off, so that no process sees the old data after the start.
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


async def test_frozen_server_fails_calls_in_time_and_loses_nothing(
    server: PostgresServer,
) -> None:
    """If the server freezes for 10 s, calls fail in time and nothing is lost."""

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


async def test_terminated_connections_lose_no_publication(
    server: PostgresServer,
) -> None:
    """After connections were terminated, the missed publications are read."""

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


async def test_cut_and_half_open_connections_lose_no_publication(
    server: PostgresServer,
) -> None:
    """Connections that are reset, refused or silent lose no publication."""
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


async def test_fail_over_starts_new_epochs_and_clients_are_told(
    server: PostgresServer,
) -> None:
    """After a fail-over, logs get new epochs, and clients are told."""

    async def fault(channels: Channels, audience: Audience) -> None:
        # NOTE: this has the same effect as if another server had written the log.
        async with await psycopg.AsyncConnection.connect(server.url) as admin:
            await admin.execute("UPDATE falcon_channels.channels SET run = 'another'")

        def all_told() -> bool:
            return all(len(heard) == 2 for heard in audience.heard)

        await audience.until(all_told, 'all subscribers are told')

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    audience.check_heard_or_told(publisher.values)
    assert SUBSCRIBERS == channels.node.hub.counters.insufficient_state


async def test_rolled_back_transactions_are_repeated_without_gaps(
    server: PostgresServer,
) -> None:
    """Rolled-back transactions are repeated until all are committed."""
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
                    # NOTE: closing without commit makes the server roll back.
                    await connection.close()

    # NOTE: a long deadline, because a transaction may stay open long on a busy machine.
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
    assert 0 == listening.node.hub.counters.insufficient_state


async def publish_everywhere(
    channels: Channels, names: list[str], task: asyncio.Task[None]
) -> list[Publisher]:
    """Publish to all channels at once until a task is done."""
    publishers = [Publisher(channels, name) for name in names]
    await asyncio.gather(
        *(publisher.publish_while(task, 'value') for publisher in publishers)
    )
    return publishers


async def check_logs(channels: Channels, publishers: list[Publisher]) -> None:
    """Check that each log has all acknowledged values once and in order."""
    for number, publisher in enumerate(publishers):
        page = await channels.history(f'news {number}', limit=None)
        values = [publication.value() for publication in page.publications]
        assert publisher.values == values
        offsets = [publication.offset for publication in page.publications]
        assert list(range(1, len(values) + 1)) == offsets


async def test_terminated_group_commits_store_each_publication_once(
    server: PostgresServer,
) -> None:
    """If the server ends the connections of group commits, retries store once."""
    names = [f'news {number}' for number in range(30)]
    url = f'{server.url}{QUICK}'
    ended = 0

    async def end_group_commits() -> None:
        nonlocal ended
        async with await psycopg.AsyncConnection.connect(
            server.url, autocommit=True
        ) as admin:
            while ended < 10:
                cursor = await admin.execute(
                    'SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity '
                    "WHERE state = 'active' AND query LIKE '%publish_batch%' "
                    'AND pid <> pg_backend_pid()'
                )
                ((count,),) = await cursor.fetchall()
                ended += count

    async with open_channels(url) as listening, open_channels(url) as publishing:
        async with Audience(listening, 'news 0', 5) as audience:
            ending = asyncio.create_task(end_group_commits())
            publishers = await publish_everywhere(publishing, names, ending)
            await publishers[0].publish('last')
            await audience.until_heard('last')
        await check_logs(listening, publishers)
    audience.check_all_heard(publishers[0].values)
    assert sum(publisher.failures for publisher in publishers) >= 10


async def test_locked_channel_delays_no_other_channel(server: PostgresServer) -> None:
    """While a transaction holds one channel, publishes to all others succeed."""
    names = [f'news {number}' for number in range(30)]
    async with open_channels(f'{server.url}?timeout_s=20') as channels:
        async with await psycopg.AsyncConnection.connect(server.url) as holder:
            for name in names:
                await channels.publish(name, 'value 0', idempotency_key='value 0')
            await channels.publish('news 0', 'held', connection=holder)
            waiting = [
                asyncio.create_task(
                    channels.publish('news 0', n, idempotency_key=f'waiting {n}')
                )
                for n in range(20)
            ]
            for n in range(1, 20):
                results = await asyncio.gather(
                    *(
                        channels.publish(name, f'value {n}', idempotency_key=f'{n}')
                        for name in names[1:]
                    )
                )
                assert {n + 1} == {result.position.offset for result in results}
            assert not any(task.done() for task in waiting)
            await holder.commit()
            results = await asyncio.gather(*waiting)
        assert [*range(3, 23)] == [result.position.offset for result in results]
        page = await channels.history('news 0', limit=None)
        assert ['value 0', 'held', *range(20)] == [
            publication.value() for publication in page.publications
        ]


async def test_group_commit_never_makes_a_transaction_fail(
    server: PostgresServer,
) -> None:
    """Transactions that lock channels in any order do not deadlock with groups."""
    names = [f'news {number}' for number in range(10)]
    url = f'{server.url}?timeout_s=20'

    async def transact(channels: Channels) -> None:
        async with await psycopg.AsyncConnection.connect(server.url) as connection:
            for n in range(15):
                for name in reversed(names):
                    await channels.publish(name, f'own {n}', connection=connection)
                await connection.commit()

    async with open_channels(url) as one, open_channels(url) as two:
        task = asyncio.create_task(transact(one))
        publishers, others = await asyncio.gather(
            publish_everywhere(one, names, task), publish_everywhere(two, names, task)
        )
        for number, name in enumerate(names):
            page = await two.history(name, limit=None)
            values = [publication.value() for publication in page.publications]
            own = [value for value in values if value.startswith('own')]
            assert [f'own {n}' for n in range(15)] == own
            found = {*publishers[number].values, *others[number].values, *own}
            assert found == set(values)
            assert len(found) == len(values)


async def test_transaction_from_sql_that_rolls_back_leaves_no_gap(
    server: PostgresServer,
) -> None:
    """Other programs publish with SQL, and half of them roll back or break off."""
    query = "SELECT falcon_channels.publish('news', to_jsonb(%s::text))"

    async def transact(number: int) -> list[str]:
        dice = random.Random(number)
        committed = []
        for n in range(20):
            value = f'{number} {n}'
            connection = await psycopg.AsyncConnection.connect(server.url)
            try:
                await connection.execute(query, (value,))
                ending = dice.choice(['commit', 'roll back', 'break off'])
                if ending == 'commit':
                    await connection.commit()
                    committed.append(value)
                elif ending == 'roll back':
                    await connection.rollback()
            finally:
                await connection.close()
        return committed

    url = f'{server.url}?timeout_s=20'
    async with open_channels(url) as listening, open_channels(url) as publishing:
        plain = Publisher(publishing, 'news')
        async with Audience(listening, 'news', 5) as audience:
            gathered = asyncio.gather(*(transact(number) for number in range(5)))
            await plain.publish_while(asyncio.ensure_future(gathered), 'plain')
            await plain.publish('last')
            await audience.until_heard('last')
            page = await listening.history('news', limit=None)
    values = [publication.value() for publication in page.publications]
    audience.check_all_heard(values)
    committed = [value for part in gathered.result() for value in part]
    assert 0 < len(committed) < 100
    assert sorted([*plain.values, *committed]) == sorted(values)
