"""Pings, timeouts, tokens and expiry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import time
from typing import Any
import urllib.parse

import httpx
import pytest
from support.asgi_servers import AsgiServer
from websockets.sync.client import connect

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from endpoint.peer import TIMEOUT_S
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.protocol import client_pb2 as pb
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier

KEY = TokenKey('a secret of the tests, and of nobody else')
OTHER_KEY = TokenKey('another secret of the tests, of nobody else')
QUICK = EndpointOptions(
    ping_interval_s=1.0, pong_timeout_s=1.0, connect_timeout_s=1.0, expiry_grace_s=0.0
)


class Room:
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room == 'short':
            subscription.expires_at = time.time() + 1

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        """Let subscribers publish."""


def make_channels() -> Channels:
    channels = Channels()
    channels.add_route('rooms:{room}', Room())
    channels.add_route('#{user}', None)
    return channels


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    verifier = TokenVerifier(KEY)
    with serving(
        make_channels(), asgi_server=asgi_server, tokens=verifier, options=QUICK
    ) as server:
        yield server


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peer.to(server) as peer:
        yield peer


#: Lifetime of tokens in seconds. Those of parameters are made before the first test.
DAY_S = 86400.0


def token(user: str = 'ann', *, ttl_s: float = DAY_S, **claims: Any) -> str:
    return make_connection_token(KEY, user, ttl_s=ttl_s, **claims)


def sub_token(
    user: str = 'ann', channel: str = 'rooms:a', *, ttl_s: float = DAY_S, **claims: Any
) -> str:
    return make_subscription_token(KEY, user, channel, ttl_s=ttl_s, **claims)


def test_client_without_pong_is_ended(peer: Peer) -> None:
    """A client that answers pings stays. One that stops is ended with 3012."""
    peer.connect(token=token())
    for _ in range(2):
        assert {} == peer.hear()
        peer.say('{}')
    assert {'ping': {}} == peer.ask('ping')
    assert (3012, 'no pong') == peer.end()


def test_second_pong_to_one_ping_ends_the_connection(peer: Peer) -> None:
    """A ping is answered by exactly one pong."""
    peer.connect(token=token())
    assert {} == peer.hear()
    peer.say('{}', '{}')
    assert (3501, 'bad request') == peer.end()


def test_command_does_not_count_as_a_pong(peer: Peer) -> None:
    """A client that only sends commands does not prove that it reads."""
    peer.connect(token=token())
    while True:
        if peer.hear() == {}:
            break
    peer.ask('ping')
    assert 3012 == peer.end()[0]


def test_websocket_without_connect_command_ends_as_stale(peer: Peer) -> None:
    """A WebSocket without a connect command ends with 3502."""
    assert (3502, 'stale') == peer.end()


class Slow:
    """A connection resource whose `on_connect` does not return."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        if connection.data == 'early':
            await asyncio.Event().wait()
        connection.add_channel('slow:a')


class SlowBroker(MemoryBroker):
    """A broker that never finishes subscribing to one channel."""

    async def subscribe(self, channel: str, settings: Any) -> Any:
        if channel.startswith('slow'):
            await asyncio.Event().wait()
        return await super().subscribe(channel, settings)


@pytest.mark.parametrize('data', ['early', 'late'])
def test_slow_connect_ends_with_a_temporary_code(data: str) -> None:
    """A client whose connect takes too long gets 3004, after which it reconnects."""
    channels = Channels(SlowBroker())
    channels.add_route('slow:{name}', None)
    with serving(channels, Slow(), options=QUICK) as server, Peer.to(server) as peer:
        peer.say({'id': 1, 'connect': {'data': data}})
        assert (3004, 'internal server error') == peer.end()
        assert [] == peer.pushes


def test_slow_connect_ends_an_event_stream() -> None:
    """An EventSource whose connect takes too long gets a stream that ends.

    It reconnects.
    """
    channels = Channels()
    with serving(channels, Slow(), options=QUICK) as server:
        query = urllib.parse.quote('{"data":"early"}')
        url = f'http://127.0.0.1:{server.port}/connection/uni_sse?cf_connect={query}'
        response = httpx.get(url, timeout=TIMEOUT_S)
    assert 200 == response.status_code
    assert '"disconnect":{"code":3004' in response.text


