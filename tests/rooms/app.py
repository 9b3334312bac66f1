"""Rooms for plain WebSockets, for tests over real sockets."""

from __future__ import annotations

import os

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions

channels = Channels(options=NodeOptions(max_message_bytes=65536))


class Room:
    """A room in which all clients may publish."""

    async def on_get(self, req, resp, room):
        page = await channels.history(f'log:{room}', limit=None)
        resp.media = page.to_media()

    async def on_websocket(self, req, ws, room):
        await channels.serve(
            req, ws, f'log:{room}', user=req.get_param('user', default=''), media=True
        )


class Plain:
    """A room with plain texts."""

    async def on_websocket(self, req, ws, room):
        await channels.serve(req, ws, f'plain:{room}')


class NodeMetrics:
    """Counters of the server, its connections and its backlog."""

    async def on_get(self, req, resp):
        hub = channels.node.hub
        resp.media = {
            'counters': hub.counters.to_media(),
            'connections': len(hub.connections),
            'backlog_bytes': max(
                (c.transport.backlog_bytes for c in hub.connections), default=0
            ),
            'pid': os.getpid(),
        }


channels.add_route(
    'log:{room}',
    None,
    ChannelOptions(
        subscribers='anybody',
        history_size=20_000,
        recovery_limit=20_000,
        publishers='anybody',
        max_publication_bytes=16384,
    ),
)
channels.add_route(
    'plain:{room}',
    None,
    ChannelOptions(
        subscribers='anybody', publishers='anybody', max_backlog_bytes=262144
    ),
)

app = falcon.asgi.App(middleware=[channels])
app.add_route('/log/{room}', Room())
app.add_route('/plain/{room}', Plain())
app.add_route('/metrics', NodeMetrics())
