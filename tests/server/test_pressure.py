"""Floods, readers that do not read, and peers that are gone: all bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path
import socket
import struct
import threading
from typing import Any

import falcon
import falcon.asgi
import pytest
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from falcon_channels.server.options import ServerOptions
from server.running import BINARY
from server.running import frame
from server.running import Peer
from server.running import PING
from server.running import running
from server.running import TEXT

#: Sizes of messages that are sent in one turn of the event loop: odd ones are text.
MIXTURE = [*range(200), 100_000, 3, 4, 4095, 4097, 4096, 5, 100_001, 6] * 3


def rss_bytes() -> int:
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096


class Pressure:
    """An application whose connections do what their path says."""

    def __init__(self) -> None:
        self.sent = 0
        self.error: Exception | None = None
        self.code: int | None = None

    async def __call__(self, scope, receive, send) -> None:
        await receive()
        await send({'type': 'websocket.accept'})
        await getattr(self, scope['path'].strip('/') or 'echo')(receive, send)

    async def echo(self, receive, send) -> None:
        while (event := await receive())['type'] == 'websocket.receive':
            await send({**event, 'type': 'websocket.send'})

    async def deaf(self, receive, send) -> None:
        await asyncio.sleep(3600)

    async def mixture(self, receive, send) -> None:
        """Send short, long and binary messages without a pause, and close."""
        for size in MIXTURE:
            if size % 2:
                await send({'type': 'websocket.send', 'text': 'x' * size})
            else:
                await send({'type': 'websocket.send', 'bytes': bytes(size)})
        await send({'type': 'websocket.close', 'code': 4000})

    async def torrent(self, receive, send) -> None:
        try:
            while True:
                await send({'type': 'websocket.send', 'bytes': bytes(65536)})
                self.sent += 1
        except OSError as ex:
            self.error = ex
            self.code = (await receive())['code']


@pytest.fixture
def app() -> Pressure:
    return Pressure()


def test_a_reader_that_never_reads_is_cut(app: Pressure) -> None:
    """`send` blocks, memory stays, others go on, and after a while the link is cut."""
    options = ServerOptions(write_timeout_s=0.5)
    before = rss_bytes()
    with (
        running(app, options=options) as server,
        Peer(server.port, receive_buffer_bytes=4096) as slow,
        Peer(server.port) as other,
    ):
        slow.open(path='/torrent')
        other.open().send(frame(TEXT, b'hello'))
        assert b'hello' == other.message()
        wait_until(lambda: app.error is not None, 'the send fails')
        assert isinstance(app.error, OSError)
        wait_until(lambda: app.code == 1006, 'told')
        wait_until(lambda: len(server.connections) == 1, 'cut')
    assert app.sent < 200
    assert rss_bytes() - before < 30_000_000


@pytest.mark.parametrize('deflate', [False, True])
def test_messages_of_one_turn_keep_their_order(app: Pressure, deflate: bool) -> None:
    """Whatever their sizes, all of them arrive in order, and before the close."""
    options = ServerOptions(deflate=deflate)
    with running(app, options=options) as server:
        url = server.ws_url + '/mixture'
        with connect(url, compression='deflate' if deflate else None) as ws:
            for size in MIXTURE:
                message = ws.recv(timeout=20)
                assert ('x' * size if size % 2 else bytes(size)) == message
            with pytest.raises(ConnectionClosed):
                ws.recv(timeout=20)
            assert 4000 == ws.close_code


def test_answers_of_one_turn_come_together(app: Pressure) -> None:
    """What arrives in one read is answered in one write."""
    with running(app) as server, Peer(server.port) as peer:
        peer.open()
        peer.send(frame(TEXT, b'hello') * 20)
        peer.sock.settimeout(20)
        assert b'\x81\x05hello' * 20 == peer.sock.recv(65536)


def test_a_slow_reader_is_not_cut(app: Pressure) -> None:
    """Who takes a little now and then is waited for."""
    options = ServerOptions(write_timeout_s=1)
    with (
        running(app, options=options) as server,
        Peer(server.port, receive_buffer_bytes=65536) as slow,
    ):
        slow.open(path='/torrent')
        wait_until(lambda: app.sent > 3, 'it flows')
        before = app.sent
        stop = threading.Event()
        for _ in range(200):
            slow._need(65546)
            stop.wait(0.01)
        assert app.error is None
        assert app.sent > before


def test_a_ping_flood_is_bounded(app: Pressure) -> None:
    """A peer that pings and does not read costs neither memory nor the others' time."""
    before = rss_bytes()
    flood = frame(PING, b'x' * 100) * 1000
    with (
        running(app) as server,
        Peer(server.port, receive_buffer_bytes=4096) as peer,
        Peer(server.port) as other,
    ):
        peer.open()
        assert peer.flood(flood, 1000)
        other.open().send(frame(TEXT, b'hello'))
        assert b'hello' == other.message()
    assert rss_bytes() - before < 30_000_000