def test_connection_token_sets_user_info_and_channels(peer: Peer) -> None:
    """The token sets user, info, server-side channels and expiry."""
    result = peer.connect(
        token=token(info={'name': 'Ann'}, channels=['#ann'], ttl_s=3000.0)
    )
    assert result['expires'] is True
    assert 2990 <= result['ttl'] <= 3000
    assert {'#ann': {}} == result['subs']
    peer.ask('subscribe', channel='rooms:a')
    peer.ask('publish', channel='rooms:a', data=1)
    info = peer.push()['pub']['info']
    assert ('ann', {'name': 'Ann'}) == (info['user'], info['conn_info'])


@pytest.mark.parametrize(
    ('channels', 'words'),
    [
        (['nowhere:ann'], "no route matches the channel 'nowhere:ann'"),
        (['#ann', 'a b'], "'a b'"),
        ([f'#{n}' for n in range(129)], '129 channels exceed max_channels_per_'),
    ],
    ids=['no route', 'no channel name', 'too many'],
)
def test_token_with_an_impossible_channel_ends_the_connection_and_is_logged_once(
    server: Server,
    caplog: pytest.LogCaptureFixture,
    channels: list[str],
    words: str,
) -> None:
    """The client comes back, because an operator can mend the mistake of a token."""
    for _ in range(3):
        with Peer.to(server) as peer:
            peer.say({'id': 1, 'connect': {'token': token(channels=channels)}})
            assert (3004, 'internal server error') == peer.end()
            assert [] == peer.pushes
    logged = [r for r in caplog.records if words in r.getMessage()]
    assert ['WARNING'] == [record.levelname for record in logged]


@pytest.mark.parametrize('ttl_s', [2.0**33, 1e10])
@pytest.mark.parametrize('options', [QUICK, EndpointOptions(ping_interval_s=None)])
def test_expiry_beyond_32_bits_is_announced_as_the_latest_possible(
    ttl_s: float, options: EndpointOptions
) -> None:
    """An expiry in the far future has the longest ttl of the protocol."""
    with (
        serving(make_channels(), tokens=TokenVerifier(KEY), options=options) as server,
        Peer.to(server) as peer,
    ):
        far = token(ttl_s=ttl_s)
        assert 2**31 - 1 == peer.connect(token=far)['ttl']
        assert 2**31 - 1 == peer.ask('refresh', token=far)['refresh']['ttl']
        room = sub_token(ttl_s=ttl_s)
        result = peer.ask('subscribe', channel='rooms:a', token=room)['subscribe']
        assert 2**31 - 1 == result['ttl']
        result = peer.ask('sub_refresh', channel='rooms:a', token=room)['sub_refresh']
        assert 2**31 - 1 == result['ttl']


def test_expiry_beyond_32_bits_is_written_in_protobuf(server: Server) -> None:
    """The longest ttl fits into the field of the second encoding."""
    command = pb.Command(id=1, connect=pb.ConnectRequest(token=token(ttl_s=2.0**33)))
    body = command.SerializeToString()
    url = server.ws_url + '/connection/websocket?format=protobuf'
    with connect(url) as ws:
        ws.send(encode_length(len(body)) + body)
        frame = ws.recv(TIMEOUT_S)
    assert isinstance(frame, bytes)
    reply = pb.Reply.FromString(frame[1:])
    assert (True, 2**31 - 1) == (reply.connect.expires, reply.connect.ttl)


def encode_length(length: int) -> bytes:
    """Return a varint of two bytes."""
    assert 128 <= length < 2**14
    return bytes([length & 127 | 128, length >> 7])


def test_expired_connection_token_is_answered_with_error_109(peer: Peer) -> None:
    """An expired token is error 109, after which the client fetches another."""
    assert 109 == peer.error('connect', token=token(ttl_s=-10.0))


@pytest.mark.parametrize(
    'bad',
    [
        'x',
        make_connection_token(OTHER_KEY, 'ann', ttl_s=DAY_S),
        sub_token(),
    ],
)
def test_invalid_connection_token_ends_the_connection(peer: Peer, bad: str) -> None:
    """An invalid token ends the connection for good with 3500."""
    peer.say({'id': 1, 'connect': {'token': bad}})
    assert (3500, 'invalid token') == peer.end()


def test_missing_required_token_ends_the_connection(peer: Peer) -> None:
    """Without a token and without on_connect, a client cannot connect."""
    peer.say({'id': 1, 'connect': {}})
    assert (3501, 'a token is needed') == peer.end()


def test_connection_with_expired_token_is_ended(peer: Peer) -> None:
    """A connection whose token is not refreshed is ended with 3005."""
    peer.connect(token=token(ttl_s=2.0))
    peer.answer_pings = True
    assert (3005, 'connection expired') == peer.end()


