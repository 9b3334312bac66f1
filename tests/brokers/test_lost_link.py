"""Calls, announcements and log lines while the link to a real server is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
import contextlib
from pathlib import Path
import sqlite3
from typing import Any
from typing import Literal

import psycopg
import pytest
from support.audience import open_channels
from support.postgres_server import PostgresServer
from support.redis_server import RedisServer

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.urls import open_broker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal
from falcon_channels.testing import Received
from falcon_channels.testing import Recorder
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing.recorder import eventually

pytestmark = pytest.mark.xdist_group('lost link')

LOG = LogSettings(size=10)
NO_LOG = LogSettings()
ITEM = Publication(data=b'1')
#: Lifetime of presence entries in seconds.
TTL_S = 1.5


class Store:
    """A server whose connections for announcements a test can end.

    Args:
        url: URL of the broker.
        end_links: Function that ends the connections for announcements, but not those
            for calls.
    """

    def __init__(self, url: str, end_links: Callable[[], None]) -> None:
        self.url = url
        self.end_links = end_links


@pytest.fixture(params=['redis', 'postgresql'])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == 'redis':
        redis = RedisServer(tmp_path)
        yield Store(redis.url, lambda: redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub'))
        redis.stop()
        return
    postgres = PostgresServer('fsync=off')

    def end_links() -> None:
        with psycopg.connect(postgres.url) as connection:
            connection.execute(
                # NOTE: a connection that waits for notifications shares these locks.
                'SELECT pg_terminate_backend(pid) FROM ('
                '    SELECT DISTINCT pid FROM pg_locks '
                "    WHERE locktype = 'advisory' AND mode = 'ShareLock'"
                ') AS listeners'
            )

    yield Store(f'{postgres.url}?migrate=yes', end_links)
    postgres.stop()


async def test_publish_without_log_is_refused_while_the_own_link_is_lost(
    store: Store,
) -> None:
    """Promise 13: a publish that succeeds reaches the subscribers of its process."""
    broker, recorder = open_broker(store.url), Recorder()
    await broker.start(recorder)
    await broker.subscribe('live', NO_LOG)
    await broker.subscribe('logged', LOG)
    await asyncio.to_thread(store.end_links)
    await recorder.until(lambda: recorder.links == ['lost'], 'the link is lost')
    # NOTE: nothing is awaited before these calls, so the link is still lost.
    with pytest.raises(BrokerUnavailableError, match=r'link to .* is lost'):
        await broker.publish('live', ITEM, NO_LOG)
    with pytest.raises(BrokerUnavailableError, match=r'link to .* is lost'):
        await broker.signal('live', b'join')
    # A log can be read later, and nobody in this process listens to the third channel.
    await broker.publish('logged', ITEM, LOG)
    await broker.publish('elsewhere', ITEM, NO_LOG)
    await recorder.until(lambda: recorder.links[-1] == 'restored', 'it is back')
    await broker.publish('live', ITEM, NO_LOG)
    await broker.signal('live', b'join')
    await recorder.until(lambda: recorder.signals, 'the signal')
    assert [b'1'] == recorder.data_of('live')
    assert [b'1'] == [
        item.data for item in (await broker.history('logged', LOG)).publications
    ]
    await broker.close()


class Outage:
    """A store that a test can make unreachable.

    Args:
        url: URL of the broker.
        begin: Function that makes the store unreachable.
        end: Function that makes it reachable again.
    """

    def __init__(
        self, url: str, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self.url = url
        self.begin = begin
        self.end = end


@pytest.fixture(params=['sqlite', 'redis', 'empty redis', 'postgresql'])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outage]:
    """An outage of each store; "empty redis" loses its data during the outage."""
    if request.param == 'sqlite':
        path = tmp_path / 'chat.db'
        lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        yield Outage(
            f'sqlite:///{path}?timeout_s=1',
            lambda: lock.execute('BEGIN IMMEDIATE'),
            lambda: lock.execute('ROLLBACK'),
        )
        lock.close()
    elif request.param == 'postgresql':
        postgres = PostgresServer('fsync=off')
        url = f'{postgres.url}?migrate=yes&timeout_s=1&probe_s=0.2'
        yield Outage(url, postgres.freeze, postgres.thaw)
        postgres.stop()
    else:
        redis = RedisServer(tmp_path)
        url = f'{redis.url}?timeout_s=1&probe_s=0.2'
        if request.param == 'redis':
            yield Outage(url, redis.freeze, redis.thaw)
        else:
            yield Outage(url, redis.kill, redis.start)
        redis.stop()


async def test_calls_that_wait_when_the_broker_closes_raise_its_error(
    outage: Outage,
) -> None:
    """Promise 16: `close` ends each pending call, and cancels no caller."""
    broker = open_broker(outage.url)
    await broker.start(Recorder())
    await broker.subscribe('news', LOG)
    outage.begin()
    try:
        calls: list[Coroutine[Any, Any, object]] = [
            broker.publish('news', Publication(data=b'1'), LOG),
            broker.history('news', LOG),
            broker.presence('news'),
            broker.is_revoked('news', 'bob'),
            broker.revoke('news', 'bob', 10),
            broker.expire_presence(10),
            broker.control(b'1'),
            broker.subscribe('other', LOG),
        ]
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0)
        await broker.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        outage.end()
    errors = [item for item in results if isinstance(item, BaseException)]
    assert [] == [e for e in errors if not isinstance(e, BrokerUnavailableError)]
    assert isinstance(results[0], BrokerUnavailableError)


def announced(watcher: SimulatedClient) -> list[tuple[str, str]]:
    """Return the joins and leaves that a client has received, with their users."""
    return [
        (event.item.kind, event.item.info.user)
        for event in watcher.events
        if isinstance(event, Received) and isinstance(event.item, Signal)
    ]


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition is true; fail with its description otherwise."""

    async def check() -> bool:
        return condition()

    await eventually(check, what)


