"""The Redis broker keeps the contract, on one server and on a Cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
import subprocess

import pytest
from support.processes import free_port
from support.processes import wait_until
from support.redis_server import RedisServer

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.urls import open_broker
from falcon_channels.testing import DurableBrokerContract
from falcon_channels.testing import PresenceContract
from falcon_channels.testing import SharedBrokerContract

_numbers = count()


@pytest.fixture(scope='module')
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server."""
    server = RedisServer(tmp_path_factory.mktemp('redis'))
    yield server.url
    server.stop()


def ask(server: RedisServer, *words: object) -> str:
    """Return what a server answers."""
    command = ['redis-cli', '-p', str(server.port), *map(str, words)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@pytest.fixture(scope='module')
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Cluster of three servers."""
    with ExitStack() as stack:
        servers, buses = [], []
        for _ in range(3):
            folder: Path = tmp_path_factory.mktemp('cluster')
            bus = free_port()
            server = RedisServer(
                folder, '--cluster-enabled', 'yes', '--cluster-port', str(bus)
            )
            stack.callback(server.stop)
            servers.append(server)
            buses.append(bus)
        bounds = (0, 5461, 10923, 16384)
        for server, first, after in zip(servers, bounds, bounds[1:], strict=False):
            ask(server, 'CLUSTER', 'ADDSLOTSRANGE', first, after - 1)
            ask(server, 'CLUSTER', 'MEET', '127.0.0.1', servers[0].port, buses[0])
        for server in servers:
            wait_until(
                lambda server=server: (  # type: ignore[misc]
                    'cluster_state:ok' in ask(server, 'CLUSTER', 'INFO')
                    and 'cluster_known_nodes:3' in ask(server, 'CLUSTER', 'INFO')
                ),
                'the Cluster is complete',
            )
        yield servers[1].url


class OnRedis(PresenceContract, SharedBrokerContract, DurableBrokerContract):
    """The contract, with keys of each test."""

    url = ''

    async def open_broker(self) -> Broker:
        self.prefix = f'test{next(_numbers)}'
        return await self.open_second()

    async def open_second(self) -> Broker:
        return open_broker(f'{self.url}?prefix={self.prefix}')

    async def reopen(self) -> Broker:
        return await self.open_second()


@pytest.mark.xdist_group('redis')
class TestRedisBroker(OnRedis):
    """On one server."""

    @pytest.fixture(autouse=True)
    def _use_server(self, one_server: str) -> None:
        self.url = one_server


@pytest.mark.xdist_group('redis cluster')
class TestRedisBrokerOnCluster(OnRedis):
    """On a Cluster."""

    @pytest.fixture(autouse=True)
    def _use_server(self, cluster: str) -> None:
        self.url = cluster
