"""The names of transports and encodings in the answers of `connections`."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import json
from typing import Any

from endpoint.peer import Server
from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
import falcon.asgi
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until
from websockets.sync.client import connect

from falcon_channels import ChannelOptions
from falcon_channels import Channels

pytestmark = pytest.mark.every_server

KEY = 'a-key-of-the-tests'
CONNECT = {'connect': {'name': 'test', 'version': '7'}, 'id': 1}
UNI = json.dumps({'name': 'test', 'version': '7'})

channels = Channels()


class Plain:
    """``/plain/{kind}``: a plain WebSocket as text or media, or an event stream."""

    async def on_websocket(self, req: Any, ws: Any, kind: str) -> None:
        await channels.serve(req, ws, 'rooms:a', media=kind == 'media')

    async def on_get(self, req: Any, resp: Any, kind: str) -> None:
        await channels.serve_events(req, resp, 'rooms:a')


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    global channels
    channels = Channels()
    channels.add_route('rooms:{name}', None, ChannelOptions(history_size=10))
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/plain/{kind}', Plain())
    channels.add_endpoints(app)
    channels.add_api(app, keys=KEY)
    with serving_app(app, asgi_server) as server:
        yield server


Open = Callable[[str], contextlib.AbstractContextManager[object]]


def websocket(path: str, *first: str, **options: Any) -> Open:
    @contextlib.contextmanager
    def opened(host: str) -> Iterator[None]:
        with connect(f'ws://{host}{path}', open_timeout=TIMEOUT_S, **options) as ws:
            for message in first:
                ws.send(message)
            yield

    return opened


def http(method: str, path: str, **options: Any) -> Open:
    @contextlib.contextmanager
    def opened(host: str) -> Iterator[None]:
        with (
            httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client,
            client.stream(method, f'http://{host}{path}', **options),
        ):
            yield

    return opened


SDK = ('test', '7')
UNKNOWN = ('', '')


@pytest.mark.parametrize(
    ('opened', 'expected'),
    [
        (
            websocket('/connection/websocket', json.dumps(CONNECT)),
            ('websocket', 'json', *SDK),
        ),
        (
            websocket('/connection/websocket?format=protobuf'),
            ('websocket', 'protobuf', *UNKNOWN),
        ),
        (
            http('POST', '/connection/http_stream', content=json.dumps(CONNECT)),
            ('http_stream', 'json', *SDK),
        ),
        (
            http('POST', '/connection/sse', content=json.dumps(CONNECT)),
            ('sse', 'json', *SDK),
        ),
        (
            websocket('/connection/uni_websocket', UNI),
            ('uni_websocket', 'json', *SDK),
        ),
        (
            http('POST', '/connection/uni_http_stream', content=UNI),
            ('uni_http_stream', 'json', *SDK),
        ),
        (
            http('POST', '/connection/uni_sse', content=UNI),
            ('uni_sse', 'json', *SDK),
        ),
        (websocket('/plain/text'), ('plain_websocket', 'text', *UNKNOWN)),
        (websocket('/plain/media'), ('plain_websocket', 'json', *UNKNOWN)),
        (http('GET', '/plain/events'), ('event_stream', 'text', *UNKNOWN)),
        (
            http(
                'POST',
                '/api/tail',
                json={'channel': 'rooms:a'},
                headers={'X-API-Key': KEY},
            ),
            ('tail', 'json', *UNKNOWN),
        ),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, tuple) else '',
)
def test_connection_is_described_by_its_transport_and_encoding(
    server: Server, opened: Open, expected: tuple[str, ...]
) -> None:
    """Each kind of client has its own name; SDKs also have a name and a version."""
    host = f'127.0.0.1:{server.port}'

    def kinds() -> list[tuple[str, ...]]:
        answer = httpx.post(
            f'http://{host}/api/connections',
            json={},
            headers={'X-API-Key': KEY},
            timeout=TIMEOUT_S,
            trust_env=False,
        )
        names = ('transport', 'protocol', 'app_name', 'app_version')
        return [
            tuple(facts[name] for name in names)
            for facts in answer.json()['result']['connections'].values()
        ]

    with opened(host):
        wait_until(lambda: kinds() == [expected], f'{expected} is connected')
    # NOTE: a server may notice only at the next write that an HTTP client has left.
    for connection in channels.connections():
        server_loop = channels.loop
        assert server_loop is not None
        server_loop.call_soon_threadsafe(connection.disconnect, 3000, '')
    wait_until(lambda: not kinds(), 'the connection has ended')
