"""The application for the tests of the SDKs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import filters
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier

KEY = TokenKey('a secret of the tests, and of nobody else')
channels = Channels()


class Room:
    """The channels `rooms:{room}`, and publishing to them over HTTP."""

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        """Refuse `secret`, and `token` without a token; filter the rooms `north...`."""
        if room == 'secret' or (room == 'token' and not subscription.token_verified):
            raise falcon.HTTPForbidden()
        if room.startswith('north'):
            subscription.filter = filters.eq('region', 'north')

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        """Refuse the data `refuse`."""
        if publication.data == 'refuse':
            raise falcon.HTTPForbidden()

    async def on_get_position(self, req: Any, resp: Any, room: str) -> None:
        """Return the position."""
        position = await channels.position(f'rooms:{room}')
        resp.media = {'offset': position.offset, 'epoch': position.epoch}

    async def on_post(self, req: Any, resp: Any, room: str) -> None:
        """Publish from the server."""
        result = await channels.publish(
            f'rooms:{room}', await req.get_media(), tags=dict(req.params)
        )
        resp.media = {'offset': result.position.offset}

    async def on_delete(self, req: Any, resp: Any, room: str) -> None:
        """End the channel of the room, or another one."""
        channel = req.get_param('channel', default=f'rooms:{room}')
        await channels.finish(
            channel,
            req.get_param('data'),
            error=req.get_param('error', default=''),
        )


class State:
    """The states of the channels `states:{name}`, which are loaded over HTTP."""

    def __init__(self) -> None:
        self.states: dict[str, Any] = {}

    async def on_get(self, req: Any, resp: Any, name: str) -> None:
        """Return the state, and the position from which a client follows it."""
        snapshot = await channels.snapshot(
            f'states:{name}', lambda: self.states.get(name)
        )
        resp.media = snapshot.to_media()

    async def on_put(self, req: Any, resp: Any, name: str) -> None:
        """Store a state, and publish it unless `?quiet=true`."""
        self.states[name] = await req.get_media()
        if not req.get_param_as_bool('quiet'):
            await channels.publish(f'states:{name}', self.states[name])


class Clients:
    """Endpoint resource: user ids, RPC methods and messages."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        """Use the user id from the token, or without a token from the client's data."""
        if not connection.token and isinstance(connection.data, dict):
            connection.user = connection.data.get('user', '')
        if connection.user:
            connection.info = {'name': connection.user}
            connection.add_channel(f'#{connection.user}')

    async def on_rpc_sum(self, req: Any, call: Any) -> None:
        """Add numbers."""
        call.reply = {'sum': sum(call.data)}

    async def on_rpc_fail(self, req: Any, call: Any) -> None:
        """Raise an unexpected error."""
        raise RuntimeError('a defect that a test asks for')

    async def on_message(self, req: Any, message: Any) -> None:
        """Answer a message of a client."""
        message.connection.send_message(b'"echo"')


class Control:
    """Commands about a user, for the tests."""

    async def on_post_revoke(self, req: Any, resp: Any, user: str) -> None:
        """Revoke a subscription right."""
        await channels.revoke_user(user, req.get_param('channel', required=True))

    async def on_post_invalidate(self, req: Any, resp: Any, user: str) -> None:
        """Let a client load the state of a channel again."""
        channel = req.get_param('channel', required=True)
        await channels.unsubscribe_user(user, channel, code=2502)

    async def on_post_disconnect(self, req: Any, resp: Any, user: str) -> None:
        """Close all connections of a user."""
        code = req.get_param_as_int('code', required=True)
        await channels.disconnect_user(user, code=code, reason='requested by a test')

    async def on_post_publish(self, req: Any, resp: Any, user: str) -> None:
        """Publish in the channel to which the endpoint subscribes the user."""
        await channels.publish(f'#{user}', f'to {user}')

    async def on_get_token(self, req: Any, resp: Any, user: str) -> None:
        """Return a connection token, or with a channel a subscription token."""
        ttl_s = req.get_param_as_float('ttl', default=60.0)
        channel = req.get_param('channel')
        if channel is None:
            resp.text = make_connection_token(KEY, user, ttl_s=ttl_s)
        else:
            resp.text = make_subscription_token(KEY, user, channel, ttl_s=ttl_s)


class Page:
    """An empty page that loads the SDK, for tests in a browser."""

    async def on_get(self, req: Any, resp: Any) -> None:
        """Return a page that loads the script from the package of the SDK."""
        resp.content_type = falcon.MEDIA_HTML
        resp.text = (
            '<!doctype html><title>SDK</title><link rel=icon href="data:,">'
            '<script src="/dist/centrifuge.js"></script>'
        )


channels.add_route(
    'rooms:{room}',
    Room(),
    ChannelOptions(
        history_size=100,
        presence=True,
        join_leave='connection',
        client_filters=True,
        delta=True,
    ),
)
channels.add_route(
    '#{user}', None, ChannelOptions(subscribers='anybody', history_size=10)
)
channels.add_route(
    'states:{name}',
    None,
    ChannelOptions(subscribers='anybody', history_size=3),
)
app = falcon.asgi.App(middleware=[channels])
app.add_route('/rooms/{room}', Room())
app.add_route('/states/{name}', State())
app.add_route('/rooms/{room}/position', Room(), suffix='position')
app.add_route('/page', Page())
app.add_static_route(
    '/dist', str(Path(__file__).parent / 'js/node_modules/centrifuge/dist')
)
control = Control()
for suffix in ('revoke', 'invalidate', 'disconnect', 'publish', 'token'):
    app.add_route(f'/users/{{user}}/{suffix}', control, suffix=suffix)
channels.add_endpoints(app, resource=Clients(), tokens=TokenVerifier(KEY))
