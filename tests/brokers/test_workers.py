"""``falcon-channels serve --workers 2`` with each broker for several processes."""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
import signal

import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.processes import wait_until
from support.workers import broker_url
from support.workers import BROKERS
from support.workers import meet
from support.workers import receive
from support.workers import send_request
from support.workers import two_workers
from support.workers import Worker
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('workers')]


@pytest.fixture(params=BROKERS, scope='module')
def server(
    asgi_server: AsgiServer,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    """A server with two workers and a broker of each kind."""
    folder = tmp_path_factory.mktemp('workers')
    with broker_url(request.param, folder) as url:
        with two_workers(url, asgi_server) as server:
            yield server


@pytest.fixture
def workers(server: ServerProcess) -> tuple[Worker, Worker]:
    """The two workers of the server."""
    return meet(server)


def test_publications_of_both_workers_reach_all_clients_in_one_order(
    workers: tuple[Worker, Worker],
) -> None:
    """Publications at either worker reach the clients of both, in one order."""
    one, two = workers
    with one.enter('lobby', 'ann') as ann, two.enter('lobby', 'bob') as bob:
        for number in range(10):
            for worker in (one, two):
                worker.ask('POST', '/rooms/lobby', [number, worker.pid])
        ann.send('"from ann"')
        heard = [[receive(ws) for _ in range(21)] for ws in (ann, bob)]
        for items in heard:
            assert list(range(1, 22)) == [item['offset'] for item in items]
        texts = [[item['data'] for item in items] for items in heard]
        posted = [[number, worker.pid] for number in range(10) for worker in workers]
        assert [*posted, 'from ann'] == texts[0] == texts[1]
        wait_until(
            lambda: one.users('lobby') == ['ann', 'bob'], 'both users are present'
        )
        assert ['ann', 'bob'] == two.users('lobby')
    wait_until(lambda: two.users('lobby') == [], 'both users have left')
    assert [] == one.users('lobby')


def test_end_of_a_channel_reaches_the_clients_of_both_workers(
    workers: tuple[Worker, Worker],
) -> None:
    """A channel that ends at one worker ends at the other, until it is opened again."""
    one, two = workers
    for number in range(3):
        with one.enter('ends', 'ann') as ann, two.enter('ends', 'bob') as bob:
            one.ask('POST', '/rooms/ends', number)
            two.ask('PUT', '/rooms/ends', f'error {number}')
            for ws in (ann, bob):
                assert number == receive(ws)['data']
                assert {'error': f'error {number}'} == receive(ws)['end']
                with pytest.raises(ConnectionClosed):
                    ws.recv(timeout=30)
                assert 1000 == ws.close_code
        for worker in workers:
            with worker.enter('ends', 'cat') as cat:
                assert {'error': f'error {number}'} == receive(cat)['end']
        one.ask('DELETE', '/rooms/ends')


def test_disconnect_and_revocation_reach_the_other_worker(
    workers: tuple[Worker, Worker],
) -> None:
    """A user who is disconnected or revoked at one worker leaves the other, too."""
    one, two = workers
    with two.enter('lobby', 'cat') as cat:
        one.ask('DELETE', '/users/cat')
        with pytest.raises(ConnectionClosed) as closed:
            cat.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert 3503 == closed.value.rcvd.code
    with two.enter('club', 'dan') as dan, two.enter('club', 'flo') as flo:
        one.ask('PUT', '/rooms/club/revoked/dan')
        with pytest.raises(ConnectionClosed):
            dan.recv(timeout=30)
        for worker in workers:
            with pytest.raises(InvalidStatus, match='403'):
                with worker.enter('club', 'dan'):
                    pass
        one.ask('POST', '/rooms/club', 'for members')
        assert 'for members' == receive(flo)['data']


def test_revoked_user_is_refused_at_the_other_worker(
    workers: tuple[Worker, Worker],
) -> None:
    """A user who is revoked at one worker is refused at the other one."""
    one, two = workers
    requests = [
        {'publish': {'channel': 'squares:a', 'data': 1}},
        {'history': {'channel': 'squares:a', 'limit': 1}},
        {'presence': {'channel': 'squares:a'}},
        {'presence_stats': {'channel': 'squares:a'}},
        {'subscribe': {'channel': 'squares:a'}},
        {'unsubscribe': {'channel': 'squares:a'}},
    ]

    def answers(ws: ClientConnection) -> list[int]:
        """Return the error code of each request; 0 if it was executed."""
        codes = []
        for number, request in enumerate(requests):
            ws.send(json.dumps({'id': number + 2, **request}))
            while (answer := receive(ws)).get('id') != number + 2:
                assert 'pub' in answer['push'], answer
            codes.append(answer.get('error', {'code': 0})['code'])
        return codes

    with two.dial() as first, two.dial() as second:
        url = f'{two.server.ws_url}/connection/websocket'
        gus = connect(url, sock=first.sock, proxy=None)
        hal = connect(url, sock=second.sock, proxy=None)
        with gus, hal:
            for user, ws in (('gus', gus), ('hal', hal)):
                ws.send(json.dumps({'id': 1, 'connect': {'data': user}}))
                assert 'connect' in receive(ws)
                assert [0] * 6 == answers(ws)
            one.ask('PUT', '/rooms/a/revoked/gus')
            assert [103] * 5 + [0] == answers(gus)
            assert [0] * 6 == answers(hal)
            one.ask('DELETE', '/rooms/a/revoked/gus')
            assert [0] * 6 == answers(gus)


def test_commands_over_http_may_go_to_the_other_worker(
    workers: tuple[Worker, Worker],
) -> None:
    """With HTTP streaming, commands may go to another worker than the stream."""
    one, two = workers
    first = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"rooms:http"}}'
    with (
        one.dial() as connection,
        send_request(connection, 'POST', '/connection/http_stream', first) as stream,
    ):
        connected = json.loads(stream.readline())['connect']
        assert 'subscribe' in json.loads(stream.readline())
        session = {name: connected[name] for name in ('session', 'node')}
        for number, worker in enumerate((two, one, two), 3):
            data = [number, worker.pid]
            command = {'id': number, 'publish': {'channel': 'rooms:http', 'data': data}}
            worker.ask('POST', '/emulation', {**session, 'data': json.dumps(command)})
            heard = [json.loads(stream.readline()) for _ in range(2)]
            assert [number] == [item['id'] for item in heard if 'id' in item]
            [push] = [item['push'] for item in heard if 'push' in item]
            assert data == push['pub']['data']


