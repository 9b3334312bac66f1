"""The ASGI extensions of `falcon_channels.transports.asgi_extensions`, as served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import gc
import os
from typing import Any

import falcon
import falcon.asgi
import pytest
from support.processes import wait_until

from falcon_channels.server.options import ServerOptions
from falcon_channels.transports.asgi_extensions import server_websocket
from falcon_channels.transports.base import UNKNOWN_BACKLOG
from falcon_channels.transports.websocket_framing import DEFLATE
from falcon_channels.transports.websocket_framing import UNCOMPRESSED
from server.running import CLOSE
from server.running import CONT
from server.running import frame
from server.running import Peer
from server.running import running
from server.running import RunningServer
from server.running import TEXT


class Recorder:
    """A receiver that records its events, and acts on some messages."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.heard: list[Any] = []
        self.writable = 0

    def on_message(self, message: str | bytes) -> None:
        self.heard.append(message)
        if message == 'echo':
            self.transport.write(UNCOMPRESSED.frame([b'echo'], binary=False))
        elif message == 'close':
            self.transport.close(4000, 'as you like')
            self.heard.append(self.transport.write(b'\x81\x01x'))
        elif message == 'abort':
            self.transport.abort()
        elif message == 'raise':
            raise ValueError('on purpose')

    def on_writable(self) -> None:
        self.writable += 1

    def on_closed(self, code: int, reason: str) -> None:
        self.heard.append((code, reason))


class Attached:
    """A Falcon resource whose connections go on after its responder has returned."""

    def __init__(self) -> None:
        self.receivers: list[Recorder] = []
        self.tasks_done = 0

    async def on_websocket(self, req: falcon.asgi.Request, ws: Any) -> None:
        direct = server_websocket(req.scope)
        assert direct is not None
        receiver = Recorder(direct)
        with pytest.raises(RuntimeError):
            direct.attach(receiver)
        if req.path == '/lost':
            # As if the client had reset the connection in this moment.
            direct.transport.abort()  # type: ignore[attr-defined]  # of our class
        await ws.accept()
        if req.path == '/late':
            await asyncio.sleep(0)
            while not direct._cycle._queue:
                await asyncio.sleep(0.01)
        direct.attach(receiver)
        with pytest.raises(RuntimeError):
            direct.attach(receiver)
        self.receivers.append(receiver)
        self.tasks_done += 1


@pytest.fixture
def attached() -> Attached:
    return Attached()


@pytest.fixture(params=[(0, 'uvloop'), (4, 'asyncio')])
def server(
    request: pytest.FixtureRequest, attached: Attached
) -> Iterator[RunningServer]:
    app = falcon.asgi.App()
    receive_queue, loop = request.param
    app.ws_options.max_receive_queue = receive_queue
    app.add_route('/', attached)
    options = ServerOptions(close_timeout_s=1, write_timeout_s=0.3)
    with running(app, options=options, ws_max_size=65536, loop=loop) as up:
        yield up


def receiver_of(attached: Attached) -> Recorder:
    wait_until(lambda: attached.receivers, 'attached')
    return attached.receivers[-1]


def test_attached_connection_outlives_the_application_task(
    server: RunningServer, attached: Attached
) -> None:
    """Falcon's close after the responder is ignored; messages arrive by callback."""
    with Peer(server.port) as peer:
        peer.open()
        receiver = receiver_of(attached)
        wait_until(lambda: not server.server.server_state.tasks, 'the task has ended')
        peer.send(frame(TEXT, b'a') + frame(2, b'b') + frame(TEXT, b'c', fin=False))
        peer.send(frame(CONT, b'd') + frame(TEXT, b'echo'))
        assert b'echo' == peer.message()
        assert ['a', b'b', 'cd', 'echo'] == receiver.heard
        peer.send(frame(CLOSE, b'\x0f\xa1bye'))
        assert 4001 == peer.close_code()
    wait_until(lambda: receiver.heard[-1] == (4001, 'bye'), 'told')
    wait_until(lambda: not server.connections, 'gone')
    assert 1 == sum(isinstance(heard, tuple) for heard in receiver.heard)


def test_connection_lost_without_close_frame_is_reported_as_1006(
    server: RunningServer, attached: Attached
) -> None:
    """Without a close frame the code is 1006, reported once."""
    with Peer(server.port) as peer:
        peer.open()
        receiver = receiver_of(attached)
    wait_until(lambda: receiver.heard, 'told')
    assert [(1006, '')] == receiver.heard


