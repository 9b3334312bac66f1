"""Delivery: content, order, recovery, and how a loss is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
import json
import threading
from typing import Any

from centrifuge.protocol import client_pb2 as sdk
import falcon
import falcon.asgi
import pytest
from server.running import running
from support.asgi_servers import AsgiServer
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels import PublicationDraft
from falcon_channels.testing.sdk import DisconnectedError
from falcon_channels.testing.sdk import SimulatedSdk

pytestmark = pytest.mark.every_server


class Room:
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        subscription.reply = {'room': room}

    async def on_publish(
        self, req: Any, publication: PublicationDraft, room: str
    ) -> None:
        if publication.data == 'change':
            publication.data = ['changed']
        if publication.data == 'tag':
            publication.tags = {'kind': 'x'}


class Clients:
    """Runs coroutines of a test in the event loop of the server."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.loop: asyncio.AbstractEventLoop | None = None
        self.left: list[str] = []

    async def on_connect(self, req: Any, connection: Any) -> None:
        self.loop = asyncio.get_running_loop()
        data = connection.data or {}
        connection.user = data.get('user', 'ann')
        connection.reply = {'hello': connection.user}
        for channel in data.get('channels', ()):
            connection.add_channel(channel, data={'of': channel})
            if data.get('publish'):
                # While the connection is subscribed to the next one.
                await self.channels.publish(channel, 'before')

    async def on_disconnect(self, req: Any, connection: Any) -> None:
        self.left.append(connection.user)

    async def on_rpc(self, req: Any, call: Any) -> None:
        call.reply = [call.method, call.data]

    async def on_rpc_nothing(self, req: Any, call: Any) -> None:
        """Reply with nothing."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT_S)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        async def call() -> Any:
            return function(*args)

        return self.run(call())


def make_channels() -> Channels:
    channels = Channels()
    channels.add_route(
        'rooms:{room}',
        Room(),
        ChannelOptions(history_size=5, presence=True, join_leave='connection'),
    )
    channels.add_route('plain:{room}', Room())
    channels.add_route(
        'raw:{room}',
        None,
        ChannelOptions(subscribers='anybody', publishers='subscribers'),
    )
    channels.add_route('binary:{room}', Room(), ChannelOptions(binary=True))
    channels.add_route(
        'state:{room}', Room(), ChannelOptions(history_size=5, recovery='latest')
    )
    channels.add_route(
        'now:{room}',
        Room(),
        ChannelOptions(history_size=1, recovery='latest', send_latest=True),
    )
    channels.add_route(
        '#{user}', None, ChannelOptions(subscribers='anybody', history_size=5)
    )
    return channels


@pytest.fixture(scope='module')
def world(asgi_server: AsgiServer) -> Iterator[tuple[Server, Clients]]:
    channels = make_channels()
    clients = Clients(channels)
    with serving(channels, clients, asgi_server=asgi_server) as server:
        yield server, clients


@pytest.fixture
def server(world: tuple[Server, Clients]) -> Server:
    return world[0]


@pytest.fixture
def clients(world: tuple[Server, Clients]) -> Clients:
    return world[1]


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peer.to(server) as peer:
        peer.result = peer.connect()  # type: ignore[attr-defined]
        yield peer


rooms = iter(range(10_000))


@pytest.fixture
def room() -> str:
    return f'rooms:{next(rooms)}'


def test_data_set_by_on_connect_reaches_the_client(peer: Peer) -> None:
    """Data that on_connect sets reaches the client."""
    assert {'hello': 'ann'} == peer.result['data']  # type: ignore[attr-defined]


def test_subscriber_receives_publications_with_offsets(
    peer: Peer, clients: Clients, room: str
) -> None:
    """The reply has the start position. Publications follow with their offsets."""
    result = peer.ask('subscribe', channel=room, join_leave=True)['subscribe']
    epoch = result.pop('epoch')
    assert {
        'recoverable': True,
        'positioned': True,
        'data': {'room': room.removeprefix('rooms:')},
    } == result
    join = peer.push()
    assert (room, 'ann') == (join['channel'], join['join']['info']['user'])
    for number in (1, 2):
        clients.run(clients.channels.publish(room, {'n': number}, tags={'k': 'v'}))
    for number in (1, 2):
        push = peer.push()
        assert push['pub'].pop('time') > 0
        assert {
            'channel': room,
            'pub': {'data': {'n': number}, 'offset': number, 'tags': {'k': 'v'}},
        } == push
    page = peer.ask('history', channel=room, limit=1)['history']
    assert (epoch, 2, 1) == (page['epoch'], page['offset'], len(page['publications']))


def test_channel_without_history_has_no_positions(peer: Peer) -> None:
    """Without history there are no positions, and nothing is recovered."""
    result = peer.ask('subscribe', channel='plain:a', recover=True)['subscribe']
    assert {'data': {'room': 'a'}, 'was_recovering': True} == result
    peer.ask('publish', channel='plain:a', data='x')
    publication = peer.push()['pub']
    assert 'x' == publication['data']
    assert 'offset' not in publication


def test_on_publish_changes_data_and_tags(peer: Peer, room: str) -> None:
    """on_publish may change the payload and add tags."""
    peer.ask('subscribe', channel=room)
    peer.ask('publish', channel=room, data='change')
    assert ['changed'] == peer.push()['pub']['data']
    peer.ask('publish', channel=room, data='tag')
    assert {'kind': 'x'} == peer.push()['pub']['tags']


@pytest.mark.parametrize('missed', [0, 1, 5])
def test_missed_publications_are_recovered(
    peer: Peer, clients: Clients, room: str, missed: int
) -> None:
    """The reply has the missed publications and the client's own offset."""
    epoch = peer.ask('subscribe', channel=room)['subscribe']['epoch']
    clients.run(clients.channels.publish(room, 'seen'))
    peer.ask('unsubscribe', channel=room)
    for number in range(missed):
        clients.run(clients.channels.publish(room, number))
    result = peer.ask('subscribe', channel=room, recover=True, offset=1, epoch=epoch)[
        'subscribe'
    ]
    assert result['recovered'] is True
    assert result['was_recovering'] is True
    assert 1 == result['offset']
    publications = result.get('publications', [])
    assert list(range(missed)) == [item['data'] for item in publications]
    assert list(range(2, 2 + missed)) == [item['offset'] for item in publications]


