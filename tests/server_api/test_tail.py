"""The method `tail`: back ends follow a channel, over real servers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
import contextlib
import json
import socket
from typing import Any

from endpoint.peer import Server
from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
import falcon.asgi
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.server_api import tail
from falcon_channels.server_api.methods import ApiMethods
from falcon_channels.server_api.requests import ApiError
from falcon_channels.testing import run_with_fake_clock

KEY = 'a-key-of-the-tests'

channels = Channels()


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    global channels
    channels = make_channels()
    app = falcon.asgi.App(middleware=[channels])
    channels.add_api(app, keys=KEY)
    with serving_app(app, asgi_server) as server:
        yield server


def make_channels() -> Channels:
    made = Channels()
    for name, options in {
        'rooms': ChannelOptions(history_size=10),
        'live': ChannelOptions(),
        'binary': ChannelOptions(history_size=10, binary=True),
        'slow': ChannelOptions(max_backlog_bytes=200_000, history_size=10),
        'drops': ChannelOptions(max_backlog_bytes=200_000, slow_reader='drop_oldest'),
    }.items():
        made.add_route(f'{name}:{{name}}', None, options)
    return made


@pytest.fixture(scope='module')
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f'http://127.0.0.1:{server.port}/api',
        headers={'X-API-Key': KEY},
        timeout=TIMEOUT_S,
        trust_env=False,
    ) as client:
        yield client


def call(client: httpx.Client, method: str, **request: Any) -> Any:
    answer = client.post(f'/{method}', json=request).json()
    return answer['result'] if 'result' in answer else answer['error']


class Lines:
    """The lines of a tail, decoded."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = self._split()

    def _split(self) -> Iterator[bytes]:
        # NOTE: `iter_lines` of httpx also ends a line at U+2028 in a JSON string.
        rest = b''
        for chunk in self.response.iter_raw():
            *lines, rest = (rest + chunk).split(b'\n')
            yield from lines
        assert b'' == rest

    def next(self) -> Any:
        """Return the next line that is no heartbeat, or ``None`` at the end."""
        for line in self._lines:
            decoded = json.loads(line)
            if decoded:
                return decoded
        return None

    def heartbeat(self) -> Any:
        return json.loads(next(self._lines))

    def publications(self, count: int) -> list[Any]:
        return [self.next()['publication'] for _ in range(count)]


@contextlib.contextmanager
def tailing(client: httpx.Client, **request: Any) -> Iterator[Lines]:
    with client.stream('POST', '/tail', json=request) as response:
        assert (200, tail.JSON_LINES) == (
            response.status_code,
            response.headers['Content-Type'],
        )
        yield Lines(response)


def wait_until_nobody_is_connected() -> None:
    wait_until(lambda: not channels.connections(), 'no connection is left')


# --- over servers --------------------------------------------------------------------


@pytest.mark.every_server
def test_publications_arrive_as_lines_with_their_positions(
    client: httpx.Client,
) -> None:
    """A channel that nobody else subscribes to is subscribed while it is followed."""
    wait_until_nobody_is_connected()
    with tailing(client, channel='rooms:a') as lines:
        assert 'no' == lines.response.headers['X-Accel-Buffering']
        assert 'no-store' in lines.response.headers['Cache-Control']
        begin = lines.next()['subscribed']
        assert 0 == begin['offset']
        assert {'rooms:a': {'num_clients': 1}} == call(client, 'channels')['channels']
        call(client, 'publish', channel='rooms:a', data={'n': 1}, tags={'a': 'b'})
        line = lines.next()
        publication = line['publication']
        assert publication.pop('time') > 0
        assert {'offset': 1, 'data': {'n': 1}, 'tags': {'a': 'b'}} == publication
        assert begin['epoch'] == line['epoch']
        [facts] = call(client, 'connections')['connections'].values()
        assert ('tail', 'json', '') == (
            facts['transport'],
            facts['protocol'],
            facts['user'],
        )
    wait_until_nobody_is_connected()


@pytest.mark.every_server
def test_tail_from_a_position_recovers_what_was_missed(client: httpx.Client) -> None:
    """With `since`, the missed publications come first, then the live ones."""
    for n in range(5):
        call(client, 'publish', channel='rooms:b', data=n)
    epoch = call(client, 'history', channel='rooms:b')['epoch']
    since = {'offset': 2, 'epoch': epoch}
    with tailing(client, channel='rooms:b', since=since) as lines:
        assert {**since, 'recovered': True} == lines.next()['subscribed']
        call(client, 'publish', channel='rooms:b', data=5)
        assert [(3, 2), (4, 3), (5, 4), (6, 5)] == [
            (item['offset'], item['data']) for item in lines.publications(4)
        ]