def test_direct_close_waits_for_the_close_frame_of_the_peer(
    server: RunningServer, attached: Attached
) -> None:
    """After `close` nothing is written, and the peer's code is reported."""
    with Peer(server.port) as peer:
        peer.open().send(frame(TEXT, b'close'))
        assert (0x88, b'\x0f\xa0as you like') == peer.frame()
        receiver = receiver_of(attached)
        wait_until(lambda: ['close', 0] == receiver.heard, 'written in vain')
        peer.send(frame(TEXT, b'ignored') + frame(CLOSE, b'\x0f\xa0'))
        assert peer.at_eof()
        wait_until(lambda: (4000, '') in receiver.heard, 'told')
    assert 3 == len(receiver.heard)


def test_unanswered_close_ends_after_the_close_timeout(
    server: RunningServer, attached: Attached
) -> None:
    """After `close_timeout_s` the connection is aborted: 1006."""
    with Peer(server.port) as peer:
        peer.open().send(frame(TEXT, b'close'))
        assert 4000 == peer.close_code()
        receiver = receiver_of(attached)
        wait_until(lambda: (1006, '') in receiver.heard, 'told')
    assert not server.connections


def test_abort_ends_the_connection_without_a_close_frame(
    server: RunningServer, attached: Attached
) -> None:
    """`abort` sends nothing to the peer."""
    with Peer(server.port) as peer:
        peer.open().send(frame(TEXT, b'abort'))
        assert peer.close_code() is None
        receiver = receiver_of(attached)
        wait_until(lambda: (1006, '') in receiver.heard, 'told')


def test_messages_queued_before_attach_are_delivered_first(attached: Attached) -> None:
    """Messages that waited for `receive` go to the receiver, in order."""
    app = falcon.asgi.App()
    app.ws_options.max_receive_queue = 0
    app.add_route('/late', attached)
    with running(app) as server, Peer(server.port) as peer:
        peer.open(path='/late').send(frame(TEXT, b'1') + frame(TEXT, b'2'))
        receiver = receiver_of(attached)
        peer.send(frame(TEXT, b'3') + frame(TEXT, b'echo'))
        assert b'echo' == peer.message()
        assert ['1', '2', '3', 'echo'] == receiver.heard


@pytest.mark.parametrize('loop', ['uvloop', 'asyncio'])
def test_receiver_of_a_client_that_left_during_the_accept_is_told(
    attached: Attached, loop: Any
) -> None:
    """A client that has just reset its connection causes no error."""
    app = falcon.asgi.App()
    app.add_route('/lost', attached)
    with running(app, loop=loop) as server, Peer(server.port) as peer:
        with pytest.raises((AssertionError, ConnectionError)):
            peer.request(path='/lost')
        receiver = receiver_of(attached)
        wait_until(lambda: receiver.heard, 'told')
        assert [(1006, '')] == receiver.heard
        wait_until(lambda: not server.connections, 'gone')


def test_receiver_that_raises_closes_only_its_connection(
    server: RunningServer, attached: Attached
) -> None:
    """An error in a callback closes with 1011; other connections stay open."""
    with Peer(server.port) as peer, Peer(server.port) as other:
        other.open()
        peer.open().send(frame(TEXT, b'raise'))
        assert 1011 == peer.close_code()
        other.send(frame(TEXT, b'echo'))
        assert b'echo' == other.message()


def test_paused_connection_delivers_nothing_until_resumed(
    server: RunningServer, attached: Attached
) -> None:
    """After the pause all messages are delivered, in order."""
    with Peer(server.port) as peer:
        peer.open()
        receiver = receiver_of(attached)
        loop = receiver.transport._context.loop
        loop.call_soon_threadsafe(receiver.transport.pause_reading)
        wait_until(lambda: receiver.transport.read_pauses, 'paused')
        peer.send(b''.join(frame(TEXT, b'%d' % i) for i in range(600)))
        peer.send(frame(TEXT, b'echo'))
        assert [] == receiver.heard
        loop.call_soon_threadsafe(receiver.transport.resume_reading)
        assert b'echo' == peer.message()
        assert [*map(str, range(600)), 'echo'] == receiver.heard


