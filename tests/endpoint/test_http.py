"""The client protocol over plain HTTP, and unidirectional clients."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from collections.abc import Iterator
import contextlib
import json
from pathlib import Path
import socket
from typing import Any
from typing import Self

from centrifuge.protocol import client_pb2 as sdk
import falcon
import falcon.asgi
import falcon.testing
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels import NodeOptions
from falcon_channels.endpoint.unidirectional import status_for_end
from falcon_channels.protocol import codes

pytestmark = pytest.mark.every_server

ORIGIN = 'https://app.example'


class Room:
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room == 'secret':
            raise falcon.HTTPForbidden()

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        """Let subscribers publish."""


class Clients:
    loop: asyncio.AbstractEventLoop | None = None

    async def on_connect(self, req: Any, connection: Any) -> None:
        Clients.loop = asyncio.get_running_loop()
        status = req.get_param_as_int('refuse')
        if status:
            raise falcon.HTTPError(status)
        connection.user = req.get_param('user', default='ann')
        if req.has_param('personal'):
            connection.add_channel(f'#{connection.user}')


channels = Channels()


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    global channels
    channels = Channels(
        options=NodeOptions(
            allowed_origins=(ORIGIN,), max_message_bytes=4096, max_batch_bytes=4096
        )
    )
    channels.add_route(
        'rooms:{room}',
        Room(),
        ChannelOptions(history_size=10, presence=True, max_publication_bytes=4096),
    )
    channels.add_route('#{user}', None, ChannelOptions(history_size=10))
    channels.add_route(
        'slow:{room}',
        Room(),
        ChannelOptions(max_backlog_bytes=200_000),
    )
    with serving(channels, Clients(), asgi_server=asgi_server) as server:
        yield server


def url(server: Server) -> str:
    return f'http://127.0.0.1:{server.port}'


@pytest.fixture(scope='module')
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url(server), timeout=TIMEOUT_S) as client:
        yield client


class Stream:
    """A streamed response, part by part."""

    def __init__(self, client: httpx.Client, response: httpx.Response) -> None:
        self.client = client
        self.response = response
        self._chunks = response.iter_raw()
        self._rest = b''
        self.last_id = ''
        self.session: dict[str, str] = {}
        self.id = 1

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, client: httpx.Client, method: str, path: str, **options: Any
    ) -> Iterator[Self]:
        with client.stream(method, path, **options) as response:
            yield cls(client, response)

    def part(self, separator: bytes) -> bytes:
        """Return the bytes before the next separator."""
        while separator not in self._rest:
            self._rest += next(self._chunks)
        part, _, self._rest = self._rest.partition(separator)
        return part

    def line(self) -> dict[str, Any]:
        """Return the next object of a stream of lines."""
        value: dict[str, Any] = json.loads(self.part(b'\n'))
        return value

    def data(self) -> dict[str, Any]:
        """Return the next object of a stream of events, and remember its event id."""
        fields: dict[str, str] = {}
        while 'data' not in fields:
            lines = self.part(b'\n\n').decode().split('\n')
            parts = [line.partition(':') for line in lines]
            fields = {name: value.strip() for name, _, value in parts}
        self.last_id = fields.get('id', self.last_id)
        found: dict[str, Any] = json.loads(fields['data'])
        return found

    def connected(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Read the connect reply, and store its session for commands."""
        result: dict[str, Any] = reply['connect']
        self.session = {name: result[name] for name in ('session', 'node')}
        return result

    def say(self, *commands: dict[str, Any]) -> httpx.Response:
        """Send a frame of commands in a separate request."""
        data = '\n'.join(json.dumps(command) for command in commands)
        return self.client.post('/emulation', json={**self.session, 'data': data})

    def rest(self) -> bytes:
        """Return everything until the end."""
        return self._rest + b''.join(self._chunks)


CONNECT = '{"id":1,"connect":{}}'


