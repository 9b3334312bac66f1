"""HTTP clients that read nothing of their response are aborted, and no others."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import falcon.asgi
import pytest
from support.processes import wait_until

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.server.options import ServerOptions
from server.running import running
from server.running import RunningServer

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'
OPTIONS = ServerOptions(write_timeout_s=0.5, unacknowledged_timeout_s=1.0)


class Bodies:
    """An application whose path is the size of its response."""

    def __init__(self) -> None:
        self.sent = 0
        self.done = 0

    async def __call__(self, scope, receive, send) -> None:
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        for _ in range(int(scope['path'][1:])):
            body = {'type': 'http.response.body', 'body': bytes(65536)}
            await send({**body, 'more_body': True})
            self.sent += 1
        await send({'type': 'http.response.body'})
        self.done += 1


class Rest:
    """An application that ends while output is pending in the transport."""

    def __init__(self) -> None:
        self.server: Any = None
        self.left_bytes = 0

    async def __call__(self, scope, receive, send) -> None:
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        [connection] = self.server.connections
        while not self.left_bytes:
            body = {'type': 'http.response.body', 'body': bytes(16384)}
            await send({**body, 'more_body': True})
            await asyncio.sleep(0)
            self.left_bytes = connection.transport.get_write_buffer_size()
        await send({'type': 'http.response.body'})


def send_request(server: RunningServer, path: str, *lines: str) -> socket.socket:
    """Send a request by a socket with a small buffer; read nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(('127.0.0.1', server.port))
    head = [f'GET {path} HTTP/1.1', 'Host: localhost', *lines, '', '']
    client.sendall('\r\n'.join(head).encode())
    return client


class Reading:
    """An application that reads a body, and answers ``/early`` before its end."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope['path'] == '/early':
            await send({'type': 'http.response.start', 'status': 200, 'headers': []})
            await send({'type': 'http.response.body', 'body': b'x', 'more_body': True})
        while True:
            event = await receive()
            self.events.append(event['type'])
            if not event.get('more_body'):
                break
        if scope['path'] != '/early':
            await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body'})


def send_body(
    server: RunningServer, path: str, line: str, body: str = 'a part'
) -> socket.socket:
    """Send the head of a request, and a part of its body."""
    client = socket.create_connection(('127.0.0.1', server.port), 20)
    head = [f'POST {path} HTTP/1.1', 'Host: localhost', line, '', body]
    client.sendall('\r\n'.join(head).encode())
    return client


IMPATIENT = ServerOptions(body_timeout_s=0.3)


@pytest.mark.parametrize(
    ('line', 'body'),
    [('Content-Length: 100', 'a part'), ('Transfer-Encoding: chunked', '6\r\na part')],
)
def test_request_whose_body_does_not_arrive_is_answered_with_408(
    line: str, body: str
) -> None:
    """A client that stops within a body gets 408, and the application a disconnect."""
    app = Reading()
    with running(app, http=HTTP, options=IMPATIENT) as server:
        with send_body(server, '/', line, body) as client:
            answer = b''.join(iter(lambda: client.recv(4096), b''))
            assert answer.startswith(b'HTTP/1.1 408 ')
            assert 1 == answer.count(b'HTTP/1.1')
        wait_until(lambda: app.events[-1:] == ['http.disconnect'], 'the app is told')
        wait_until(lambda: not server.connections, 'the connection has ended')


@pytest.mark.parametrize(
    'part',
    [
        'POST / HTTP/1.1\r\nHost: local',
        'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\npart',
    ],
)
def test_part_of_a_request_after_a_whole_one_is_answered_with_408(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request has its deadlines, too, if its first part arrives with another one."""
    monkeypatch.setattr('falcon_channels.server.http_requests.HEAD_TIMEOUT_S', 0.3)
    app = Reading()
    with running(app, http=HTTP, options=IMPATIENT) as server:
        with send_body(server, '/', 'Content-Length: 4', f'body{part}') as client:
            answer = b''.join(iter(lambda: client.recv(4096), b''))
        assert answer.startswith(b'HTTP/1.1 200 ')
        assert 1 == answer.count(b'HTTP/1.1 408 ')
        wait_until(lambda: not server.connections, 'the connection has ended')


