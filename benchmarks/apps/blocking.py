"""Every way in for a message, and the longest iteration of the event loop."""

from __future__ import annotations

import asyncio
import time

import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions

channels = Channels('memory://')


class Longest:
    """``GET /longest``: CPU time of the longest iteration since the last request."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_s = 0.0
        self._longest_s = 0.0

    async def on_get(self, req, resp):
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._last_s = time.thread_time()
            self._loop.call_soon(self._tick)
        resp.media = self._longest_s
        self._longest_s = 0.0

    def _tick(self) -> None:
        now_s = time.thread_time()
        self._longest_s = max(self._longest_s, now_s - self._last_s)
        self._last_s = now_s
        self._loop.call_soon(self._tick)


class Room:
    """Everybody may do everything."""

    async def on_subscribe(self, req, subscription, room):
        pass

    async def on_rpc(self, req, call):
        return type(call.data).__name__

    async def on_message(self, req, message):
        pass

    async def on_websocket(self, req, ws):
        await channels.serve(req, ws, 'rooms:text')

    async def on_websocket_media(self, req, ws):
        await channels.serve(req, ws, 'rooms:media', media=True)


room = Room()
channels.add_route('rooms:{room}', room, ChannelOptions(publishers='anybody'))
app = falcon.asgi.App(middleware=[channels])
app.add_route('/longest', Longest())
app.add_route('/text', room)
app.add_route('/media', room, suffix='media')
channels.add_endpoints(app, resource=room, options=EndpointOptions(commands_per_s=None))