def test_presence_of_a_killed_worker_expires_and_it_is_replaced(
    asgi_server: AsgiServer, server: ServerProcess, workers: tuple[Worker, Worker]
) -> None:
    """Presence entries of a killed worker expire; another worker replaces it."""
    one, two = workers
    with one.enter('bar', 'eve') as eve, one.enter('bar', 'gus') as gus:
        with two.enter('bar', 'fay') as fay, two.enter('bar', 'hal') as hal:
            everybody = ['eve', 'fay', 'gus', 'hal']
            wait_until(lambda: one.users('bar') == everybody, 'all users are present')
            os.kill(two.pid, signal.SIGKILL)
            for ws in (fay, hal):
                with pytest.raises(ConnectionClosed):
                    ws.recv(timeout=30)
            if not asgi_server.replaces_workers:
                assert server.process is not None
                server.process.wait(30)
                return
            wait_until(lambda: one.users('bar') == ['eve', 'gus'], 'two users are left')
        successor = next(w for w in meet(server, two.pid) if w.pid != one.pid)
        assert f'Child process [{two.pid}] died' in server.log()
        with successor.enter('bar', 'fay') as fay:
            successor.ask('POST', '/rooms/bar', 'here again')
            one.ask('POST', '/rooms/bar', 'still here')
            for ws in (eve, gus, fay):
                heard = [receive(ws)['data'] for _ in range(2)]
                assert ['here again', 'still here'] == heard
            wait_until(
                lambda: successor.users('bar') == ['eve', 'fay', 'gus'],
                'the third user is present',
            )
