"""A channel with a state of which each publication changes 5 %.

The size of the state in bytes is in ``STATE_BYTES``. What the load generator sends
only says when the next state is published. Each state has the mark that the load
generator counts, in a place that changes every time.
"""

from __future__ import annotations

import contextlib
import itertools
import os

import falcon
import falcon.asgi

from benchmarks.states import json_states
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions

channels = Channels()
# NOTE: the states are encoded in advance, so that only their delivery is measured.
states = itertools.cycle(list(json_states(int(os.environ['STATE_BYTES']), 64)))


class State:
    """Everybody may listen; a publisher says when the next state is published."""

    async def on_websocket(self, req, ws):
        await ws.accept()
        with contextlib.suppress(falcon.WebSocketDisconnected):
            while True:
                await ws.receive_text()
                await channels.publish('state', next(states))


channels.add_route(
    'state',
    State(),
    ChannelOptions(history_size=10, delta=True, subscribers='anybody'),
)
app = falcon.asgi.App(middleware=[channels])
app.add_route('/pub', State())
# NOTE: the load generator answers no pings.
channels.add_endpoints(app, options=EndpointOptions(ping_interval_s=3600.0))
