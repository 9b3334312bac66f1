"""Floods, clients that do not read, and clients that are gone: all bounded."""

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
from falcon_channels.transports.websocket_framing import binary_frame
from server.running import BINARY
from server.running import frame
from server.running import Peer
from server.running import PING
from server.running import running
from server.running import TEXT

#: Sizes of messages that are sent in one event-loop iteration; odd ones are text.
MIXTURE = [*range(200), 100_000, 3, 4, 4095, 4097, 4096, 5, 100_001, 6] * 3


def rss_bytes() -> int:
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096


class Pressure:
    """An application whose connections behave as their path says."""

    def __init__(self) -> None:
        self.sent = 0
        self.error: Exception | None = None
        self.code: int | None = None
        self.extension: dict[str, Any] | None = None

    async def __call__(self, scope, receive, send) -> None:
        await receive()
        await send({'type': 'websocket.accept'})
        self.extension = scope['extensions']['falcon_channels.websocket']
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

    async def direct(self, receive, send) -> None:
        """Write to the connection without ASGI events, as long as it is open."""
        assert self.extension is not None
        connection = self.extension['websocket']
        end = asyncio.get_running_loop().create_future()
        connection.attach(Closed(end))
        blob = binary_frame(bytes(65536))
        while not end.done():
            if connection.backlog_bytes < 1_000_000:
                connection.write(blob)
                self.sent += 1
            await asyncio.sleep(0.001)
        self.error = OSError(end.result())


class Closed:
    """A receiver that tells when the connection has ended."""

    def __init__(self, end: asyncio.Future[int]) -> None:
        self._end = end

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, code: int, reason: str) -> None:
        self._end.set_result(code)


@pytest.fixture
def app() -> Pressure:
    return Pressure()


def test_client_that_never_reads_is_aborted_after_the_write_timeout(
    app: Pressure,
) -> None:
    """`send` waits, memory stays bounded, and other clients are served."""
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
        wait_until(lambda: app.code == 1006, 'the application is told')
        wait_until(lambda: len(server.connections) == 1, 'the connection is aborted')
    assert app.sent < 200
    assert rss_bytes() - before < 30_000_000


@pytest.mark.parametrize('deflate', [False, True])
def test_messages_of_one_iteration_keep_their_order(
    app: Pressure, deflate: bool
) -> None:
    """Messages of all sizes arrive in order, and before the close frame."""
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


def test_answers_of_one_iteration_leave_in_one_write(app: Pressure) -> None:
    """Messages that arrive in one read are answered in one write."""
    with running(app) as server, Peer(server.port) as peer:
        peer.open()
        peer.send(frame(TEXT, b'hello') * 20)
        peer.sock.settimeout(20)
        assert b'\x81\x05hello' * 20 == peer.sock.recv(65536)


def test_client_that_reads_slowly_is_not_aborted(app: Pressure) -> None:
    """A client that reads a little now and then keeps its connection."""
    options = ServerOptions(write_timeout_s=1)
    with (
        running(app, options=options) as server,
        Peer(server.port, receive_buffer_bytes=65536) as slow,
    ):
        slow.open(path='/torrent')
        wait_until(lambda: app.sent > 3, 'messages are sent')
        before = app.sent
        stop = threading.Event()
        for _ in range(200):
            slow._need(65546)
            stop.wait(0.01)
        assert app.error is None
        assert app.sent > before


@pytest.mark.parametrize('path', ['/torrent', '/direct'])
def test_keep_alive_does_not_close_a_client_that_reads_slowly(
    app: Pressure, path: str
) -> None:
    """While output is pending, no ping is sent, and so no answer is missing."""
    with (
        running(app, ws_ping_interval=0.1, ws_ping_timeout=0.1) as server,
        Peer(server.port, receive_buffer_bytes=65536) as slow,
    ):
        slow.open(path=path)
        wait_until(lambda: app.sent > 3, 'messages are sent')
        stop = threading.Event()
        for _ in range(100):
            slow._need(65546)
            stop.wait(0.01)
        assert app.error is None


def test_ping_flood_costs_bounded_memory(app: Pressure) -> None:
    """A client that pings and does not read does not delay others either."""
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


def test_messages_that_the_application_does_not_receive_stay_in_the_peer(
    app: Pressure,
) -> None:
    """TCP makes the client wait, and memory stays bounded."""
    before = rss_bytes()
    flood = frame(TEXT, b'x') * 10_000
    with running(app, timeout_graceful_shutdown=1) as server, Peer(server.port) as peer:
        peer.open(path='/deaf')
        assert peer.flood(flood, 10_000)
        (connection,) = server.connections
        assert 32 == len(connection._cycle._queue)
    assert rss_bytes() - before < 30_000_000


