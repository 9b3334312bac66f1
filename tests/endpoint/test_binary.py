"""Channels carry JSON, unless `ChannelOptions.binary` is set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
import contextlib
import logging
from typing import Any

from centrifuge.protocol import client_pb2 as sdk
import falcon.asgi
import pytest
from server.running import running
from support.asgi_servers import AsgiServer
from support.embedded import embedded
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels

pytestmark = pytest.mark.every_server

BYTES = b'\xff\x00'


class App:
    """An application with channels that carry JSON, and others that carry bytes."""

    def __init__(self) -> None:
        self.channels = Channels()
        for name, binary in (('json', False), ('binary', True)):
            self.channels.add_route(
                f'{name}:{{room}}',
                self,
                ChannelOptions(history_size=9, publishers='anybody', binary=binary),
            )
        self.loop: asyncio.AbstractEventLoop | None = None

    async def on_connect(self, req: Any, connection: Any) -> None:
        self.loop = asyncio.get_running_loop()
        data = connection.data or {}
        connection.user = data.get('user', '')
        if 'channel' in data:
            connection.add_channel(data['channel'])
        if data.get('reply'):
            connection.reply = BYTES

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room == 'reply':
            subscription.reply = BYTES

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        if publication.data == 'bytes':
            publication.data = BYTES
        elif publication.data == 'text':
            publication.data = b'{"a": 1}'

    async def on_history(self, req: Any, connection: Any, room: str) -> None:
        return

    async def on_rpc(self, req: Any, call: Any) -> None:
        call.reply = BYTES

    async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
        await self.channels.serve(req, ws, f'binary:{room}', media=True)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT_S)


@pytest.fixture(scope='module')
def world(asgi_server: AsgiServer) -> Iterator[tuple[Server, App]]:
    resource = App()
    app = falcon.asgi.App(middleware=[resource.channels])
    app.add_route('/plain/{room}', resource)
    resource.channels.add_endpoints(app, resource=resource)
    with contextlib.ExitStack() as stack:
        if asgi_server.ws:
            server: Server = stack.enter_context(
                running(app, ws=asgi_server.ws, lifespan='on')
            )
        else:
            server = stack.enter_context(embedded(app, asgi_server.name))
        yield server, resource


@pytest.fixture
def server(world: tuple[Server, App]) -> Server:
    return world[0]


@pytest.fixture
def app(world: tuple[Server, App]) -> App:
    return world[1]


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    """A client that speaks JSON."""
    with Peer.to(server) as peer:
        peer.connect(data={'user': 'ann'})
        yield peer


class ProtobufPeer:
    """A client that speaks Protobuf."""

    def __init__(self, ws: ClientConnection) -> None:
        self._ws = ws
        self._id = 0
        self._replies: list[sdk.Reply] = []
        self.ask(connect=sdk.ConnectRequest())

    def ask(self, **request: Any) -> sdk.Reply:
        """Send a command and return its reply."""
        self._id += 1
        body = sdk.Command(id=self._id, **request).SerializeToString()
        assert len(body) < 128
        self._ws.send(bytes([len(body)]) + body)
        return self.hear(lambda reply: reply.id == self._id)

    def hear(self, wanted: Callable[[sdk.Reply], bool]) -> sdk.Reply:
        """Return the next reply or push that `wanted` accepts."""
        while True:
            while not self._replies:
                message = self._ws.recv(TIMEOUT_S)
                assert isinstance(message, bytes)
                while message:
                    assert message[0] < 128
                    body, message = (
                        message[1 : message[0] + 1],
                        message[message[0] + 1 :],
                    )
                    self._replies.append(sdk.Reply.FromString(body))
            reply = self._replies.pop(0)
            if wanted(reply):
                return reply


@pytest.fixture
def binary_peer(server: Server) -> Iterator[ProtobufPeer]:
    with connect(f'{server.ws_url}/connection/websocket?format=protobuf') as ws:
        yield ProtobufPeer(ws)


def test_client_that_speaks_json_is_refused_in_a_binary_channel(
    peer: Peer, app: App
) -> None:
    """A JSON client cannot subscribe; its other subscriptions continue."""
    peer.ask('subscribe', channel='json:refused')
    error = peer.ask('subscribe', channel='binary:refused')['error']
    assert 107 == peer.error('subscribe', channel='binary:refused', recover=True)
    assert 107 == error['code']
    assert 'carries binary payloads: use Protobuf' in error['message']
    app.run(app.channels.publish('binary:refused', BYTES))
    app.run(app.channels.publish('json:refused', 'next'))
    assert 'next' == peer.push()['pub']['data']


def test_refusal_for_the_encoding_is_logged_once_per_route(
    asgi_server: AsgiServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the route and the option once, even if clients try often."""
    app = App()
    with (
        caplog.at_level(logging.WARNING, 'falcon_channels'),
        serving(app.channels, app, asgi_server=asgi_server) as server,
        Peer.to(server) as peer,
    ):
        peer.connect()
        for name in ('a', 'a', 'b'):
            assert 107 == peer.error('subscribe', channel=f'binary:{name}')
    messages = [
        record.getMessage()
        for record in caplog.records
        if 'ChannelOptions(binary=True)' in record.getMessage()
    ]
    assert 1 == len(messages)
    assert "Its route 'binary:{room}'" in messages[0]


