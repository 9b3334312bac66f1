"""A room on WSGI: a synchronous resource for HTTP and WebSockets, and one channel.

    gunicorn -k gevent examples.room_wsgi:app
    gunicorn -k gthread --threads 50 --workers 2 examples.room_wsgi:app

Several workers need a broker that they share, such as ``sqlite:///room.db``:

    ROOM_BROKER=sqlite:///room.db gunicorn -k gevent --workers 4 examples.room_wsgi:app
"""

from __future__ import annotations

import os

import falcon

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.portal import Portal
from falcon_channels.wsgi import App
from falcon_channels.wsgi import WebSocket

channels = Channels(os.environ.get('ROOM_BROKER'))
channels.add_route(
    'rooms:{room}',
    None,
    ChannelOptions(history_size=100, presence=True, publishers='subscribers'),
)
portal = Portal(channels)


class Room:
    def on_get(self, req: falcon.Request, resp: falcon.Response, room: str) -> None:
        """Return the newest messages and the users in the room."""
        page = portal.history(f'rooms:{room}', limit=20, reverse=True)
        present = portal.presence(f'rooms:{room}')
        resp.media = {
            **page.to_media(),
            'users': sorted({info.user for info in present.values()}),
        }

    def on_post(self, req: falcon.Request, resp: falcon.Response, room: str) -> None:
        """Publish a message without a WebSocket."""
        position = portal.publish(f'rooms:{room}', req.get_media()).position
        resp.media = {'offset': position.offset, 'epoch': position.epoch}
        resp.status = falcon.HTTP_201

    def on_websocket(self, req: falcon.Request, ws: WebSocket, room: str) -> None:
        """Connect the client to the room: send and receive messages."""
        name = req.get_param('name', default='')
        portal.serve(req, ws, f'rooms:{room}', user=name, media=True)


app = App()
app.add_route('/rooms/{room}', Room())