def test_message_of_too_many_fragments_is_refused_with_1009(app: Pressure) -> None:
    """Empty fragments count for `max_fragments`, too."""
    with running(app) as server, Peer(server.port) as peer:
        peer.open().send(
            frame(BINARY, b'', fin=False) + frame(0, b'', fin=False) * 5000
        )
        assert 1009 == peer.close_code()


def test_buffer_of_a_large_message_is_freed(app: Pressure) -> None:
    """After a message of megabytes the connection has no buffer."""
    with running(app) as server, Peer(server.port) as peer:
        peer.open().send(frame(BINARY, b'x' * 8_000_000))
        assert 8_000_000 == len(peer.message())
        (connection,) = server.connections
        assert connection._buffer is None


@pytest.mark.parametrize('path', ['/echo', '/deaf'])
def test_client_that_answers_no_ping_is_disconnected(app: Pressure, path: str) -> None:
    """The lost client is detected even though TCP reports no error."""
    with running(
        app,
        ws_ping_interval=0.1,
        ws_ping_timeout=0.2,
        options=ServerOptions(close_timeout_s=0.2),
        timeout_graceful_shutdown=1,
    ) as server:
        # NOTE: The peer's kernel acknowledges bytes that the peer does not read.
        peer = Peer(server.port).open(path=path)
        wait_until(lambda: not server.connections, 'the connection is aborted')
        peer.sock.close()


def test_client_that_only_answers_pings_stays_connected(app: Pressure) -> None:
    """Pongs keep a connection open for many intervals."""
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


def test_socket_has_the_unacknowledged_timeout(app: Pressure) -> None:
    """The kernel closes a connection whose peer acknowledges nothing."""
    with (
        running(app, options=ServerOptions(unacknowledged_timeout_s=7)) as server,
        Peer(server.port) as peer,
    ):
        peer.open()
        (connection,) = server.connections
        sock = connection.transport.get_extra_info('socket')
        assert 7000 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


def test_client_without_a_first_message_is_closed_with_1008(app: Pressure) -> None:
    """The deadline is `first_message_timeout_s`."""
    options = ServerOptions(first_message_timeout_s=0.2)
    with running(app, options=options) as server, Peer(server.port) as peer:
        peer.open()
        assert 1008 == peer.close_code()


def test_client_may_be_silent_after_its_first_message(app: Pressure) -> None:
    """The deadline is for a first message only; pings do not matter."""
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


def test_half_closed_client_that_does_not_read_is_aborted(app: Pressure) -> None:
    """An end of stream does not keep a connection with pending output open."""
    options = ServerOptions(close_timeout_s=0.3)
    with (
        running(app, options=options) as server,
        Peer(server.port, receive_buffer_bytes=4096) as peer,
    ):
        peer.open(path='/torrent')
        (connection,) = server.connections
        wait_until(lambda: connection.write_blocked, 'a backlog')
        peer.sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: not server.connections, 'the connection is aborted')
        wait_until(lambda: app.code == 1006, 'the application is told')


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
def test_responder_that_only_sends_gets_the_close_code(
    receive_queue: int, code: int | None, expected: int
) -> None:
    """Falcon raises `WebSocketDisconnected`, with its receive queue and without."""
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


def test_receive_after_the_disconnect_returns_the_disconnect_again() -> None:
    """A second `receive` returns at once, and does not hang."""
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


def test_tasks_that_receive_at_once_get_every_message_and_the_end() -> None:
    """No task waits for ever, even if another one is cancelled while it waits.

    Only the last task was woken. The others stayed in memory after the disconnect.
    """
    seen: list[Any] = []

    async def app(scope, receive, send) -> None:
        await receive()
        await send({'type': 'websocket.accept'})

        async def collect() -> int:
            while (event := await receive())['type'] == 'websocket.receive':
                seen.append(event['text'])
            code: int = event['code']
            return code

        tasks = [asyncio.create_task(collect()) for _ in range(4)]
        await asyncio.sleep(0)
        tasks.pop().cancel()
        await send({'type': 'websocket.send', 'text': 'ready'})
        seen.append(await asyncio.gather(*tasks))

    texts = [str(number) for number in range(10)]
    with running(app) as server:
        with connect(server.ws_url) as ws:
            ws.recv()
            for text in texts:
                ws.send(text)
            ws.close(4000)
        wait_until(lambda: [4000] * 3 in seen, 'all tasks have ended')
    assert texts == sorted(seen[:-1])


def test_concurrent_senders_send_whole_messages_in_their_order(app: Pressure) -> None:
    """Messages of concurrent tasks are whole, and keep the order of each task."""

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
