"""An app with the server API, plain WebSockets, endpoints and metrics."""

from __future__ import annotations

import os

import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels

KEY = 'first-key-of-the-tests'
OLD_KEY = 'former-key-of-the-tests'

channels = Channels(os.environ.get('API_BROKER'))
channels.add_route(
    'rooms:{room}',
    None,
    ChannelOptions(
        subscribers='anybody', history_size=100, presence=True, publishers='subscribers'
    ),
)
channels.add_route('plain:{name}', None, ChannelOptions(subscribers='anybody'))
channels.add_route(
    'binary:{name}',
    None,
    ChannelOptions(subscribers='anybody', history_size=100, binary=True),
)


class PlainWebSocket:
    async def on_websocket(self, req, ws, channel):  # type: ignore[no-untyped-def]
        user = req.get_param('user', default='')
        info = {'name': user.upper()}
        await channels.serve(req, ws, channel, user=user, info=info, media=True)


class Clients:
    async def on_connect(self, req, connection):  # type: ignore[no-untyped-def]
        connection.user = req.get_param('user', default='')


app = falcon.asgi.App(middleware=[channels])
app.add_route('/ws/{channel}', PlainWebSocket())
channels.add_endpoints(app, resource=Clients())
channels.add_api(app, keys=[KEY, OLD_KEY], max_body_bytes=100_000)
channels.add_metrics(app)
channels.add_metrics(app, '/metrics/all', all_processes=True)
