"""HTTP clients that read nothing of their response are cut, and nobody else."""

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
    """An application whose responses have the size that their path says."""

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
    """An application that is done when something is left in the transport."""

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


def ask(server: RunningServer, path: str, *lines: str) -> socket.socket:
    """Send a request by a socket with a small buffer; read nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(('127.0.0.1', server.port))
    head = [f'GET {path} HTTP/1.1', 'Host: localhost', *lines, '', '']
    client.sendall('\r\n'.join(head).encode())
    return client


def test_a_response_that_nobody_reads() -> None:
    """Its connection is cut while the application waits, which then goes on."""
    app = Bodies()
    with running(app, http=HTTP, options=OPTIONS) as server:
        with ask(server, '/10000'):
            wait_until(lambda: app.sent, 'it has begun')
            wait_until(lambda: not server.connections, 'it is cut')
            wait_until(lambda: app.done == 1, 'the application goes on')


def test_the_rest_of_a_response_that_nobody_reads() -> None:
    """Its connection is cut, too, when the application has long done."""
    rest = Rest()
    with running(rest, http=HTTP, options=OPTIONS) as rest.server:
        with ask(rest.server, '/', 'Connection: close'):
            wait_until(lambda: rest.left_bytes, 'something is left')
            wait_until(lambda: not rest.server.connections, 'it is cut')
    assert rest.left_bytes < 65536


def test_a_slow_reader_gets_all() -> None:
    """Who takes a little now and then is waited for."""
    app = Bodies()
    with running(app, http=HTTP, options=OPTIONS) as server:
        with ask(server, '/40', 'Connection: close') as client:
            received = 0
            while data := client.recv(16384):
                received += data.count(0)
    assert 40 * 65536 == received


def test_a_stream_of_events_that_nobody_reads(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as a slow reader, with one warning and no traceback."""
    monkeypatch.setattr('falcon_channels.transports.http_stream.CLOSE_TIMEOUT_S', 0.1)
    channels = Channels()
    channels.add_route('news', None, ChannelOptions(publishers='anybody'))
    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app, options=None, resource=Anybody())
    app.add_route('/flood', Flood(channels))
    with running(app, http=HTTP, lifespan='on') as server:
        path = '/connection/uni_sse?cf_connect={"subs":{"news":{}}}'
        with ask(server, path), ask(server, '/flood') as other:
            assert other.recv(12) == b'HTTP/1.1 200'
            wait_until(lambda: not channels.connections(), 'it has ended')
            wait_until(lambda: len(server.connections) < 2, 'its socket is gone')
    assert 1 == channels.node.hub.counters.slow_disconnects
    messages = [record.getMessage() for record in caplog.records]
    assert 1 == sum('too slowly' in message for message in messages)
    assert [] == [record for record in caplog.records if record.exc_info]


class Anybody:
    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'ann'


class Flood:
    """Publishes as long as somebody is connected."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_get(self, req: Any, resp: Any) -> None:
        while not self.channels.node.hub.channel_counts():
            await asyncio.sleep(0)
        while self.channels.connections():
            await self.channels.publish('news', 'x' * 60_000)
            await asyncio.sleep(0)
