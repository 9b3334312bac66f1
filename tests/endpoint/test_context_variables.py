"""Responders run in the context variables of the handshake of their connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
import json
from typing import Any

import falcon
import falcon.asgi
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until
from websockets.sync.client import connect

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels

pytestmark = pytest.mark.every_server

#: Set by middleware, as a tracing library or a logging filter does.
caller: ContextVar[str] = ContextVar('caller', default='nobody')
#: Set by responders that admit a client.
admitted_by: ContextVar[str] = ContextVar('admitted_by', default='nobody')

#: Users of connections, names of responders, and what they saw, in order.
seen: list[tuple[str, str, str]] = []
channels = Channels()


def record(req: Any, responder: str) -> None:
    """Record the context variable that each responder of each user sees."""
    seen.append((req.get_param('user'), responder, caller.get()))


class SetCaller:
    async def process_request(self, req: Any, resp: Any) -> None:
        caller.set(req.get_param('user', default='nobody'))

    async def process_request_ws(self, req: Any, ws: Any) -> None:
        caller.set(req.get_param('user', default='nobody'))


class Room:
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        record(req, 'on_subscribe')
        if admitted_by.get() == 'nobody':
            admitted_by.set('on_subscribe')

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        record(req, 'on_publish')

    async def on_unsubscribe(self, req: Any, subscription: Any, room: str) -> None:
        record(req, f'on_unsubscribe after {admitted_by.get()}')

    async def on_presence(self, req: Any, connection: Any, room: str) -> None:
        record(req, 'on_presence')

    async def on_history(self, req: Any, connection: Any, room: str) -> None:
        record(req, 'on_history')


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        record(req, 'on_connect')
        connection.user = req.get_param('user')
        admitted_by.set('on_connect')
        if req.has_param('expires'):
            connection.expires_at = 4e9

    async def on_refresh(self, req: Any, connection: Any) -> None:
        record(req, 'on_refresh')

    async def on_message(self, req: Any, message: Any) -> None:
        record(req, 'on_message')

    async def on_disconnect(self, req: Any, connection: Any) -> None:
        record(req, f'on_disconnect after {admitted_by.get()}')

    async def on_rpc_disconnect(self, req: Any, call: Any) -> None:
        record(req, 'on_rpc')
        await channels.disconnect_user(call.data)

    async def on_rpc(self, req: Any, call: Any) -> None:
        record(req, 'on_rpc')


class Plain:
    async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
        user = req.get_param('user')
        await channels.serve(req, ws, f'rooms:{room}', user=user)


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    global channels
    channels = Channels()
    channels.add_route(
        'rooms:{room}', Room(), ChannelOptions(history_size=5, presence=True)
    )
    app = falcon.asgi.App(middleware=[SetCaller(), channels])
    channels.add_endpoints(app, resource=Clients())
    app.add_route('/plain/{room}', Plain())
    with serving_app(app, asgi_server) as server:
        yield server


@pytest.fixture
def bob(server: Server) -> Iterator[Peer]:
    """A user whose requests end the connections of others."""
    with Peer.to(server, '/connection/websocket?user=bob') as peer:
        peer.connect()
        seen.clear()
        yield peer


def await_seen(*responders: str) -> None:
    """Wait for the responders of ann, and check the context variable of each."""
    expected = [('ann', responder, 'ann') for responder in responders]
    wait_until(lambda: len(of_ann()) >= len(expected), 'the responders of ann')
    assert expected == of_ann()


def of_ann() -> list[tuple[str, str, str]]:
    return [call for call in seen if call[0] == 'ann']


def test_responders_of_an_sdk_connection_see_its_handshake(
    server: Server, bob: Peer
) -> None:
    """Every responder sees the variables of its own handshake, in every case."""
    with Peer.to(server, '/connection/websocket?user=ann') as ann:
        ann.connect()
        ann.ask('subscribe', channel='rooms:a')
        ann.ask('publish', channel='rooms:a', data=1)
        ann.ask('presence', channel='rooms:a')
        ann.ask('history', channel='rooms:a')
        ann.ask('rpc', method='time')
        ann.say({'send': {'data': 1}})
        ann.ask('refresh', token='new')
        ann.ask('unsubscribe', channel='rooms:a')
        ann.ask('subscribe', channel='rooms:b')
        bob.ask('rpc', method='disconnect', data='ann')
        assert (3503, 'force disconnect') == ann.end()
    await_seen(
        'on_connect',
        'on_subscribe',
        'on_publish',
        'on_presence',
        'on_history',
        'on_rpc',
        'on_message',
        'on_refresh',
        'on_unsubscribe after on_connect',
        'on_subscribe',
        'on_unsubscribe after on_connect',
        'on_disconnect after on_connect',
    )


def test_responders_of_a_plain_websocket_see_its_handshake(
    server: Server, bob: Peer
) -> None:
    """The rule holds for a plain WebSocket."""
    with connect(f'{server.ws_url}/plain/a?user=ann') as ann:
        ann.send('hello')
        assert 'hello' == ann.recv(TIMEOUT_S)
        bob.ask('rpc', method='disconnect', data='ann')
    await_seen('on_subscribe', 'on_publish', 'on_unsubscribe after on_subscribe')


def test_responders_of_a_stream_see_its_handshake(server: Server, bob: Peer) -> None:
    """Commands that arrive in other requests run in the context of the stream."""
    url = server.ws_url.replace('ws', 'http', 1)
    with httpx.stream(
        'POST',
        f'{url}/connection/http_stream?user=ann',
        content='{"id":1,"connect":{}}',
        timeout=TIMEOUT_S,
    ) as stream:
        lines = stream.iter_lines()
        connected = json.loads(next(lines))['connect']
        answer = httpx.post(
            f'{url}/emulation?user=carl',
            json={
                'session': connected['session'],
                'node': connected['node'],
                'data': '{"id":2,"subscribe":{"channel":"rooms:a"}}',
            },
            timeout=TIMEOUT_S,
        )
        assert 204 == answer.status_code
        assert 2 == json.loads(next(lines))['id']
        bob.ask('rpc', method='disconnect', data='ann')
        for _ in lines:
            pass
    await_seen(
        'on_connect',
        'on_subscribe',
        'on_unsubscribe after on_connect',
        'on_disconnect after on_connect',
    )


def test_responders_of_a_unidirectional_client_see_its_handshake(
    server: Server, bob: Peer
) -> None:
    """The rule holds for a client that only listens."""
    url = server.ws_url.replace('ws', 'http', 1)
    with httpx.stream(
        'GET',
        f'{url}/connection/uni_sse?user=ann&channel=rooms:a',
        timeout=TIMEOUT_S,
    ) as stream:
        lines = stream.iter_lines()
        assert any('connect' in line for line in lines)
        bob.ask('rpc', method='disconnect', data='ann')
        for _ in lines:
            pass
    await_seen(
        'on_connect',
        'on_subscribe',
        'on_unsubscribe after on_connect',
        'on_disconnect after on_connect',
    )