@pytest.mark.parametrize('interval_s', [0.4, 0.5, 2.5])
def test_ping_interval_that_is_announced_is_never_shorter(
    asgi_server: AsgiServer, interval_s: float
) -> None:
    """A client reads whole seconds; at 0, an SDK would answer no ping.

    Before, the interval was rounded. The JavaScript SDK was disconnected with 3012
    again and again.
    """
    options = EndpointOptions(ping_interval_s=interval_s)
    with (
        serving(make_channels(), asgi_server=asgi_server, options=options) as server,
        Peer.to(server) as peer,
    ):
        assert interval_s <= peer.connect()['ping']


class Calls:
    async def on_rpc_expire(self, req: Any, call: Any) -> None:
        call.connection.expires_at = time.time()


def test_expiry_that_a_call_sets_applies_without_pings(
    asgi_server: AsgiServer,
) -> None:
    """An expiry applies from the moment at which the application sets it.

    Before, it applied from the next ping on, and without pings it had no effect.
    """
    options = EndpointOptions(ping_interval_s=None, expiry_grace_s=0.0)
    with (
        serving(
            make_channels(), Calls(), asgi_server=asgi_server, options=options
        ) as server,
        Peer.to(server) as peer,
    ):
        peer.connect()
        peer.ask('rpc', method='expire')
        assert (3005, 'connection expired') == peer.end()


def test_refreshed_token_extends_the_connection(peer: Peer) -> None:
    """A new token extends the connection."""
    peer.connect(token=token(ttl_s=2.0))
    result = peer.ask('refresh', token=token(ttl_s=100.0))['refresh']
    assert result['expires'] is True
    assert 90 <= result['ttl'] <= 100
    until_s = time.monotonic() + 3.5
    while time.monotonic() < until_s:
        if peer.hear() == {}:
            peer.say('{}')
    assert {'ping': {}} == peer.ask('ping')


@pytest.mark.parametrize(
    ('refresh', 'end'),
    [
        (token('bob'), (3500, 'invalid token')),
        ('x', (3500, 'invalid token')),
        (sub_token(), (3500, 'invalid token')),
        (token(ttl_s=-10.0), (3005, 'connection expired')),
    ],
)
def test_refresh_with_invalid_token_ends_the_connection(
    peer: Peer, refresh: str, end: tuple[int, str]
) -> None:
    """A token that is another user's, invalid or expired ends the connection."""
    peer.connect(token=token())
    peer.say({'id': 9, 'refresh': {'token': refresh}})
    assert end == peer.end()


def test_expired_subscription_is_ended(peer: Peer) -> None:
    """A subscription that is not refreshed ends with 2501.

    The client subscribes again.
    """
    peer.connect(token=token())
    peer.ask('subscribe', channel='rooms:short')
    assert {
        'channel': 'rooms:short',
        'unsubscribe': {'code': 2501, 'reason': 'subscription expired'},
    } == peer.push()


def test_expiry_is_announced_only_to_a_client_that_can_refresh(
    asgi_server: AsgiServer,
) -> None:
    """A client learns of an expiry if it has sent a token, so that it can send another.

    Before, it always learned of it. The JavaScript SDK then ended its subscription and
    its connection for ever, because it had no function that fetches tokens.
    """

    class Clients:
        async def on_connect(self, req: Any, connection: Any) -> None:
            connection.expires_at = time.time() + DAY_S

    channels = make_channels()
    with serving(
        channels, Clients(), asgi_server=asgi_server, tokens=TokenVerifier(KEY)
    ) as server:
        with Peer.to(server) as peer:
            assert 'expires' not in peer.connect()
            subscribed = peer.ask('subscribe', channel='rooms:short')['subscribe']
            assert 'expires' not in subscribed
        with Peer.to(server) as peer:
            assert peer.connect(token=token())['expires']
            subscribed = peer.ask('subscribe', channel='rooms:a', token=sub_token())[
                'subscribe'
            ]
            assert subscribed['expires']
    with (
        serving(make_channels(), Clients(), asgi_server=asgi_server) as server,
        Peer.to(server) as peer,
    ):
        assert 'expires' not in peer.connect(token='of the application')