def test_a_message_flood_to_a_deaf_application_is_bounded(app: Pressure) -> None:
    """Messages that nobody takes stay in the peer: TCP makes it wait."""
    before = rss_bytes()
    flood = frame(TEXT, b'x') * 10_000
    with running(app, timeout_graceful_shutdown=1) as server, Peer(server.port) as peer:
        peer.open(path='/deaf')
        assert peer.flood(flood, 10_000)
        (connection,) = server.connections
        assert 32 == len(connection._cycle._queue)
    assert rss_bytes() - before < 30_000_000


def test_a_fragment_flood_is_bounded(app: Pressure) -> None:
    """Empty fragments end with 1009 after `max_fragments`."""
    with running(app) as server, Peer(server.port) as peer:
        peer.open().send(
            frame(BINARY, b'', fin=False) + frame(0, b'', fin=False) * 5000
        )
        assert 1009 == peer.close_code()


def test_a_large_message_is_given_back(app: Pressure) -> None:
    """After a message of megabytes no buffer of its size stays."""
    with running(app) as server, Peer(server.port) as peer:
        peer.open().send(frame(BINARY, b'x' * 8_000_000))
        assert 8_000_000 == len(peer.message())
        (connection,) = server.connections
        assert connection._buffer is None


@pytest.mark.parametrize('path', ['/echo', '/deaf'])
def test_a_half_open_peer_is_found(app: Pressure, path: str) -> None:
    """A peer that answers no ping is cut, though TCP knows nothing of it."""
    with running(
        app,
        ws_ping_interval=0.1,
        ws_ping_timeout=0.2,
        options=ServerOptions(close_timeout_s=0.2),
        timeout_graceful_shutdown=1,
    ) as server:
        # NOTE: The peer's kernel acknowledges what the peer does not read.
        peer = Peer(server.port).open(path=path)
        wait_until(lambda: not server.connections, 'cut')
        peer.sock.close()


def test_a_peer_that_answers_pings_stays(app: Pressure) -> None:
    """A client that only answers pings lives through many intervals."""
    with (
        running(app, ws_ping_interval=0.05, ws_ping_timeout=5) as server,
        Peer(server.port) as peer,
    ):
        peer.open()
        for _ in range(10):
            assert (0x89, b'') == peer.frame()
            peer.send(frame(10, b''))
        peer.send(frame(TEXT, b'still here'))
        assert b'still here' == peer.message()


def test_unacknowledged_bytes_have_a_deadline(app: Pressure) -> None:
    """The kernel is told to give up on a peer that acknowledges nothing."""
    with (
        running(app, options=ServerOptions(unacknowledged_timeout_s=7)) as server,
        Peer(server.port) as peer,
    ):
        peer.open()
        (connection,) = server.connections
        sock = connection.transport.get_extra_info('socket')
        assert 7000 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


