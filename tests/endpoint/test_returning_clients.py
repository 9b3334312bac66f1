"""Clients that reconnect with many channels: sizes of batches, and rates."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import logging
from typing import Any

import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels import NodeOptions
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier

pytestmark = pytest.mark.every_server

KEY = TokenKey('a secret of the tests that is long enough')
#: Size of a subscription token in bytes, at least.
TOKEN_BYTES = 600


class Room:
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        pass


class Clients:
    """Trusts the user id that a client sends."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        if connection.data is not None:
            connection.user = connection.data

    async def on_rpc(self, req: Any, call: Any) -> None:
        call.reply = len(call.data)


@pytest.fixture
def channels() -> Channels:
    channels = Channels(
        options=NodeOptions(max_message_bytes=4096, max_batch_bytes=200_000)
    )
    channels.add_route('rooms:{room}', Room())
    return channels


@pytest.fixture
def server(channels: Channels, asgi_server: AsgiServer) -> Iterator[Server]:
    options = EndpointOptions(
        commands_per_s=0.001,
        commands_burst=200,
        user_commands_per_s=0.001,
        user_commands_burst=60,
        max_refused_commands=1000,
    )
    with serving(
        channels,
        Clients(),
        asgi_server=asgi_server,
        tokens=TokenVerifier(KEY),
        options=options,
    ) as server:
        yield server


def batch(
    count: int, user: str | None = None, first_id: int = 2
) -> list[dict[str, Any]]:
    """Return requests for `count` channels, with tokens for a `user`."""
    commands = []
    for number in range(first_id, first_id + count):
        asked = {'channel': f'rooms:{number}'}
        if user is not None:
            asked['token'] = make_subscription_token(
                KEY, user, asked['channel'], ttl_s=600, info={'x': 'y' * 320}
            )
            assert len(asked['token']) >= TOKEN_BYTES
        commands.append({'id': number, 'subscribe': asked})
    return commands


def hear_all(peer: Peer, count: int) -> list[dict[str, Any]]:
    return [peer.hear() for _ in range(count)]


def test_client_returns_to_120_channels_with_tokens_in_one_frame(
    server: Server, channels: Channels
) -> None:
    """A client can subscribe to all its channels again, even with large tokens."""
    token = make_connection_token(KEY, 'ann', ttl_s=600)
    commands = [{'id': 1, 'connect': {'token': token}}, *batch(120, 'ann')]
    assert len('\n'.join(map(json.dumps, commands))) > 65_536
    with Peer.to(server) as peer:
        peer.say(*commands)
        replies = hear_all(peer, 121)
        assert [] == [reply for reply in replies if 'error' in reply]
        assert [*range(1, 122)] == [reply['id'] for reply in replies]


def test_burst_below_the_number_of_channels_is_logged(
    channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning names the options if a client could not reconnect at once."""
    Endpoint(channels.node, options=EndpointOptions(commands_burst=129))
    assert '' == caplog.text
    Endpoint(channels.node, options=EndpointOptions(commands_burst=128))
    assert 'max_channels_per_connection of 128 channels' in caplog.text
    assert 'commands_burst is 128' in caplog.text


def test_all_connections_of_a_user_restore_their_channels_at_once(
    server: Server, channels: Channels
) -> None:
    """Resubscribing does not use up the user's rate, even for 12 connections."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer.to(server)) for _ in range(12)]
        for peer in peers:
            peer.say({'id': 1, 'connect': {'data': 'ann'}}, *batch(100))
        for peer in peers:
            replies = hear_all(peer, 101)
            assert [] == [reply for reply in replies if 'error' in reply]
        assert 0 == channels.node.hub.counters.too_fast
        for number in range(60):
            peer = peers[number % 12]
            peer.id = 200 + number
            assert {'rpc': {'data': 3}} == peer.ask('rpc', data='abc')
        assert 111 == peers[0].error('rpc', data='abc')


def test_repeated_subscriptions_of_one_connection_count_towards_the_user_rate(
    server: Server, channels: Channels
) -> None:
    """Requests beyond the maximum number of channels count towards the user's rate."""
    allowed = channels.node.options.max_channels_per_connection
    with Peer.to(server) as peer:
        peer.connect(data='ann')
        for _ in range(allowed + 60):
            assert 102 == peer.error('subscribe', channel='none')
        assert 111 == peer.error('subscribe', channel='none')


def test_user_that_connects_again_and_again_is_limited(
    server: Server, channels: Channels
) -> None:
    """A new connection that replaces another gives its user no new burst."""
    allowed = channels.node.options.max_channels_per_connection
    refused = []
    for _ in range(3):
        with Peer.to(server) as peer:
            peer.connect(data='ann')
            peer.say(*batch(110))
            refused.append(sum('error' in reply for reply in hear_all(peer, 110)))
    # NOTE: the first connection has the whole burst of the user. The others share what
    #   is left of it, and the rates of all commands.
    assert 0 == refused[0]
    assert 330 - sum(refused) <= 2 * allowed + 60
    assert refused[2] >= 60


@pytest.mark.parametrize(
    ('commands', 'reason', 'words'),
    [
        (
            [{'id': 2, 'rpc': {'data': 'x' * 4096}}, {'id': 3, 'ping': {}}],
            'over 4096 bytes',
            'exceeds max_message_bytes of 4096',
        ),
        (
            [{'id': n, 'rpc': {'data': 'x' * 4000}} for n in range(2, 60)],
            'over 200000 bytes',
            'exceed max_batch_bytes of 200000',
        ),
        (
            [{'id': n, 'ping': {}} for n in range(2, 1500)],
            'over 1152 commands',
            'exceed the limit of 1152',
        ),
    ],
    ids=['one command', 'all commands', 'number of commands'],
)
def test_frame_over_a_limit_is_closed_with_1009_and_logged(
    server: Server,
    caplog: pytest.LogCaptureFixture,
    commands: list[dict[str, Any]],
    reason: str,
    words: str,
) -> None:
    """The log names the limit that a client has exceeded, at the default level."""
    with Peer.to(server) as peer, caplog.at_level(logging.WARNING):
        peer.connect(data='ann')
        peer.say(*commands)
        assert (1009, reason) == peer.end()
    [record] = [r for r in caplog.records if words in r.getMessage()]
    assert (logging.WARNING, 'falcon_channels') == (record.levelno, record.name)


def test_commands_together_may_exceed_the_size_of_one(server: Server) -> None:
    """A batch is not limited by the size of one message."""
    with Peer.to(server) as peer:
        peer.connect(data='ann')
        peer.say(*({'id': n, 'rpc': {'data': 'x' * 4000}} for n in range(2, 32)))
        assert [{'data': 4000}] * 30 == [r['rpc'] for r in hear_all(peer, 30)]


#: Size of a message that all servers of the tests refuse, by their own limits.
TOO_BIG = 17 * 1024 * 1024


def test_message_over_the_limit_of_the_server_is_logged(
    server: Server, asgi_server: AsgiServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A close with 1009 is logged, even if the server and not the endpoint closes.

    Some servers do not tell the application the reason.
    """
    with Peer.to(server, max_size=None) as peer, caplog.at_level(logging.WARNING):
        peer.connect(data='ann')
        with contextlib.suppress(ConnectionClosed):
            peer.ws.send('x' * TOO_BIG)
        with contextlib.suppress(ConnectionClosed):
            peer.ws.recv(10)
        if asgi_server.reports_too_big:
            wait_until(lambda: '1009' in caplog.text, 'the log of the close')
        else:
            assert '1009' not in caplog.text