def test_unidirectional_client_knows_its_expiry_and_has_no_time_to_refresh(
    asgi_server: AsgiServer,
) -> None:
    """A client that sends no commands ends when its tokens expire.

    It kept its rights until `expiry_grace_s` had passed. Without a token, it was not
    told when it expires.
    """

    class Clients:
        async def on_connect(self, req: Any, connection: Any) -> None:
            if not connection.token:
                connection.expires_at = time.time() + 1

    with serving(
        make_channels(),
        Clients(),
        asgi_server=asgi_server,
        tokens=TokenVerifier(KEY, leeway_s=0.0),
        options=EndpointOptions(expiry_grace_s=DAY_S),
    ) as server:
        for sent in (
            {'token': make_connection_token(KEY, 'ann', ttl_s=2)},
            {},
            {'subs': {'rooms:short': {}}},
        ):
            with Peer.to(server, '/connection/uni_websocket') as peer:
                peer.say(sent)
                reply = peer.hear()['connect']
                told = reply.get('subs', {}).get('rooms:short', reply)
                assert told['expires']
                assert (3005, 'connection expired') == peer.end()
    with serving(
        make_channels(),
        asgi_server=asgi_server,
        tokens=TokenVerifier(KEY, leeway_s=0.0),
        options=EndpointOptions(expiry_grace_s=DAY_S, allow_anonymous=True),
    ) as server:
        sub = make_subscription_token(KEY, '', 'rooms:a', ttl_s=2)
        with Peer.to(server, '/connection/uni_websocket') as peer:
            peer.say({'subs': {'rooms:a': {'token': sub}}})
            assert peer.hear()['connect']['subs']['rooms:a']['expires']
            assert (3010, 'insufficient state') == peer.end()


def test_client_that_cannot_refresh_has_no_time_to_do_so(
    asgi_server: AsgiServer,
) -> None:
    """Without a token, a connection and a subscription end when they expire.

    Before, such a client kept its rights until `expiry_grace_s` had passed.
    """
    options = EndpointOptions(expiry_grace_s=DAY_S)
    with (
        serving(
            make_channels(), Calls(), asgi_server=asgi_server, options=options
        ) as server,
        Peer.to(server) as peer,
    ):
        peer.connect()
        peer.ask('subscribe', channel='rooms:short')
        assert 2501 == peer.push()['unsubscribe']['code']
        peer.ask('rpc', method='expire')
        assert (3005, 'connection expired') == peer.end()


def test_refreshed_subscription_token_extends_the_subscription(peer: Peer) -> None:
    """A subscription token sets the expiry, and a new one extends it."""
    peer.connect(token=token())
    first = peer.ask('subscribe', channel='rooms:a', token=sub_token(ttl_s=50.0))
    assert 40 <= first['subscribe']['ttl'] <= 50
    second = peer.ask('sub_refresh', channel='rooms:a', token=sub_token(ttl_s=500.0))
    assert 490 <= second['sub_refresh']['ttl'] <= 500


def test_expired_subscription_token_is_answered_with_error_109(peer: Peer) -> None:
    """An expired token is error 109.

    At a refresh it also ends the subscription with 2501.
    """
    peer.connect(token=token())
    expired = sub_token(ttl_s=-10.0)
    assert 109 == peer.error('subscribe', channel='rooms:a', token=expired)
    peer.ask('subscribe', channel='rooms:a', token=sub_token())
    assert 109 == peer.error('sub_refresh', channel='rooms:a', token=expired)
    assert 2501 == peer.push()['unsubscribe']['code']


@pytest.mark.parametrize('command', ['subscribe', 'sub_refresh'])
@pytest.mark.parametrize(
    'bad', [sub_token('bob'), sub_token(channel='rooms:b')], ids=['user', 'channel']
)
def test_subscription_token_of_another_user_or_channel_ends_the_connection(
    peer: Peer, command: str, bad: str
) -> None:
    """A token that is valid for another user or channel ends the connection."""
    peer.connect(token=token())
    if command == 'sub_refresh':
        peer.ask('subscribe', channel='rooms:a')
    peer.say({'id': 9, command: {'channel': 'rooms:a', 'token': bad}})
    assert (3500, 'invalid token') == peer.end()


def test_invalid_subscription_token_is_refused(peer: Peer) -> None:
    """An invalid token is error 103. At a refresh it ends the connection."""
    peer.connect(token=token())
    assert 103 == peer.error('subscribe', channel='rooms:a', token='x')
    peer.ask('subscribe', channel='rooms:a')
    peer.say({'id': 9, 'sub_refresh': {'channel': 'rooms:a', 'token': 'x'}})
    assert (3500, 'invalid token') == peer.end()
