"""Clients that recover at the same time share encoded bytes."""

from __future__ import annotations

from collections.abc import Iterator
import json
from typing import Any

from centrifuge.protocol import client_pb2 as sdk
import falcon.asgi
import pytest
from server.running import running
from support.asgi_servers import AsgiServer
from support.embedded import embedded
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Position
from falcon_channels.hub import shared_encodings

pytestmark = pytest.mark.every_server

CLIENTS = 4
COUNT = 6


class Rooms:
    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'ann'
        connection.info = {'name': 'Ann'}

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        publication.tags = {'from': 'a "client"'}

    async def on_rpc_cached(self, req: Any, call: Any) -> None:
        call.reply = self.channels.node.hub.shared_encodings.cached_bytes

    async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
        await self.channels.serve(
            req, ws, f'rooms:{room}', media=True, since=Position(0, '')
        )


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    channels = Channels()
    rooms = Rooms(channels)
    options = ChannelOptions(
        subscribers='anybody', history_size=100, publishers='anybody'
    )
    channels.add_route('rooms:{room}', rooms, options)
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/raw/{room}', rooms)
    channels.add_endpoints(app, resource=rooms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_encodings, 'CACHE_S', 600.0)
        if asgi_server.ws:
            with running(app, ws=asgi_server.ws, lifespan='on') as server:
                yield server
        else:
            with embedded(app, asgi_server.name) as server:
                yield server


rooms = iter(range(10_000))


@pytest.fixture
def room(server: Server) -> str:
    """The name of a channel with some publications."""
    name = f'rooms:{next(rooms)}'
    with Peer.to(server) as peer:
        peer.connect()
        for number in range(COUNT):
            peer.ask('publish', channel=name, data=['ü', number])
    return name


def cached_bytes(server: Server) -> int:
    with Peer.to(server) as peer:
        peer.connect()
        cached: int = peer.ask('rpc', method='cached')['rpc']['data']
    return cached


def command(name: str, **fields: Any) -> str:
    return json.dumps({'id': 2, name: fields})


def frames(server: Server, path: str, hello: list[str | bytes], count: int) -> Any:
    """Return the first frames that a client gets, or its close code."""
    with connect(server.ws_url + path) as ws:
        for frame in hello:
            ws.send(frame)
        try:
            return [ws.recv(TIMEOUT_S) for _ in range(count)]
        except ConnectionClosed:
            return ws.close_code


@pytest.mark.parametrize('offset', [0, 3])
def test_json_recovery_replies_are_identical(
    server: Server, room: str, offset: int
) -> None:
    """All clients get the same complete reply."""
    before = cached_bytes(server)
    hello = command('subscribe', channel=room, recover=True, offset=offset)
    replies = [
        frames(server, '/connection/websocket', ['{"id":1,"connect":{}}', hello], 2)[1]
        for _ in range(CLIENTS)
    ]
    assert [replies[0]] * CLIENTS == replies
    publications = json.loads(replies[0])['subscribe']['publications']
    assert [['ü', n] for n in range(offset, COUNT)] == [p['data'] for p in publications]
    assert [*range(offset + 1, COUNT + 1)] == [p['offset'] for p in publications]
    assert {'name': 'Ann'} == publications[0]['info']['conn_info']
    assert {'from': 'a "client"'} == publications[-1]['tags']
    assert cached_bytes(server) > before


def test_history_replies_are_identical(server: Server, room: str) -> None:
    """All clients get the same history, which shares encodings with recovery."""
    subscribe = json.dumps({'id': 3, 'subscribe': {'channel': room}})
    hello = ['{"id":1,"connect":{}}', subscribe]
    asked = command('history', channel=room, limit=4)
    replies = [
        frames(server, '/connection/websocket', [*hello, asked], 3)[2]
        for _ in range(CLIENTS)
    ]
    assert [replies[0]] * CLIENTS == replies
    page = json.loads(replies[0])['history']
    assert [1, 2, 3, 4] == [item['offset'] for item in page['publications']]
    assert COUNT == page['offset']


def test_protobuf_recovery_replies_are_identical(server: Server, room: str) -> None:
    """All clients that use Protobuf get the same complete reply."""
    commands = [
        sdk.Command(id=1, connect=sdk.ConnectRequest()),
        sdk.Command(id=2, subscribe=sdk.SubscribeRequest(channel=room, recover=True)),
    ]
    hello = [
        bytes([message.ByteSize()]) + message.SerializeToString()
        for message in commands
    ]
    path = '/connection/websocket?format=protobuf'
    replies = [frames(server, path, hello, 2)[1] for _ in range(CLIENTS)]
    parsed = [sdk.Reply.FromString(reply[2:]) for reply in replies]
    assert [parsed[0]] * CLIENTS == parsed
    assert {len(replies[0])} == {len(reply) for reply in replies}
    publications = parsed[0].subscribe.publications
    assert [*range(1, COUNT + 1)] == [item.offset for item in publications]
    assert ['ü', 5] == json.loads(publications[-1].data)


def test_plain_websocket_recovery_messages_are_identical(
    server: Server, room: str
) -> None:
    """A plain WebSocket sends the same messages to all clients."""
    path = f'/raw/{room.removeprefix("rooms:")}'
    sent = [frames(server, path, [], 1 + COUNT) for _ in range(CLIENTS)]
    assert [sent[0]] * CLIENTS == sent
    begin, *publications = map(json.loads, sent[0])
    assert begin['subscribed']['recovered'] is True
    assert [*range(1, COUNT + 1)] == [item['offset'] for item in publications]
    assert {begin['subscribed']['epoch']} == {item['epoch'] for item in publications}


def test_unidirectional_recovery_pushes_are_identical(
    server: Server, room: str
) -> None:
    """Unidirectional clients get the same missed publications as pushes."""
    hello = json.dumps({'subs': {room: {'recover': True}}})
    path = '/connection/uni_websocket'
    sent = [frames(server, path, [hello], 1 + COUNT)[1:] for _ in range(CLIENTS)]
    assert [sent[0]] * CLIENTS == sent
    pushes = [json.loads(push) for push in sent[0]]
    assert [room] * COUNT == [push['channel'] for push in pushes]
    assert [*range(1, COUNT + 1)] == [push['pub']['offset'] for push in pushes]
