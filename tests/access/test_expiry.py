"""Subscriptions of clients without refresh end at their `expires_at`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import Unsubscribed

DAY_S = 86_400.0


class Room:
    """Lets each client subscribe for a time.

    Args:
        channels: Channels, to which the route is added.
        ttl_s: Seconds until each subscription expires.
    """

    def __init__(self, channels: Channels, ttl_s: float) -> None:
        self.channels = channels
        self.ttl_s = ttl_s
        channels.add_route('room', self, ChannelOptions(history_size=10))

    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        subscription.expires_at = time.time() + self.ttl_s

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await self.channels.serve(req, ws, 'room')


@pytest.mark.parametrize('ttl_s', [10.0, 10 * DAY_S, -5.0])
def test_subscription_without_refresh_ends_when_it_expires(ttl_s: float) -> None:
    """It ends with the code 2501, and not before its time."""

    @on_fake_clock
    async def scenario() -> None:
        channels = Channels()
        Room(channels, ttl_s)
        async with SimulatedClient(channels) as client:
            await client.subscribe('room')
            if ttl_s > 0:
                await asyncio.sleep(ttl_s - 1.0)
                assert ['room'] == list(client.connection.subscriptions)
            await asyncio.sleep(2.0)
            assert {} == client.connection.subscriptions
            end = client.events[-1]
            assert isinstance(end, Unsubscribed)
            assert (2501, 'subscription expired') == (end.code, end.reason)
            await client.subscribe('room')
        await channels.close()

    scenario()


@on_fake_clock
async def test_subscription_that_has_ended_before_has_no_timer() -> None:
    """A timer of an ended subscription would keep its connection in memory."""
    channels = Channels()
    Room(channels, 10 * DAY_S)
    async with SimulatedClient(channels) as client:
        for _ in range(5):
            await client.subscribe('room')
            client.unsubscribe('room')
        await client.subscribe('room')
    loop = asyncio.get_running_loop()
    due = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert not [handle for handle in due if handle.when() - loop.time() > DAY_S / 2]
    await channels.close()


async def test_plain_websocket_is_closed_when_its_subscription_expires() -> None:
    """The code lets the client connect again, and `on_subscribe` decides again."""
    channels = Channels()
    room = Room(channels, 0.2)
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/room', room)
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws('/room') as ws:
            async with asyncio.timeout(30):
                with pytest.raises(falcon.WebSocketDisconnected) as closed:
                    await ws.receive_text()
        assert 3010 == closed.value.code
        async with conductor.simulate_ws('/room'):
            assert 1 == len(channels.connections())
