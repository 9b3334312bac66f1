"""The library itself: a room over the raw door, and over the client protocol."""

from __future__ import annotations

import contextlib

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels

channels = Channels()


class Room:
    """Everybody may listen; publishers say what everybody gets."""

    async def on_subscribe(self, req, subscription, room):
        pass

    async def on_websocket(self, req, ws):
        await channels.serve(req, ws, 'rooms:raw')

    async def on_websocket_publish(self, req, ws):
        await publish_all(ws, 'rooms:raw')

    async def on_websocket_publish_sdk(self, req, ws):
        await publish_all(ws, 'rooms:sdk')


async def publish_all(ws, channel):
    """Publish what a client sends."""
    await ws.accept()
    with contextlib.suppress(falcon.WebSocketDisconnected):
        while True:
            await channels.publish(channel, await ws.receive_text())


room = Room()
channels.add_route('rooms:{room}', room, ChannelOptions(history_size=100))
app = falcon.asgi.App(middleware=[channels])
app.add_route('/sub', room)
app.add_route('/pub', room, suffix='publish')
app.add_route('/pub-sdk', room, suffix='publish_sdk')
channels.add_endpoints(app)
