"""An app whose deliveries are recorded, on the broker in `BROKER`."""

from __future__ import annotations

import os

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import filters

KEY = 'first-key-of-the-tests'
#: Largest publication of the channels for slow clients: few of them fill a socket.
LARGE_BYTES = 400_000


class Room:
    """Refuses mallory; dan receives only news."""

    async def on_subscribe(self, req, subscription, **params):  # type: ignore[no-untyped-def]
        if subscription.user == 'mallory':
            raise falcon.HTTPForbidden(description='members only')
        if subscription.user == 'dan':
            subscription.filter = filters.eq('kind', 'news')


class Clients:
    """The client chooses its user id."""

    async def on_connect(self, req, connection):  # type: ignore[no-untyped-def]
        connection.user = connection.data


class Revocation:
    async def on_put(self, req, resp, channel, user):  # type: ignore[no-untyped-def]
        await channels.revoke_user(user, channel)


channels = Channels(os.environ.get('BROKER'))
channels.add_route(
    'rooms:{name}',
    Room(),
    ChannelOptions(history_size=3, client_filters=True, record_deliveries=True),
)
channels.add_route(
    'states:{name}',
    Room(),
    ChannelOptions(
        history_size=200,
        recovery='latest',
        slow_reader='latest',
        max_publication_bytes=LARGE_BYTES,
        record_deliveries=True,
    ),
)
channels.add_route(
    'feeds:{name}',
    Room(),
    ChannelOptions(
        history_size=200,
        max_publication_bytes=LARGE_BYTES,
        max_backlog_bytes=LARGE_BYTES,
        record_deliveries=True,
    ),
)
channels.add_route(
    'queues:{name}',
    Room(),
    ChannelOptions(
        history_size=200, max_publication_bytes=LARGE_BYTES, record_deliveries=True
    ),
)
channels.add_route('dark:{name}', Room(), ChannelOptions(history_size=10))
app = falcon.asgi.App(middleware=[channels])
app.add_route('/revoked/{channel}/{user}', Revocation())
channels.add_endpoints(app, resource=Clients())
channels.add_api(app, keys=KEY)