@pytest.mark.parametrize('join_leave', ['user', 'connection'])
async def test_outage_longer_than_the_lifetime_of_entries_announces_nothing(
    outage: Outage,
    join_leave: Literal['user', 'connection'],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Members that stay connected are not announced again after an outage.

    The processes log one line about presence, even if many calls have failed.
    """
    monkeypatch.setattr('falcon_channels.hub.presence._SETTLE_S', 5.0)
    loop = asyncio.get_running_loop()
    options = ChannelOptions(
        subscribers='anybody',
        presence=True,
        join_leave=join_leave,
        presence_ttl_s=TTL_S,
    )
    async with contextlib.AsyncExitStack() as stack:
        processes = []
        for _ in range(2):
            channels = Channels(outage.url)
            channels.add_route('room:{name}', None, options)
            await channels.start()
            stack.push_async_callback(channels.close)
            processes.append(channels)
        members = ['watcher', 'ann', 'ann', 'bob']
        clients = []
        for number, user in enumerate(members):
            client = SimulatedClient(processes[number % 2], user=user)
            clients.append(await stack.enter_async_context(client))
            await client.subscribe('room:1')
        joins = 3 if join_leave == 'user' else 4
        await until(lambda: len(announced(clients[0])) == joins, 'all have joined')

        await asyncio.to_thread(outage.begin)
        end_s = loop.time() + 3 * TTL_S
        await until(lambda: loop.time() > end_s, 'all entries have expired')
        await asyncio.to_thread(outage.end)
        await until(lambda: all(c.status == 'ok' for c in processes), 'the link is ok')

        # An entry of a killed process still expires, long after the next refreshes.
        ghost = PresenceEntry('room:1', ClientInfo(user='ghost', client='ghost'))
        await processes[1].node.broker.add_presence([ghost], 0.1)
        await until(
            lambda: ('leave', 'ghost') in announced(clients[0]), 'the ghost has left'
        )
        assert joins + 1 == len(announced(clients[0]))
        assert ('leave', 'ghost') == announced(clients[0])[-1]
        assert 4 == (await processes[0].presence_stats('room:1'))[0]
    failures = sum(c.node.hub.counters.presence_errors for c in processes)
    lines = [r for r in caplog.records if r.message.startswith('presence not')]
    assert failures > len(lines) > 0
    assert len(lines) <= len(processes)


@pytest.mark.parametrize('join_leave', ['user', 'connection'])
async def test_member_that_leaves_during_an_outage_is_announced_once_it_ends(
    outage: Outage,
    join_leave: Literal['user', 'connection'],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No member stays whose entry was removed, but whose process was not told so.

    A server that was frozen executes the removal after its deadline.
    """
    monkeypatch.setattr('falcon_channels.hub.presence._SETTLE_S', 0.5)
    options = ChannelOptions(
        subscribers='anybody', presence=True, join_leave=join_leave, presence_ttl_s=60
    )
    channels = Channels(outage.url)
    channels.add_route('room:{name}', None, options)
    async with (
        channels,
        SimulatedClient(channels, user='watcher') as watcher,
        SimulatedClient(channels, user='bob') as bob,
        SimulatedClient(channels, user='eve') as eve,
    ):
        for client in (watcher, bob, eve):
            await client.subscribe('room:1')
        await until(lambda: len(announced(watcher)) == 3, 'all have joined')
        counters = channels.node.hub.counters
        before = counters.presence_errors
        await asyncio.to_thread(outage.begin)
        for client in (bob, eve):
            client.unsubscribe('room:1')
        await until(lambda: counters.presence_errors >= before + 2, 'both have failed')
        await asyncio.to_thread(outage.end)
        await until(lambda: channels.status == 'ok', 'the link is ok')
        # NOTE: Eve has returned. She did not leave.
        await eve.subscribe('room:1')
        await until(lambda: ('leave', 'bob') in announced(watcher), 'Bob has left')
        present = (await channels.presence('room:1')).values()
        assert {'eve'} == {info.user for info in present} - {'watcher'}
        assert ('leave', 'eve') != announced(watcher)[-1]


async def test_link_that_is_lost_many_times_is_logged_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Many losses in a short time cause one line at the first, and one at the end."""
    async with open_channels(store.url) as channels:
        for number in range(1, 4):
            await asyncio.to_thread(store.end_links)
            losses = channels.node.hub.counters
            await until(
                lambda n=number, c=losses: c.links_lost == n,  # type: ignore[misc]
                'the link is lost',
            )
            await until(lambda: channels.status == 'ok', 'the link is back')
        errors = [r.message for r in caplog.records if r.levelname == 'ERROR']
        assert ['the link to the broker is lost; subscribers wait'] == errors
        await until(lambda: 'is restored' in caplog.text, 'the burst has ended')
    links = [r.message for r in caplog.records if 'link to' in r.message]
    assert 3 == len([r for r in links if r.startswith('the link')])
    assert links[-1].startswith('the link to the broker is restored (losses: 3)')


async def test_lost_logs_of_many_channels_are_logged_in_few_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If a server has lost its data, the log has one line for all channels."""
    server = RedisServer(tmp_path)
    url = f'{server.url}?timeout_s=1&probe_s=0.2'
    async with open_channels(url) as channels:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(200):
                await channels.publish(f'news {number}', number)
                await stack.enter_async_context(channels.subscribe(f'news {number}'))
            server.kill()
            await until(lambda: channels.status == 'link lost', 'the link is lost')
            server.start()
            counters = channels.node.hub.counters
            await until(lambda: counters.insufficient_state == 200, 'all are told')
    lines = [r.message for r in caplog.records if 'are lost, such as' in r.message]
    assert 200 == sum(int(line.split()[2]) for line in lines)
    assert len(lines) <= 5
    server.stop()