@pytest.mark.parametrize(
    ('offset', 'epoch'), [(1, None), (1, 'other'), (99, None), (2**63 - 1, None)]
)
def test_unrecoverable_position_is_reported_as_not_recovered(
    peer: Peer, clients: Clients, room: str, offset: int, epoch: str | None
) -> None:
    """An expired position, another epoch, or an unknown offset is not recovered."""
    known = peer.ask('subscribe', channel=room)['subscribe']['epoch']
    peer.ask('unsubscribe', channel=room)
    for number in range(7):
        clients.run(clients.channels.publish(room, number))
    position = {'recover': True, 'offset': offset, 'epoch': epoch or known}
    assert 112 == peer.error('subscribe', channel=room, flag=2, **position)
    result = peer.ask('subscribe', channel=room, **position)['subscribe']
    assert 'recovered' not in result
    assert 'publications' not in result
    assert (True, 7, known) == (
        result['was_recovering'],
        result['offset'],
        result['epoch'],
    )


def test_empty_position_recovers_the_whole_channel(
    peer: Peer, clients: Clients, room: str
) -> None:
    """An empty position recovers all publications, if the log is complete."""
    for number in range(5):
        clients.run(clients.channels.publish(room, number))
    result = peer.ask('subscribe', channel=room, recover=True)['subscribe']
    assert result['recovered'] is True
    assert 5 == len(result['publications'])
    clients.run(clients.channels.publish(room, 5))
    peer.ask('unsubscribe', channel=room)
    again = peer.ask('subscribe', channel=room, recover=True)['subscribe']
    assert 'recovered' not in again


