"""HTTP responses: the parts of one event-loop iteration leave in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from falcon_channels.server.http import BoundedHttpProtocol
from server.running import Peer
from server.running import running
from server.running import RunningServer

GET = b'GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n'
PARTS = [b'%d' % number * 500 for number in range(300)]


class RecordedTransport:
    """A transport with a list of its writes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class RecordedHttp(BoundedHttpProtocol):
    """The HTTP class of the server, with transports that record their writes."""

    __slots__ = ()

    transports: list[RecordedTransport] = []

    def connection_made(self, transport: asyncio.Transport) -> None:
        recorded = RecordedTransport(transport)
        self.transports.append(recorded)
        super().connection_made(recorded)  # type: ignore[arg-type]


class Answers:
    """An application whose answer depends on the path."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self.continues: asyncio.Event

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b'content-length', b'5')]
        if scope['path'] != '/whole':
            headers = []
        await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
        if scope['path'] == '/slow':
            self.loop = asyncio.get_running_loop()
            self.continues = asyncio.Event()
            await self.continues.wait()
        if scope['path'] == '/parts':
            for part in PARTS:
                body = {'type': 'http.response.body', 'body': part, 'more_body': True}
                await send(body)
        if scope['path'] == '/failed':
            raise ValueError('the application fails after the head')
        await send({'type': 'http.response.body', 'body': b'hello'})


@pytest.fixture
def app() -> Answers:
    return Answers()


@pytest.fixture
def server(app: Answers) -> Iterator[RunningServer]:
    RecordedHttp.transports = []
    with running(app, http=RecordedHttp) as server:
        yield server


def writes() -> list[bytes]:
    return RecordedHttp.transports[-1].writes


def test_head_and_body_of_one_iteration_leave_in_one_write(
    server: RunningServer,
) -> None:
    """A small response needs one system call."""
    with Peer(server.port) as peer:
        for number in 1, 2:
            peer.send(GET % b'/whole')
            peer.read_until(b'\r\n\r\nhello')
            assert number == len(writes())


def test_head_before_a_slow_body_leaves_at_once(
    server: RunningServer, app: Answers
) -> None:
    """A client gets the head while the application still works on the body."""
    with Peer(server.port) as peer:
        peer.send(GET % b'/slow')
        assert peer.read_head().startswith('HTTP/1.1 200 ')
        app.loop.call_soon_threadsafe(app.continues.set)
        peer.read_until(b'5\r\nhello\r\n0\r\n\r\n')


def test_many_parts_without_a_pause_leave_in_bounded_writes(
    server: RunningServer,
) -> None:
    """An application that never waits does not gather its whole response."""
    with Peer(server.port) as peer:
        peer.send(GET % b'/parts')
        peer.read_until(b'5\r\nhello\r\n0\r\n\r\n')
    chunks = b''.join(b'%x\r\n%s\r\n' % (len(part), part) for part in PARTS)
    assert b''.join(writes()).partition(b'\r\n\r\n')[2] == (
        chunks + b'5\r\nhello\r\n0\r\n\r\n'
    )
    assert max(map(len, writes())) < len(chunks) / 2


def test_failed_response_ends_after_its_gathered_head(server: RunningServer) -> None:
    """The head that was sent before the error arrives, and then the connection ends."""
    with Peer(server.port) as peer:
        peer.send(GET % b'/failed')
        assert peer.read_head().startswith('HTTP/1.1 200 ')
        assert b'' == peer.sock.recv(100)