@pytest.mark.parametrize('way', ['http_stream', 'sse', 'sse by POST'])
def test_commands_over_http_are_answered_in_the_stream(
    client: httpx.Client, way: str
) -> None:
    """Replies arrive in the stream. Commands are sent in separate requests."""
    channel = f'rooms:{way.replace(" ", "")}'
    first = CONNECT + '\n' + json.dumps({'id': 2, 'subscribe': {'channel': channel}})
    asked: dict[str, Any] = {'content': first}
    method = 'POST'
    if way == 'sse':
        method, asked = 'GET', {'params': {'cf_connect': first}}
    path = f'/connection/{way.split(" ")[0]}'
    with Stream.open(client, method, path, **asked) as stream:
        headers = stream.response.headers
        assert 'no' == headers['X-Accel-Buffering']
        assert 'no-store' in headers['Cache-Control']
        media = 'application/json' if way == 'http_stream' else 'text/event-stream'
        assert media == headers['Content-Type']
        hear = stream.line if way == 'http_stream' else stream.data
        result = stream.connected(hear())
        assert result['pong'] is True
        assert 'subscribe' in hear()
        done = stream.say(
            {'id': 3, 'publish': {'channel': channel, 'data': 'hi\n\r'}},
            {'id': 4, 'ping': {}},
        )
        assert (204, b'') == (done.status_code, done.content)
        heard = [hear() for _ in range(3)]
        assert {3, 4} == {message['id'] for message in heard if 'id' in message}
        [push] = [message['push'] for message in heard if 'push' in message]
        assert ('hi\n\r', 1) == (push['pub']['data'], push['pub']['offset'])


def framed(command: Any) -> bytes:
    body = command.SerializeToString()
    assert len(body) < 128
    return bytes([len(body)]) + body


def test_protobuf_content_type_selects_protobuf(client: httpx.Client) -> None:
    """The content type selects Protobuf for the stream and for commands."""
    media = {'Content-Type': 'application/octet-stream'}
    body = framed(sdk.Command(id=1, connect=sdk.ConnectRequest()))
    with Stream.open(
        client, 'POST', '/connection/http_stream', content=body, headers=media
    ) as stream:
        assert media['Content-Type'] == stream.response.headers['Content-Type']
        reply = sdk.Reply()
        raw = b''
        while not raw or len(raw) < raw[0] + 1:
            raw += next(stream._chunks)
        reply.ParseFromString(raw[1 : raw[0] + 1])
        up = sdk.EmulationRequest(
            session=reply.connect.session,
            node=reply.connect.node,
            data=framed(sdk.Command(id=2, ping=sdk.PingRequest())),
        )
        done = client.post('/emulation', content=up.SerializeToString(), headers=media)
        assert 204 == done.status_code
        assert next(stream._chunks).endswith(b'\x02b\x00')


def test_ended_stream_sends_a_disconnect_push_last(client: httpx.Client) -> None:
    """A stream has no close frame, so its last message has the reason of its end."""
    with Stream.open(
        client, 'POST', '/connection/http_stream', content=CONNECT
    ) as stream:
        stream.connected(stream.line())
        stream.say({'id': 9, 'connect': {}})
        assert {
            'push': {'disconnect': {'code': 3501, 'reason': 'bad request'}}
        } == json.loads(stream.rest())


def test_closed_stream_removes_its_connection_and_session(client: httpx.Client) -> None:
    """A client that closes its stream loses its connection and its session."""
    wait_until(lambda: not channels.connections(), 'no connection is left')
    with Stream.open(
        client, 'POST', '/connection/http_stream', content=CONNECT
    ) as stream:
        stream.connected(stream.line())
        assert 1 == len(channels.connections())
        session = stream.session
    wait_until(lambda: not channels.connections(), 'the connection has ended')
    gone = client.post('/emulation', json={**session, 'data': CONNECT})
    assert 404 == gone.status_code