def test_channel_with_latest_recovery_sends_only_the_newest(
    peer: Peer, clients: Clients
) -> None:
    """With recovery of the latest, a client gets only the newest publication."""
    for number in range(9):
        clients.run(clients.channels.publish('state:a', number))
    result = peer.ask(
        'subscribe', channel='state:a', recover=True, offset=1, epoch='gone'
    )['subscribe']
    assert result['recovered'] is True
    assert [8] == [item['data'] for item in result['publications']]
    peer.ask('unsubscribe', channel='state:a')
    position = {'recover': True, 'offset': 9, 'epoch': result['epoch']}
    again = peer.ask('subscribe', channel='state:a', **position)['subscribe']
    assert (True, True, 9) == (
        again['was_recovering'],
        again['recovered'],
        again['offset'],
    )
    assert 'publications' not in again


def test_channel_with_latest_recovery_that_is_empty_does_not_recover(
    peer: Peer,
) -> None:
    """A channel without a publication has nothing to recover."""
    result = peer.ask('subscribe', channel='state:empty', recover=True)['subscribe']
    assert result['was_recovering'] is True
    assert not {'recovered', 'publications'} & set(result)


def test_send_latest_gives_the_newest_publication_to_a_new_client(
    peer: Peer, clients: Clients
) -> None:
    """With `send_latest`, a client without a position gets the newest publication."""
    first = peer.ask('subscribe', channel='now:a')['subscribe']
    assert 'publications' not in first
    peer.ask('unsubscribe', channel='now:a')
    for number in (1, 2):
        clients.run(clients.channels.publish('now:a', number))
    result = peer.ask('subscribe', channel='now:a')['subscribe']
    assert [2] == [item['data'] for item in result['publications']]
    assert not {'recovered', 'was_recovering'} & set(result)
    clients.run(clients.channels.publish('now:a', 3))
    assert 3 == peer.push()['pub']['data']


def test_server_side_subscription_is_named_before_its_publications(
    server: Server, clients: Clients
) -> None:
    """Publications arrive after the connect reply that names their channel."""
    channels = [f'#{name}' for name in 'abcdef']
    with Peer.to(server) as peer:
        result = peer.connect(data={'channels': channels, 'publish': True})
        assert [] == peer.pushes
        assert set(channels) == result['subs'].keys()
        for channel in channels:
            assert {'of': channel} == result['subs'][channel]['data']
        clients.run(clients.channels.publish('#f', 'after'))
        assert ('#f', 'after') == (
            (push := peer.push())['channel'],
            push['pub']['data'],
        )


def test_publications_during_connect_arrive_once_and_in_order(
    server: Server, clients: Clients, peer: Peer
) -> None:
    """Replies precede publications. No offset is missing or duplicated."""
    stop = threading.Event()
    channels = [f'#busy{number}' for number in range(8)]

    def publish() -> None:
        while not stop.is_set():
            for channel in channels:
                clients.run(clients.channels.publish(channel, 'x'))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(10):
            with Peer.to(server) as other:
                result = other.connect(data={'channels': channels})
                assert [] == other.pushes
                offsets = {c: s.get('offset', 0) for c, s in result['subs'].items()}
                for _ in range(20):
                    push = other.push()
                    offsets[push['channel']] += 1
                    assert offsets[push['channel']] == push['pub']['offset']
    finally:
        stop.set()
        thread.join(TIMEOUT_S)


def test_server_side_subscription_recovers_from_connect_position(
    server: Server, clients: Clients
) -> None:
    """A connect may carry positions of server-side subscriptions."""
    with Peer.to(server) as peer:
        epoch = peer.connect(data={'channels': ['#rec']})['subs']['#rec']['epoch']
    clients.run(clients.channels.publish('#rec', 'missed'))
    with Peer.to(server) as peer:
        result = peer.connect(
            data={'channels': ['#rec']},
            subs={'#rec': {'recover': True, 'epoch': epoch}, '#else': {}},
        )
        assert {'#rec'} == result['subs'].keys()
        assert ['missed'] == [p['data'] for p in result['subs']['#rec']['publications']]


