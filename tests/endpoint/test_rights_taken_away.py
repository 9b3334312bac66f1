"""Rights are checked again after a responder has waited."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from collections.abc import Iterator
from collections.abc import Mapping
import json
import threading
from typing import Any

import falcon
import falcon.asgi
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.endpoint.client_connection import ClientConnection as ServedClient
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import PresenceStats

pytestmark = pytest.mark.every_server

FORCED = (3503, 'force disconnect')


class SlowBroker(MemoryBroker):
    """Subscribes to a ``slow:`` channel only after the test has released it."""

    app: App

    async def subscribe(self, channel: str, settings: LogSettings) -> Position:
        if channel.startswith('slow:'):
            await self.app.wait()
        return await super().subscribe(channel, settings)

    async def history(
        self, channel: str, settings: LogSettings, **options: Any
    ) -> HistoryPage:
        if channel == '#wait':
            await self.app.wait()
        return await super().history(channel, settings, **options)

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        if channel == '#wait':
            await self.app.wait()
        return await super().presence(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        if channel == '#wait':
            await self.app.wait()
        return await super().presence_stats(channel)


class App:
    """An application whose responders wait until the test releases them."""

    def __init__(self) -> None:
        broker = SlowBroker()
        broker.app = self
        self.channels = Channels(broker)
        options = ChannelOptions(history_size=5, presence=True)
        self.channels.add_route('rooms:{room}', self, options)
        self.channels.add_route(
            'open:{room}',
            self,
            ChannelOptions(history_size=5, presence=True, publishers='anybody'),
        )
        self.channels.add_route('#{name}', None, options)
        self.channels.add_route('slow:{name}', None, options)
        self.app = falcon.asgi.App(middleware=[self.channels])
        self.channels.add_endpoints(self.app, resource=self)
        self.app.add_route('/plain/{room}', self)
        self.loop: asyncio.AbstractEventLoop | None = None
        #: Set when a responder waits.
        self.waits = threading.Event()
        self._released = asyncio.Event()
        #: Whether the connection had ended when `on_rpc` returned.
        self.closed: list[bool] = []

    async def wait(self) -> None:
        """Wait until the test has changed rights."""
        self.waits.set()
        await self._released.wait()
        self._released.clear()

    def run(self, *coroutines: Coroutine[Any, Any, Any]) -> None:
        """Run commands one after the other, without a pause."""

        async def run_all() -> None:
            for coroutine in coroutines:
                await coroutine

        assert self.loop is not None
        asyncio.run_coroutine_threadsafe(run_all(), self.loop).result(TIMEOUT_S)

    def run_while_it_waits(self, *coroutines: Coroutine[Any, Any, Any]) -> None:
        """Run commands while a responder waits; then release it."""
        assert self.waits.wait(TIMEOUT_S)
        self.waits.clear()
        self.run(*coroutines)
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self._released.set)

    async def on_connect(self, req: Any, connection: Any) -> None:
        self.loop = asyncio.get_running_loop()
        data = connection.data or {'user': req.get_param('user')}
        for channel in data.get('channels', ()):
            connection.add_channel(channel)
        if data.get('wait') == 'with the user':
            connection.user = data['user']
        if 'wait' in data or req.has_param('wait'):
            await self.wait()
        connection.user = data['user']

    async def on_rpc_login(self, req: Any, call: Any) -> None:
        await self.wait()
        call.connection.user = call.data

    async def on_rpc(self, req: Any, call: Any) -> None:
        await self.wait()
        self.closed.append(call.connection.closed)

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room == 'wait':
            await self.wait()

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        if publication.data == 'wait':
            await self.wait()

    async def on_presence(self, req: Any, connection: Any, room: str) -> None:
        await self.wait()

    async def on_history(self, req: Any, connection: Any, room: str) -> None:
        await self.wait()

    async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
        self.loop = asyncio.get_running_loop()
        user = req.get_param('user')
        await self.channels.serve(req, ws, f'rooms:{room}', user=user)

    def revoke(self, channel: str) -> Coroutine[Any, Any, None]:
        return self.channels.revoke_user('ann', channel)

    def unsubscribe(self, channel: str, **options: Any) -> Coroutine[Any, Any, None]:
        return self.channels.unsubscribe_user('ann', channel, **options)

    def subscribe(self, channel: str) -> Coroutine[Any, Any, None]:
        return self.channels.subscribe_user('ann', channel)

    def disconnect(self) -> Coroutine[Any, Any, None]:
        return self.channels.disconnect_user('ann')

    def command(self, name: str, channel: str) -> Coroutine[Any, Any, None]:
        """Return the command with a name, for a channel."""
        if name == 'disconnect':
            return self.disconnect()
        command: Coroutine[Any, Any, None] = getattr(self, name)(channel)
        return command

    def present(self, *channels: str) -> list[int]:
        """Return the number of connections in the presence of each channel."""
        found: list[int] = []

        async def read() -> None:
            for channel in channels:
                found.append(len(await self.channels.presence(channel)))

        self.run(read())
        return found

    def history(self, channel: str) -> list[Any]:
        """Return the data of all publications of a channel."""
        found: list[Any] = []

        async def read() -> None:
            page = await self.channels.history(channel)
            found.extend(item.value() for item in page.publications)

        self.run(read())
        return found


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def server(asgi_server: AsgiServer, app: App) -> Iterator[Server]:
    with serving_app(app.app, asgi_server) as server:
        yield server


@pytest.fixture
def ann(server: Server) -> Iterator[Peer]:
    """A connected client."""
    with Peer.to(server) as peer:
        peer.connect(data={'user': 'ann'})
        yield peer


def begin_to_connect(peer: Peer, wait: str, **data: Any) -> None:
    """Send a connect request whose responder waits."""
    peer.say({'id': 1, 'connect': {'data': {'user': 'ann', 'wait': wait, **data}}})


#: `on_connect` waits before it has set the user, or after that.
WAITS = pytest.mark.parametrize('wait', ['without the user', 'with the user'])


# --- publish and read ----------------------------------------------------------------


@pytest.mark.parametrize(
    ('channel', 'subscribed', 'command'),
    [
        ('rooms:a', True, 'revoke'),
        ('rooms:a', True, 'unsubscribe'),
        ('rooms:a', True, 'disconnect'),
        ('open:a', True, 'revoke'),
        ('open:a', False, 'revoke'),
        ('open:a', False, 'disconnect'),
    ],
)
def test_publish_that_waits_while_its_right_is_taken_away_is_refused(
    ann: Peer, app: App, channel: str, subscribed: bool, command: str
) -> None:
    """A publication is not sent if its client lost the right while it waited."""
    if subscribed:
        ann.ask('subscribe', channel=channel)
    ann.say({'id': 90, 'publish': {'channel': channel, 'data': 'wait'}})
    app.run_while_it_waits(app.command(command, channel))
    if command == 'disconnect':
        assert FORCED == ann.end()
    else:
        assert 103 == ann.answer(90)['error']['code']
    assert [] == app.history(channel)


def test_publish_that_waits_while_another_channel_is_revoked_is_sent(
    ann: Peer, app: App
) -> None:
    """Only a lost right to the same channel matters."""
    ann.ask('subscribe', channel='rooms:a')
    ann.say({'id': 90, 'publish': {'channel': 'rooms:a', 'data': 'wait'}})
    app.run_while_it_waits(app.revoke('rooms:b'), app.unsubscribe('rooms:c'))
    assert {'publish': {}} == ann.answer(90)
    assert ['wait'] == app.history('rooms:a')


def test_publish_that_waits_while_its_client_leaves_is_sent(
    ann: Peer, app: App
) -> None:
    """If a client closes its connection, its waiting publication is still sent."""
    ann.ask('subscribe', channel='rooms:a')
    ann.say({'id': 90, 'publish': {'channel': 'rooms:a', 'data': 'wait'}})
    assert app.waits.wait(TIMEOUT_S)
    ann.ws.close()
    wait_until(lambda: not app.channels.node.hub.connections, 'the end')
    app.run_while_it_waits()
    wait_until(lambda: app.history('rooms:a') == ['wait'], 'the publication')


@pytest.mark.parametrize('request_', ['history', 'presence', 'presence_stats'])
@pytest.mark.parametrize('subscribed', [True, False])
def test_read_that_waits_while_its_right_is_revoked_is_refused(
    ann: Peer, app: App, request_: str, subscribed: bool
) -> None:
    """History and presence are not sent to a client that has lost the right."""
    if subscribed:
        ann.ask('subscribe', channel='open:a')
    ann.say({'id': 90, request_: {'channel': 'open:a'}})
    app.run_while_it_waits(app.revoke('open:a'))
    assert 103 == ann.answer(90)['error']['code']
    ann.say({'id': 91, request_: {'channel': 'open:b'}})
    app.run_while_it_waits(app.revoke('open:a'))
    assert {request_} == ann.answer(91).keys()


@pytest.mark.parametrize('request_', ['history', 'presence', 'presence_stats'])
@pytest.mark.parametrize('command', ['revoke', 'unsubscribe', 'disconnect'])
def test_slow_read_is_not_sent_after_its_right_is_taken_away(
    server: Server, app: App, request_: str, command: str
) -> None:
    """A result is not sent if the right was taken away while the broker read."""
    with Peer.to(server) as peer:
        peer.connect(data={'user': 'ann', 'channels': ['#wait']})
        peer.say({'id': 90, request_: {'channel': '#wait', 'limit': 5}})
        app.run_while_it_waits(
            app.command(command, '#wait'), app.channels.publish('#wait', 'no')
        )
        if command == 'disconnect':
            assert FORCED == peer.end()
            assert [] == peer.pushes
        else:
            assert 103 == peer.answer(90)['error']['code']


# --- subscribe -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('code', 'error'), [(2000, (103, False)), (2500, (100, True)), (2501, (100, True))]
)
def test_subscribe_that_waits_while_it_is_unsubscribed_is_refused(
    ann: Peer, app: App, code: int, error: tuple[int, bool]
) -> None:
    """A code from 2500 on lets the client try again: the error is temporary."""
    ann.say({'id': 90, 'subscribe': {'channel': 'rooms:wait'}})
    app.run_while_it_waits(app.unsubscribe('rooms:wait', code=code))
    answer = ann.answer(90)['error']
    assert error == (answer['code'], answer.get('temporary', False))
    app.run(app.channels.publish('rooms:wait', 'no'))
    ann.ask('unsubscribe', channel='rooms:wait')
    assert [] == ann.pushes


def test_subscribe_that_waits_while_its_state_is_invalidated_loads_it_again(
    ann: Peer, app: App
) -> None:
    """Code 2502 tells a client that has loaded its state to load it again."""
    position = {'channel': 'rooms:wait', 'recover': True, 'flag': 2}
    ann.say({'id': 90, 'subscribe': position})
    app.run_while_it_waits(app.unsubscribe('rooms:wait', code=2502))
    assert 112 == ann.answer(90)['error']['code']


@pytest.mark.parametrize('command', ['revoke', 'disconnect'])
def test_subscribe_that_waits_while_its_right_is_taken_away_is_refused(
    ann: Peer, app: App, command: str
) -> None:
    """The client gets no publication of the channel."""
    ann.say({'id': 90, 'subscribe': {'channel': 'rooms:wait'}})
    app.run_while_it_waits(
        app.command(command, 'rooms:wait'), app.channels.publish('rooms:wait', 'no')
    )
    if command == 'disconnect':
        assert FORCED == ann.end()
    else:
        assert 103 == ann.answer(90)['error']['code']
    assert [] == ann.pushes


# --- connect -------------------------------------------------------------------------


@WAITS
def test_disconnect_user_reaches_a_connection_that_is_being_connected(
    server: Server, app: App, wait: str
) -> None:
    """The command is applied, even if the user is set after it."""
    with Peer.to(server) as peer:
        begin_to_connect(peer, wait)
        app.run_while_it_waits(app.disconnect())
        assert FORCED == peer.end()


@WAITS
def test_refresh_user_reaches_a_connection_that_is_being_connected(
    server: Server, app: App, wait: str
) -> None:
    """`expired` ends the connection; another expiry applies from the start."""
    with Peer.to(server) as peer:
        begin_to_connect(peer, wait)
        app.run_while_it_waits(app.channels.refresh_user('ann', expired=True))
        assert 3005 == peer.end()[0]
    with Peer.to(server) as peer:
        begin_to_connect(peer, wait)
        app.run_while_it_waits(app.channels.refresh_user('ann', expires_at=4e9))
        assert peer.answer(1)['connect']['client']
        [connection] = app.channels.connections('ann')
        assert isinstance(connection, ServedClient)
        assert 4e9 == connection.expires_at


@WAITS
@pytest.mark.parametrize('command', ['unsubscribe', 'revoke'])
def test_server_side_subscription_is_not_made_after_its_right_is_taken_away(
    server: Server, app: App, wait: str, command: str
) -> None:
    """The channels that `on_connect` has added are checked when it has returned."""
    with Peer.to(server) as peer:
        begin_to_connect(peer, wait, channels=['#a', '#b'])
        app.run_while_it_waits(app.command(command, '#a'))
        assert {'#b'} == peer.answer(1)['connect']['subs'].keys()
        app.run(app.channels.publish('#a', 'no'), app.channels.publish('#b', 'yes'))
        assert ('#b', 'yes') == push_of(peer)


@WAITS
def test_unsubscribe_of_all_channels_holds_for_a_connection_that_is_being_connected(
    server: Server, app: App, wait: str
) -> None:
    """An empty channel name means all channels."""
    with Peer.to(server) as peer:
        begin_to_connect(peer, wait, channels=['#a', '#b'])
        app.run_while_it_waits(app.unsubscribe(''))
        assert 'subs' not in peer.answer(1)['connect']


def test_server_side_subscription_that_is_ended_while_it_is_made_is_not_in_the_reply(
    server: Server, app: App
) -> None:
    """With a code from 2500 on, the client connects again and is subscribed."""
    data = {'user': 'ann', 'channels': ['slow:a', '#b']}
    with Peer.to(server) as peer:
        peer.say({'id': 1, 'connect': {'data': data}})
        app.run_while_it_waits(app.unsubscribe('slow:a'))
        assert {'#b'} == peer.answer(1)['connect']['subs'].keys()
    data = {'user': 'ann', 'channels': ['slow:c', '#b']}
    with Peer.to(server) as peer:
        peer.say({'id': 1, 'connect': {'data': data}})
        app.run_while_it_waits(app.unsubscribe('slow:c', code=2500))
        assert (3010, 'insufficient state') == peer.end()
        assert [] == peer.pushes
    data = {'user': 'ann', 'channels': ['slow:d']}
    with Peer.to(server) as peer:
        peer.say({'id': 1, 'connect': {'data': data}})
        app.run_while_it_waits(app.unsubscribe('slow:d', code=2502))
        assert (3014, 'state invalidated') == peer.end()


def test_server_side_subscription_that_has_not_begun_is_ended(
    server: Server, app: App
) -> None:
    """A later channel of the connect reply is not subscribed after the command."""
    with Peer.to(server) as peer:
        data = {'user': 'ann', 'channels': ['slow:a', '#b']}
        peer.say({'id': 1, 'connect': {'data': data}})
        app.run_while_it_waits(app.unsubscribe('#b'))
        assert {'slow:a'} == peer.answer(1)['connect']['subs'].keys()


@WAITS
def test_last_command_about_a_channel_decides_while_the_client_connects(
    server: Server, app: App, wait: str
) -> None:
    """Commands are applied in the order of the calls, after the connect reply."""
    with Peer.to(server) as peer:
        begin_to_connect(peer, wait)
        app.run_while_it_waits(
            app.subscribe('#gone'),
            app.unsubscribe('#stays'),
            app.unsubscribe('#gone'),
            app.subscribe('#stays'),
        )
        peer.answer(1)
        push = peer.push()
        assert ('#stays', True) == (push['channel'], 'subscribe' in push)
        app.run(app.channels.publish('#gone', 1), app.channels.publish('#stays', 2))
        assert ('#stays', 2) == push_of(peer)


def test_last_command_about_a_channel_decides_for_a_connected_client(
    ann: Peer, app: App
) -> None:
    """`unsubscribe_user` right after `subscribe_user` ends the subscription."""
    app.run(
        app.subscribe('#gone'),
        app.unsubscribe('#gone'),
        app.unsubscribe('#stays'),
        app.subscribe('#stays'),
        app.channels.publish('#gone', 1),
    )
    push = ann.push()
    assert ('#stays', True) == (push['channel'], 'subscribe' in push)
    app.run(app.channels.publish('#gone', 1), app.channels.publish('#stays', 2))
    assert ('#stays', 2) == push_of(ann)


@WAITS
def test_subscribe_user_in_the_connect_reply_is_subscribed_once(
    server: Server, app: App, wait: str
) -> None:
    """A channel that `on_connect` has added is not subscribed again."""
    with Peer.to(server) as peer:
        begin_to_connect(peer, wait, channels=['#a'])
        app.run_while_it_waits(app.subscribe('#a'), app.subscribe('#b'))
        assert {'#a'} == peer.answer(1)['connect']['subs'].keys()
        assert '#b' == peer.push()['channel']
        app.run(app.channels.publish('#a', 1), app.channels.publish('#b', 2))
        assert [('#a', 1), ('#b', 2)] == [push_of(peer), push_of(peer)]
        assert [1, 1] == app.present('#a', '#b')
    wait_until(lambda: app.present('#a', '#b') == [0, 0], 'presence is empty')


def test_subscribe_user_reaches_a_unidirectional_client_after_its_connect_push(
    server: Server, app: App
) -> None:
    """A client that only listens gets the subscription after its first push."""
    with connect(server.ws_url + '/connection/uni_websocket?user=ann&wait') as ws:
        ws.send('{}')
        app.run_while_it_waits(app.subscribe('#a'))
        assert {'connect'} == json.loads(ws.recv(TIMEOUT_S)).keys()
        push = json.loads(ws.recv(TIMEOUT_S))
        assert ('#a', True) == (push['channel'], 'subscribe' in push)


def push_of(peer: Peer) -> tuple[str, Any]:
    """Return the channel and the data of the next push, a publication."""
    push = peer.push()
    return push['channel'], push['pub']['data']


# --- calls ---------------------------------------------------------------------------


def test_disconnect_user_reaches_a_connection_that_logs_in(
    server: Server, app: App
) -> None:
    """The command is applied, even if a call sets the user after it."""
    with Peer.to(server) as peer:
        peer.connect(data={'user': ''})
        peer.say({'id': 90, 'rpc': {'method': 'login', 'data': 'ann'}})
        app.run_while_it_waits(app.disconnect())
        assert FORCED == peer.end()


def test_call_that_waits_while_its_user_is_disconnected_has_no_reply(
    ann: Peer, app: App
) -> None:
    """The responder runs to its end, and can see that the connection has ended."""
    ann.say({'id': 90, 'rpc': {'method': 'work'}})
    app.run_while_it_waits(app.disconnect())
    assert FORCED == ann.end()
    assert [] == ann.pushes
    wait_until(lambda: app.closed, 'the end of the responder')
    assert [True] == app.closed


# --- plain WebSockets ----------------------------------------------------------------


def end_of(ws: ClientConnection) -> tuple[int | None, list[Any]]:
    """Return the close code of a plain WebSocket, and what it received before."""
    received: list[Any] = []
    try:
        while True:
            received.append(ws.recv(TIMEOUT_S))
    except ConnectionClosed:
        return ws.close_code, received


@pytest.mark.parametrize(
    ('command', 'code'),
    [('revoke', 3403), ('unsubscribe', 3403), ('disconnect', 3503)],
)
def test_plain_websocket_that_waits_while_its_right_is_taken_away_is_closed(
    server: Server, app: App, command: str, code: int
) -> None:
    """`on_subscribe` waits: a client that is accepted after the command is closed."""
    clients: list[tuple[int | None, list[Any]]] = []

    def client() -> None:
        with connect(f'{server.ws_url}/plain/wait?user=ann') as ws:
            clients.append(end_of(ws))

    thread = threading.Thread(target=client)
    thread.start()
    app.run_while_it_waits(
        app.command(command, 'rooms:wait'), app.channels.publish('rooms:wait', 'no')
    )
    thread.join(TIMEOUT_S)
    assert [(code, [])] == clients


@pytest.mark.parametrize(
    ('command', 'code'),
    [('revoke', 3403), ('unsubscribe', 3403), ('disconnect', 3503)],
)
def test_publish_of_a_plain_websocket_that_lost_its_right_is_refused(
    server: Server, app: App, command: str, code: int
) -> None:
    """`on_publish` waits: the message is not published."""
    with connect(f'{server.ws_url}/plain/a?user=ann') as ws:
        ws.send('wait')
        app.run_while_it_waits(app.command(command, 'rooms:a'))
        assert (code, []) == end_of(ws)
    assert [] == app.history('rooms:a')


# --- unidirectional clients ----------------------------------------------------------


@pytest.mark.parametrize(
    ('command', 'code'), [('revoke', 3507), ('unsubscribe', 3507), ('disconnect', 3503)]
)
@pytest.mark.parametrize('waits_for', ['on_connect', 'on_subscribe'])
def test_unidirectional_client_that_waits_while_its_right_is_taken_away_is_ended(
    server: Server, app: App, command: str, code: int, waits_for: str
) -> None:
    """`on_connect` or `on_subscribe` waits: the commands are applied afterwards."""
    room = 'wait' if waits_for == 'on_subscribe' else 'a'
    path = '/connection/uni_websocket?user=ann'
    if waits_for == 'on_connect':
        path += '&wait'
    with connect(server.ws_url + path) as ws:
        ws.send(json.dumps({'subs': {f'rooms:{room}': {}}}))
        app.run_while_it_waits(app.command(command, f'rooms:{room}'))
        if (waits_for, command) == ('on_connect', 'unsubscribe'):
            # The client asks for the subscription after the command.
            assert 'rooms:a' in json.loads(ws.recv(TIMEOUT_S))['connect']['subs']
            return
        ended, received = end_of(ws)
    assert code == ended
    assert [code] == [json.loads(text)['disconnect']['code'] for text in received]


def test_stream_that_waits_while_its_user_is_disconnected_is_refused(
    server: Server, app: App
) -> None:
    """A stream whose response has not begun gets a status."""
    url = server.ws_url.replace('ws', 'http', 1)
    statuses: list[int] = []

    def client() -> None:
        path = '/connection/uni_sse?user=ann&wait'
        statuses.append(httpx.get(url + path, timeout=TIMEOUT_S).status_code)

    thread = threading.Thread(target=client)
    thread.start()
    app.run_while_it_waits(app.disconnect())
    thread.join(TIMEOUT_S)
    assert [403] == statuses
