"""The broker of one process keeps the contract."""

from __future__ import annotations

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.testing.presence_contract import PresenceContract


class TestMemoryBroker(PresenceContract):
    """The contract, and nothing shared or durable."""

    async def open_broker(self) -> Broker:
        return MemoryBroker()
