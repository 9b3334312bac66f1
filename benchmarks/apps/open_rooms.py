"""Rooms that everybody may use, configured like Centrifugo in the comparison."""

from __future__ import annotations

import os

import falcon.asgi

from benchmarks.others import API_KEY
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions

channels = Channels(os.environ.get('CHANNELS_URL', 'memory://'))
channels.add_route(
    'rooms:{room}',
    None,
    ChannelOptions(history_size=100, subscribers='anybody', publishers='anybody'),
)
channels.add_route(
    'present:{room}', None, ChannelOptions(presence=True, subscribers='anybody')
)
app = falcon.asgi.App(middleware=[channels])
# NOTE: the load generator answers no pings, and asks as fast as it can.
channels.add_endpoints(
    app, options=EndpointOptions(ping_interval_s=3600.0, commands_per_s=None)
)
channels.add_api(app, keys=API_KEY)
