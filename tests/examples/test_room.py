"""The room example, as its page says to start it."""

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


def say(ws: ClientConnection, text: str) -> None:
    ws.send(json.dumps({'text': text}))


def hear(ws: ClientConnection, kind: str) -> Any:
    """Return the next message that has `kind`."""
    while True:
        message = json.loads(ws.recv(30))
        if kind in message:
            return message


def test_room_example_recovers_missed_messages_and_tracks_users(
    server: ServerProcess,
) -> None:
    """Two talk, one is away and misses nothing, and the room knows who is there."""
    url = f'{server.ws_url}/rooms/lobby'
    state = f'{server.url}/rooms/lobby'
    with connect(f'{url}?user=ann') as ann:
        assert 0 == hear(ann, 'subscribed')['subscribed']['offset']
        with connect(f'{url}?user=bob') as bob:
            assert 'ann' == hear(ann, 'join')['join']['user']
            assert 'bob' == hear(ann, 'join')['join']['user']
            say(bob, 'hello')
            heard = hear(ann, 'data')
            assert {'text': 'hello', 'from': 'bob'} == heard['data']
            assert ['ann', 'bob'] == httpx.get(state).json()['users']
            assert 1 == hear(bob, 'data')['offset']
        assert 'bob' == hear(ann, 'leave')['leave']['user']
        say(ann, 'are you there?')
        posted = httpx.post(state, json={'text': 'notice'})
        assert {'offset': 3} == posted.json()
        with connect(f'{url}?user=bob&since=1:{heard["epoch"]}') as bob:
            assert hear(bob, 'subscribed')['subscribed']['recovered']
            assert 'are you there?' == hear(bob, 'data')['data']['text']
            assert 'notice' == hear(bob, 'data')['data']['text']
        say(ann, 'still here')
        assert 4 == [hear(ann, 'data') for _ in range(3)][-1]['offset']
    wait_until(lambda: [] == httpx.get(state).json()['users'], 'nobody is there')
    texts = [p['data']['text'] for p in httpx.get(state).json()['publications']]
    assert ['hello', 'are you there?', 'notice', 'still here'] == texts


def test_room_example_refuses_with_a_reason(
    asgi_server: AsgiServer, server: ServerProcess
) -> None:
    """The room says no to strangers, and says what it wants to hear."""
    for url, status in {'/rooms/staff?user=bob': 403, '/rooms/lobby': 400}.items():
        with pytest.raises(InvalidStatus) as refused:
            connect(server.ws_url + url)
        assert asgi_server.refusal(status) == refused.value.response.status_code
    with connect(server.ws_url + '/rooms/staff?user=ann') as ws:
        ws.send('"no object"')
        assert 'send {"text": "..."}' == hear(ws, 'error')['error']['title']


def test_room_example_has_less_than_60_lines() -> None:
    """The example is under sixty lines."""
    assert len(Path(ROOT / 'examples/room.py').read_text().splitlines()) < 60
