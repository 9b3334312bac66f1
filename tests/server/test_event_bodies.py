"""Event streams that the server writes to sockets or passes through a middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
import logging
import socket
import struct
import time
from typing import Any

import falcon.asgi
import httpx
import pytest
from support.event_reader import EventReader
from support.processes import wait_until

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Event
from falcon_channels.server.options import ServerOptions
from server.running import Peer
from server.running import running
from server.running import RunningServer

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'
OPTIONS = ServerOptions(write_timeout_s=0.5)
HISTORY = ChannelOptions(history_size=1000, subscribers='anybody')
GET = b'GET /rooms/%s HTTP/1.1\r\nHost: localhost\r\n\r\n'


class Room:
    """A resource with one channel, or a stream of several."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_get(self, req: Any, resp: Any, room: str) -> None:
        names = [f'rooms:{name}' for name in room.split(',')]
        await self.channels.serve_events(req, resp, names)

    async def on_post(self, req: Any, resp: Any, room: str) -> None:
        for text in await req.get_media():
            await self.channels.publish(f'rooms:{room}', text)

    async def on_delete(self, req: Any, resp: Any, room: str) -> None:
        await self.channels.finish(f'rooms:{room}')


class UpperStream:
    """A Falcon middleware that changes streamed bodies."""

    async def process_response(self, req: Any, resp: Any, *_: Any) -> None:
        if resp.stream is not None:
            resp.stream = self._upper(resp.stream)

    async def _upper(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in stream:
            yield chunk.upper()


def upper_events(app: Any) -> Callable[..., Any]:
    """Wrap an app in an ASGI middleware that changes bodies."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def send_upper(event: Any) -> None:
            if 'body' in event:
                event = {**event, 'body': event['body'].upper()}
            await send(event)

        await app(scope, receive, send_upper)

    return wrapped


class UpperApp(falcon.asgi.App):
    """An app that changes its own bodies."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await upper_events(super().__call__)(scope, receive, send)


def make_app(channels: Channels, kind: str = 'plain') -> Any:
    channels.add_route('rooms:{room}', None, HISTORY)
    middleware: list[Any] = [channels]
    if kind == 'Falcon middleware':
        middleware.append(UpperStream())
    app_class = UpperApp if kind == 'subclass' else falcon.asgi.App
    app = app_class(middleware=middleware)
    app.add_route('/rooms/{room}', Room(channels))
    return upper_events(app) if kind == 'ASGI middleware' else app


@pytest.fixture
def channels() -> Channels:
    return Channels()


@pytest.fixture
def server(channels: Channels) -> Iterator[RunningServer]:
    app = make_app(channels)
    with running(app, http=HTTP, options=OPTIONS, lifespan='on') as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with open_client(server) as client:
        yield client


def open_client(server: RunningServer) -> httpx.Client:
    url = f'http://127.0.0.1:{server.port}'
    return httpx.Client(base_url=url, timeout=20, trust_env=False)


def publish(client: httpx.Client, *texts: str, room: str = 'lobby') -> None:
    assert 200 == client.post(f'/rooms/{room}', json=texts).status_code


def streams_of(channels: Channels) -> list[Any]:
    return [connection.transport for connection in channels.connections()]


def receive_rest(sock: socket.socket) -> bytes:
    """Return what a client receives until the last chunk of a body."""
    data = b''
    while not data.endswith(b'\r\n0\r\n\r\n'):
        received = sock.recv(65536)
        assert received, 'the connection was aborted'
        data += received
    return data


def content(response: bytes) -> bytes:
    """Return the body of a whole response; each chunk must be whole."""
    chunks = response.partition(b'\r\n\r\n')[2]
    parts = []
    while chunks:
        size, _, rest = chunks.partition(b'\r\n')
        length = int(size, 16)
        assert b'\r\n' == rest[length : length + 2]
        parts.append(rest[:length])
        chunks = rest[length + 2 :]
    return b''.join(parts)


def test_event_stream_is_written_to_its_socket(
    channels: Channels, client: httpx.Client
) -> None:
    """The fan-out gets the socket of a stream as soon as the response has begun."""
    with EventReader.open(client, '/rooms/lobby') as reader:
        reader.block()
        [stream] = streams_of(channels)
        wait_until(lambda: stream.descriptor >= 0, 'the stream has its socket')
        publish(client, 'one', 'two\nlines', '')
        assert ['one', 'two\nlines', ''] == reader.data(3)
        assert 200 == client.delete('/rooms/lobby').status_code
        assert 'end' == reader.event().name
        assert reader.next() is None
    assert -1 == stream.descriptor
    assert 0 == stream.write(b'1\r\nx\r\n')


def test_streams_of_several_channels_get_their_own_ids_at_their_sockets(
    channels: Channels, client: httpx.Client
) -> None:
    """The fan-out does not write to sockets what a connection must still change.

    Streams of one channel, which share a write with these, get everything, too.
    """
    with (
        EventReader.open(client, '/rooms/a,b') as several,
        EventReader.open(client, '/rooms/b,a') as others,
        EventReader.open(client, '/rooms/a') as one,
    ):
        for reader in (several, others, one):
            reader.start()
        wait_until(
            lambda: any(stream.descriptor >= 0 for stream in streams_of(channels)),
            'the stream of one channel has its socket',
        )
        for _ in range(2):
            publish(client, 'in a', room='a')
            publish(client, 'in b', room='b')
        assert ['in a', 'in a'] == one.data(2)
        assert ['in a', 'in b'] * 2 == several.data(4) == others.data(4)
        epoch = one.last_id.partition(':')[2]
        assert f'rooms:a=2:{epoch}&rooms:b=2:{epoch}' == several.last_id
        assert f'rooms:b=2:{epoch}&rooms:a=2:{epoch}' == others.last_id
        for room in ('a', 'b'):
            assert 200 == client.delete(f'/rooms/{room}').status_code
        for reader in (several, others):
            assert ['end', 'end'] == [reader.event().name for _ in range(2)]
            assert reader.next() is None


@pytest.mark.parametrize('kind', ['ASGI middleware', 'Falcon middleware', 'subclass'])
def test_body_that_other_code_changes_reaches_that_code(
    channels: Channels, kind: str
) -> None:
    """Code between the app and the server receives each event of a stream."""
    app = make_app(channels, kind)
    with (
        running(app, http=HTTP, lifespan='on') as server,
        open_client(server) as client,
        EventReader.open(client, '/rooms/lobby') as reader,
    ):
        assert 'RETRY: 3000' == reader.block()[0]  # type: ignore[index]
        for text in ('one', 'two', 'three'):
            publish(client, text)
            assert f'DATA: {text.upper()}' == reader.block()[0]  # type: ignore[index]
        [stream] = streams_of(channels)
        assert -1 == stream.descriptor


def test_connection_serves_another_request_after_a_stream(
    client: httpx.Client, server: RunningServer
) -> None:
    """The end of a stream is the end of a response, and not of its connection."""
    with Peer(server.port) as peer:
        for room in ('one', 'two'):
            peer.send(GET % room.encode())
            peer.read_until(b'id: ')
            publish(client, 'text', room=room)
            peer.read_until(b'text')
            assert 200 == client.delete(f'/rooms/{room}').status_code
            peer.read_until(b'\r\n0\r\n\r\n')
        peer.send(GET % b'three')
        peer.read_until(b'id: ')


def test_slow_reader_receives_whole_chunks_in_order(
    channels: Channels, client: httpx.Client, server: RunningServer
) -> None:
    """A socket that takes a part of a blob gets the rest later, in order."""
    with Peer(server.port, receive_buffer_bytes=4096) as peer:
        peer.send(GET % b'lobby')
        texts = make_backlog(channels, client)
        [stream] = streams_of(channels)
        assert -1 == stream.descriptor
        publish(client, 'after')
        assert 200 == client.delete('/rooms/lobby').status_code
        body = content(receive_rest(peer.sock))
    lines = body.decode().split('\n')
    data = [line[6:] for line in lines if line.startswith('data: ')]
    assert [*texts, 'after'] == data[:-1]


def make_backlog(channels: Channels, client: httpx.Client) -> list[str]:
    """Publish until a client that does not read has a backlog; return the texts."""
    wait_until(lambda: streams_of(channels), 'it listens')
    [stream] = streams_of(channels)
    wait_until(lambda: stream.descriptor >= 0, 'the stream has its socket')
    texts: list[str] = []
    while not stream.backlog_bytes:
        texts.append(f'{len(texts):06}' * 10_000)
        publish(client, texts[-1])
    return texts


def test_reader_of_a_backlog_that_grows_is_not_aborted(
    channels: Channels, client: httpx.Client, server: RunningServer
) -> None:
    """A client that reads may have a growing backlog for longer than the time-out.

    The size of the backlog alone does not show whether the client reads.
    """
    with Peer(server.port) as peer:
        peer.send(GET % b'lobby')
        wait_until(lambda: streams_of(channels), 'it listens')
        for connection in server.connections:
            sock = connection.transport.get_extra_info('socket')
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        written = len(make_backlog(channels, client))
        [stream] = streams_of(channels)
        data = b''
        end_s = time.monotonic() + 3 * OPTIONS.write_timeout_s
        while time.monotonic() < end_s:
            before = stream.backlog_bytes
            data += peer.sock.recv(65536)
            while channels.connections() and stream.backlog_bytes <= before < 500_000:
                publish(client, '0' * 20_000)
                written += 1
        assert 200 == client.delete('/rooms/lobby').status_code
        data += receive_rest(peer.sock)
    assert written == content(data).count(b'data: 0')


def test_reader_that_stops_reading_is_aborted(
    channels: Channels, client: httpx.Client, server: RunningServer
) -> None:
    """A client that reads nothing of a backlog loses its connection."""
    with Peer(server.port, receive_buffer_bytes=4096) as peer:
        peer.send(GET % b'lobby')
        make_backlog(channels, client)
        wait_until(lambda: not channels.connections(), 'the stream has ended')
    assert 0 == channels.node.hub.counters.slow_disconnects


@pytest.mark.parametrize('reset', [False, True], ids=['aborted', 'reset'])
def test_dropped_backlog_of_a_reader_is_told(
    channels: Channels, client: httpx.Client, server: RunningServer, reset: bool
) -> None:
    """The end of a stream tells that an unknown number of bytes was dropped.

    Otherwise an explanation could say that the client has received everything.
    """
    closed: list[Any] = []

    def listen(event: Event) -> None:
        if event.name == 'connection_closed':
            closed.append(event.facts['backlog_bytes'])

    channels.listen(listen)
    with Peer(server.port, receive_buffer_bytes=4096) as peer:
        peer.send(GET % b'lobby')
        make_backlog(channels, client)
        if reset:
            peer.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
            )
            peer.sock.close()
        wait_until(lambda: closed, 'the stream has ended')
    assert [None] == closed


