"""Another Redis server takes over: logs get new epochs, and nothing else is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
from pathlib import Path

import pytest
from support.processes import wait_until
from support.redis_server import RedisServer

from falcon_channels.brokers.base import StreamSettings
from falcon_channels.brokers.urls import open_broker
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder

pytestmark = pytest.mark.xdist_group('redis faults')

LOG = StreamSettings(size=100, ttl_s=60.0)


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
def servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """A server and a replica that has all its data."""
    with contextlib.ExitStack() as stack:
        found = []
        for name in ('primary', 'replica'):
            folder = tmp_path / name
            folder.mkdir()
            found.append(RedisServer(folder, '--repl-diskless-sync-delay', '0'))
            stack.callback(found[-1].stop)
        found[1].ask('REPLICAOF', '127.0.0.1', found[0].port)
        wait_until(
            lambda: 'master_link_status:up' in found[1].ask('INFO', 'replication'),
            'the replica is synchronised',
        )
        yield found


def wait_for_all_data(servers: list[RedisServer]) -> None:
    """Wait until the replica has acknowledged all writes."""
    primary, replica = servers
    offset = f'slave_repl_offset:{_field(primary, "master_repl_offset")}'
    wait_until(
        lambda: offset in replica.ask('INFO', 'replication'), 'the replica has all data'
    )


def _field(server: RedisServer, name: str) -> str:
    lines = server.ask('INFO', 'replication').splitlines()
    return next(line.partition(':')[2] for line in lines if line.startswith(name))


async def test_server_replaced_behind_an_open_connection_starts_new_epochs(
    servers: list[RedisServer],
) -> None:
    """If a proxy switches to a promoted replica, the log gets a new epoch.

    The process does not notice that it has another server, because its connection to
    the proxy stays open.
    """
    primary, replica = servers
    async with SwitchingProxy(primary.port) as proxy:
        broker = open_broker(f'{proxy.url}?probe_s=0.2')
        await broker.start(Recorder())
        first = await broker.publish('news', Publication(data=b'1'), LOG)
        again = await broker.publish('news', Publication(data=b'2'), LOG)
        assert (2, first.position.epoch) == again.position
        await asyncio.to_thread(wait_for_all_data, servers)
        replica.ask('REPLICAOF', 'NO', 'ONE')
        proxy.target_port = replica.port
        moved = await broker.publish('news', Publication(data=b'3'), LOG)
        assert 3 == moved.position.offset
        assert first.position.epoch != moved.position.epoch
        later = await broker.publish('news', Publication(data=b'4'), LOG)
        assert (4, moved.position.epoch) == later.position
        page = await broker.history('news', LOG)
        assert [b'1', b'2', b'3', b'4'] == [item.data for item in page.publications]
        await broker.close()


async def test_script_cache_that_was_emptied_changes_no_epoch(
    servers: list[RedisServer],
) -> None:
    """After ``SCRIPT FLUSH`` the scripts are sent again, and the epoch stays."""
    broker = open_broker(servers[0].url)
    await broker.start(Recorder())
    first = await broker.publish('news', Publication(data=b'1'), LOG)
    servers[0].ask('SCRIPT', 'FLUSH')
    again = await broker.publish('news', Publication(data=b'2'), LOG)
    assert (2, first.position.epoch) == again.position
    await broker.close()
