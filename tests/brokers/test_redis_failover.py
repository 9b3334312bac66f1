"""Another Redis server takes over: logs get new epochs, and nothing else is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
from pathlib import Path

import pytest
from support.audience import Audience
from support.audience import is_lost
from support.audience import lost_and_back
from support.audience import run_fault
from support.audience import SUBSCRIBERS
from support.redis_server import RedisReplicaSet

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.urls import open_broker
from falcon_channels.channels import Channels
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import OptionsError
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder

pytestmark = pytest.mark.xdist_group('redis faults')

LOG = LogSettings(size=100, ttl_s=60.0)


class SwitchingProxy:
    """Passes bytes to a server, or to another one while clients stay connected.

    Args:
        target_port: Port of the server; set it to switch.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port

    async def __aenter__(self) -> SwitchingProxy:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, '127.0.0.1', 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f'redis://127.0.0.1:{port}'
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        port = 0
        back = contextlib.ExitStack()
        try:
            while data := await reader.read(65536):
                if port != self.target_port:
                    back.close()
                    port = self.target_port
                    answers, target = await asyncio.open_connection('127.0.0.1', port)
                    back.callback(target.close)
                    back.callback(asyncio.create_task(_pass(answers, writer)).cancel)
                target.write(data)
        finally:
            back.close()
            writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[RedisReplicaSet]:
    with RedisReplicaSet(tmp_path) as servers:
        yield servers


async def test_server_replaced_behind_an_open_connection_starts_new_epochs(
    servers: RedisReplicaSet,
) -> None:
    """If a proxy switches to a promoted replica, the log gets a new epoch.

    The process does not notice that it has another server, because its connection to
    the proxy stays open.
    """
    async with SwitchingProxy(servers.primary.port) as proxy:
        broker = open_broker(f'{proxy.url}?probe_s=0.2')
        await broker.start(Recorder())
        first = await broker.publish('news', Publication(data=b'1'), LOG)
        again = await broker.publish('news', Publication(data=b'2'), LOG)
        assert (2, first.position.epoch) == again.position
        await asyncio.to_thread(servers.wait_for_all_data)
        servers.replica.ask('REPLICAOF', 'NO', 'ONE')
        proxy.target_port = servers.replica.port
        moved = await broker.publish('news', Publication(data=b'3'), LOG)
        assert 3 == moved.position.offset
        assert first.position.epoch != moved.position.epoch
        later = await broker.publish('news', Publication(data=b'4'), LOG)
        assert (4, moved.position.epoch) == later.position
        page = await broker.history('news', LOG)
        assert [b'1', b'2', b'3', b'4'] == [item.data for item in page.publications]
        await broker.close()


async def test_script_cache_that_was_emptied_changes_no_epoch(
    servers: RedisReplicaSet,
) -> None:
    """After ``SCRIPT FLUSH`` the scripts are sent again, and the epoch stays."""
    broker = open_broker(servers.primary.url)
    await broker.start(Recorder())
    first = await broker.publish('news', Publication(data=b'1'), LOG)
    servers.primary.ask('SCRIPT', 'FLUSH')
    again = await broker.publish('news', Publication(data=b'2'), LOG)
    assert (2, first.position.epoch) == again.position
    await broker.close()


@pytest.mark.parametrize('planned', [True, False], ids=['planned', 'killed'])
async def test_sentinel_promotes_a_replica_and_all_subscribers_go_on(
    servers: RedisReplicaSet, planned: bool
) -> None:
    """After a fail-over by Sentinel, publications arrive from the new primary.

    Each subscriber hears everything, or is told that it has missed publications.
    """

    async def fault(channels: Channels, audience: Audience) -> None:
        if planned:
            watching = asyncio.create_task(lost_and_back(channels, audience))
            command = ('SENTINEL', 'FAILOVER', 'news')
            async with asyncio.timeout(40):
                # NOTE: at first, Sentinel may not know that the replica is in order.
                while (answer := servers.ask_sentinel(*command)) != 'OK':
                    assert answer.startswith('NOGOODSLAVE')
                    await asyncio.sleep(0.1)
            await watching
        else:
            await asyncio.to_thread(servers.wait_for_all_data)
            servers.primary.kill()
            await audience.until(lambda: is_lost(channels), 'the link is lost')
            await audience.until(lambda: channels.status == 'ok', 'the link is back')

    url = f'{servers.url}?timeout_s=1&probe_s=0.2'
    audience, publisher, _ = await run_fault(url, fault)
    audience.check_heard_or_told(publisher.values)
    assert [2] * SUBSCRIBERS == [len(heard) for heard in audience.heard]
    assert 'master' == servers.replica.ask('ROLE').splitlines()[0]


async def test_sentinel_that_does_not_answer_is_replaced_by_the_next(
    servers: RedisReplicaSet,
) -> None:
    """All Sentinels of the URL are asked, until one answers."""
    url = servers.url.replace('//', '//127.0.0.1:1,')
    broker = open_broker(url)
    await broker.start(Recorder())
    result = await broker.publish('news', Publication(data=b'1'), LOG)
    assert 1 == result.position.offset
    await broker.close()


async def test_service_that_the_sentinel_does_not_know_is_named(
    servers: RedisReplicaSet,
) -> None:
    """The error says which service the Sentinel does not know."""
    broker = open_broker(servers.url.replace('/news', '/orders'))
    with pytest.raises(BrokerUnavailableError, match="knows no service 'orders'"):
        await broker.start(Recorder())
    await broker.close()


@pytest.mark.parametrize(
    'rest', ['host', 'host/', 'host:port/news', 'a,,b/news', 'host/news/db']
)
def test_url_of_sentinels_that_is_incomplete_is_refused(rest: str) -> None:
    """A URL of Sentinels has addresses and a service; a database is a number."""
    with pytest.raises(OptionsError):
        open_broker(f'redis+sentinel://{rest}')
