"""The SQLite broker fulfils the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.sqlite import SqliteBroker
from falcon_channels.testing.presence_contract import PresenceContract
from falcon_channels.testing.shared_contract import DurableBrokerContract
from falcon_channels.testing.shared_contract import SharedBrokerContract


class TestSqliteBroker(PresenceContract, SharedBrokerContract, DurableBrokerContract):
    """The contract, with a new file for each test."""

    @pytest.fixture(autouse=True)
    def _use_folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / 'test.db'

    async def open_broker(self) -> Broker:
        return SqliteBroker(self.path)

    async def open_second(self) -> Broker:
        return SqliteBroker(self.path)

    async def reopen(self) -> Broker:
        return SqliteBroker(self.path)
