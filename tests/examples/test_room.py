"""The room example over plain WebSockets."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import ROOT
from support.processes import ServerProcess
from support.processes import wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

pytestmark = [
    pytest.mark.server,
    pytest.mark.every_server,
    pytest.mark.xdist_group('room'),
]


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    with ServerProcess(asgi_server.command('examples.room:app')) as server:
        yield server


def send(ws: ClientConnection, text: str) -> None:
    ws.send(json.dumps({'text': text}))


def receive(ws: ClientConnection, kind: str) -> Any:
    """Return the next message that contains the key `kind`; skip all others."""
    while True:
        message = json.loads(ws.recv(30))
        if kind in message:
            return message


def test_room_example_recovers_missed_messages_and_tracks_users(
    server: ServerProcess,
) -> None:
    """A client that reconnects gets the missed messages; presence lists the users."""
    url = f'{server.ws_url}/rooms/lobby'
    state = f'{server.url}/rooms/lobby'
    with connect(f'{url}?user=ann') as ann:
        assert 0 == receive(ann, 'subscribed')['subscribed']['offset']
        with connect(f'{url}?user=bob') as bob:
            assert 'ann' == receive(ann, 'join')['join']['user']
            assert 'bob' == receive(ann, 'join')['join']['user']
            send(bob, 'hello')
            received = receive(ann, 'data')
            assert {'text': 'hello', 'from': 'bob'} == received['data']
            assert ['ann', 'bob'] == httpx.get(state).json()['users']
            assert 1 == receive(bob, 'data')['offset']
        assert 'bob' == receive(ann, 'leave')['leave']['user']
        send(ann, 'are you there?')
        posted = httpx.post(state, json={'text': 'notice'})
        assert {'offset': 3} == posted.json()
        with connect(f'{url}?user=bob&since=1:{received["epoch"]}') as bob:
            assert receive(bob, 'subscribed')['subscribed']['recovered']
            assert 'are you there?' == receive(bob, 'data')['data']['text']
            assert 'notice' == receive(bob, 'data')['data']['text']
        send(ann, 'still here')
        assert 4 == [receive(ann, 'data') for _ in range(3)][-1]['offset']
    wait_until(lambda: [] == httpx.get(state).json()['users'], 'nobody is there')
    texts = [p['data']['text'] for p in httpx.get(state).json()['publications']]
    assert ['hello', 'are you there?', 'notice', 'still here'] == texts


def test_room_example_refuses_with_a_reason(
    asgi_server: AsgiServer, server: ServerProcess
) -> None:
    """A refused handshake has a status, and a refused message has an error text."""
    for url, status in {'/rooms/staff?user=bob': 403, '/rooms/lobby': 400}.items():
        with pytest.raises(InvalidStatus) as refused:
            connect(server.ws_url + url)
        assert asgi_server.refusal(status) == refused.value.response.status_code
    with connect(server.ws_url + '/rooms/staff?user=ann') as ws:
        ws.send('"no object"')
        assert 'send {"text": "..."}' == receive(ws, 'error')['error']['title']


def test_room_example_has_less_than_60_lines() -> None:
    """The example has less than 60 lines."""
    assert len(Path(ROOT / 'examples/room.py').read_text().splitlines()) < 60