@pytest.mark.parametrize(
    ('body', 'status'),
    [
        (b'', 400),
        (b'{', 400),
        (b'[]', 400),
        (b'{"session":1}', 400),
        (b'{"session":"a","session":"b"}', 400),
        (b'\xff', 400),
        (b'{}', 404),
        (b'{"session":"","node":"","data":"{}"}', 404),
        (b'x' * 9000, 413),
    ],
)
def test_emulation_request_without_valid_session_is_refused(
    client: httpx.Client, body: bytes, status: int
) -> None:
    """A request that names no session of this process is refused."""
    assert status == client.post('/emulation', content=body).status_code


def test_public_client_id_is_not_a_session(client: httpx.Client) -> None:
    """A session has 192 random bits.

    The public id of the connection is not accepted.
    """
    with Stream.open(
        client, 'POST', '/connection/http_stream', content=CONNECT
    ) as stream:
        result = stream.connected(stream.line())
        assert len(stream.session['session']) == 32
        wrong = {'session': result['client'], 'node': result['node'], 'data': '{}'}
        assert 404 == client.post('/emulation', json=wrong).status_code


#: Requests, and the status of each one that is allowed.
PATHS = [
    ('POST', '/connection/http_stream', {'content': CONNECT}, 200),
    ('GET', '/connection/sse', {'params': {'cf_connect': CONNECT}}, 200),
    ('POST', '/connection/uni_http_stream', {'content': '{}'}, 200),
    ('GET', '/connection/uni_sse', {}, 200),
    ('POST', '/emulation', {'json': {'session': 'x', 'node': 'y', 'data': ''}}, 404),
]


@pytest.mark.parametrize(('method', 'path', 'asked', 'status'), PATHS)
def test_request_from_another_origin_is_refused_unless_allowed(
    client: httpx.Client, method: str, path: str, asked: dict[str, Any], status: int
) -> None:
    """A page of another site is refused, unless its origin is allowed."""
    evil = {'Origin': 'https://evil.example'}
    assert 403 == client.request(method, path, headers=evil, **asked).status_code
    with client.stream(method, path, headers={'Origin': ORIGIN}, **asked) as good:
        assert status == good.status_code
        assert ORIGIN == good.headers['Access-Control-Allow-Origin']
        assert 'Origin' in good.headers['Vary']
    preflight = client.options(path, headers={'Origin': ORIGIN})
    assert 204 == preflight.status_code
    assert method in preflight.headers['Access-Control-Allow-Methods']
    assert 403 == client.options(path, headers=evil).status_code


@pytest.mark.parametrize(
    'path',
    [
        *('http_stream', 'sse', 'uni_http_stream', 'uni_sse'),
        '../emulation',
    ],
)
def test_preflight_is_answered_beside_cors_of_falcon(path: str) -> None:
    """Falcon's own CORS for other routes leaves the answers of the endpoint."""
    channels = Channels(options=NodeOptions(allowed_origins=[ORIGIN]))
    app = falcon.asgi.App(middleware=[channels], cors_enable=True)
    channels.add_endpoints(app)
    result = falcon.testing.simulate_options(
        app,
        f'/connection/{path}'.replace('/connection/..', ''),
        headers={
            'Origin': ORIGIN,
            'Access-Control-Request-Method': 'POST',
            'Access-Control-Request-Headers': 'content-type',
        },
    )
    assert 204 == result.status_code
    assert ORIGIN == result.headers['Access-Control-Allow-Origin']
    assert 'true' == result.headers['Access-Control-Allow-Credentials']
    assert 'POST' in result.headers['Access-Control-Allow-Methods']
    assert 'content-type' == result.headers['Access-Control-Allow-Headers'].lower()


