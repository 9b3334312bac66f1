"""A route is closed to clients until the application opens it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import falcon.asgi
import pytest
from server.running import running
from support.fake_clock import on_fake_clock
from websockets.sync.client import connect

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.testing import SimulatedClient
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier

KEY = TokenKey('the key of the tests of closed routes')
CHANNELS = ['closed:a', 'named:a', 'empty:a', 'users:a', 'open:a']


class Publishers:
    """A resource that decides about publishing, but not about subscribing."""

    async def on_publish(self, req: Any, publication: Any, name: str) -> None:
        """Let subscribers publish."""


class Everyone:
    """A resource that lets every client subscribe."""

    async def on_subscribe(self, req: Any, subscription: Any, name: str) -> None:
        """Let every client subscribe."""


class Clients:
    """A connection resource that connects its users to one channel."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        if connection.user == 'member':
            connection.add_channel('closed:a')


def make_channels() -> Channels:
    channels = Channels()
    channels.add_route('closed:{name}', None)
    channels.add_route('named:{name}', Publishers())
    channels.add_route('empty:{name}', object(), ChannelOptions(publishers='anybody'))
    channels.add_route('users:{name}', None, ChannelOptions(subscribers='users'))
    channels.add_route('open:{name}', None, ChannelOptions(subscribers='anybody'))
    channels.add_route('asked:{name}', Everyone())
    return channels


@pytest.fixture(scope='module')
def server() -> Iterator[Server]:
    with serving(
        make_channels(), Clients(), tokens=TokenVerifier(KEY, require_exp=False)
    ) as server:
        yield server


@pytest.mark.parametrize(
    ('user', 'codes'),
    [('', [103, 103, 103, 103, None]), ('ann', [103, 103, 103, None, None])],
)
def test_route_without_on_subscribe_refuses_clients_until_an_option_opens_it(
    server: Server, user: str, codes: list[int | None]
) -> None:
    """Without ``on_subscribe``, the option `subscribers` decides who may subscribe."""
    with Peer.to(server) as peer:
        peer.connect(**({'token': make_connection_token(KEY, user)} if user else {}))
        replies = [peer.ask('subscribe', channel=channel) for channel in CHANNELS]
        assert codes == [reply.get('error', {}).get('code') for reply in replies]
        assert 'subscribe' in peer.ask('subscribe', channel='asked:a')


def test_subscription_token_opens_a_closed_channel_and_no_other(server: Server) -> None:
    """A token that names the channel lets its client subscribe to a closed route."""
    with Peer.to(server) as peer:
        peer.connect(token=make_connection_token(KEY, 'ann'))
        token = make_subscription_token(KEY, 'ann', 'closed:a')
        assert 'subscribe' in peer.ask('subscribe', channel='closed:a', token=token)
        assert 103 == peer.error('subscribe', channel='closed:b')


def test_application_connects_a_client_to_a_closed_channel(server: Server) -> None:
    """A server-side subscription needs no option, and allows no other channel."""
    with Peer.to(server) as peer:
        result = peer.connect(token=make_connection_token(KEY, 'member'))
        assert {'closed:a': {}} == result['subs']
        assert 103 == peer.error('subscribe', channel='closed:b')
        assert 103 == peer.error('presence', channel='closed:b')
        assert 103 == peer.error('publish', channel='named:a', data=1)


def test_serve_connects_a_plain_websocket_to_a_closed_channel() -> None:
    """`Channels.serve` is a decision of the application, and needs no option."""
    channels = make_channels()

    class Door:
        async def on_websocket(self, req: Any, ws: Any) -> None:
            await channels.serve(req, ws, 'empty:a')

    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/door', Door())
    with running(app, lifespan='on') as server, connect(server.ws_url + '/door') as ws:
        ws.send('hello')
        assert 'hello' == ws.recv(TIMEOUT_S)


@on_fake_clock
async def test_log_names_a_closed_route_once_with_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One warning for each closed route names it, and says how to open it."""
    channels = make_channels()
    for _ in range(2):
        async with SimulatedClient(channels, user='ann') as client:
            await client.subscribe('users:a')
            for name in ('closed:a', 'closed:b'):
                with pytest.raises(falcon.HTTPForbidden) as caught:
                    await client.subscribe(name)
                assert 'clients may not subscribe here' == caught.value.description
    await channels.close()
    lines = [r.getMessage() for r in caplog.records if 'may not' in r.getMessage()]
    assert 1 == len(lines)
    assert "route 'closed:{name}' has no on_subscribe" in lines[0]
    assert 'If its channels are private, nothing is wrong' in lines[0]
    assert "ChannelOptions(subscribers='users')" in lines[0]


@on_fake_clock
async def test_on_subscribe_is_called_after_the_option_has_let_a_client_in() -> None:
    """The option refuses first: ``on_subscribe`` is not called for such a client."""
    called = []

    class Recording:
        async def on_subscribe(self, req: Any, subscription: Any) -> None:
            called.append(subscription.user)

    channels = Channels()
    channels.add_route('news', Recording(), ChannelOptions(subscribers='users'))
    async with SimulatedClient(channels, user='ann') as client:
        await client.subscribe('news')
    async with SimulatedClient(channels) as client:
        with pytest.raises(falcon.HTTPForbidden):
            await client.subscribe('news')
    await channels.close()
    assert ['ann'] == called
