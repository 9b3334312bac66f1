"""Responders that run while the application stops."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import falcon.asgi
import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until
from websockets.sync.client import connect

from endpoint.peer import Peer
from endpoint.peer import serving
from endpoint.peer import serving_app
from falcon_channels import ChannelOptions
from falcon_channels import Channels

pytestmark = pytest.mark.every_server

#: Seconds for which a responder works: longer than a stop without a grace would take.
WORK_S = 0.5


class Busy:
    """Responders that wait for a short time and then publish."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.started: list[str] = []
        self.done: list[str] = []

    async def work(self, name: str) -> None:
        self.started.append(name)
        await asyncio.sleep(WORK_S)
        await self.channels.publish('log', name)
        self.done.append(name)

    async def on_connect(self, req: Any, connection: Any) -> None:
        """Let every client connect."""

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        """Let every client subscribe."""

    async def on_rpc(self, req: Any, call: Any) -> None:
        await self.work('on_rpc')

    async def on_message(self, req: Any, message: Any) -> None:
        await self.work('on_message')

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        await self.work('on_publish')

    async def on_unsubscribe(self, req: Any, subscription: Any, room: str) -> None:
        await self.work('on_unsubscribe')

    async def on_disconnect(self, req: Any, connection: Any) -> None:
        await self.work('on_disconnect')


COMMANDS: dict[str, dict[str, Any]] = {
    'on_rpc': {'rpc': {'data': 1}},
    'on_publish': {'publish': {'channel': 'rooms:a', 'data': 1}},
    'on_message': {'send': {'data': 1}},
}


@pytest.mark.parametrize('name', COMMANDS)
def test_responder_finishes_and_may_publish_while_the_application_stops(
    asgi_server: AsgiServer, name: str
) -> None:
    """Running commands and `on_disconnect` may still publish for a short time."""
    channels = Channels()
    busy = Busy(channels)
    channels.add_route('rooms:{room}', busy)
    channels.add_route('log', None, ChannelOptions(history_size=10))
    with contextlib.ExitStack() as stack:
        with serving(channels, busy, asgi_server=asgi_server) as server:
            peer = stack.enter_context(Peer.to(server))
            peer.connect()
            peer.ask('subscribe', channel='rooms:a')
            command = COMMANDS[name]
            peer.say(command if name == 'on_message' else {'id': 9, **command})
            wait_until(lambda: busy.started == [name], 'the responder works')
    assert {name, 'on_unsubscribe', 'on_disconnect'} == {*busy.done}
    assert sorted(busy.started) == sorted(busy.done)


def test_message_of_a_plain_websocket_is_published_while_the_application_stops(
    asgi_server: AsgiServer,
) -> None:
    """A message that waits in ``on_publish`` is published, as with an SDK."""
    channels = Channels()
    busy = Busy(channels)
    channels.add_route('rooms:{room}', busy, ChannelOptions(history_size=10))
    channels.add_route('log', None, ChannelOptions(history_size=10))

    class Room:
        async def on_websocket(self, req: Any, ws: Any) -> None:
            await channels.serve(req, ws, 'rooms:a')

    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/', Room())
    with contextlib.ExitStack() as stack:
        with serving_app(app, asgi_server) as server:
            ws = stack.enter_context(connect(server.ws_url))
            ws.send('hello')
            wait_until(lambda: busy.started == ['on_publish'], 'the responder works')
    assert {'on_publish', 'on_unsubscribe'} == {*busy.done}


class Farewell:
    """Middleware that publishes when the application stops."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def process_shutdown(self, scope: Any, event: Any) -> None:
        await self.channels.publish('log', 'stopped')


def test_middleware_before_the_channels_publishes_while_the_application_stops(
    asgi_server: AsgiServer, tmp_path: Path
) -> None:
    """Falcon stops it after the channels; its publication is stored nevertheless."""
    channels = Channels(f'sqlite:///{tmp_path}/log.db')
    channels.add_route('log', None, ChannelOptions(history_size=10))
    app = falcon.asgi.App(middleware=[Farewell(channels), channels])
    with serving_app(app, asgi_server):
        pass

    async def read() -> list[bytes]:
        async with channels:
            page = await channels.history('log')
            return [publication.data for publication in page.publications]

    assert [b'"stopped"'] == asyncio.run(read())
