"""Requests that follow before the response to an earlier one is complete."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import falcon.asgi
import pytest

from server.running import running
from server.running import RunningServer

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'
UPGRADE = (
    'GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n'
    'Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n'
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
)
GET = 'GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n'


class Slow:
    """Begins each response at once, and ends it when the test allows it."""

    def __init__(self) -> None:
        self.loop: Any = None
        self.may_end: Any = None
        self.paths: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        self.paths.append(scope['path'])
        if scope['type'] == 'websocket':
            await receive()
            await send({'type': 'websocket.accept'})
            await receive()
            return
        if self.may_end is None:
            self.loop, self.may_end = asyncio.get_running_loop(), asyncio.Event()
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        part = {'type': 'http.response.body', 'body': b'begun', 'more_body': True}
        await send(part)
        await self.may_end.wait()
        # NOTE: receiving lets uvicorn read the socket again.
        await receive()
        await send({'type': 'http.response.body', 'body': b'ended'})


def answers(server: RunningServer, app: Slow, text: str) -> bytes:
    """Send requests at once, and return all that the server answers."""
    with socket.create_connection(('127.0.0.1', server.port), 20) as client:
        client.sendall(text.encode('latin-1'))
        received = b''
        while b'begun' not in received:
            received += client.recv(4096)
        # NOTE: more bytes of a client that does not wait for the answer.
        client.sendall(b'\x81\x80aaaa')
        app.loop.call_soon_threadsafe(app.may_end.set)
        while data := client.recv(4096):
            received += data
    return received


@pytest.mark.parametrize(
    'refused',
    [
        UPGRADE,
        UPGRADE.replace('/1.1', '/1.0'),
        UPGRADE.replace('Key: ', 'Key: wrong'),
        'nonsense\r\n\r\n',
        'GET / HTTP/2.0\r\nHost: localhost\r\n\r\n',
        'GET / HTTP/1.1\r\n' + 'X: y\r\n' * 200 + '\r\n',
        'GET / HTTP/1.1\r\nX: ' + 'y' * 70_000,
        'POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n',
    ],
    ids=['upgrade', 'upgrade 1.0', 'key', 'nonsense', '2.0', 'headers', 'head', 'body'],
)
@pytest.mark.parametrize('earlier', [1, 2])
def test_response_is_never_mixed_with_the_answer_to_a_later_request(
    refused: str, earlier: int
) -> None:
    """Earlier responses are complete; then the connection ends."""
    app = Slow()
    with running(app, http=HTTP) as server:
        text = ''.join(GET.format(number) for number in range(earlier))
        received = answers(server, app, text + refused)
    assert [f'/{number}' for number in range(earlier)] == app.paths
    assert earlier == received.count(b'HTTP/1.1 ') == received.count(b'200 OK')
    assert earlier == received.count(b'begun') == received.count(b'ended')
    assert received.endswith(b'ended\r\n0\r\n\r\n')


def test_upgrade_after_a_finished_response_is_accepted() -> None:
    """A connection that served a request can become a WebSocket."""
    app = Slow()
    with running(app, http=HTTP) as server:
        with socket.create_connection(('127.0.0.1', server.port), 20) as client:
            client.sendall(GET.format('').encode())
            received = b''
            while b'begun' not in received:
                received += client.recv(4096)
            app.loop.call_soon_threadsafe(app.may_end.set)
            while not received.endswith(b'0\r\n\r\n'):
                received += client.recv(4096)
            client.sendall(UPGRADE.encode())
            assert client.recv(4096).startswith(b'HTTP/1.1 101 ')


class Hello:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.text = 'hello'


@pytest.mark.parametrize('version', [' HTTP/2.0', ' HTTP/0.9', ''])
def test_unknown_http_version_is_answered_with_505(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a request causes no traceback."""
    falcon_app = falcon.asgi.App()
    falcon_app.add_route('/', Hello())
    with running(falcon_app, http=HTTP) as server:
        with socket.create_connection(('127.0.0.1', server.port), 20) as client:
            client.sendall(f'GET /{version}\r\nHost: localhost\r\n\r\n'.encode())
            received = b''.join(iter(lambda: client.recv(4096), b''))
    assert received.startswith(b'HTTP/1.1 505 ')
    assert [] == [record for record in caplog.records if record.exc_info]