@pytest.mark.every_server
def test_tail_from_a_lost_position_says_that_it_is_not_recovered(
    client: httpx.Client,
) -> None:
    """A trimmed or foreign position gives the current one, and only new lines."""
    for n in range(15):
        call(client, 'publish', channel='rooms:c', data=n)
    epoch = call(client, 'history', channel='rooms:c')['epoch']
    for since in ({'offset': 1, 'epoch': epoch}, {'offset': 14, 'epoch': 'other'}):
        with tailing(client, channel='rooms:c', since=since) as lines:
            expected = {'offset': 15, 'epoch': epoch, 'recovered': False}
            assert expected == lines.next()['subscribed']


@pytest.mark.every_server
def test_channel_without_history_is_followed_live(client: httpx.Client) -> None:
    """Publications without a position have neither an offset nor an epoch."""
    with tailing(client, channel='live:a', since={'offset': 3}) as lines:
        expected = {'offset': 0, 'epoch': '', 'recovered': False}
        assert expected == lines.next()['subscribed']
        call(client, 'publish', channel='live:a', data='x')
        line = lines.next()
        assert (0, 'x') == (line['publication']['offset'], line['publication']['data'])
        assert 'epoch' not in line


@pytest.mark.every_server
def test_each_publication_is_one_line_of_json(client: httpx.Client) -> None:
    """Bytes are base64, and line breaks of the publisher begin no line."""
    data = '{\n"text": "a\\nb",\r\n"n": [1,\n2]}'
    encoded = base64.b64encode(data.encode()).decode()
    with tailing(client, channel='rooms:d') as lines:
        call(client, 'publish', channel='rooms:d', b64data=encoded)
        call(client, 'publish', channel='rooms:d', data='\u2028')
        lines.next()
        first, second = lines.publications(2)
        assert ({'text': 'a\nb', 'n': [1, 2]}, '\u2028') == (
            first['data'],
            second['data'],
        )
    with tailing(client, channel='binary:a') as lines:
        lines.next()
        call(client, 'publish', channel='binary:a', b64data='AP8=')
        [item] = lines.publications(1)
        assert (None, 'AP8=') == (item['data'], item['b64data'])


@pytest.mark.every_server
@pytest.mark.parametrize('error', ['', 'too long'])
def test_end_of_the_channel_ends_the_tail(client: httpx.Client, error: str) -> None:
    """The end is the last line, for a tail that is open and for one that is late."""
    channel = f'rooms:end{len(error)}'
    with tailing(client, channel=channel) as lines:
        begin = lines.next()['subscribed']
        position = call(client, 'finish', channel=channel, data='last', error=error)
        [item] = lines.publications(1)
        assert ('last', {'error': error}) == (item['data'], item['end'])
        end = {'error': error, **position}
        assert [{'end': end}, None] == [lines.next(), lines.next()]
    since = {'offset': 0, 'epoch': begin['epoch']}
    with tailing(client, channel=channel, since=since) as lines:
        lines.next()
        [item] = lines.publications(1)
        assert 'last' == item['data']
        assert [{'end': end}, None] == [lines.next(), lines.next()]
    wait_until_nobody_is_connected()


@pytest.mark.every_server
def test_silent_channel_has_heartbeats(client: httpx.Client) -> None:
    """An empty object shows that the link works."""
    with tailing(client, channel='live:silent', heartbeat_s=1) as lines:
        lines.next()
        assert {} == lines.heartbeat()


@contextlib.contextmanager
def slow_reader(server: Server, client: httpx.Client) -> Iterator[socket.socket]:
    """Open a tail that is not read, until the server has ended it."""
    wait_until_nobody_is_connected()
    body = b'{"channel":"slow:a"}'
    head = (
        f'POST /api/tail HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\n'
        f'Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n'
    )
    with socket.create_connection(('127.0.0.1', server.port), TIMEOUT_S) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(head.encode() + body)
        wait_until(channels.connections, 'it follows')
        [connection] = channels.connections()
        for n in range(400):
            call(client, 'publish', channel='slow:a', data=f'{n}' * 20_000)
            if connection.closed:
                break
        assert connection.closed
        yield sock


