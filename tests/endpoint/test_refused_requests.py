"""HTTP requests while the process is full, drains or is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import json
import re
from typing import Any

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
from falcon_channels import NodeOptions

pytestmark = pytest.mark.every_server

CONNECT = '{"id":1,"connect":{}}'
EVENT_SOURCE = {'Accept': 'text/event-stream'}
SHUTDOWN = {'code': 3001, 'reason': 'shutdown', 'reconnect': True}
#: Requests for a connection: method, path and body.
REQUESTS = [
    ('POST', '/connection/http_stream', CONNECT),
    ('GET', '/connection/sse?cf_connect=' + CONNECT, ''),
    ('POST', '/connection/sse', CONNECT),
    ('POST', '/connection/uni_http_stream', '{}'),
    ('GET', '/connection/uni_sse?channel=rooms:a', ''),
    ('POST', '/connection/uni_sse', '{}'),
]


class Room:
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        """Let every client subscribe."""


class Clients:
    loop: asyncio.AbstractEventLoop

    async def on_connect(self, req: Any, connection: Any) -> None:
        self.loop = asyncio.get_running_loop()
        connection.user = 'ann'


clients = Clients()


@pytest.fixture
def channels() -> Channels:
    channels = Channels(options=NodeOptions(max_connections=1))
    channels.add_route('rooms:{room}', Room(), ChannelOptions(history_size=10))
    return channels


@pytest.fixture
def server(channels: Channels, asgi_server: AsgiServer) -> Iterator[Server]:
    with serving(channels, clients, asgi_server=asgi_server) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    url = f'http://127.0.0.1:{server.port}'
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        yield client


def run(call: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(call, clients.loop).result(TIMEOUT_S)


def answers(client: httpx.Client) -> list[int]:
    """Return the status of the answer to each request of `REQUESTS`."""
    return [client.request(m, path, content=b).status_code for m, path, b in REQUESTS]


def check_event_sources(client: httpx.Client) -> None:
    """Check that an EventSource gets a stream that ends, so that it tries again."""
    for path, event in (
        ('/connection/sse?cf_connect=' + CONNECT, {'push': {'disconnect': SHUTDOWN}}),
        ('/connection/uni_sse?channel=rooms:a', {'disconnect': SHUTDOWN}),
    ):
        refused = client.get(path, headers=EVENT_SOURCE)
        assert 200 == refused.status_code
        assert 'text/event-stream' == refused.headers['Content-Type'].split(';')[0]
        found = re.fullmatch(r'retry: (\d+)\ndata: (.*)\n\n', refused.text)
        assert found is not None
        assert 5000 <= int(found[1]) < 15000
        assert event == json.loads(found[2])


def test_request_to_a_full_process_is_refused_and_event_sources_come_back(
    server: Server, client: httpx.Client
) -> None:
    """A full process answers 503. An EventSource gets a stream that ends."""
    with Peer.to(server) as peer:
        peer.connect()
        assert [503] * 6 == answers(client)
        check_event_sources(client)


@pytest.mark.parametrize('stop', ['drain', 'close'])
def test_request_after_a_drain_is_refused_and_event_sources_come_back(
    server: Server,
    client: httpx.Client,
    channels: Channels,
    caplog: pytest.LogCaptureFixture,
    stop: str,
) -> None:
    """A process that drains or is closed answers 503, without a traceback."""
    with Peer.to(server) as peer:
        peer.connect()
        run(channels.drain() if stop == 'drain' else channels.close())
        assert 3001 == peer.end()[0]
    assert [503] * 6 == answers(client)
    check_event_sources(client)
    body = {'session': 'x', 'node': channels.node.cluster.id, 'data': CONNECT}
    assert 404 == client.post('/emulation', json=body).status_code
    assert 'Traceback' not in caplog.text
    assert [] == [r for r in caplog.records if r.exc_info]


def test_unidirectional_client_that_lost_publications_returns_with_its_position(
    server: Server, client: httpx.Client, channels: Channels
) -> None:
    """After 2500 the stream ends with 3010, and the next one recovers."""
    path = '/connection/uni_sse?channel=rooms:a'
    with client.stream('GET', path, headers=EVENT_SOURCE) as response:
        parts = response.iter_text()
        assert '"connect"' in _read_until(parts, '"connect"')
        run(channels.publish('rooms:a', 1))
        first = _read_until(parts, 'id: ')
        position = re.findall(r'^id: (\S+)$', first, re.M)[-1]
        [connection] = channels.connections()
        subscription = connection.subscriptions['rooms:a']
        clients.loop.call_soon_threadsafe(
            connection.hub.unsubscribe, subscription, 2500, 'insufficient state'
        )
        assert '"disconnect":{"code":3010' in ''.join(parts)
    wait_until(lambda: not channels.connections(), 'the connection has ended')
    run(channels.publish('rooms:a', 2))
    headers = {**EVENT_SOURCE, 'Last-Event-ID': position}
    with client.stream('GET', path, headers=headers) as response:
        missed = _read_until(response.iter_text(), '"pub"')
    assert '"recovered":true' in missed
    assert '"data":2' in missed
    assert '"data":1' not in missed


def test_disconnect_with_code_3000_ends_a_stream_without_a_push(
    server: Server, client: httpx.Client, channels: Channels
) -> None:
    """A client whose stream ends without a push connects again."""
    with client.stream('POST', '/connection/http_stream', content=CONNECT) as response:
        parts = response.iter_text()
        assert '"connect"' in next(parts)
        run(channels.disconnect_user('ann', code=3000))
        assert '' == ''.join(parts)


def _read_until(parts: Iterator[str], words: str) -> str:
    text = ''
    while words not in text or not text.endswith('\n\n'):
        text += next(parts)
    return text