def test_subscription_by_the_application_is_pushed(
    server: Server, clients: Clients
) -> None:
    """A server-side subscription is pushed to the client, and so is its end."""
    with Peer.to(server) as peer:
        peer.connect(data={'user': 'sub'})
        clients.run(clients.channels.subscribe_user('sub', '#late'))
        push = peer.push()
        assert ('#late', True) == (push['channel'], push['subscribe']['recoverable'])
        clients.run(clients.channels.unsubscribe_user('sub', '#late'))
        assert {
            'channel': '#late',
            'unsubscribe': {'code': 2000, 'reason': 'unsubscribed'},
        } == peer.push()


def connection_of(channels: Channels, user: str) -> Any:
    [connection] = channels.connections(user)
    return connection


@pytest.mark.parametrize(
    ('code', 'end'),
    [
        (2500, (3010, 'insufficient state')),
        (2501, (3006, None)),
        (2502, (3014, 'state invalidated')),
    ],
)
def test_lost_server_side_subscription_ends_the_connection(
    server: Server, clients: Clients, code: int, end: tuple[int, str | None]
) -> None:
    """A client cannot repeat a server-side subscription.

    It therefore connects again.
    """
    with Peer.to(server) as peer:
        peer.connect(data={'user': f'lost{code}', 'channels': ['#lost']})
        connection = connection_of(clients.channels, f'lost{code}')
        subscription = connection.subscriptions['#lost']
        clients.call(connection.hub.unsubscribe, subscription, code, 'lost')
        assert end[0] == peer.end()[0]


def test_lost_subscription_is_ended_with_insufficient_state(
    server: Server, clients: Clients, room: str
) -> None:
    """Insufficient state ends one subscription with 2500, and no other one."""
    with Peer.to(server) as peer:
        peer.connect(data={'user': 'gap'})
        peer.ask('subscribe', channel=room)
        connection = connection_of(clients.channels, 'gap')
        subscription = connection.subscriptions[room]
        clients.call(
            connection.hub.unsubscribe, subscription, 2500, 'insufficient state'
        )
        peer.ask('ping')
        pushes = [push['push'] for push in peer.pushes]
        assert {'code': 2500, 'reason': 'insufficient state'} == (
            pushes[-1]['unsubscribe']
        )


def test_disconnect_by_the_application_sends_its_code_and_reason(
    server: Server, clients: Clients
) -> None:
    """The application chooses the code and the reason."""
    with Peer.to(server) as peer:
        peer.connect(data={'user': 'out'})
        clients.run(
            clients.channels.disconnect_user('out', code=4321, reason='because of that')
        )
        assert (4321, 'because of that') == peer.end()


def test_disconnect_with_code_3000_closes_without_a_code(
    server: Server, clients: Clients, asgi_server: AsgiServer
) -> None:
    """Code 3000 is not sent; ASGI has no close without a code, only 1000."""
    with Peer.to(server) as peer:
        peer.connect(data={'user': 'closed'})
        clients.run(clients.channels.disconnect_user('closed', code=3000))
        code = 1005 if asgi_server.name == 'serve' else 1000
        assert code == peer.end()[0]
        assert [] == peer.pushes


def framed(command: Any) -> bytes:
    body = command.SerializeToString()
    assert len(body) < 128
    return bytes([len(body)]) + body


@pytest.mark.parametrize(
    ('query', 'subprotocols', 'selected'),
    [
        ('', ['centrifuge-protobuf'], 'centrifuge-protobuf'),
        ('', ['centrifuge-json', 'centrifuge-protobuf'], 'centrifuge-protobuf'),
        ('?format=protobuf', None, None),
        ('?cf_protocol=protobuf', None, None),
    ],
)
def test_protobuf_is_selected_by_subprotocol_or_url(
    server: Server,
    clients: Clients,
    room: str,
    query: str,
    subprotocols: Any,
    selected: str | None,
) -> None:
    """The subprotocol or the URL selects Protobuf, which carries any bytes."""
    room = room.replace('rooms:', 'binary:')
    url = f'{server.ws_url}/connection/websocket{query}'
    with connect(url, subprotocols=subprotocols) as ws:
        assert selected == ws.subprotocol
        commands = [
            sdk.Command(id=1, connect=sdk.ConnectRequest()),
            sdk.Command(id=2, subscribe=sdk.SubscribeRequest(channel=room)),
            sdk.Command(
                id=3, publish=sdk.PublishRequest(channel=room, data=b'\xff\x00')
            ),
        ]
        ws.send(b''.join(map(framed, commands)))
        seen = b''
        while b'\xff\x00' not in seen:
            message = ws.recv(TIMEOUT_S)
            assert isinstance(message, bytes)
            seen += message
        ws.send(b'\x01\x01')
        with pytest.raises(ConnectionClosed, match='3501'):
            list(iter(lambda: ws.recv(TIMEOUT_S), None))


