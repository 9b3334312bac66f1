"""Two servers on one broker: a room is one room, whoever is where."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
from pathlib import Path
import signal
import sys
from typing import Any
from typing import NamedTuple

import httpx
import pytest
from support.postgres_server import PostgresServer
from support.processes import ServerProcess
from support.processes import wait_until
from support.redis_server import RedisServer
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('two servers')]


class Pair(NamedTuple):
    """Two servers, and the URL of their broker."""

    one: ServerProcess
    two: ServerProcess
    broker: str


def start(broker: str) -> ServerProcess:
    """Return a server of rooms on a broker, not started."""
    command = [
        str(Path(sys.executable).with_name('falcon-channels')),
        *('serve', 'support.rooms_app:app', '--port', '{port}'),
    ]
    return ServerProcess(command, env={'PYTHONPATH': 'tests', 'BROKER': broker})


@pytest.fixture(params=['sqlite', 'redis', 'postgresql'], scope='module')
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Two servers on one broker of each kind."""
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp('servers')
        if request.param == 'sqlite':
            url = f'sqlite:///{folder}/rooms.db'
        elif request.param == 'redis':
            redis = RedisServer(folder)
            stack.callback(redis.stop)
            url = redis.url
        else:
            postgres = PostgresServer('fsync=off')
            stack.callback(postgres.stop)
            url = f'{postgres.url}?migrate=yes'
        one, two = (stack.enter_context(start(url)) for _ in range(2))
        yield Pair(one, two, url)


@contextlib.contextmanager
def enter(server: ServerProcess, room: str, user: str) -> Iterator[ClientConnection]:
    """Open a WebSocket in a room, and read that it is subscribed."""
    with connect(f'{server.ws_url}/rooms/{room}?user={user}', proxy=None) as ws:
        assert 'subscribed' in receive(ws)
        yield ws


def receive(ws: ClientConnection) -> Any:
    return json.loads(ws.recv(timeout=30))


def users(server: ServerProcess, room: str) -> Any:
    return httpx.get(f'{server.url}/rooms/{room}', timeout=30).json()


def test_a_room_is_one(servers: Pair) -> None:
    """What is published on either server reaches the clients of both, in one order."""
    one, two, _ = servers
    with enter(one, 'lobby', 'ann') as ann, enter(two, 'lobby', 'bob') as bob:
        for number in range(10):
            for server in (one, two):
                httpx.post(f'{server.url}/rooms/lobby', json=number, timeout=30)
        ann.send('"from ann"')
        heard = [[receive(ws) for _ in range(21)] for ws in (ann, bob)]
        for items in heard:
            assert list(range(1, 22)) == [item['offset'] for item in items]
        assert [item['data'] for item in heard[0]] == [
            item['data'] for item in heard[1]
        ]
        wait_until(lambda: users(one, 'lobby') == ['ann', 'bob'], 'both are seen')
        assert ['ann', 'bob'] == users(two, 'lobby')
    wait_until(lambda: users(two, 'lobby') == [], 'both have left')


def test_control_reaches_the_other_server(
    servers: Pair,
) -> None:
    """Who is disconnected or revoked on one server leaves the other one as well."""
    one, two, _ = servers
    with enter(two, 'lobby', 'cat') as cat:
        httpx.delete(f'{one.url}/users/cat', timeout=30)
        with pytest.raises(ConnectionClosed) as closed:
            cat.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert 3503 == closed.value.rcvd.code
    with enter(two, 'club', 'dan') as dan:
        httpx.put(f'{one.url}/rooms/club/revoked/dan', timeout=30)
        with pytest.raises(ConnectionClosed):
            dan.recv(timeout=30)
    for server in (one, two):
        with pytest.raises(InvalidStatus, match='403'):
            with enter(server, 'club', 'dan'):
                pass


def test_a_killed_server_leaves_no_ghosts(
    servers: Pair,
) -> None:
    """The users of a server that is killed leave by themselves, the others stay."""
    one, two, broker = servers
    with enter(one, 'bar', 'eve') as eve, start(broker) as third:
        with enter(third, 'bar', 'fay'):
            wait_until(lambda: users(one, 'bar') == ['eve', 'fay'], 'both are seen')
            third.signal(signal.SIGKILL)
            wait_until(lambda: users(two, 'bar') == ['eve'], 'one is left')
        httpx.post(f'{two.url}/rooms/bar', json='still here', timeout=30)
        assert 'still here' == receive(eve)['data']


def test_commands_go_up_by_the_other_server(servers: Pair) -> None:
    """A client over plain HTTP has its stream here, and its commands arrive there."""
    one, two, _ = servers
    first = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"rooms:http"}}'
    with httpx.stream(
        'POST', f'{one.url}/connection/http_stream', content=first, timeout=30
    ) as response:
        lines = response.iter_lines()
        connected = json.loads(next(lines))['connect']
        assert 'subscribe' in json.loads(next(lines))
        command = {'id': 3, 'publish': {'channel': 'rooms:http', 'data': 'up'}}
        session = {name: connected[name] for name in ('session', 'node')}
        sent = httpx.post(
            f'{two.url}/emulation',
            json={**session, 'data': json.dumps(command)},
            timeout=30,
        )
        assert 204 == sent.status_code
        heard = [json.loads(next(lines)) for _ in range(2)]
        assert [3] == [message['id'] for message in heard if 'id' in message]
        [push] = [message['push'] for message in heard if 'push' in message]
        assert 'up' == push['pub']['data']
