"""The local channels of a process: opened for subscribers, and removed after them."""

from __future__ import annotations

import asyncio

from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.testing import SimulatedClient


@on_fake_clock
async def test_local_channels_without_subscribers_are_removed() -> None:
    """Channels whose last subscriber has left are removed from hub and broker."""
    channels = Channels(options=NodeOptions(linger_s=1.0))
    channels.add_route('rooms:{room}', None, ChannelOptions(subscribers='anybody'))
    async with SimulatedClient(channels) as client:
        for number in range(500):
            await client.subscribe(f'rooms:{number}')
            client.unsubscribe(f'rooms:{number}')
        assert 500 == len(channels.node.hub._channels)
        await asyncio.sleep(5)
        assert {} == channels.node.hub._channels
        assert set() == channels.node.broker._subscribed  # type: ignore[attr-defined]
    await channels.close()
