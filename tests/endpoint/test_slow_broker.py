"""Connecting while one channel is slow to open and another one is flooded."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from collections.abc import Iterator
import contextlib
from typing import Any

import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.publication import HistoryPage

pytestmark = pytest.mark.every_server

KIB = 1024
BACKLOG_BYTES = 64 * KIB


class SlowBroker(MemoryBroker):
    """Subscribes to a ``slow:`` channel only after `answers` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()

    async def subscribe(self, channel: str, settings: LogSettings) -> HistoryPage:
        if channel.startswith('slow:'):
            await self.answers.wait()
        return await super().subscribe(channel, settings)


class App:
    """An application that subscribes its clients to a channel that is slow to open."""

    def __init__(self) -> None:
        self.broker = SlowBroker()
        self.channels = Channels(
            self.broker, NodeOptions(max_backlog_bytes=BACKLOG_BYTES)
        )
        for name, options in {
            'log': {'history_size': 1000},
            'state': {
                'history_size': 1,
                'recovery': 'latest',
                'slow_reader': 'latest',
            },
            'lossy': {'slow_reader': 'drop_oldest'},
            'slow': {},
        }.items():
            bounds = {'max_publication_bytes': KIB, 'max_backlog_bytes': BACKLOG_BYTES}
            self.channels.add_route(
                name + ':{name}', None, ChannelOptions(**{**bounds, **options})
            )
        self.loop: asyncio.AbstractEventLoop | None = None

    async def on_connect(self, req: Any, connection: Any) -> None:
        self.loop = asyncio.get_running_loop()
        for channel in connection.data:
            connection.add_channel(channel)
        connection.add_channel('slow:1')

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT_S)

    async def publish(self, channel: str, numbers: range) -> None:
        for number in numbers:
            await self.channels.publish(channel, [number, 'x' * 1000])

    async def answer(self) -> None:
        self.broker.answers.set()

    def buffered_bytes(self) -> int:
        """Return the buffered bytes of the hub's one connection."""
        buffered = 0
        for connection in self.channels.node.hub.connections.all():
            buffered += connection.backlog_bytes
            for subscription in list(connection.subscriptions.values()):
                buffered += subscription.pending_bytes
        return buffered


@pytest.fixture
def world(asgi_server: AsgiServer) -> Iterator[tuple[Server, App]]:
    app = App()
    with serving(app.channels, app, asgi_server=asgi_server) as server:
        yield server, app


@contextlib.contextmanager
def connecting(world: tuple[Server, App], channel: str) -> Iterator[tuple[Peer, App]]:
    """Yield a client that has joined a channel and waits for its connect reply."""
    server, app = world
    with Peer.to(server) as peer:
        peer.say({'id': 1, 'connect': {'data': [channel]}})
        hub = app.channels.node.hub
        wait_until(
            lambda: hub.count_subscribers(channel) == 1, 'the first channel is joined'
        )
        yield peer, app


def test_flood_before_connect_reply_ends_the_connection(
    world: tuple[Server, App],
) -> None:
    """The buffer before the connect reply is bounded. The client is ended as `slow`."""
    with connecting(world, 'log:1') as (peer, app):
        for start in range(0, 1000, 10):
            app.run(app.publish('log:1', range(start, start + 10)))
            assert app.buffered_bytes() <= BACKLOG_BYTES + 20 * KIB
        assert (3008, 'slow') == peer.end()
        assert [] == peer.pushes
        assert 1 == app.channels.node.hub.counters.slow_disconnects
        app.run(app.answer())


@pytest.mark.parametrize('channel', ['state:1', 'lossy:1'])
def test_flood_before_connect_reply_follows_the_slow_reader_policy(
    world: tuple[Server, App], channel: str
) -> None:
    """A slow client gets the newest publications after its connect reply, in order."""
    with connecting(world, channel) as (peer, app):
        for start in range(0, 1000, 10):
            app.run(app.publish(channel, range(start, start + 10)))
            assert app.buffered_bytes() <= BACKLOG_BYTES + 20 * KIB
        app.run(app.answer())
        assert {channel, 'slow:1'} == peer.answer(1)['connect']['subs'].keys()
        numbers = [peer.push()['pub']['data'][0]]
        while numbers[-1] < 999:
            numbers.append(peer.push()['pub']['data'][0])
        assert sorted(set(numbers)) == numbers
        if channel == 'state:1':
            assert len(numbers) <= 11
        else:
            assert 20 < len(numbers) < 100
        app.run(app.publish(channel, range(1000, 1001)))
        assert 1000 == peer.push()['pub']['data'][0]
        assert app.channels.node.hub.counters.dropped > 800
        assert 0 == app.channels.node.hub.counters.slow_disconnects


def test_buffered_publications_arrive_after_the_connect_reply(
    world: tuple[Server, App],
) -> None:
    """Below the limit nothing is lost, and nothing precedes the reply."""
    with connecting(world, 'log:1') as (peer, app):
        app.run(app.publish('log:1', range(30)))
        app.run(app.answer())
        assert 0 == peer.answer(1)['connect']['subs']['log:1'].get('offset', 0)
        assert [] == peer.pushes
        for number in range(30):
            publication = peer.push()['pub']
            assert [number, number + 1] == [
                publication['data'][0],
                publication['offset'],
            ]