def test_json_subprotocol_is_selected_when_offered(server: Server) -> None:
    """A client that offers the JSON subprotocol gets it."""
    with Peer.to(server, subprotocols=['centrifuge-json']) as peer:
        assert 'centrifuge-json' == peer.ws.subprotocol
        peer.connect()


def test_rpc_method_calls_its_responder(peer: Peer) -> None:
    """A method calls its own responder, or the common one."""
    assert {'data': ['any thing', {'a': 1}]} == (
        peer.ask('rpc', method='any thing', data={'a': 1})['rpc']
    )
    assert {'data': ['', None]} == peer.ask('rpc')['rpc']
    assert {'data': None} == peer.ask('rpc', method='nothing')['rpc']
    for method in ('__class__', '_rpc', 'é', 'x' * 1000):
        assert method == peer.ask('rpc', method=method)['rpc']['data'][0]


def test_on_disconnect_is_called_for_every_connected_client(
    server: Server, clients: Clients
) -> None:
    """on_disconnect is called for each client that had connected, however it ends."""
    with Peer.to(server) as peer:
        peer.connect(data={'user': 'closing'})
    with Peer.to(server) as peer:
        peer.connect(data={'user': 'vanishing'})
        peer.ws.socket.close()
    with Peer.to(server) as peer:
        peer.say('rubbish')
        peer.end()
    with Peer.to(server) as last:
        last.connect(data={'user': 'last'})
        clients.run(clients.channels.disconnect_user('last'))
        last.end()
    wait_until(
        lambda: {'closing', 'vanishing', 'last'} <= set(clients.left),
        'on_disconnect was called for all',
    )


@pytest.mark.parametrize('way', ['leaves', 'is disconnected', 'exceeds a limit'])
def test_on_disconnect_is_called_for_every_client_that_on_connect_accepted(
    way: str,
) -> None:
    """An application can release what `on_connect` has stored, however a client ends.

    Before, a client that ended before its connect reply was stored for ever.
    """
    entered, go_on = asyncio.Event(), asyncio.Event()
    online: dict[str, str] = {}
    called: list[str] = []

    class Slow:
        async def on_connect(self, req: Any, connection: Any) -> None:
            connection.user = 'slow'
            online[connection.id] = connection.user
            entered.set()
            await go_on.wait()

        async def on_disconnect(self, req: Any, connection: Any) -> None:
            called.append(connection.id)
            del online[connection.id]

    async def scenario() -> None:
        channels = Channels()
        options = EndpointOptions(max_connections_per_user=1)
        async with channels, asyncio.timeout(TIMEOUT_S):
            client = SimulatedSdk(channels, Slow(), options=options)
            connecting = asyncio.create_task(client.__aenter__())
            await entered.wait()
            if way == 'leaves':
                await client.disconnect()
            elif way == 'is disconnected':
                await channels.disconnect_user('slow')
            else:
                other = SimulatedSdk(channels, None, options=options)
                await other.__aenter__()
                other.connection.user = 'slow'
            go_on.set()
            with pytest.raises(DisconnectedError):
                await connecting
            await channels.node.hub.tasks.finish_graceful()
            assert ({}, 1) == (online, len(called))

    asyncio.run(scenario())


