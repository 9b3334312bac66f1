"""An app with rooms on the broker in `BROKER`, for tests with several workers."""

from __future__ import annotations

import os

import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels

channels = Channels(os.environ['BROKER'])
OPTIONS = ChannelOptions(
    history_size=1000,
    presence=True,
    presence_ttl_s=3.0,
    publishers='subscribers',
    subscribers='anybody',
)


class Room:
    async def on_get(self, req, resp, room):  # type: ignore[no-untyped-def]
        present = await channels.presence(f'rooms:{room}')
        resp.media = sorted(info.user for info in present.values())

    async def on_post(self, req, resp, room):  # type: ignore[no-untyped-def]
        result = await channels.publish(
            f'rooms:{room}',
            await req.get_media(),
            idempotency_key=req.get_param('key'),
        )
        resp.media = result.position.offset

    async def on_put(self, req, resp, room):  # type: ignore[no-untyped-def]
        await channels.finish(f'rooms:{room}', error=await req.get_media())

    async def on_delete(self, req, resp, room):  # type: ignore[no-untyped-def]
        await channels.remove_history(f'rooms:{room}')

    async def on_websocket(self, req, ws, room):  # type: ignore[no-untyped-def]
        user = req.get_param('user', required=True)
        await channels.serve(req, ws, f'rooms:{room}', user=user, media=True)


class Worker:
    async def on_get(self, req, resp):  # type: ignore[no-untyped-def]
        resp.media = os.getpid()


class Square:
    """Channels that every client may read and publish to without a subscription."""

    async def on_history(self, req, connection, square):  # type: ignore[no-untyped-def]
        return

    async def on_presence(self, req, connection, square):  # type: ignore[no-untyped-def]
        return


class Clients:
    """Endpoint resource: the client chooses its user id."""

    async def on_connect(self, req, connection):  # type: ignore[no-untyped-def]
        connection.user = connection.data or ''


class User:
    async def on_delete(self, req, resp, user):  # type: ignore[no-untyped-def]
        await channels.disconnect_user(user)


class Revocation:
    async def on_put(self, req, resp, room, user):  # type: ignore[no-untyped-def]
        await channels.revoke_user(user, f'rooms:{room}')
        await channels.revoke_user(user, f'squares:{room}')

    async def on_delete(self, req, resp, room, user):  # type: ignore[no-untyped-def]
        await channels.restore_user(user, f'squares:{room}')


room = Room()
channels.add_route('rooms:{room}', room, OPTIONS)
channels.add_route(
    'squares:{square}',
    Square(),
    ChannelOptions(
        history_size=10, presence=True, publishers='anybody', subscribers='anybody'
    ),
)
app = falcon.asgi.App(middleware=[channels])
app.add_route('/rooms/{room}', room)
app.add_route('/worker', Worker())
app.add_route('/users/{user}', User())
app.add_route('/rooms/{room}/revoked/{user}', Revocation())
channels.add_endpoints(app, resource=Clients())
