"""Hooks of Falcon run before and after the responders of channels and connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import falcon
import pytest
from support.asgi_servers import AsgiServer

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from falcon_channels import ChannelOptions
from falcon_channels import Channels

pytestmark = pytest.mark.every_server

calls: list[str] = []


async def check(req: Any, resp: Any, resource: Any, params: Any, name: str) -> None:
    """Refuse a request with the parameter `name`, and record the call."""
    calls.append(f'before {name} {sorted(params)}')
    if req.get_param('refuse') == name:
        raise falcon.HTTPForbidden(description=f'no {name}')


async def note(req: Any, resp: Any, resource: Any, name: str) -> None:
    """Record the call."""
    calls.append(f'after {name}')


class Room:
    @falcon.before(check, 'subscribe')
    @falcon.after(note, 'subscribe')
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        calls.append('subscribe')

    @falcon.before(check, 'publish')
    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        calls.append('publish')

    @falcon.before(check, 'presence')
    async def on_presence(self, req: Any, connection: Any, room: str) -> None:
        calls.append('presence')

    @falcon.before(check, 'history')
    async def on_history(self, req: Any, connection: Any, room: str) -> None:
        calls.append('history')


class Clients:
    @falcon.before(check, 'connect')
    async def on_connect(self, req: Any, connection: Any) -> None:
        calls.append('connect')

    @falcon.before(check, 'rpc')
    async def on_rpc(self, req: Any, call: Any) -> None:
        calls.append('rpc')

    @falcon.before(check, 'message')
    async def on_message(self, req: Any, message: Any) -> None:
        calls.append('message')


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    channels = Channels()
    channels.add_route(
        'rooms:{room}', Room(), ChannelOptions(history_size=5, presence=True)
    )
    with serving(channels, Clients(), asgi_server=asgi_server) as server:
        yield server


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ('subscribe', 'subscribe', {'channel': 'rooms:a'}),
    ('publish', 'publish', {'channel': 'rooms:a', 'data': 1}),
    ('presence', 'presence', {'channel': 'rooms:a'}),
    ('history', 'history', {'channel': 'rooms:a'}),
    ('rpc', 'rpc', {'method': 'time', 'data': 1}),
]


def test_hook_of_each_responder_runs_before_it(server: Server) -> None:
    """The hook gets the fields of the template, and the responder runs after it."""
    calls.clear()
    with Peer.to(server) as peer:
        peer.connect()
        for name, request, fields in REQUESTS:
            reply = peer.ask(request, **fields)
            assert {request} == reply.keys(), f'{name}: {reply}'
        peer.say({'send': {'data': 1}})
        peer.ask('rpc', method='time')
    assert ['before connect []', 'connect'] == calls[:2]
    assert [
        "before subscribe ['room']",
        'subscribe',
        'after subscribe',
        "before publish ['room']",
        'publish',
        "before presence ['room']",
        'presence',
        "before history ['room']",
        'history',
        'before rpc []',
        'rpc',
        'before message []',
        'message',
    ] == calls[2:-2]


@pytest.mark.parametrize(('name', 'request_', 'fields'), REQUESTS)
def test_hook_of_a_responder_refuses_the_client(
    server: Server, name: str, request_: str, fields: dict[str, Any]
) -> None:
    """If a hook raises an `HTTPError`, the responder is not called."""
    with Peer.to(server, f'/connection/websocket?refuse={name}') as peer:
        peer.connect()
        if name != 'subscribe':
            peer.ask('subscribe', channel='rooms:a')
        calls.clear()
        assert {'code': 103, 'message': f'no {name}'} == peer.ask(request_, **fields)[
            'error'
        ]
    assert name not in calls


def test_hook_of_on_connect_refuses_the_connection(server: Server) -> None:
    """A hook of `on_connect` ends the connection with the code of its error."""
    with Peer.to(server, '/connection/websocket?refuse=connect') as peer:
        peer.say({'id': 1, 'connect': {}})
        assert (3507, 'no connect') == peer.end()
