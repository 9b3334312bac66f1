"""An app with every kind of connection, for tests that stop its server.

Rooms on the broker in BROKER, by plain WebSockets, by the client protocol and by the
server API; and an echo without channels.
"""

from __future__ import annotations

import os
from pathlib import Path
import time
from typing import Any

import falcon
import falcon.asgi
from msgspec.structs import replace

from falcon_channels import ChannelOptions
from falcon_channels import Channels

KEY = 'the-key-of-the-tests-that-stop-a-server'

channels = Channels(os.environ.get('BROKER'))
OPTIONS = ChannelOptions(
    subscribers='anybody',
    history_size=20_000,
    recovery_limit=20_000,
    presence=True,
    publishers='subscribers',
)
channels.add_route('rooms:{room}', None, OPTIONS)
# Channels with join and leave messages for all subscribers.
channels.add_route('tables:{room}', None, replace(OPTIONS, join_leave='connection'))


class Room:
    async def on_get(self, req: Any, resp: Any, kind: str, room: str) -> None:
        there = await channels.presence(f'{kind}:{room}')
        resp.media = sorted(info.user for info in there.values())

    async def on_websocket(self, req: Any, ws: Any, kind: str, room: str) -> None:
        user = req.get_param('user', default='')
        await channels.serve(req, ws, f'{kind}:{room}', user=user, media=True)


class User:
    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = req.get_param('user', default='')


class Echo:
    """An echo without channels; it writes notes about its end to STOP_NOTES."""

    def __init__(self) -> None:
        self.open = 0
        self.notes: list[str] = []

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await ws.accept()
        self.open += 1
        try:
            while True:
                await ws.send_text(await ws.receive_text())
        except falcon.WebSocketDisconnected as ex:
            self.note(f'end {ex.code}')
        finally:
            self.open -= 1

    def note(self, what: str) -> None:
        self.notes.append(f'{time.monotonic()} {what}\n')


class Hook:
    """A drain hook that writes a note when it is called."""

    def __init__(self, place: str) -> None:
        self.place = place

    async def process_startup(self, scope: Any, event: Any) -> None:
        hooks = scope.get('state', {}).setdefault('falcon_channels.drain', [])
        hooks.append(self.on_drain)

    async def on_drain(self) -> None:
        echo.note(f'{self.place}: {len(channels.node.hub.connections)} {echo.open}')

    async def process_shutdown(self, scope: Any, event: Any) -> None:
        if 'STOP_NOTES' in os.environ:
            Path(os.environ['STOP_NOTES']).write_text(''.join(echo.notes))


echo = Echo()
app = falcon.asgi.App(middleware=[Hook('before'), channels, Hook('after')])
app.add_route('/{kind}/{room}', Room())
app.add_route('/echo', echo)
channels.add_endpoints(app, resource=User())
channels.add_api(app, keys=[KEY])