def test_body_over_max_batch_bytes_is_refused_and_logged(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A body over max_batch_bytes is refused, with or without a Content-Length."""

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b'x' * 1000

    # NOTE: a server may close a connection whose body it has not read.
    client.headers['Connection'] = 'close'
    for content in (b'x' * 5000, chunks()):
        done = client.post('/connection/http_stream', content=content)
        assert 413 == done.status_code
    paths = ('/connection/uni_http_stream', '/connection/uni_sse', '/connection/sse')
    for path in paths:
        assert 413 == client.post(path, content=b'x' * 5000).status_code
    assert 413 == client.post('/emulation', content=b'x' * 9000).status_code
    logged = [r.getMessage() for r in caplog.records if 'exceed' in r.getMessage()]
    assert 6 == len(logged)
    for path in (*paths, '/connection/http_stream', '/emulation'):
        assert any(path in line for line in logged)
    assert 400 == client.get('/connection/sse').status_code
    assert 400 == client.post('/connection/http_stream', content=b'\xff').status_code


# --- unidirectional --------------------------------------------------------------


def publish(client: httpx.Client, room: str, value: Any) -> None:
    """Publish through a separate connection."""
    channel = f'rooms:{room}'
    first = CONNECT + '\n' + json.dumps({'id': 2, 'subscribe': {'channel': channel}})
    with Stream.open(
        client, 'POST', '/connection/http_stream', content=first
    ) as stream:
        stream.connected(stream.line())
        stream.line()
        stream.say({'id': 3, 'publish': {'channel': channel, 'data': value}})
        while stream.line().get('id') != 3:
            pass


def test_event_source_receives_the_channels_of_its_url(client: httpx.Client) -> None:
    """The URL names the channels. Pushes have no envelope."""
    path = '/connection/uni_sse?channel=rooms:es&channel=rooms:es2&personal=1'
    with Stream.open(client, 'GET', path) as stream:
        first = stream.data()['connect']
        assert {'rooms:es', 'rooms:es2', '#ann'} == first['subs'].keys()
        assert 'pong' not in first
        assert 'session' not in first
        publish(client, 'es2', {'text': 'hello'})
        push = stream.data()
        assert ('rooms:es2', {'text': 'hello'}) == (
            push['channel'],
            push['pub']['data'],
        )


def test_event_source_recovers_from_its_last_event_id(client: httpx.Client) -> None:
    """The last event id holds the positions of all channels, from which it recovers."""
    path = '/connection/uni_sse?channel=rooms:r1&channel=rooms:r2'
    with Stream.open(client, 'GET', path) as stream:
        stream.data()
        publish(client, 'r1', 'one')
        publish(client, 'r2', 'two')
        assert ['one', 'two'] == [stream.data()['pub']['data'] for _ in range(2)]
        last_id = stream.last_id
    for room, value in (('r1', 'three'), ('r2', 'four'), ('r1', 'five')):
        publish(client, room, value)
    with Stream.open(client, 'GET', path, headers={'Last-Event-ID': last_id}) as stream:
        subs = stream.data()['connect']['subs']
        assert [True, True] == [sub['recovered'] for sub in subs.values()]
        missed = [stream.data() for _ in range(3)]
        assert {('rooms:r1', 'three'), ('rooms:r1', 'five'), ('rooms:r2', 'four')} == {
            (push['channel'], push['pub']['data']) for push in missed
        }


def command(call: Coroutine[Any, Any, Any]) -> None:
    """Give a command of the application, and wait until it was sent."""
    assert Clients.loop is not None
    asyncio.run_coroutine_threadsafe(call, Clients.loop).result(TIMEOUT_S)


def test_event_id_requests_no_channel_of_the_application(client: httpx.Client) -> None:
    """The channels of a returning client are those of its URL and of `on_connect`.

    The application had subscribed it to a channel that clients may not subscribe to.
    The client was refused permanently, because its event id has this channel.
    """
    path = '/connection/uni_sse?user=zoe&channel=rooms:z'
    with Stream.open(client, 'GET', path) as stream:
        stream.data()
        command(channels.subscribe_user('zoe', '#zoe'))
        assert '#zoe' == stream.data()['channel']
        command(channels.publish('#zoe', 'seen'))
        assert 'seen' == stream.data()['pub']['data']
        headers = {'Last-Event-ID': stream.last_id}
    command(channels.publish('#zoe', 'missed'))
    with Stream.open(client, 'GET', path, headers=headers) as stream:
        subs = stream.data()['connect']['subs']
        assert {'rooms:z': True} == {
            name: sub['recovered'] for name, sub in subs.items()
        }
    path += '&personal=1'
    with Stream.open(client, 'GET', path, headers=headers) as stream:
        assert stream.data()['connect']['subs']['#zoe']['recovered']
        assert 'missed' == stream.data()['pub']['data']


def test_event_id_that_becomes_too_long_is_withdrawn(client: httpx.Client) -> None:
    """A client never keeps an old event id: it would receive publications again."""
    path = '/connection/uni_sse?user=len&channel=rooms:len'
    with Stream.open(client, 'GET', path) as stream:
        stream.data()
        assert stream.last_id
        for number in range(70):
            channel = f'rooms:a-room-with-a-long-name-{number}'
            command(channels.subscribe_user('len', channel))
            assert channel == stream.data()['channel']
        assert '' == stream.last_id


@pytest.mark.parametrize('last_id', ['x', '!!!', 'W10=', 'eyJhIjoxfQ==', 'x' * 5000])
def test_foreign_event_id_is_ignored(client: httpx.Client, last_id: str) -> None:
    """An event id of another server is not an error."""
    path = '/connection/uni_sse?channel=rooms:ids'
    headers = {'Last-Event-ID': last_id}
    with Stream.open(client, 'GET', path, headers=headers) as stream:
        assert {'rooms:ids'} == stream.data()['connect']['subs'].keys()


@pytest.mark.parametrize(
    ('query', 'status'),
    [
        ('refuse=401', 401),
        ('refuse=403', 403),
        ('refuse=400', 400),
        ('refuse=415', 415),
        ('channel=rooms:secret', 403),
        ('channel=nowhere', 400),
        ('channel=', 400),
        ('cf_connect={', 400),
        ('cf_connect={"token":1}', 400),
    ],
)
def test_refused_event_source_gets_an_http_error(
    client: httpx.Client, query: str, status: int
) -> None:
    """A refused EventSource gets an HTTP status at which a browser gives up."""
    assert status == client.get(f'/connection/uni_sse?{query}').status_code
    wait_until(lambda: not channels.connections(), 'no connection is left')


@pytest.mark.parametrize(
    'name', [n for n in vars(codes) if n.startswith('DISCONNECT_')]
)
def test_event_source_gives_up_after_every_permanent_refusal(name: str) -> None:
    """Only a client that shall connect again gets a stream, which ends."""
    end = getattr(codes, name)
    assert end.reconnects is (status_for_end(end.code) is None)


def test_event_source_over_the_limit_of_its_user_gives_up(
    asgi_server: AsgiServer,
) -> None:
    """A client over `max_connections_per_user` does not return every few seconds."""
    options = EndpointOptions(max_connections_per_user=1)
    with (
        serving(Channels(), Clients(), asgi_server=asgi_server, options=options) as own,
        Peer.to(own) as peer,
    ):
        peer.connect()
        refused = httpx.get(f'{url(own)}/connection/uni_sse', timeout=TIMEOUT_S)
        assert 403 == refused.status_code
        assert 'connection limit' == refused.json()['description']


def test_temporarily_refused_event_source_gets_a_stream_that_ends(
    client: httpx.Client,
) -> None:
    """After a temporary error the stream ends with the reason.

    The client reconnects.
    """
    with Stream.open(client, 'GET', '/connection/uni_sse?refuse=503') as stream:
        assert 200 == stream.response.status_code
        assert {
            'disconnect': {'code': 3001, 'reason': 'shutdown', 'reconnect': True}
        } == stream.data()
        assert b'' == stream.rest().strip()


def test_unidirectional_http_stream_sends_one_line_per_push(
    client: httpx.Client,
) -> None:
    """The answer to one request has a line for each push."""
    body = json.dumps({'subs': {'rooms:curl': {}}})
    with Stream.open(
        client, 'POST', '/connection/uni_http_stream', content=body
    ) as stream:
        assert {'rooms:curl'} == stream.line()['connect']['subs'].keys()
        publish(client, 'curl', 1)
        assert 1 == stream.line()['pub']['data']


def test_unidirectional_websocket_ignores_later_messages(
    server: Server, client: httpx.Client
) -> None:
    """After its one message a client only listens. Later messages are ignored."""
    with Peer.to(server, '/connection/uni_websocket') as peer:
        peer.say({'subs': {'rooms:ws': {}}})
        assert {'rooms:ws'} == peer.hear()['connect']['subs'].keys()
        peer.say('hello', '{"id":1,"ping":{}}')
        publish(client, 'ws', 'x')
        assert 'x' == peer.hear()['pub']['data']


@pytest.mark.parametrize(
    ('frame', 'code'),
    [
        ('hello', 3501),
        ('{"subs":{"nowhere":{}}}', 3501),
        ('{"subs":{"rooms:secret":{}}}', 3507),
        ('{"subs":{"rooms:a":{"type":1}}}', 3501),
    ],
)
def test_unidirectional_websocket_ends_with_push_and_close_code(
    server: Server, frame: str, code: int
) -> None:
    """The reason of the end is sent as a push and as a close code."""
    with Peer.to(server, '/connection/uni_websocket') as peer:
        peer.say(frame)
        assert code == peer.end()[0]


def test_stream_that_is_not_read_is_ended_as_slow(server: Server) -> None:
    """The backlog of a stream is limited.

    A client that does not read is ended as slow.
    """
    wait_until(lambda: not channels.connections(), 'no connection is left')
    slow = channels.node.hub.counters.slow_disconnects
    body = CONNECT + '\n{"id":2,"subscribe":{"channel":"slow:a"}}'
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(('127.0.0.1', server.port))
        reader.sendall(
            f'POST /connection/http_stream HTTP/1.1\r\nHost: 127.0.0.1:{server.port}'
            f'\r\nContent-Length: {len(body)}\r\n\r\n{body}'.encode()
        )
        wait_until(lambda: len(channels.connections()) == 1, 'the reader is connected')
        [connection] = channels.connections()
        wait_until(lambda: 'slow:a' in connection.subscriptions, 'it has subscribed')
        assert Clients.loop is not None
        flood = asyncio.run_coroutine_threadsafe(_flood(connection), Clients.loop)
        assert flood.result(TIMEOUT_S) <= 300_000
    assert slow + 1 == channels.node.hub.counters.slow_disconnects


async def _flood(connection: Any) -> int:
    """Publish until a connection ends; return its largest backlog in bytes."""
    most = 0
    while not connection.closed:
        await channels.publish('slow:a', 'x' * 60_000)
        await asyncio.sleep(0)
        most = max(most, connection.transport.backlog_bytes)
    return most


def test_commands_reach_a_stream_of_another_node(tmp_path: Path) -> None:
    """Every node that shares the broker accepts commands, in parts if they are long."""
    clients = []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            one = Channels(f'sqlite:///{tmp_path / "shared.db"}')
            one.add_route('rooms:{room}', Room())
            server = stack.enter_context(serving(one, Clients()))
            client = httpx.Client(base_url=url(server), timeout=TIMEOUT_S)
            clients.append(stack.enter_context(client))
        here, there = clients
        with Stream.open(
            here, 'POST', '/connection/http_stream', content=CONNECT
        ) as stream:
            stream.connected(stream.line())
            stream.client = there
            assert 204 == stream.say({'id': 2, 'ping': {}}).status_code
            assert {'id': 2, 'ping': {}} == stream.line()
            text = 'é' * 10_000
            stream.say(
                {'id': 3, 'subscribe': {'channel': 'rooms:far'}},
                {'id': 4, 'publish': {'channel': 'rooms:far', 'data': text}},
            )
            heard = [stream.line() for _ in range(3)]
            assert [text] == [m['push']['pub']['data'] for m in heard if 'push' in m]
            stream.session['session'] = 'x' * 32
            assert 204 == stream.say({'id': 5, 'ping': {}}).status_code
            stream.session['node'] = ''
            assert 404 == stream.say({'id': 5, 'ping': {}}).status_code
            stream.session['node'] = 'x' * 12
            assert 404 == stream.say({'id': 5, 'ping': {}}).status_code
