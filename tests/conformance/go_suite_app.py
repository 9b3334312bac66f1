"""The application for the test suite of the official Go SDK.

The suite expects an open server: anonymous clients publish in all channels. There is
no presence, and no channel ``test:test``.
"""

from __future__ import annotations

from typing import Any

import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions

channels = Channels()


class Open:
    """Channels in which every client may do everything."""

    async def on_publish(self, req: Any, publication: Any, **params: str) -> None:
        """Called when a client publishes; allowed."""

    async def on_presence(self, req: Any, connection: Any, **params: str) -> None:
        """Called when a client reads the presence; allowed, but there is none."""

    async def on_history(self, req: Any, connection: Any, **params: str) -> None:
        """Called when a client reads the history; allowed."""


class Clients:
    """Endpoint resource: anonymous clients."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        """Called when a client connects; allowed."""


def add_route(template: str, history_size: int) -> None:
    """Add channels with a history."""
    options = ChannelOptions(
        subscribers='anybody',
        publishers='anybody',
        history_size=history_size,
        history_ttl_s=300,
        delta=True,
    )
    channels.add_route(template, Open(), options)


add_route('{channel}', 100)
add_route('smallhistory:{channel}', 2)
channels.add_route('test:test', None)
app = falcon.asgi.App(middleware=[channels])
channels.add_endpoints(
    app,
    resource=Clients(),
    # The suite publishes thousands of times.
    options=EndpointOptions(commands_per_s=None),
)
