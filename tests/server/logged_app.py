"""The application that the tests of the log serve, on ASGI and on WSGI servers."""

from __future__ import annotations

from typing import Any

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EventStreamOptions
from falcon_channels.portal import Portal
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier
import falcon_channels.wsgi

TOKEN_KEY = TokenKey('SECRET-of-the-tokens-' * 2)
API_KEY = 'SECRET-of-the-server-api'


class Rooms:
    """Refuses the room vip, and fails in the room bug."""

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room == 'vip':
            raise falcon.HTTPForbidden(description='members only')
        if room == 'bug':
            raise RuntimeError('broken')


def make_channels() -> Channels:
    channels = Channels()
    options = ChannelOptions(history_size=10, publishers='subscribers')
    channels.add_route('rooms:{room}', Rooms(), options)
    options = ChannelOptions(
        subscribers='anybody',
        recovery='off',
        slow_reader='latest',
        max_backlog_bytes=200_000,
        max_publication_bytes=100_000,
    )
    channels.add_route('big', None, options)
    return channels


channels = make_channels()


class Room:
    async def on_websocket(self, req: Any, ws: Any, name: str) -> None:
        await channels.serve(req, ws, name)

    async def on_get(self, req: Any, resp: Any, name: str) -> None:
        await channels.serve_events(req, resp, name, options=EventStreamOptions())


class Broken:
    async def on_get(self, req: Any, resp: Any) -> None:
        raise RuntimeError('broken')


app = falcon.asgi.App(middleware=[channels])
app.add_route('/plain/{name}', Room())
app.add_route('/broken', Broken())
channels.add_endpoints(app, tokens=TokenVerifier(TOKEN_KEY))
channels.add_api(app, keys=API_KEY)

portal = Portal(make_channels())


class WsgiRoom:
    def on_websocket(self, req: Any, ws: Any, name: str) -> None:
        portal.serve(req, ws, name)


class WsgiBroken:
    def on_get(self, req: Any, resp: Any) -> None:
        raise RuntimeError('broken')


wsgi_app = falcon_channels.wsgi.App()
wsgi_app.add_route('/plain/{name}', WsgiRoom())
wsgi_app.add_route('/broken', WsgiBroken())