def test_body_of_a_few_bytes_at_a_time_is_answered_with_408() -> None:
    """Single bytes do not keep a request open."""
    app = Reading()
    with running(app, http=HTTP, options=IMPATIENT) as server:
        with send_body(server, '/', 'Content-Length: 100000') as client:
            client.settimeout(0.05)
            answer = b''
            while not answer:
                client.sendall(b'x')
                try:
                    answer = client.recv(4096)
                except TimeoutError:
                    continue
            assert answer.startswith(b'HTTP/1.1 408 ')


def test_unfinished_body_ends_the_connection_after_the_response_has_begun() -> None:
    """A response that has begun is cut, because there cannot be a second status."""
    app = Reading()
    with running(app, http=HTTP, options=IMPATIENT) as server:
        with send_body(server, '/early', 'Content-Length: 100') as client:
            assert client.recv(12) == b'HTTP/1.1 200'
            wait_until(lambda: not server.connections, 'the connection is aborted')
        wait_until(lambda: app.events[-1:] == ['http.disconnect'], 'the app is told')


def test_client_that_does_not_read_its_response_is_aborted() -> None:
    """The connection is aborted while the application waits, which then continues."""
    app = Bodies()
    with running(app, http=HTTP, options=OPTIONS) as server:
        with send_request(server, '/10000'):
            wait_until(lambda: app.sent, 'the response has begun')
            wait_until(lambda: not server.connections, 'the connection is aborted')
            wait_until(lambda: app.done == 1, 'the application has continued')


def test_client_that_does_not_read_the_end_of_its_response_is_aborted() -> None:
    """The connection is aborted even if the application has already ended."""
    rest = Rest()
    with running(rest, http=HTTP, options=OPTIONS) as rest.server:
        with send_request(rest.server, '/', 'Connection: close'):
            wait_until(lambda: rest.left_bytes, 'output is pending')
            wait_until(lambda: not rest.server.connections, 'the connection is aborted')
    assert rest.left_bytes < 65536


def test_client_that_reads_slowly_gets_the_whole_response() -> None:
    """A client that reads a little now and then is not aborted."""
    app = Bodies()
    with running(app, http=HTTP, options=OPTIONS) as server:
        with send_request(server, '/40', 'Connection: close') as client:
            received = 0
            while data := client.recv(16384):
                received += data.count(0)
    assert 40 * 65536 == received


def test_event_stream_without_reader_ends_with_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is disconnected as a slow consumer, without a traceback."""
    monkeypatch.setattr('falcon_channels.transports.http_stream.CLOSE_TIMEOUT_S', 0.1)
    channels = Channels()
    channels.add_route('news', None, ChannelOptions(subscribers='anybody'))
    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app, options=None, resource=Anybody())
    app.add_route('/flood', Flood(channels))
    with running(app, http=HTTP, lifespan='on') as server:
        path = '/connection/uni_sse?cf_connect={"subs":{"news":{}}}'
        with send_request(server, path), send_request(server, '/flood') as other:
            assert other.recv(12) == b'HTTP/1.1 200'
            wait_until(lambda: not channels.connections(), 'the stream has ended')
            wait_until(lambda: len(server.connections) < 2, 'its socket is closed')
    assert 1 == channels.node.hub.counters.slow_disconnects
    messages = [record.getMessage() for record in caplog.records]
    assert 1 == sum('too slowly' in message for message in messages)
    assert [] == [record for record in caplog.records if record.exc_info]


class Anybody:
    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'ann'


class Flood:
    """Publishes while a client is connected."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_get(self, req: Any, resp: Any) -> None:
        while not self.channels.node.hub.num_subscriptions:
            await asyncio.sleep(0)
        while self.channels.connections():
            await self.channels.publish('news', 'x' * 60_000)
            await asyncio.sleep(0)