@pytest.mark.every_server
def test_tail_that_is_not_read_is_ended_as_slow(
    server: Server, client: httpx.Client
) -> None:
    """The backlog is limited: at the limit of the channel, the tail ends."""
    slow = channels.node.hub.counters.slow_disconnects
    with slow_reader(server, client):
        wait_until_nobody_is_connected()
    assert slow + 1 == channels.node.hub.counters.slow_disconnects


def test_reader_that_was_too_slow_gets_a_clear_end(
    server: Server, client: httpx.Client
) -> None:
    """A reader that reads again within some seconds sees why its tail has ended."""
    with slow_reader(server, client) as sock:
        received = b''
        while b'"disconnect"' not in received and (data := sock.recv(1 << 20)):
            received = received[-1000:] + data
    assert b'{"disconnect":{"code":3008,"reason":"slow","reconnect":true}}' in received


@pytest.mark.every_server
def test_refused_tail_is_answered_without_a_stream(
    server: Server, client: httpx.Client
) -> None:
    """A wrong key gets 401, and a wrong request gets an error like other methods."""
    wait_until_nobody_is_connected()
    url = f'http://127.0.0.1:{server.port}/api/tail'
    for headers in ({}, {'X-API-Key': 'another-key-of-the-tests'}):
        answer = httpx.post(url, json={'channel': 'rooms:a'}, headers=headers)
        assert (401, 'application/json') == (
            answer.status_code,
            answer.headers['Content-Type'],
        )
    assert 405 == httpx.get(url, headers={'X-API-Key': KEY}).status_code
    for request, code in (
        ({'channel': 'nowhere'}, 102),
        ({'channel': ''}, 107),
        ({}, 107),
        ({'channel': 'rooms:a', 'heartbeat_s': 0}, 107),
        ({'channel': 'rooms:a', 'since': {'offset': -1}}, 107),
        ({'channel': 'rooms:a', 'lines': 3}, 107),
    ):
        assert code == call(client, 'tail', **request)['code']
    commands = [{'tail': {'channel': 'rooms:a'}}]
    answer = client.post('/batch', json={'commands': commands})
    [reply] = answer.json()['replies']
    assert 108 == reply['error']['code']
    assert [] == channels.connections()


@pytest.mark.every_server
def test_tail_with_a_key_in_the_url_or_from_a_form_is_refused(
    server: Server, client: httpx.Client
) -> None:
    """A key in a URL is refused, and so is what a page of another site can send."""
    wait_until_nobody_is_connected()
    body = {'channel': 'rooms:a'}
    assert 400 == client.post('/tail', json=body, params={'api_key': KEY}).status_code
    for content_type in ('text/plain', 'application/x-www-form-urlencoded'):
        answer = client.post(
            '/tail', content=json.dumps(body), headers={'Content-Type': content_type}
        )
        assert 415 == answer.status_code
    assert [] == channels.connections()


# --- in this process -----------------------------------------------------------------


async def never() -> Any:
    await asyncio.get_running_loop().create_future()


