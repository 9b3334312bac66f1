"""The application that the tests of the JavaScript SDK run against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier

KEY = TokenKey('a secret of the tests, and of nobody else')
channels = Channels()


class Room:
    """What subscribers may do, and what the tests do from the server's side."""

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        """Let everybody in, but not everywhere."""
        if room == 'secret' or (room == 'token' and not subscription.token_verified):
            raise falcon.HTTPForbidden()

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        """Refuse one word."""
        if publication.data == 'refuse':
            raise falcon.HTTPForbidden()

    async def on_post(self, req: Any, resp: Any, room: str) -> None:
        """Publish from the server's side."""
        result = await channels.publish(f'rooms:{room}', await req.get_media())
        resp.media = {'offset': result.position.offset}


class Clients:
    """Who is who, and methods that clients call."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        """Believe what the client says of itself where it has no token."""
        if not connection.token and isinstance(connection.data, dict):
            connection.user = connection.data.get('user', '')
        if connection.user:
            connection.info = {'name': connection.user}
            connection.add_channel(f'#{connection.user}')

    async def on_rpc_sum(self, req: Any, call: Any) -> None:
        """Add numbers."""
        call.reply = {'sum': sum(call.data)}

    async def on_rpc_fail(self, req: Any, call: Any) -> None:
        """Fail in an unexpected way."""
        raise RuntimeError('a defect that a test asks for')

    async def on_message(self, req: Any, message: Any) -> None:
        """Send back what a client sends."""
        message.connection.send_message(b'"echo"')


class Control:
    """What the tests do to users."""

    async def on_post_revoke(self, req: Any, resp: Any, user: str) -> None:
        """Take a right away."""
        await channels.revoke_user(user, req.get_param('channel', required=True))

    async def on_post_disconnect(self, req: Any, resp: Any, user: str) -> None:
        """Close all connections of a user."""
        code = req.get_param_as_int('code', required=True)
        await channels.disconnect_user(user, code=code, reason='as the test wants')

    async def on_get_token(self, req: Any, resp: Any, user: str) -> None:
        """Make a token."""
        ttl_s = req.get_param_as_float('ttl', default=60.0)
        channel = req.get_param('channel')
        if channel is None:
            resp.text = make_connection_token(KEY, user, ttl_s=ttl_s)
        else:
            resp.text = make_subscription_token(KEY, user, channel, ttl_s=ttl_s)


class Page:
    """An empty page that has the SDK, for tests in a browser."""

    async def on_get(self, req: Any, resp: Any) -> None:
        """Load the script that the SDK's package brings for pages."""
        resp.content_type = falcon.MEDIA_HTML
        resp.text = (
            '<!doctype html><title>SDK</title><link rel=icon href="data:,">'
            '<script src="/dist/centrifuge.js"></script>'
        )


channels.add_route(
    'rooms:{room}',
    Room(),
    ChannelOptions(history_size=100, presence=True, join_leave='connection'),
)
channels.add_route('#{user}', None, ChannelOptions(history_size=10))
app = falcon.asgi.App(middleware=[channels])
app.add_route('/rooms/{room}', Room())
app.add_route('/page', Page())
app.add_static_route(
    '/dist', str(Path(__file__).parent / 'js/node_modules/centrifuge/dist')
)
control = Control()
for suffix in ('revoke', 'disconnect', 'token'):
    app.add_route(f'/users/{{user}}/{suffix}', control, suffix=suffix)
channels.add_endpoints(app, resource=Clients(), tokens=TokenVerifier(KEY))
