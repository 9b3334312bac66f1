"""The application for the test suite of the official Python SDK.

The suite expects tokens signed with the secret ``secret``, a personal channel for every
user, and channels with presence, history, and join and leave messages.
"""

from __future__ import annotations

from typing import Any

import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier

channels = Channels()


class Anything:
    """Channels in which every subscriber may publish."""

    async def on_publish(self, req: Any, publication: Any, **params: str) -> None:
        """Called when a client publishes; allowed."""


class Clients:
    """Endpoint resource: subscribes each user to a personal channel."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        """Called when a client connects; subscribe it to the personal channel."""
        if connection.user:
            connection.add_channel(f'#{connection.user}')


channels.add_route(
    '{channel}',
    Anything(),
    ChannelOptions(
        subscribers='anybody',
        history_size=100,
        history_ttl_s=300,
        presence=True,
        join_leave='connection',
        force_join_leave=True,
    ),
)
channels.add_route(
    'smallhistory:{channel}',
    Anything(),
    ChannelOptions(subscribers='anybody', history_size=2, history_ttl_s=300),
)
app = falcon.asgi.App(middleware=[channels])
channels.add_endpoints(
    app,
    resource=Clients(),
    tokens=TokenVerifier(TokenKey('secret', allow_short=True), require_exp=False),
)