def test_reader_that_stops_is_ended_even_if_the_channel_would_drop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A tail that is not read for three heartbeats ends, and the log says it."""

    async def scenario() -> None:
        channels = make_channels()
        methods = ApiMethods(channels.node)
        connection = await methods.tail(b'{"channel":"drops:a","heartbeat_s":10}')
        body = connection.transport.body(connection, never)
        assert b'"subscribed"' in await anext(body)
        for _ in range(3):
            assert not connection.closed
            await channels.publish('drops:a', 'x' * 1000)
            await asyncio.sleep(11)
        assert connection.closed
        assert 1 == channels.node.hub.counters.slow_disconnects
        rest = b''.join([chunk async for chunk in body])
        assert b'"publication"' in rest
        assert rest.endswith(
            b'{"disconnect":{"code":3008,"reason":"slow","reconnect":true}}\n'
        )
        await channels.close()

    run_with_fake_clock(scenario())
    assert 'its reader has stopped reading' in caplog.text


def test_reader_that_reads_again_stays() -> None:
    """Heartbeats begin again when everything was read."""

    async def scenario() -> None:
        channels = make_channels()
        methods = ApiMethods(channels.node)
        connection = await methods.tail(b'{"channel":"drops:a","heartbeat_s":10}')
        body = connection.transport.body(connection, never)
        await anext(body)
        for _ in range(4):
            await channels.publish('drops:a', 1)
            await asyncio.sleep(22)
            assert b'"publication"' in await anext(body)
            assert b'{}\n' == await anext(body)
        assert not connection.closed
        await channels.close()

    run_with_fake_clock(scenario())


def test_drain_ends_tails_with_a_code_to_return() -> None:
    """A process that stops tells its tails, and opens no new ones."""

    async def scenario() -> None:
        channels = make_channels()
        methods = ApiMethods(channels.node)
        connection = await methods.tail(b'{"channel":"rooms:a"}')
        await channels.drain()
        body = connection.transport.body(connection, never)
        lines = b''.join([chunk async for chunk in body]).splitlines()
        expected = {'code': 3001, 'reason': 'shutdown', 'reconnect': True}
        assert {'disconnect': expected} == json.loads(lines[-1])
        with pytest.raises(ApiError) as caught:
            await methods.tail(b'{"channel":"rooms:a"}')
        assert 100 == caught.value.code
        await channels.close()

    run_with_fake_clock(scenario())


def test_application_that_ends_the_subscription_ends_the_tail() -> None:
    """A subscription that may be made again ends with a code to return."""

    async def scenario() -> None:
        channels = make_channels()
        methods = ApiMethods(channels.node)
        for code, reconnect in ((2500, True), (2000, False)):
            connection = await methods.tail(b'{"channel":"rooms:a"}')
            await channels.unsubscribe_user('', 'rooms:a', code=code)
            body = connection.transport.body(connection, never)
            lines = b''.join([chunk async for chunk in body]).splitlines()
            assert reconnect is json.loads(lines[-1])['disconnect']['reconnect']
        await channels.close()

    run_with_fake_clock(scenario())


def test_tails_over_the_limit_are_refused_until_one_ends() -> None:
    """A process has at most `MAX_TAILS` tails, also if they are opened at once."""

    async def scenario() -> None:
        channels = make_channels()
        methods = ApiMethods(channels.node)
        results = await asyncio.gather(
            *(
                methods.tail(b'{"channel":"rooms:%d"}' % n)
                for n in range(tail.MAX_TAILS + 2)
            ),
            return_exceptions=True,
        )
        refused = [item.code for item in results if isinstance(item, ApiError)]
        opened = [item for item in results if isinstance(item, tail.TailConnection)]
        assert ([106, 106], tail.MAX_TAILS) == (refused, len(opened))
        for _ in range(3):  # a refused channel takes no place
            with pytest.raises(ApiError):
                await methods.tail(b'{"channel":"nowhere"}')
        opened[0].disconnect(3000, '')
        with pytest.raises(ApiError) as caught:
            await methods.tail(b'{"channel":"nowhere"}')
        assert 102 == caught.value.code
        again = await methods.tail(b'{"channel":"rooms:again"}')
        assert not again.closed
        await channels.close()

    run_with_fake_clock(scenario())


def test_stream_that_is_not_sent_is_removed(caplog: pytest.LogCaptureFixture) -> None:
    """A tail takes no place if another response was sent, and the log says it."""

    async def scenario() -> None:
        channels = make_channels()
        connection = await ApiMethods(channels.node).tail(b'{"channel":"rooms:a"}')
        await asyncio.sleep(25)
        assert connection.closed
        assert [] == channels.connections()
        await channels.close()

    run_with_fake_clock(scenario())
    assert 'its stream was never read' in caplog.text


def test_stream_whose_response_is_slow_is_sent() -> None:
    """A tail does not end because its heartbeats were due before its response.

    A middleware may work on the response for some seconds. With short heartbeats, the
    tail ended as one that is never read.
    """

    async def scenario() -> None:
        channels = make_channels()
        connection = await ApiMethods(channels.node).tail(
            b'{"channel":"rooms:a","heartbeat_s":1}'
        )
        await asyncio.sleep(5)
        assert not connection.closed
        body = connection.transport.body(connection, asyncio.Event().wait)
        assert b'{"subscribed":' in await anext(body)
        for _ in range(25):
            assert b'{}\n' == await anext(body)
        await body.aclose()
        assert connection.closed
        await channels.close()

    run_with_fake_clock(scenario())
