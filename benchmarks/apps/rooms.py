"""The library itself: a room for plain WebSockets and for the client protocol."""

from __future__ import annotations

import contextlib
import os

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels import filters
from falcon_channels import NodeOptions

channels = Channels(
    os.environ.get('CHANNELS_URL', 'memory://'),
    NodeOptions(io_uring=os.environ.get('CHANNELS_IO_URING') != 'off'),
)


class Room:
    """Everybody may listen; publishers say what everybody gets."""

    async def on_subscribe(self, req, subscription, room):
        # NOTE: the data of a client is the number of the region that it wants to see.
        if room == 'regions':
            subscription.filter = filters.eq('region', subscription.data)
        elif room == 'all':
            subscription.filter = filters.neq('region', subscription.data)

    async def on_get(self, req, resp):
        await channels.serve_events(req, resp, 'rooms:raw')

    async def on_websocket(self, req, ws):
        await channels.serve(req, ws, 'rooms:raw')

    async def on_websocket_publish(self, req, ws):
        await publish_all(ws, 'rooms:raw')

    async def on_websocket_publish_sdk(self, req, ws):
        await publish_all(ws, 'rooms:sdk')

    async def on_websocket_one(self, req, ws, room):
        await channels.serve(req, ws, f'rooms:{room}')

    async def on_websocket_publish_one(self, req, ws):
        await ws.accept()
        with contextlib.suppress(falcon.WebSocketDisconnected):
            while True:
                text = await ws.receive_text()
                await channels.publish(f'rooms:{text.partition("@")[0]}', text)

    async def on_websocket_publish_region(self, req, ws):
        await ws.accept()
        with contextlib.suppress(falcon.WebSocketDisconnected):
            while True:
                text = await ws.receive_text()
                tags = {'region': text.partition('@')[0]}
                await channels.publish('rooms:regions', text, tags=tags)

    async def on_websocket_publish_to_all(self, req, ws):
        await publish_all(ws, 'rooms:all')


async def publish_all(ws, channel):
    """Publish what a client sends."""
    await ws.accept()
    with contextlib.suppress(falcon.WebSocketDisconnected):
        while True:
            await channels.publish(channel, await ws.receive_text())


room = Room()
options = {'record_deliveries': True} if 'CHANNELS_RECORD' in os.environ else {}
channels.add_route('rooms:{room}', room, ChannelOptions(history_size=100, **options))
app = falcon.asgi.App(middleware=[channels])
app.add_route('/sub', room)
app.add_route('/events', room)
app.add_route('/pub', room, suffix='publish')
app.add_route('/pub-sdk', room, suffix='publish_sdk')
app.add_route('/sub/{room}', room, suffix='one')
app.add_route('/pub-room', room, suffix='publish_one')
app.add_route('/pub-region', room, suffix='publish_region')
app.add_route('/pub-to-all', room, suffix='publish_to_all')
# NOTE: the load generator answers no pings.
channels.add_endpoints(app, options=EndpointOptions(ping_interval_s=3600.0))
