"""Requests that a page of another site makes a browser send, and limits of replies."""

from __future__ import annotations

from collections.abc import Iterator
import json
from typing import Any

import httpx
import pytest

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions

CONNECT = {'id': 1, 'connect': {}}


class Room:
    """A resource that records what clients sent to subscribe."""

    subscriptions: list[Any] = []

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        assert {'secret': 1} == subscription.data or subscription.data is None
        Room.subscriptions.append(subscription)

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        """Let subscribers publish."""


class Clients:
    """A connection resource that records the calls of clients."""

    calls: list[str] = []
    connections: list[Any] = []

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'ann'
        Clients.connections.append((connection, connection.data))

    async def on_rpc(self, req: Any, call: Any) -> None:
        Clients.calls.append(call.method)

    async def on_message(self, req: Any, message: Any) -> None:
        Clients.calls.append('message')


@pytest.fixture(scope='module')
def channels() -> Channels:
    channels = Channels(options=NodeOptions(history_limit=100))
    options = ChannelOptions(history_size=100, recovery_limit_bytes=20_000)
    channels.add_route('rooms:{room}', Room(), options)
    return channels


@pytest.fixture(scope='module')
def server(channels: Channels) -> Iterator[Server]:
    with serving(channels, Clients()) as server:
        yield server


def get(server: Server, path: str, *commands: Any, **headers: str) -> int:
    """Return the status of a GET request, without waiting for its stream to end."""
    url = f'http://127.0.0.1:{server.port}{path}'
    params = {'cf_connect': '\n'.join(map(json.dumps, commands))} if commands else {}
    headers = {name.replace('_', '-'): value for name, value in headers.items()}
    with httpx.stream(
        'GET', url, params=params, headers=headers, timeout=TIMEOUT_S
    ) as response:
        return response.status_code


@pytest.mark.parametrize(
    'command',
    [
        {'rpc': {'method': 'transfer'}},
        {'publish': {'channel': 'rooms:a', 'data': 1}},
        {'send': {'data': 1}},
        {'unsubscribe': {'channel': 'rooms:a'}},
        {'history': {'channel': 'rooms:a'}},
    ],
    ids=lambda command: next(iter(command)),
)
def test_get_request_with_another_command_is_refused(
    server: Server, command: dict[str, Any]
) -> None:
    """A URL only connects and subscribes, because a link can cause the request."""
    Clients.calls.clear()
    assert 400 == get(server, '/connection/sse', CONNECT, {'id': 2, **command})
    assert [] == Clients.calls


def test_get_request_connects_and_subscribes(server: Server) -> None:
    """The commands that an SDK sends in a URL are carried out."""
    subscribe = {'id': 2, 'subscribe': {'channel': 'rooms:a'}}
    assert 200 == get(server, '/connection/sse', CONNECT, subscribe)


@pytest.mark.parametrize('path', ['/connection/sse', '/connection/uni_sse'])
@pytest.mark.parametrize(
    ('site', 'status'),
    [('cross-site', 403), ('same-site', 403), ('same-origin', 200), ('none', 200)],
)
def test_request_without_origin_is_refused_if_another_site_caused_it(
    server: Server, path: str, site: str, status: int
) -> None:
    """A navigation sends cookies and no Origin, but browsers send Sec-Fetch-Site."""
    connect = CONNECT if path.endswith('/sse') else {}
    assert status == get(server, path, connect, Sec_Fetch_Site=site)


def test_data_of_connect_and_subscribe_is_forgotten_after_its_responder(
    server: Server,
) -> None:
    """The data of a connect or subscribe request is released afterwards."""
    Clients.connections.clear()
    Room.subscriptions.clear()
    with Peer.to(server) as peer:
        peer.ask('connect', data={'large': 1})
        peer.ask('subscribe', channel='rooms:data', data={'secret': 1})
        ((connection, seen),) = Clients.connections
        assert ({'large': 1}, None) == (seen, connection.data)
        assert [None] == [item.data for item in Room.subscriptions]


def test_history_reply_is_limited_in_bytes(server: Server) -> None:
    """A page of history ends at recovery_limit_bytes."""
    with Peer.to(server) as peer:
        peer.connect()
        peer.ask('subscribe', channel='rooms:long')
        for _ in range(20):
            peer.ask('publish', channel='rooms:long', data='x' * 4_000)
        reply = peer.ask('history', channel='rooms:long', limit=-1)['history']
        assert [1, 2, 3, 4] == [item['offset'] for item in reply['publications']]
        assert 20 == reply['offset']
