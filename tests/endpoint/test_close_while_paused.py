"""A connection that the server closes while reading is paused ends at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
import json
import time
from typing import Any

import falcon.asgi
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until

from endpoint.peer import Peer
from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
from falcon_channels import Channels
from falcon_channels.endpoint.http import BODY_TIMEOUT_S
from falcon_channels.transports import asgi

pytestmark = pytest.mark.every_server


class App(falcon.asgi.App[Any, Any]):
    """Counts the WebSockets that it serves."""

    num_open = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_websocket = scope['type'] == 'websocket'
        self.num_open += is_websocket
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.num_open -= is_websocket


class Clients:
    """Its calls wait until the test releases them."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.num_calls = 0

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'ann'

    async def on_rpc(self, req: Any, call: Any) -> None:
        self.num_calls += 1
        await self.may_end.wait()


def test_close_by_the_server_does_not_wait_for_paused_commands(
    asgi_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application's task ends with the close, and no command is carried out."""
    monkeypatch.setattr(asgi, 'CLOSE_TIMEOUT_S', 600.0)
    channels, clients = Channels(), Clients()
    app = App(middleware=[channels])
    channels.add_endpoints(app, resource=clients)
    with (
        serving_app(app, asgi_server) as server,
        Peer.to(server, close_timeout=1) as peer,
    ):
        peer.connect()
        for number in range(60):
            peer.say({'id': number + 2, 'rpc': {'method': 'wait'}})
        [connection] = channels.node.hub.connections
        wait_until(lambda: connection.num_waiting == 32, 'reading is paused')
        loop = channels.loop
        assert loop is not None
        asyncio.run_coroutine_threadsafe(channels.disconnect_user('ann'), loop)
        wait_until(lambda: connection.closed, 'the connection is closed')
        wait_until(lambda: not app.num_open, 'the task has ended')
        loop.call_soon_threadsafe(clients.may_end.set)
    assert 1 == clients.num_calls


def test_request_for_a_paused_connection_is_answered_when_that_ends(
    asgi_server: AsgiServer,
) -> None:
    """A request with commands does not wait for a connection that has ended."""
    channels, clients = Channels(), Clients()
    app = App(middleware=[channels])
    channels.add_endpoints(app, resource=clients)
    with (
        serving_app(app, asgi_server) as server,
        httpx.Client(
            base_url=f'http://127.0.0.1:{server.port}', timeout=TIMEOUT_S
        ) as client,
        client.stream(
            'POST', '/connection/http_stream', content='{"id":1,"connect":{}}'
        ) as stream,
        ThreadPoolExecutor() as executor,
    ):
        lines = stream.iter_lines()
        result = json.loads(next(lines))['connect']
        calls = '\n'.join(f'{{"id":{n + 2},"rpc":{{}}}}' for n in range(64))
        body = {'session': result['session'], 'node': result['node'], 'data': calls}
        assert 204 == client.post('/emulation', json=body).status_code
        [connection] = channels.node.hub.connections
        begun_s = time.monotonic()
        waiting = executor.submit(client.post, '/emulation', json=body)
        readable = connection.transport._readable
        wait_until(lambda: readable._waiters, 'the request waits')
        loop = channels.loop
        assert loop is not None
        asyncio.run_coroutine_threadsafe(channels.disconnect_user('ann'), loop)
        wait_until(lambda: connection.closed, 'the connection is closed')
        assert 404 == waiting.result(TIMEOUT_S).status_code
        assert time.monotonic() - begun_s < BODY_TIMEOUT_S
        loop.call_soon_threadsafe(clients.may_end.set)
