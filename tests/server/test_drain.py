"""How connections end when the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
from typing import Any

import falcon.asgi
import pytest
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from falcon_channels import Channels
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.processes import ChannelsServer
from falcon_channels.transports.asgi_extensions import DRAIN_HOOKS
from server.running import frame
from server.running import Peer
from server.running import PING
from server.running import PONG
from server.running import running


class Draining:
    """An application with drain hooks, which records the order of events."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.open = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope['type'] == 'lifespan':
            await receive()
            scope['state'][DRAIN_HOOKS] = [self.fail, self.hang, self.hook]
            await send({'type': 'lifespan.startup.complete'})
            await receive()
            self.events.append('shutdown')
            await send({'type': 'lifespan.shutdown.complete'})
            return
        await receive()
        await send({'type': 'websocket.accept'})
        self.open += 1
        event = await receive()
        self.events.append(event['code'])

    async def fail(self) -> None:
        raise ValueError('on purpose')

    async def hang(self) -> None:
        await asyncio.sleep(3600)

    async def hook(self) -> None:
        self.events.append(f'{self.open} open')


def test_all_drain_hooks_run_before_connections_are_closed() -> None:
    """A failing or hanging hook does not stop the others; then all clients get 1012."""
    app = Draining()
    options = ServerOptions(drain_batch=7, drain_interval_s=0.01, drain_timeout_s=0.5)
    codes = []
    with running(app, lifespan='on', options=options) as server:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(server.ws_url)) for _ in range(30)]
            server.server.should_exit = True
            for ws in clients:
                with contextlib.suppress(ConnectionClosed):
                    ws.recv(timeout=20)
                codes.append(ws.close_code)
        server.thread.join(20)

    assert [1012] * 30 == codes
    assert ['30 open', *[1012] * 30, 'shutdown'] == app.events


def test_client_that_does_not_answer_the_close_does_not_delay_the_stop() -> None:
    """After `close_timeout_s` its connection is aborted, and the server ends."""
    app = Draining()
    app.hang = app.hook  # type: ignore[method-assign]  # no hook hangs here
    options = ServerOptions(close_timeout_s=0.3)
    with running(app, lifespan='on', options=options) as server:
        peer = Peer(server.port).open()
        server.stop()
        assert 1012 == peer.close_code()
        peer.sock.close()
    assert 'shutdown' == app.events[-1]


def test_handshake_during_the_drain_gets_503() -> None:
    """A server that stops opens no WebSocket, also with uvicorn's own HTTP class."""
    with running(Draining(), lifespan='on') as server, Peer(server.port) as first:
        first.open()
        [connection] = server.connections
        context = connection.context_of(
            server.server.config,
            server.server.server_state,
            server.server.lifespan.state,
        )
        context.loop.call_soon_threadsafe(context.drain.begin)
        wait_until(lambda: context.drain.begun, 'the drain begins')
        with Peer(server.port) as late:
            assert 503 == late.status()


def test_drain_closes_connections_in_batches() -> None:
    """Between two batches the other connections go on working."""
    app = Draining()
    app.fail = app.hang = app.hook  # type: ignore[method-assign]  # no hook fails here
    options = ServerOptions(drain_batch=1, drain_interval_s=2, drain_timeout_s=10)
    with (
        running(
            app, lifespan='on', options=options, timeout_graceful_shutdown=30
        ) as up,
        Peer(up.port) as one,
        Peer(up.port) as two,
    ):
        one.open()
        two.open()
        up.server.should_exit = True
        (first,) = select.select([one.sock, two.sock], [], [], 20)[0]
        gone, rest = (one, two) if first is one.sock else (two, one)
        assert 1012 == gone.close_code()
        rest.send(frame(PING, b'still here'))
        assert (0x80 | PONG, b'still here') == rest.frame()
        assert 1012 == rest.close_code()


def test_channels_middleware_closes_its_connections_before_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`Channels` as middleware closes its own connections in its drain hook."""
    channels = Channels()

    class Room:
        async def on_subscribe(self, req, subscription, **params) -> None:
            pass

        async def on_websocket(self, req, ws) -> None:
            await channels.serve(req, ws, 'rooms:a')

    channels.add_route('rooms:{room}', Room())
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/', Room())
    with (
        caplog.at_level(logging.INFO),
        running(app, lifespan='on') as server,
        Peer(server.port) as peer,
    ):
        peer.open()
        wait_until(lambda: channels.node.hub.connections, 'connected')
        server.server.should_exit = True
        assert 1012 == peer.close_code()
        peer.sock.close()
        server.thread.join(20)
    assert 'drained 1 connections' in caplog.text


class Waiting:
    """A resource whose responder waits for its own queue, and never for its client."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await ws.accept()
        self.started += 1
        try:
            await asyncio.Queue().get()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.mark.parametrize('leaves', [False, True], ids=['stays', 'has-left'])
def test_responder_that_waits_for_its_own_queue_does_not_delay_the_stop(
    caplog: pytest.LogCaptureFixture, leaves: bool
) -> None:
    """The responder is cancelled after the client has left; the log has its path."""
    waiting = Waiting()
    app = falcon.asgi.App()
    app.add_route('/waits', waiting)
    with running(
        app,
        lifespan='on',
        options=ServerOptions(responder_timeout_s=0.2),
        server_class=ChannelsServer,
        timeout_graceful_shutdown=60,
    ) as server:
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(connect(f'{server.ws_url}/waits')) for _ in range(2)
            ]
            wait_until(lambda: waiting.started == 2, 'both responders wait')
            if leaves:
                stack.close()
                wait_until(lambda: not server.connections, 'the clients have left')
            # NOTE: it fails if the server does not stop within 30 s.
            server.stop()
        assert {1000 if leaves else 1012} == {client.close_code for client in clients}
    assert 2 == waiting.cancelled
    assert 2 == caplog.text.count("the responder of '/waits' is cancelled")


def test_responder_that_works_after_its_client_has_left_may_finish() -> None:
    """A responder has time to finish, also while the server stops."""
    done: list[str] = []

    class Working:
        async def on_websocket(self, req: Any, ws: Any) -> None:
            await ws.accept()
            with contextlib.suppress(falcon.WebSocketDisconnected):
                await ws.receive_text()
            await asyncio.sleep(0.5)
            done.append('saved')

    app = falcon.asgi.App()
    app.add_route('/', Working())
    with running(app, lifespan='on', timeout_graceful_shutdown=60) as server:
        with connect(server.ws_url) as client:
            server.stop()
        assert 1012 == client.close_code
    assert ['saved'] == done
