"""Plain WebSockets with the direct extension: one task for each client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import falcon.asgi
import pytest
from support.processes import wait_until

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from server.running import CLOSE
from server.running import frame
from server.running import Peer
from server.running import running
from server.running import RunningServer
from server.running import TEXT

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'


class Room:
    """Publishes the messages of its clients; `after` records how each call ended."""

    def __init__(self) -> None:
        self.channels = Channels()
        self.channels.add_route('rooms:{room}', self, ChannelOptions(history_size=100))
        self.after: list[str] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.waits: list[asyncio.Event] = []

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        pass

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        if publication.data == 'break':
            raise RuntimeError('a defect of the application')
        if publication.data == 'wait':
            self.waits.append(asyncio.Event())
            await self.waits[-1].wait()

    async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks = asyncio.all_tasks()
        try:
            await self.channels.serve(req, ws, f'rooms:{room}')
        except BaseException as ex:
            self.after.append(type(ex).__name__)
            raise
        self.after.append('left')


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
def server(room: Room) -> Iterator[RunningServer]:
    app = falcon.asgi.App(middleware=[room.channels])
    app.ws_options.max_receive_queue = 0
    app.add_route('/{room}', room)
    with running(app, http=HTTP, lifespan='on', timeout_graceful_shutdown=1) as up:
        yield up


def test_burst_beyond_the_inbox_is_published_in_order(server: RunningServer) -> None:
    """More messages than may wait at once are all published, in order."""
    texts = [b'%d' % number for number in range(60)]
    with Peer(server.port) as peer:
        peer.open(path='/a')
        peer.send(b''.join(frame(TEXT, text) for text in texts))
        assert texts == [peer.message() for _ in texts]


def test_plain_websocket_needs_one_task(server: RunningServer, room: Room) -> None:
    """Each further client needs one further task, the one of the application."""
    counts = []
    peers = []
    for _ in range(3):
        peers.append(Peer(server.port).open(path='/a'))
        peers[-1].send(frame(TEXT, b'hello'))
        assert b'hello' == peers[-1].message()
        counts.append(len(room.tasks))
    assert [counts[0], counts[0] + 1, counts[0] + 2] == counts
    for peer in peers:
        peer.sock.close()


def test_serve_returns_after_the_client_has_left_and_its_messages_are_published(
    server: RunningServer, room: Room
) -> None:
    """`Channels.serve` returns at the end, after pending messages are published."""
    with Peer(server.port) as peer:
        peer.open(path='/a').send(frame(CLOSE, b'\x03\xe8'))
        assert 1000 == peer.close_code()
    wait_until(lambda: room.after == ['left'], 'the first call has returned')
    with Peer(server.port) as peer:
        peer.open(path='/a').send(frame(TEXT, b'wait'))
        wait_until(lambda: bool(room.waits), 'the message is being published')
        peer.send(frame(CLOSE, b'\x03\xe8'))
        assert 1000 == peer.close_code()
    wait_until(lambda: not server.connections, 'the connection has ended')
    assert ['left'] == room.after
    (task,) = server.server.server_state.tasks
    task.get_loop().call_soon_threadsafe(room.waits[0].set)
    wait_until(lambda: room.after == ['left', 'left'], 'the second call has returned')


def test_responder_that_raises_closes_with_1011(
    server: RunningServer, room: Room
) -> None:
    """The exception ends the connection and reaches the application."""
    with Peer(server.port) as peer:
        peer.open(path='/a').send(frame(TEXT, b'break'))
        assert 1011 == peer.close_code()
    wait_until(lambda: room.after == ['RuntimeError'], 'the responder has ended')


@pytest.mark.parametrize('text', [b'hello', b'wait'])
def test_cancelled_task_closes_with_1012(
    server: RunningServer, room: Room, text: bytes
) -> None:
    """If the server cancels the application, the client is told to reconnect."""
    with Peer(server.port) as peer, Peer(server.port) as other:
        other.open(path='/a')
        peer.open(path='/a').send(frame(TEXT, text) + frame(TEXT, b'last'))
        if text == b'wait':
            wait_until(lambda: bool(room.waits), 'the message is being published')
        else:
            assert b'hello' == other.message()
            assert b'last' == other.message()
        first = list(server.server.server_state.tasks)
        for task in first:
            task.get_loop().call_soon_threadsafe(task.cancel)
        assert 1012 == peer.close_code()
    wait_until(lambda: room.after == ['CancelledError'] * 2, 'both calls have ended')
