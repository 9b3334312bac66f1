"""Replies over the backlog limit do not end the connection that requested them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import json
from typing import Any

import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from falcon_channels import ChannelOptions
from falcon_channels import Channels

pytestmark = [pytest.mark.every_server, pytest.mark.timeout(120)]

PUBLICATIONS = 60
SIZE_BYTES = 50_000
#: Size of all publications of a channel; it exceeds `MAX_BACKLOG_BYTES`.
REPLY_BYTES = PUBLICATIONS * SIZE_BYTES
ROOMS = 15
#: `NodeOptions.max_backlog_bytes`.
MAX_BACKLOG_BYTES = 1048576


class Rooms:
    """Fills a channel, allows everybody to read, and subscribes clients on request."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.loop: asyncio.AbstractEventLoop | None = None

    async def on_connect(self, req: Any, connection: Any) -> None:
        self.loop = asyncio.get_running_loop()
        for channel in (connection.data or {}).get('channels', ()):
            connection.add_channel(channel)

    async def on_history(self, req: Any, connection: Any, room: str) -> None:
        """Allow everybody."""

    async def on_rpc_fill(self, req: Any, call: Any) -> None:
        for number in range(PUBLICATIONS):
            await self.channels.publish(call.data, f'{number:03}' + 'x' * SIZE_BYTES)
        call.reply = (await self.channels.position(call.data)).epoch

    async def on_rpc_nothing(self, req: Any, call: Any) -> None:
        """Reply with nothing."""

    def backlogs(self) -> list[int]:
        """Return the backlogs in bytes, after all work in progress."""

        async def look() -> list[int]:
            for _ in range(100):
                await asyncio.sleep(0)
            return [c.backlog_bytes for c in self.channels.connections()]

        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(look(), self.loop).result(30)


@pytest.fixture(scope='module')
def world(asgi_server: AsgiServer) -> Iterator[tuple[Server, Rooms]]:
    channels = Channels()
    rooms = Rooms(channels)
    channels.add_route(
        'rooms:{room}', rooms, ChannelOptions(subscribers='anybody', history_size=100)
    )
    with serving(channels, rooms, asgi_server=asgi_server) as server:
        yield server, rooms


@pytest.fixture(scope='module')
def epochs(world: tuple[Server, Rooms]) -> dict[str, str]:
    """Channels that are full of publications."""
    with Peer.to(world[0]) as peer:
        peer.connect()
        names = [f'rooms:{number}' for number in range(ROOMS)]
        return {
            name: peer.ask('rpc', method='fill', data=name)['rpc']['data']
            for name in names
        }


@pytest.fixture
def peer(world: tuple[Server, Rooms]) -> Iterator[Peer]:
    # NOTE: its library reads one message ahead, and then waits.
    with Peer.to(world[0], max_size=None, max_queue=1, compression=None) as peer:
        peer.answer_pings = True
        yield peer


def numbers(publications: list[dict[str, Any]]) -> list[int]:
    return [int(publication['data'][:3]) for publication in publications]


def test_history_larger_than_the_backlog_limit_is_delivered(
    peer: Peer, epochs: dict[str, str]
) -> None:
    """A client gets the whole history, and stays connected."""
    peer.connect()
    for channel in epochs:
        found = peer.ask('history', channel=channel, limit=100)['history']
        assert list(range(PUBLICATIONS)) == numbers(found['publications'])
    assert 'rpc' in peer.ask('rpc', method='nothing')


@pytest.mark.parametrize('command', ['history', 'subscribe'])
def test_commands_of_client_that_does_not_read_wait(
    peer: Peer, world: tuple[Server, Rooms], epochs: dict[str, str], command: str
) -> None:
    """Commands wait until the client has read the earlier replies. None is lost."""
    _, rooms = world
    peer.connect()
    wanted: list[dict[str, Any]] = []
    for number, (channel, epoch) in enumerate(epochs.items(), 10):
        fields: dict[str, Any] = {'channel': channel, 'limit': 100}
        if command == 'subscribe':
            fields = {'channel': channel, 'recover': True, 'offset': 0, 'epoch': epoch}
        wanted.append({'id': number, command: fields})
    peer.say(*wanted)
    wait_until(lambda: max(rooms.backlogs()) > 0, 'the client does not keep up')
    assert max(rooms.backlogs()) < MAX_BACKLOG_BYTES + 2 * REPLY_BYTES
    for number in range(10, 10 + ROOMS):
        found = peer.answer(number)[command]
        assert list(range(PUBLICATIONS)) == numbers(found['publications'])
        assert command == 'history' or found['recovered']
    wait_until(lambda: rooms.backlogs() == [0], 'everything is read')


def test_connect_recovers_channels_up_to_the_reply_limit(
    peer: Peer, epochs: dict[str, str]
) -> None:
    """Channels that exceed the limit of one connect reply are not recovered."""
    subs = {
        channel: {'recover': True, 'offset': 0, 'epoch': epoch}
        for channel, epoch in epochs.items()
    }
    answer = peer.connect(data={'channels': list(epochs)}, subs=subs)
    recovered = [sub for sub in answer['subs'].values() if sub.get('recovered')]
    # NOTE: recovery stops after the reply has exceeded its limit of 4 MiB.
    assert 2 == len(recovered)
    for sub in recovered:
        assert list(range(PUBLICATIONS)) == numbers(sub['publications'])
    assert ROOMS == sum(sub['was_recovering'] for sub in answer['subs'].values())
    assert len(json.dumps(answer)) < 2 * REPLY_BYTES + 100_000
