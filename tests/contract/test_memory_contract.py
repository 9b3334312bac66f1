"""The memory broker fulfils the contract."""

from __future__ import annotations

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.testing.presence_contract import PresenceContract


class TestMemoryBroker(PresenceContract):
    """The contract without the shared and durable parts."""

    async def open_broker(self) -> Broker:
        return MemoryBroker()
