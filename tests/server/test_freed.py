"""What a connection leaves behind: nothing that waits for the garbage collector."""

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
from falcon_channels.transports.asgi_extensions import server_websocket
from server.running import frame
from server.running import Peer
from server.running import running
from server.running import RunningServer
from server.running import TEXT

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'
CONNECT = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"rooms:a"}}'


class Kept:
    """A receiver that keeps its connection, as they do."""

    def __init__(self, websocket: Any) -> None:
        self.websocket = websocket

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, code: int, reason: str) -> None:
        pass


class Thing:
    """Something that an application keeps with a connection."""


class App:
    """Doors of each kind, with a reference to something of each connection."""

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
        receiver = Kept(websocket)
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
    # So that nothing goes only because its time has come.
    options = EndpointOptions(ping_interval_s=3600, connect_timeout_s=3600)
    app.channels.add_endpoints(served, resource=app, options=options)
    with running(served, http=HTTP, lifespan='on') as up:
        yield up


@pytest.mark.parametrize(
    ('path', 'says', 'references'),
    [
        ('/direct', b'', 1),
        ('/raw', b'', 1),
        ('/connection/websocket', CONNECT, 2),
    ],
)
def test_what_has_ended_is_freed_at_once(
    server: RunningServer, app: App, path: str, says: bytes, references: int
) -> None:
    """The protocol objects and all that hangs on them go when the client has gone."""
    app.references.clear()
    gc.collect()
    gc.disable()
    try:
        with Peer(server.port) as peer:
            wait_until(lambda: len(server.connections) == 1, 'it is there')
            app.references.append(weakref.ref(next(iter(server.connections))))
            peer.open(path=path)
            if says:
                peer.send(frame(TEXT, says))
                assert peer.message()
            wait_until(lambda: len(app.references) > references, 'all is referred to')
        wait_until(lambda: not any(ref() for ref in app.references), 'all is freed')
    finally:
        gc.enable()
