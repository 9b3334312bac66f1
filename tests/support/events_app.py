"""An app with plain event streams, whose server a test stops and starts again.

The channels are on the broker in BROKER, so that they outlive a process.
"""

from __future__ import annotations

import os
from typing import Any

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EventStreamOptions

OPTIONS = ChannelOptions(history_size=1000, presence=True, subscribers='anybody')
STREAM = EventStreamOptions(retry_ms=100, json=True)
STREAM_WITH_START = EventStreamOptions(retry_ms=100, json=True, start_event='start')

channels = Channels(os.environ.get('BROKER'))
channels.add_route('rooms:{room}', None, OPTIONS)


class Events:
    async def on_get(self, req: Any, resp: Any, room: str) -> None:
        options = STREAM_WITH_START if req.has_param('start') else STREAM
        await channels.serve_events(req, resp, f'rooms:{room}', options=options)

    async def on_post(self, req: Any, resp: Any, room: str) -> None:
        for value in await req.get_media():
            await channels.publish(f'rooms:{room}', value)

    async def on_delete(self, req: Any, resp: Any, room: str) -> None:
        await channels.finish(f'rooms:{room}', error=req.get_param('error', default=''))


class Page:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.content_type = falcon.MEDIA_HTML
        resp.text = '<!doctype html><link rel="icon" href="data:,">'


app = falcon.asgi.App(middleware=[channels])
app.add_route('/events/{room}', Events())
app.add_route('/page', Page())
