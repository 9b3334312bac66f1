"""The Redis broker fulfils the contract, on one server and on a Cluster."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from support.redis_server import RedisCluster
from support.redis_server import RedisServer

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.urls import open_broker
from falcon_channels.testing.presence_contract import PresenceContract
from falcon_channels.testing.shared_contract import DurableBrokerContract
from falcon_channels.testing.shared_contract import SharedBrokerContract

_numbers = count()


@pytest.fixture(scope='module')
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server."""
    server = RedisServer(tmp_path_factory.mktemp('redis'))
    yield server.url
    server.stop()


@pytest.fixture(scope='module')
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Cluster of three servers."""
    with RedisCluster(tmp_path_factory.mktemp('cluster')) as cluster:
        yield cluster.url


class RedisContract(PresenceContract, SharedBrokerContract, DurableBrokerContract):
    """The contract, with a new prefix of keys for each test."""

    url = ''

    async def open_broker(self) -> Broker:
        self.prefix = f'test{next(_numbers)}'
        return await self.open_second()

    async def open_second(self) -> Broker:
        return open_broker(f'{self.url}?prefix={self.prefix}')

    async def reopen(self) -> Broker:
        return await self.open_second()


@pytest.mark.xdist_group('redis')
class TestRedisBroker(RedisContract):
    """The contract on one server."""

    @pytest.fixture(autouse=True)
    def _use_server(self, one_server: str) -> None:
        self.url = one_server


@pytest.mark.xdist_group('redis cluster')
class TestRedisBrokerOnCluster(RedisContract):
    """The contract on a Cluster."""

    @pytest.fixture(autouse=True)
    def _use_server(self, cluster: str) -> None:
        self.url = cluster
