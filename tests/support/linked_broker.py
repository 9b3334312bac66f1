"""A broker whose nodes share control messages, in one process."""

from __future__ import annotations

import asyncio
from typing import Any

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.errors import BrokerUnavailableError


class LinkedBroker(MemoryBroker):
    """A memory broker that sends control messages to all brokers of a list.

    Args:
        link: The brokers that share control messages.

    Attributes:
        sent: Number of control messages that it has sent.
        largest_bytes: Size of the largest one in bytes.
        cut: Whether the link is lost: nothing is sent or received.
    """

    capabilities = Capabilities(shared=True)

    def __init__(self, link: list[LinkedBroker]) -> None:
        super().__init__()
        self.link = link
        self.sent = 0
        self.largest_bytes = 0
        self.cut = False

    async def start(self, receiver: Any) -> None:
        await super().start(receiver)
        self.receiver = receiver
        self.link.append(self)

    async def close(self) -> None:
        if self in self.link:
            self.link.remove(self)
        await super().close()

    async def control(self, message: bytes) -> None:
        if self.cut:
            raise BrokerUnavailableError('cut')
        self.sent += 1
        self.largest_bytes = max(self.largest_bytes, len(message))
        loop = asyncio.get_running_loop()
        for broker in self.link:
            if not broker.cut:
                loop.call_soon(broker.receiver.on_control, message)


async def start_node(link: list[LinkedBroker]) -> tuple[Channels, LinkedBroker]:
    """Start a node; return its channels and its broker."""
    broker = LinkedBroker(link)
    channels = Channels(broker)
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(subscribers='anybody', history_size=10)
    )
    await channels.start()
    return channels, broker
