"""A WSGI app on a portal: rooms, channels with access rules, disconnecting users."""

from __future__ import annotations

from contextvars import ContextVar
import os
from typing import Any

import falcon

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EventStreamOptions
from falcon_channels import NodeOptions
from falcon_channels.portal import Portal
from falcon_channels.wsgi import App

channels = Channels(
    os.environ.get('PORTAL_BROKER'), NodeOptions(max_backlog_bytes=300_000)
)


class Rules:
    async def on_subscribe(self, req: Any, subscription: Any, name: str) -> None:
        if req.get_param('secret') != 'open sesame':
            raise falcon.HTTPForbidden()

    async def on_publish(self, req: Any, publication: Any, name: str) -> None:
        if publication.data == 'bad':
            raise falcon.HTTPBadRequest(description='bad word')
        if publication.data == 'bug':
            raise ZeroDivisionError('a defect of the application')
        publication.data = [name, publication.data]


channels.add_route(
    'rooms:{room}',
    None,
    ChannelOptions(
        subscribers='anybody',
        history_size=1000,
        presence=True,
        publishers='subscribers',
        max_publication_bytes=70_000,
        max_backlog_bytes=200_000,
    ),
)
#: Set by middleware, as a tracing library or a logging filter does.
caller: ContextVar[str] = ContextVar('caller', default='nobody')


class SetCaller:
    def process_request(self, req: Any, resp: Any) -> None:
        caller.set(req.get_param('user', default='nobody'))

    process_request_ws = process_request


class Traced:
    async def on_subscribe(self, req: Any, subscription: Any, name: str) -> None:
        await channels.publish(f'rooms:{name}', f'on_subscribe for {caller.get()}')
        if name == 'disconnect':
            await channels.disconnect_user(subscription.user, code=4321)
        elif name == 'unsubscribe':
            await channels.unsubscribe_user(subscription.user, subscription.channel)

    async def on_publish(self, req: Any, publication: Any, name: str) -> None:
        await channels.publish(f'rooms:{name}', f'on_publish for {caller.get()}')

    async def on_unsubscribe(self, req: Any, subscription: Any, name: str) -> None:
        await channels.publish(f'rooms:{name}', f'on_unsubscribe for {caller.get()}')


channels.add_route('secret:{name}', Rules())
channels.add_route('traced:{name}', Traced())
portal = Portal(channels)


class Channel:
    def on_get(self, req: Any, resp: Any, channel: str) -> None:
        limit = req.get_param_as_int('limit', default=100)
        page = portal.history(channel, limit=limit)
        present = portal.presence(channel)
        resp.media = {
            **page.to_media(),
            'users': sorted(info.user for info in present.values()),
        }

    def on_post(self, req: Any, resp: Any, channel: str) -> None:
        resp.media = portal.publish(channel, req.get_media()).position.offset

    def on_put(self, req: Any, resp: Any, channel: str) -> None:
        portal.finish(channel, error=req.get_param('error', default=''))

    def on_delete(self, req: Any, resp: Any, channel: str) -> None:
        portal.disconnect_user(req.get_param('user'), code=4321, reason='go away')

    def on_websocket(self, req: Any, ws: Any, channel: str) -> None:
        if req.get_param_as_bool('accept', default=False):
            ws.accept()
        portal.serve(
            req,
            ws,
            channel,
            user=req.get_param('user', default=''),
            media=not req.get_param_as_bool('text', default=False),
        )


class Events:
    def on_get(self, req: Any, resp: Any, names: str) -> None:
        portal.serve_events(
            req,
            resp,
            names.split(','),
            user=req.get_param('user', default=''),
            options=EventStreamOptions(keepalive_s=0.5, poll_wait_s=1.0),
        )


app = App(middleware=[SetCaller()])
app.ws_options.send_timeout_s = 1.0
app.add_route('/{channel}', Channel())
app.add_route('/events/{names}', Events())