def test_client_that_never_reads_is_aborted_after_the_write_timeout(
    server: RunningServer, attached: Attached
) -> None:
    """`write` returns the true backlog, and `write_timeout_s` ends the connection."""
    with (
        Peer(server.port, receive_buffer_bytes=4096) as slow,
        Peer(server.port) as other,
    ):
        slow.open()
        receiver = receiver_of(attached)
        other.open()
        transport = receiver.transport
        blob = UNCOMPRESSED.frame([b'x' * 65000], binary=True)
        backlogs: list[int] = []

        def fill() -> None:
            while not backlogs or backlogs[-1] < 1_000_000:
                backlogs.append(transport.write(blob))

        transport._context.loop.call_soon_threadsafe(fill)
        wait_until(lambda: backlogs and backlogs[-1] >= 1_000_000, 'full')
        assert 0 == backlogs[0]
        assert backlogs[-1] - backlogs[-2] == len(blob)
        other.send(frame(TEXT, b'echo'))
        assert b'echo' == other.message()
        wait_until(lambda: (1006, '') in receiver.heard, 'cut')
        assert 0 == transport.write(blob)
        # Bytes were dropped, and nobody knows how many.
        assert UNKNOWN_BACKLOG == transport.backlog_bytes


def test_receiver_is_called_when_its_backlog_is_written(
    server: RunningServer, attached: Attached
) -> None:
    """When a client has read the whole backlog, `on_writable` is called."""
    with Peer(server.port) as peer:
        peer.open()
        receiver = receiver_of(attached)
        wait_until(lambda: receiver.transport.descriptor >= 0, 'settled')
        before = receiver.writable
        blob = UNCOMPRESSED.frame([b'x' * 65000], binary=True)
        written: list[int] = []

        def fill() -> None:
            while not written or written[-1] == 0:
                written.append(receiver.transport.write(blob))

        receiver.transport._context.loop.call_soon_threadsafe(fill)
        wait_until(lambda: written and written[-1], 'a backlog')
        for _ in written:
            assert 65000 == len(peer.message())
        wait_until(lambda: receiver.writable == before + 1, 'told')
        assert 0 == receiver.transport.backlog_bytes


def test_write_after_the_end_does_not_reach_a_reused_descriptor(
    server: RunningServer, attached: Attached
) -> None:
    """A write to a closed connection cannot reach the next owner of its descriptor."""
    with Peer(server.port) as peer:
        peer.open()
        first = receiver_of(attached)
    wait_until(lambda: not server.connections, 'gone')
    with Peer(server.port) as other:
        other.open()
        wait_until(lambda: len(attached.receivers) == 2, 'attached')
        assert 0 == first.transport.write(UNCOMPRESSED.frame([b'stray'], binary=False))
        other.send(frame(TEXT, b'echo'))
        assert b'echo' == other.message()


def test_connections_share_one_of_two_framings(attached: Attached) -> None:
    """The framing of a connection depends on the negotiated compression."""
    app = falcon.asgi.App()
    app.add_route('/', attached)
    with (
        running(app, options=ServerOptions(deflate=True)) as server,
        Peer(server.port) as plain,
        Peer(server.port) as packed,
    ):
        plain.open()
        wait_until(lambda: len(attached.receivers) == 1, 'attached')
        packed.open('Sec-WebSocket-Extensions: permessage-deflate')
        wait_until(lambda: len(attached.receivers) == 2, 'attached')
        framings = [receiver.transport.framing for receiver in attached.receivers]
        assert [UNCOMPRESSED, DEFLATE] == framings
        payload = b'["a publication"]' * 100
        packed.sock.settimeout(10)
        transport = attached.receivers[1].transport
        blob = DEFLATE.frame([payload], binary=False)
        transport._context.loop.call_soon_threadsafe(transport.write, blob)
        assert 0xC1 == packed.frame()[0]


def test_attached_idle_connection_stores_nothing_of_its_handshake(
    server: RunningServer, attached: Attached
) -> None:
    """An attached connection has no scope, task, core or buffer."""
    with Peer(server.port) as peer:
        peer.open('Cookie: secret=1').send(frame(9, b'ping'))
        peer.frame()
        transport = receiver_of(attached).transport
        wait_until(lambda: transport._cycle is None, 'the application has ended')
        gc.collect()
        assert transport._core is None
        assert transport._buffer is None
        assert os.fstat(transport.descriptor)
