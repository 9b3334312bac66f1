"""A channel with deltas; the environment variable ``CHANNELS_URL`` names the broker."""

from __future__ import annotations

import os
from typing import Any

import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels

channels = Channels(os.environ['CHANNELS_URL'])


class State:
    """Publishes over HTTP what a test sends."""

    async def on_post(self, req: Any, resp: Any) -> None:
        """Publish the body, byte by byte."""
        result = await channels.publish(
            'state',
            await req.stream.read(),
            idempotency_key=req.get_param('key', required=True),
            delta=req.get_param_as_bool('delta', default=True),
        )
        resp.media = {'offset': result.position.offset}


channels.add_route(
    'state',
    None,
    ChannelOptions(subscribers='anybody', history_size=200, delta=True),
)
app = falcon.asgi.App(middleware=[channels])
app.add_route('/state', State())
channels.add_endpoints(app)