def test_client_that_speaks_json_is_refused_the_history_of_a_binary_channel(
    peer: Peer, app: App
) -> None:
    """A JSON client cannot read bytes, and stays connected."""
    app.run(app.channels.publish('binary:history', BYTES))
    assert 107 == peer.error('history', channel='binary:history', limit=5)
    assert 'history' in peer.ask('history', channel='json:history', limit=5)


def test_connect_with_a_binary_channel_is_refused_for_json(server: Server) -> None:
    """A server-side subscription of a JSON client is refused at connect, with 3506."""
    with Peer.to(server) as peer:
        peer.say({'id': 1, 'connect': {'data': {'channel': 'binary:connect'}}})
        code, reason = peer.end()
    assert 3506 == code
    assert 'binary:connect' in reason


def test_unidirectional_client_that_speaks_json_is_refused(server: Server) -> None:
    """A unidirectional client is refused at connect, with 3506."""
    with Peer.to(server, '/connection/uni_websocket') as peer:
        peer.say({'subs': {'binary:uni': {}}})
        assert 3506 == peer.end()[0]


def test_subscription_by_the_application_skips_json_clients(
    peer: Peer, app: App
) -> None:
    """`subscribe_user` neither subscribes a JSON client nor ends its connection."""
    app.run(app.channels.subscribe_user('ann', 'binary:push'))
    app.run(app.channels.subscribe_user('ann', 'json:push'))
    app.run(app.channels.publish('binary:push', BYTES))
    app.run(app.channels.publish('json:push', 'next'))
    assert 'json:push' == peer.push()['channel']
    assert 'next' == peer.push()['pub']['data']


def test_plain_websocket_is_refused_in_a_binary_channel(
    server: Server, asgi_server: AsgiServer
) -> None:
    """A plain WebSocket sends text only, and is refused at the handshake."""
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(f'{server.ws_url}/plain/a'),
    ):
        pass
    assert refused.value.response.status_code in {403, 415}


def test_client_that_speaks_protobuf_receives_and_recovers_bytes(
    binary_peer: ProtobufPeer, app: App
) -> None:
    """In a binary channel, live and recovered payloads arrive unchanged."""
    channel = 'binary:live'
    binary_peer.ask(subscribe=sdk.SubscribeRequest(channel=channel))
    app.run(app.channels.publish(channel, b'{}'))
    app.run(app.channels.publish(channel, BYTES))
    pushes = [
        binary_peer.hear(lambda reply: reply.HasField('push')).push.pub.data
        for _ in range(2)
    ]
    assert [b'{}', BYTES] == pushes
    binary_peer.ask(unsubscribe=sdk.UnsubscribeRequest(channel=channel))
    asked = sdk.SubscribeRequest(channel=channel, recover=True)
    found = binary_peer.ask(subscribe=asked).subscribe.publications
    assert [b'{}', BYTES] == [publication.data for publication in found]


@pytest.mark.parametrize('data', [BYTES, b'{', b'NaN'])
def test_bytes_of_a_client_are_refused_where_the_channel_carries_json(
    binary_peer: ProtobufPeer, peer: Peer, data: bytes
) -> None:
    """A Protobuf client that publishes bytes cannot end the JSON subscribers."""
    channel = f'json:{data.hex()}'
    peer.ask('subscribe', channel=channel)
    refused = binary_peer.ask(publish=sdk.PublishRequest(channel=channel, data=data))
    assert 107 == refused.error.code
    assert f'{len(data)} bytes are not JSON: publish JSON' in refused.error.message
    request = sdk.PublishRequest(channel=channel, data=b'{"a":\n1}')
    assert not binary_peer.ask(publish=request).HasField('error')
    assert {'a': 1} == peer.push()['pub']['data']


def test_bytes_set_by_on_publish_are_checked(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that `on_publish` sets must be JSON; otherwise the log says so."""
    peer.ask('subscribe', channel='json:set')
    assert 100 == peer.error('publish', channel='json:set', data='bytes')
    assert 'these 2 bytes are not JSON' in caplog.text
    peer.ask('publish', channel='json:set', data='text')
    assert {'a': 1} == peer.push()['pub']['data']


def test_bytes_as_reply_to_a_json_client_fail_only_the_command(peer: Peer) -> None:
    """A reply of bytes that are not JSON is an internal error for a JSON client."""
    assert 100 == peer.error('rpc', method='a', data=1)
    assert 100 == peer.error('subscribe', channel='json:reply')
    assert 'subscribe' in peer.ask('subscribe', channel='json:after')


def test_bytes_as_reply_reach_a_client_that_speaks_protobuf(
    binary_peer: ProtobufPeer,
) -> None:
    """A Protobuf client receives a reply of bytes unchanged."""
    reply = binary_peer.ask(rpc=sdk.RPCRequest(method='a', data=b'1'))
    assert BYTES == reply.rpc.data
