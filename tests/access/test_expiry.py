"""Subscriptions of clients without refresh end at their `expires_at`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
import time
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import PresenceStats
from falcon_channels.testing import CommandError
from falcon_channels.testing import DisconnectedError
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk
from falcon_channels.testing import Unsubscribed

DAY_S = 86_400.0


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the wall clock run with the fake clock of the event loop."""
    start = time.time()

    def now() -> float:
        try:
            return start + asyncio.get_running_loop().time()
        except RuntimeError:
            return start

    monkeypatch.setattr(time, 'time', now)


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


# --- a right that expires while a responder waits ------------------------------------


class SlowRoom:
    """Its responders wait for 10 seconds.

    Args:
        channels: Channels, to which the route is added.
        publishers: Option of the route.
        ttl_s: Seconds until each subscription expires.
    """

    def __init__(
        self, channels: Channels, publishers: Any = 'auto', ttl_s: float = 5.0
    ) -> None:
        self.ttl_s = ttl_s
        options = ChannelOptions(history_size=10, presence=True, publishers=publishers)
        channels.add_route('room', self, options)

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'ann'

    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        subscription.expires_at = time.time() + self.ttl_s

    async def on_publish(self, req: Any, publication: Any) -> None:
        await asyncio.sleep(10.0)


async def published(channels: Channels) -> list[Any]:
    """Return the data of all publications of the room."""
    page = await channels.history('room')
    return [publication.value() for publication in page.publications]


@pytest.mark.usefixtures('wall_clock')
@on_fake_clock
async def test_publish_that_waits_while_its_subscription_expires_is_refused() -> None:
    """A subscription is needed to publish, also at the end of `on_publish`.

    Before, the message was published although its client had lost its right.
    """
    channels = Channels()
    room = SlowRoom(channels)
    async with SimulatedClient(channels, user='ann') as client:
        await client.subscribe('room')
        with pytest.raises(falcon.HTTPForbidden) as refused:
            await client.publish('room', 'late')
        assert 'subscribe before publishing' == refused.value.description
    async with SimulatedSdk(channels, room) as sdk:
        await sdk.subscribe('room')
        with pytest.raises(CommandError) as error:
            await sdk.publish('room', 'late')
        assert 103 == error.value.code
    assert [] == await published(channels)
    await channels.close()


@pytest.mark.usefixtures('wall_clock')
@on_fake_clock
async def test_publish_that_waits_while_another_right_expires_is_sent() -> None:
    """Only the right to publish matters: here, anybody may, or it still holds."""
    channels = Channels()
    SlowRoom(channels, publishers='anybody')
    channels.add_route('brief', Room(Channels(), 5.0))
    async with SimulatedClient(channels, user='ann') as client:
        await client.subscribe('room')
        await client.publish('room', 1)
        await client.subscribe('room')
        subscription = client.connection.subscriptions['room']
        subscription.expires_at = time.time() + 3600
        await client.subscribe('brief')
        await client.publish('room', 2)
    assert [1, 2] == await published(channels)
    await channels.close()


@pytest.mark.usefixtures('wall_clock')
@on_fake_clock
async def test_publish_of_a_client_that_subscribes_again_in_time_is_sent() -> None:
    """`on_subscribe` has decided again, so the client has its right."""
    channels = Channels()
    SlowRoom(channels)
    async with SimulatedClient(channels, user='ann') as client:
        await client.subscribe('room')
        publish = asyncio.ensure_future(client.publish('room', 1))
        await asyncio.sleep(6.0)
        await client.subscribe('room')
        await publish
    assert [1] == await published(channels)
    await channels.close()


@pytest.mark.usefixtures('wall_clock')
@on_fake_clock
async def test_publish_that_waits_while_its_connection_expires_is_refused() -> None:
    """The client is disconnected, and may not publish any more."""
    channels = Channels()
    room = SlowRoom(channels, publishers='anybody')
    async with SimulatedSdk(channels, room) as sdk:
        sdk.connection.expires_at = time.time() + 5
        with pytest.raises(DisconnectedError) as error:
            await sdk.publish('room', 'late')
        assert 3005 == error.value.code
        await asyncio.sleep(20.0)
    assert [] == await published(channels)
    await channels.close()


class SlowBroker(MemoryBroker):
    """Reads for 10 seconds."""

    async def history(self, *args: Any, **options: Any) -> HistoryPage:
        await asyncio.sleep(10.0)
        return await super().history(*args, **options)

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        await asyncio.sleep(10.0)
        return await super().presence(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        await asyncio.sleep(10.0)
        return await super().presence_stats(channel)


@pytest.mark.parametrize('read', ['history', 'presence', 'presence_stats'])
@pytest.mark.usefixtures('wall_clock')
@on_fake_clock
async def test_slow_read_is_not_sent_after_its_subscription_has_expired(
    read: str,
) -> None:
    """The broker works while the right expires, which only a subscription gives."""
    channels = Channels(SlowBroker())
    room = SlowRoom(channels, ttl_s=15.0)
    async with SimulatedSdk(channels, room) as sdk:
        await sdk.subscribe('room')
        await sdk.command(read, channel='room')
        with pytest.raises(CommandError) as error:
            await sdk.command(read, channel='room')
        assert 103 == error.value.code
    await channels.close()


# --- an expiry that is set after the join --------------------------------------------


@pytest.mark.usefixtures('wall_clock')
@pytest.mark.parametrize('first_s', [None, 10 * DAY_S, 5.0])
@pytest.mark.parametrize('kind', ['plain', 'sdk'])
def test_expiry_that_is_set_after_the_join_ends_the_subscription(
    kind: str, first_s: float | None
) -> None:
    """The last value decides. Before, the timer of the first one stayed."""

    @on_fake_clock
    async def scenario() -> None:
        channels = Channels()
        options = ChannelOptions(subscribers='anybody')
        channels.add_route('room', None, options)
        endpoint = EndpointOptions(ping_interval_s=None)
        client = SimulatedClient(channels)
        sdk = SimulatedSdk(channels, SlowRoom(Channels()), options=endpoint)
        async with client if kind == 'plain' else sdk as peer:
            await peer.subscribe('room')
            subscription = peer.connection.subscriptions['room']
            if first_s is not None:
                subscription.expires_at = time.time() + first_s
            for later_s in (20.0, 40.0, 10.0):
                subscription.expires_at = time.time() + later_s
            await asyncio.sleep(9.0)
            assert ['room'] == list(peer.connection.subscriptions)
            await asyncio.sleep(2.0)
            assert {} == peer.connection.subscriptions
            subscription.expires_at = time.time() + 10
            await peer.subscribe('room')
            subscription = peer.connection.subscriptions['room']
            subscription.expires_at = time.time() + 10
            subscription.expires_at = None
            await asyncio.sleep(DAY_S)
            assert ['room'] == list(peer.connection.subscriptions)
            subscription.expires_at = time.time() - 1
            await asyncio.sleep(2.0)
            assert {} == peer.connection.subscriptions
        await channels.close()

    scenario()