def test_client_that_is_refused_uses_up_no_connection_of_its_claimed_user() -> None:
    """Only accepted clients count towards `max_connections_per_user`.

    Before, a client that claimed to be another user, and was refused later, prevented
    this user from connecting: 3504 is permanent.
    """
    claimed, go_on = asyncio.Event(), asyncio.Event()

    class Checked:
        async def on_connect(self, req: Any, connection: Any) -> None:
            connection.user = 'ann'
            if connection.data == 'wrong password':
                claimed.set()
                await go_on.wait()
                raise falcon.HTTPForbidden()

    async def scenario() -> None:
        channels = Channels()
        options = EndpointOptions(max_connections_per_user=1)
        async with channels, asyncio.timeout(TIMEOUT_S):
            attacker = SimulatedSdk(
                channels, Checked(), options=options, data='wrong password'
            )
            refused = asyncio.create_task(attacker.__aenter__())
            await claimed.wait()
            async with SimulatedSdk(channels, Checked(), options=options) as ann:
                assert ann.connected['client']
                with pytest.raises(DisconnectedError, match='3504'):
                    async with SimulatedSdk(channels, Checked(), options=options):
                        pass
            go_on.set()
            with pytest.raises(DisconnectedError, match='3507'):
                await refused

    asyncio.run(scenario())


def test_client_whose_connect_failed_is_not_subscribed_by_the_application(
    asgi_server: AsgiServer,
) -> None:
    """A client without a successful connect receives nothing of its claimed user.

    Before, it received the publications of such a channel until it was closed.
    """
    channels = Channels()
    channels.add_route('private:{name}', None)
    loops: list[asyncio.AbstractEventLoop] = []

    class Failing:
        async def on_connect(self, req: Any, connection: Any) -> None:
            loops.append(asyncio.get_running_loop())
            connection.user = 'ann'
            raise OSError('the passwords cannot be read')

    async def publish() -> None:
        await channels.subscribe_user('ann', 'private:a')
        for number in range(3):
            await channels.publish('private:a', number)
            await asyncio.sleep(0)

    with (
        serving(channels, Failing(), asgi_server=asgi_server) as server,
        Peer.to(server) as peer,
    ):
        assert 100 == peer.error('connect')
        asyncio.run_coroutine_threadsafe(publish(), loops[0]).result(TIMEOUT_S)
        assert (3502, 'stale') == peer.end()
        assert [] == peer.pushes


def test_draining_disconnects_clients_and_refuses_new_ones() -> None:
    """Draining ends connections with 3001: reconnect. New ones are refused."""
    channels = Channels()
    clients = Clients(channels)
    with serving(channels, clients) as server:
        with Peer.to(server) as peer, Peer.to(server) as new:
            peer.connect()
            clients.run(channels.drain())
            assert (3001, 'shutdown') == peer.end()
            assert (3001, 'shutdown') == new.end()


@pytest.mark.parametrize('path', ['websocket', 'uni_websocket'])
def test_draining_during_a_handshake_disconnects_the_client(path: str) -> None:
    """A client whose handshake ends after draining began gets 3001, not an error."""
    channels = Channels()
    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app)

    async def draining_app(scope: Any, receive: Any, send: Any) -> None:
        async def send_late(event: Any) -> None:
            if event['type'] == 'websocket.accept':
                await channels.drain()
            await send(event)

        await app(scope, receive, send_late)

    with running(draining_app, lifespan='on') as server:
        with Peer.to(server, f'/connection/{path}') as peer:
            assert (3001, 'shutdown') == peer.end()


def test_json_payload_reaches_subscribers_unchanged(peer: Peer) -> None:
    """A payload reaches subscribers exactly as its publisher wrote it."""
    peer.ask('subscribe', channel='raw:a')
    payload = '{"a" : 1.50, "b":"\\u00e9\\/", "c":1e5,"a2":[ ]}'
    peer.say(f'{{"id":70,"publish":{{"channel":"raw:a","data":{payload}}}}}')
    raw = ''
    while payload not in raw:
        raw = str(peer.ws.recv(TIMEOUT_S))
    assert json.loads(payload) == json.loads(raw.split('\n')[-1])['push']['pub']['data']
