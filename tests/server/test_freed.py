"""A connection that has ended leaves nothing to the garbage collector."""

from __future__ import annotations

from collections.abc import Iterator
import gc
from typing import Any
import weakref

import falcon.asgi
import pytest
from support.processes import wait_until

from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.protocol import WebSocketProtocol
from falcon_channels.transports.asgi_extensions import server_websocket
from server.running import frame
from server.running import Peer
from server.running import running
from server.running import RunningServer
from server.running import TEXT

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'
CONNECT = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"rooms:a"}}'


class Referring:
    """A receiver that refers to its connection, as all receivers do."""

    def __init__(self, websocket: Any) -> None:
        self.websocket = websocket

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, code: int, reason: str) -> None:
        pass


class Thing:
    """An object that an application stores with a connection."""


class App:
    """Resources of each kind, with a weak reference to an object of each connection."""

    def __init__(self) -> None:
        self.references: list[weakref.ref[Any]] = []
        self.channels = Channels()
        self.channels.add_route('rooms:{room}', self)

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.meta = Thing()
        self.references.append(weakref.ref(connection.meta))

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        req.context.thing = Thing()
        self.references.append(weakref.ref(req.context.thing))

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await self.channels.serve(req, ws, 'rooms:a')

    async def on_websocket_direct(self, req: Any, ws: Any) -> None:
        await ws.accept()
        websocket = server_websocket(req.scope)
        assert websocket is not None
        receiver = Referring(websocket)
        self.references.append(weakref.ref(receiver))
        websocket.attach(receiver)


@pytest.fixture(scope='module')
def app() -> App:
    return App()


@pytest.fixture(scope='module')
def server(app: App) -> Iterator[RunningServer]:
    served = falcon.asgi.App(middleware=[app.channels])
    served.ws_options.max_receive_queue = 0
    served.add_route('/raw', app)
    served.add_route('/direct', app, suffix='direct')
    # So that no timer ends a connection.
    options = EndpointOptions(ping_interval_s=3600, connect_timeout_s=3600)
    app.channels.add_endpoints(served, resource=app, options=options)
    deadlines = ServerOptions(first_message_timeout_s=3600)
    with running(served, http=HTTP, lifespan='on', options=deadlines) as up:
        yield up


def num_websockets() -> int:
    """Return the number of WebSockets in memory, which have no weak references."""
    return sum(issubclass(type(item), WebSocketProtocol) for item in gc.get_objects())


@pytest.mark.parametrize(
    ('path', 'says', 'references'),
    [
        ('/direct', b'', 1),
        ('/raw', b'', 1),
        ('/connection/websocket', CONNECT, 2),
    ],
)
def test_closed_connection_is_freed_without_the_garbage_collector(
    server: RunningServer, app: App, path: str, says: bytes, references: int
) -> None:
    """The protocol objects and all objects that they refer to are freed.

    No timer refers to them, also not the one for the first message.
    """
    app.references.clear()
    gc.collect()
    gc.disable()
    before = num_websockets()
    try:
        with Peer(server.port) as peer:
            wait_until(lambda: len(server.connections) == 1, 'the connection exists')
            app.references.append(weakref.ref(next(iter(server.connections))))
            peer.open(path=path)
            # NOTE: another object, which has taken over the connection.
            assert before + 1 == num_websockets()
            if says:
                peer.send(frame(TEXT, says))
                assert peer.message()
            wait_until(
                lambda: len(app.references) > references, 'all references are set'
            )
        wait_until(
            lambda: not any(ref() for ref in app.references), 'all objects are freed'
        )
        wait_until(lambda: num_websockets() == before, 'the WebSocket is freed')
    finally:
        gc.enable()
