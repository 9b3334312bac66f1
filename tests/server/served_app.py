"""The application that the tests of the server command serve."""

from __future__ import annotations

import asyncio
import os

import falcon.asgi

from falcon_channels.transports.asgi_extensions import DRAIN_HOOKS
from falcon_channels.transports.asgi_extensions import server_websocket


class Lifetime:
    """Prints when the application drains and ends."""

    async def process_startup(self, scope, event) -> None:
        scope['state'].setdefault(DRAIN_HOOKS, []).append(self.drain)

    async def drain(self) -> None:
        print('DRAINING', flush=True)  # noqa: T201 - the test reads it

    async def process_shutdown(self, scope, event) -> None:
        print('ENDED', flush=True)  # noqa: T201 - the test reads it


class Pid:
    async def on_get(self, req, resp) -> None:
        resp.text = str(os.getpid())


class Echo:
    async def on_websocket(self, req, ws) -> None:
        await ws.accept()
        await ws.send_text(req.scheme)
        while True:
            await ws.send_text(await ws.receive_text())


class Stubborn:
    """Never ends by itself."""

    async def on_get(self, req, resp) -> None:
        print('STUBBORN', flush=True)  # noqa: T201 - the test reads it
        await asyncio.sleep(3600)


class Direct:
    """Echoes through the direct extension."""

    async def on_websocket(self, req, ws) -> None:
        await ws.accept()
        transport = server_websocket(req.scope)
        assert transport is not None
        transport.attach(DirectEcho(transport))


class DirectEcho:
    def __init__(self, transport) -> None:
        self.transport = transport

    def on_message(self, message) -> None:
        blob = self.transport.framing.frame([message.encode()], binary=False)
        self.transport.write(blob)

    def on_writable(self) -> None:
        pass

    def on_closed(self, code, reason) -> None:
        pass


def make() -> falcon.asgi.App:
    """Return the application."""
    app = falcon.asgi.App(middleware=[Lifetime()])
    app.add_route('/pid', Pid())
    app.add_route('/echo', Echo())
    app.add_route('/stubborn', Stubborn())
    app.add_route('/direct', Direct())
    return app


app = make()