def test_reader_without_a_backlog_drops_nothing(
    channels: Channels, client: httpx.Client, server: RunningServer
) -> None:
    """A client that leaves after it was sent everything has a backlog of 0."""
    closed: list[Any] = []

    def listen(event: Event) -> None:
        if event.name == 'connection_closed':
            closed.append(event.facts['backlog_bytes'])

    channels.listen(listen)
    with Peer(server.port) as peer:
        peer.send(GET % b'lobby')
        wait_until(lambda: streams_of(channels), 'it listens')
        publish(client, 'one')
        peer.read_until(b'data: one')
    wait_until(lambda: closed, 'the stream has ended')
    assert [0] == closed


def test_client_that_leaves_with_a_waiting_request_causes_no_error(
    channels: Channels,
    client: httpx.Client,
    server: RunningServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A stream ends quietly, also if its client has sent another request after it."""
    with Peer(server.port) as peer:
        peer.send(GET % b'lobby')
        wait_until(lambda: channels.connections(), 'the stream has begun')
        peer.send(GET % b'lobby')
        publish(client, 'one')
        peer.read_until(b'data: one')

    def has_ended() -> bool:
        # NOTE: uvicorn reads nothing while a request waits, so only a write fails.
        publish(client, 'two')
        return not channels.connections()

    wait_until(has_ended, 'the stream has ended')
    publish(client, 'three')
    assert [] == [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_server_that_stops_sends_the_backlog_before_the_end(channels: Channels) -> None:
    """A drain ends each stream after everything that was written to it."""
    with (
        running(make_app(channels), http=HTTP, lifespan='on') as server,
        Peer(server.port, receive_buffer_bytes=4096) as peer,
    ):
        peer.send(GET % b'lobby')
        with open_client(server) as client:
            texts = make_backlog(channels, client)
        server.server.should_exit = True
        wait_until(lambda: not channels.connections(), 'the drain has begun')
        body = content(receive_rest(peer.sock))
    assert len(texts) == body.count(b'data: ')
