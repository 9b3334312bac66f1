"""The PostgreSQL broker fulfils the contract."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
import math

import pytest
from support.postgres_server import PostgresServer

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.postgres import listener
from falcon_channels.brokers.urls import open_broker
from falcon_channels.testing.presence_contract import PresenceContract
from falcon_channels.testing.shared_contract import DurableBrokerContract
from falcon_channels.testing.shared_contract import SharedBrokerContract

_numbers = count()


@pytest.fixture(scope='module')
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for all tests of this module."""
    server = PostgresServer('fsync=off')
    yield server
    server.stop()


class PostgresBrokers:
    """Opens brokers with a new schema for each test."""

    @pytest.fixture(autouse=True)
    def _use_server(self, server: PostgresServer) -> None:
        self.url = server.url

    async def open_broker(self) -> Broker:
        self.schema = f'test{next(_numbers)}'
        return await self.open_second()

    async def open_second(self) -> Broker:
        return open_broker(f'{self.url}?schema={self.schema}&migrate=yes')

    async def reopen(self) -> Broker:
        return await self.open_second()


@pytest.mark.xdist_group('postgres')
class TestPostgresBroker(
    PostgresBrokers, PresenceContract, SharedBrokerContract, DurableBrokerContract
):
    """The contract."""


@pytest.mark.xdist_group('postgres')
class TestPollingPostgresBroker(PostgresBrokers, SharedBrokerContract):
    """The contract, while each notification makes the listeners poll for a while."""

    @pytest.fixture(autouse=True)
    def _begin_to_poll_early(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listener, '_BUSY_COUNT', 1)
        monkeypatch.setattr(listener, '_BUSY_CONNECTIONS', 1)
        monkeypatch.setattr(listener, '_BUSY_S', math.inf)
        monkeypatch.setattr(listener, '_POLLS', 4)
