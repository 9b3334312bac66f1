"""`SimulatedClient`: a client without a network."""

from __future__ import annotations

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import UnsubscribedError
from falcon_channels.testing import SimulatedClient


@on_fake_clock
async def test_receive_returns_a_publication_or_raises_the_reason() -> None:
    """`receive` waits until its timeout, and raises if the connection is closed."""
    channels = Channels()
    channels.add_route('news', None, ChannelOptions(subscribers='anybody'))
    async with SimulatedClient(channels) as client:
        await client.subscribe('news')
        with pytest.raises(ValueError, match='subscribed already'):
            await client.subscribe('news')
        with pytest.raises(TimeoutError, match='no publication arrived within'):
            await client.receive(timeout_s=3600.0)
        await channels.publish('news', 1)
        assert 1 == (await client.receive()).value()
        client.unsubscribe('news')
        client.unsubscribe('news')
        await channels.publish('news', 2)
        with pytest.raises(TimeoutError, match='no publication arrived within'):
            await client.receive()
        await channels.close()
        with pytest.raises(UnsubscribedError, match='3001'):
            await client.receive()