def test_a_silent_client_can_be_refused(app: Pressure) -> None:
    """With `first_message_timeout_s` a client that says nothing gets 1008."""
    options = ServerOptions(first_message_timeout_s=0.2)
    with running(app, options=options) as server, Peer(server.port) as peer:
        peer.open()
        assert 1008 == peer.close_code()


def test_a_client_that_has_spoken_may_be_silent(app: Pressure) -> None:
    """The deadline is for a first message; pings in between make no difference."""
    options = ServerOptions(first_message_timeout_s=0.3)
    with (
        running(app, options=options, ws_ping_interval=0.05) as server,
        Peer(server.port) as peer,
    ):
        peer.open().send(frame(TEXT, b'here I am'))
        assert b'here I am' == peer.message()
        for _ in range(10):
            assert 0x89 == peer.frame()[0]
            peer.send(frame(10))
        peer.send(frame(TEXT, b'still'))
        assert b'still' == peer.message()


def test_a_half_closed_peer_that_does_not_read_is_cut(app: Pressure) -> None:
    """An end of stream with a backlog behind it does not keep the connection."""
    options = ServerOptions(close_timeout_s=0.3)
    with (
        running(app, options=options) as server,
        Peer(server.port, receive_buffer_bytes=4096) as peer,
    ):
        peer.open(path='/torrent')
        (connection,) = server.connections
        wait_until(lambda: connection.write_blocked, 'a backlog')
        peer.sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: not server.connections, 'cut')
        wait_until(lambda: app.code == 1006, 'told')


class SendOnly:
    """A Falcon responder that never receives."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def on_websocket(self, req, ws) -> None:
        await ws.accept()
        try:
            while True:
                await ws.send_text('tick')
                await asyncio.sleep(0.01)
        except falcon.WebSocketDisconnected as ex:
            self.seen = [ex.code, ws.closed, ws.ready]


@pytest.mark.parametrize('receive_queue', [0, 4])
@pytest.mark.parametrize(('code', 'expected'), [(4321, 4321), (None, 1006)])
def test_a_responder_that_only_sends_learns_of_the_end(
    receive_queue: int, code: int | None, expected: int
) -> None:
    """Falcon raises `WebSocketDisconnected` with the client's code, queue or not."""
    app = falcon.asgi.App()
    app.ws_options.max_receive_queue = receive_queue
    resource = SendOnly()
    app.add_route('/', resource)
    with running(app) as server:
        with connect(server.ws_url) as ws:
            assert 'tick' == ws.recv()
            if code is None:
                ws.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
                )
                ws.socket.close()
            else:
                ws.close(code)
        wait_until(lambda: resource.seen, 'the responder has ended')
    assert [expected, True, False] == resource.seen


def test_a_second_receive_reports_the_end_again() -> None:
    """`receive` after the disconnect returns at once, and does not hang."""
    codes: list[int] = []

    async def app(scope, receive, send) -> None:
        await receive()
        await send({'type': 'websocket.accept'})
        codes.extend([(await receive())['code'], (await receive())['code']])

    with running(app) as server:
        with connect(server.ws_url) as ws:
            ws.close(4000)
        wait_until(lambda: codes, 'ended')
    assert [4000, 4000] == codes


def test_many_tasks_may_send(app: Pressure) -> None:
    """Messages of concurrent senders are whole, and keep each sender's order."""

    async def chorus(scope, receive, send) -> None:
        await receive()
        await send({'type': 'websocket.accept'})

        async def sing(voice: int) -> None:
            for i in range(50):
                text = f'{voice}:{i}:' + 'x' * 20_000
                await send({'type': 'websocket.send', 'text': text})

        await asyncio.gather(*(sing(voice) for voice in range(5)))

    with running(chorus) as server, Peer(server.port) as peer:
        peer.open()
        parts = [peer.message().decode().split(':')[:2] for _ in range(250)]
    for voice in '01234':
        assert [str(i) for i in range(50)] == [n for v, n in parts if v == voice]
