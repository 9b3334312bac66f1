"""An app with the inspector, rooms, a closed channel, and one for slow readers."""

from __future__ import annotations

import os

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels

KEY = 'a-key-for-reading'
WRITE_KEY = 'a-key-for-writing'

channels = Channels(os.environ.get('BROKER'))
OPEN = {'subscribers': 'anybody'}


class Doorman:
    async def on_subscribe(self, req, subscription, name):  # type: ignore[no-untyped-def]
        raise falcon.HTTPForbidden(description='not for you')


class Clients:
    async def on_connect(self, req, connection):  # type: ignore[no-untyped-def]
        connection.user = connection.data or ''


class Socket:
    async def on_websocket(self, req, ws, channel):  # type: ignore[no-untyped-def]
        user = req.get_param('user', required=True)
        await channels.serve(req, ws, channel, user=user, media=True)


class Publication:
    async def on_post(self, req, resp, channel):  # type: ignore[no-untyped-def]
        resp.media = (await channels.publish(channel, await req.get_media()))._asdict()


channels.add_route(
    'rooms:{room}', None, ChannelOptions(history_size=100, presence=True, **OPEN)
)
channels.add_route(
    'states:{name}',
    None,
    ChannelOptions(
        history_size=2,
        recovery='latest',
        slow_reader='latest',
        max_publication_bytes=600_000,
        max_backlog_bytes=700_000,
        **OPEN,
    ),
)
channels.add_route('closed:{name}', Doorman())
app = falcon.asgi.App(middleware=[channels])
app.add_route('/sockets/{channel}', Socket())
app.add_route('/publications/{channel}', Publication())
channels.add_endpoints(app, resource=Clients())
channels.add_inspector(app, keys=KEY, write_keys=WRITE_KEY)
