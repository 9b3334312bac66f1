"""A large room on our WebSocket class: one call writes to all its sockets."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from typing import Any

import falcon.asgi
import pytest
from support.io_uring import needs_io_uring
from support.io_uring import record_writes
from support.processes import wait_until

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from server.running import frame
from server.running import Peer
from server.running import running
from server.running import TEXT

MANY = 60


class Room:
    """A plain WebSocket in one of two channels."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
        await self.channels.serve(req, ws, f'rooms:{room}')


class Served:
    """An app with rooms, its clients, and the writes of the server."""

    def __init__(self, stack: contextlib.ExitStack, io_uring: bool) -> None:
        self.channels = Channels(options=NodeOptions(io_uring=io_uring))
        self.channels.add_route(
            'rooms:{room}',
            None,
            ChannelOptions(
                subscribers='anybody', history_size=10, publishers='subscribers'
            ),
        )
        app = falcon.asgi.App(middleware=[self.channels])
        app.add_route('/{room}', Room(self.channels))
        self.server = stack.enter_context(running(app, lifespan='on'))
        self._stack = stack

    def clients(self, room: str, count: int = MANY) -> list[Peer]:
        clients = []
        for _ in range(count):
            peer = self._stack.enter_context(Peer(self.server.port))
            clients.append(peer.open(path=f'/{room}'))
        return clients

    @property
    def ring(self) -> Any:
        return self.channels.node.hub._fan_out._batch._ring


@pytest.fixture(params=[False, pytest.param(True, marks=needs_io_uring)])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with contextlib.ExitStack() as stack:
        yield Served(stack, request.param)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Descriptors that the fan-out has written by a call of their own."""
    return record_writes(monkeypatch)


def test_io_uring_writes_a_room_by_one_call(served: Served, writes: list[int]) -> None:
    """With io_uring no socket gets a call of its own; without it, each socket does."""
    clients = served.clients('a')
    for number in range(5):
        text = b'%d' % number
        clients[number].send(frame(TEXT, text))
        assert [text] * MANY == [client.message() for client in clients]
    assert (0 if served.ring else 5 * MANY) == len(writes)


def test_publications_of_one_iteration_in_two_rooms_stay_separate(
    served: Served,
) -> None:
    """Each room gets only its own publications, in order."""
    rooms = {name: served.clients(name) for name in ('a', 'b')}
    # NOTE: How often both rooms share an iteration depends on the machine.
    for number in range(20):
        for name, clients in rooms.items():
            clients[0].send(frame(TEXT, b'%s%d' % (name.encode(), number)))
    for name, clients in rooms.items():
        expected = [b'%s%d' % (name.encode(), number) for number in range(20)]
        for client in clients:
            assert expected == [client.message() for _ in range(20)]


def test_client_that_does_not_read_does_not_delay_the_others(served: Served) -> None:
    """Only its own output is pending, and it arrives whole and in order."""
    clients = served.clients('a')
    (stuck,) = served.clients('a', 1)
    texts: list[bytes] = []
    while not any(c.backlog_bytes for c in served.channels.connections()):
        texts.append(b'%03d' % len(texts) + b'x' * 50_000)
        assert len(texts) < 500
        clients[0].send(frame(TEXT, texts[-1]))
        for client in clients:
            assert texts[-1] == client.message()
    clients[0].send(frame(TEXT, b'the last'))
    assert {b'the last'} == {client.message() for client in clients}
    assert [*texts, b'the last'] == [stuck.message() for _ in range(len(texts) + 1)]


@needs_io_uring
def test_connections_with_an_unknown_write_result_are_aborted() -> None:
    """If the ring fails, clients are disconnected and can reconnect."""
    with contextlib.ExitStack() as stack:
        served = Served(stack, True)
        clients = served.clients('a')
        clients[0].send(frame(TEXT, b'1'))
        assert [b'1'] * MANY == [client.message() for client in clients]
        served.ring._call = lambda number, fd, count, *rest: count
        clients[0].send(frame(TEXT, b'2'))
        assert {None} == {client.close_code() for client in clients}
        wait_until(
            lambda: not served.channels.connections(), 'all connections have ended'
        )
        clients = served.clients('a')
        clients[0].send(frame(TEXT, b'3'))
        assert [b'3'] * MANY == [client.message() for client in clients]
