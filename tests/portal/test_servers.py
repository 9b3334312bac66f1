"""The portal in real servers with threads, greenlets, and several processes."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
from pathlib import Path
import signal
import socket
import sys
from typing import Any

import httpx
import pytest
from support.event_reader import EventReader
from support.processes import ServerProcess
from support.processes import wait_until
import websockets
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

pytestmark = [pytest.mark.server]

GUNICORN = ['python', '-m', 'gunicorn', '-b', '127.0.0.1:{port}', '--no-control-socket']
SERVERS = {
    'gthread': [*GUNICORN, '-k', 'gthread', '--threads', '40'],
    'gevent': [*GUNICORN, '-k', 'gevent'],
    'gevent-2': [*GUNICORN, '-k', 'gevent', '--workers', '2'],
    'waitress': ['waitress-serve', '--listen=127.0.0.1:{port}', '--threads=40'],
}


# PERF: one shared client, because each new client builds a TLS context.
HTTP = httpx.Client(timeout=30, trust_env=False)


def start(name: str, folder: Path, *more: str) -> ServerProcess:
    env = {'PYTHONPATH': 'tests'}
    if name.endswith('-2'):
        env['PORTAL_BROKER'] = f'sqlite:///{folder}/channels.db'
    command = SERVERS[name]
    if command[0] != 'python':
        command = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
    return ServerProcess([*command, *more, 'support.portal_app:app'], env=env)


@pytest.fixture(
    scope='module',
    params=[
        pytest.param(name, marks=pytest.mark.xdist_group(f'portal {name}'))
        for name in SERVERS
    ],
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    with start(request.param, tmp_path_factory.mktemp('portal')) as process:
        yield process


@contextlib.contextmanager
def subscribed(
    server: ServerProcess, channel: str, query: str = '', **options: Any
) -> Iterator[tuple[ClientConnection, dict[str, Any]]]:
    with connect(
        f'{server.ws_url}/{channel}?{query}', open_timeout=30, **options
    ) as ws:
        yield ws, json.loads(ws.recv(30))['subscribed']


def get(server: ServerProcess, channel: str) -> Any:
    return HTTP.get(f'{server.url}/{channel}').json()


def post(server: ServerProcess, channel: str, data: Any) -> int:
    answer = HTTP.post(f'{server.url}/{channel}', json=data)
    assert 200 == answer.status_code
    offset: int = answer.json()
    return offset


def test_http_requests_and_websockets_publish_to_one_channel(
    server: ServerProcess,
) -> None:
    """Publications of requests and of clients reach all clients in one order."""
    with (
        subscribed(server, 'rooms:talk', 'user=ann') as (ann, _),
        subscribed(server, 'rooms:talk', 'user=bob') as (bob, _),
    ):
        wait_until(
            lambda: get(server, 'rooms:talk')['users'] == ['ann', 'bob'],
            'both are present',
        )
        for n in range(30):
            if n % 2:
                post(server, 'rooms:talk', n)
            else:
                ann.send(json.dumps(n))
            items = [json.loads(ws.recv(30)) for ws in (ann, bob)]
            assert [(n, n + 1)] * 2 == [(i['data'], i['offset']) for i in items]
    page = get(server, 'rooms:talk')
    assert list(range(30)) == [item['data'] for item in page['publications']]
    assert 'ann' == page['publications'][0]['info']['user']
    wait_until(lambda: get(server, 'rooms:talk')['users'] == [], 'both have left')


def test_client_with_a_position_recovers_missed_publications(
    server: ServerProcess,
) -> None:
    """A client that reconnects with its position receives everything that it missed."""
    with subscribed(server, 'rooms:back') as (_, position):
        pass
    for n in range(50):
        post(server, 'rooms:back', n)
    since = f'since={position["offset"]}:{position["epoch"]}'
    with subscribed(server, 'rooms:back', since) as (ws, again):
        missed = [json.loads(ws.recv(30))['data'] for _ in range(50)]
    assert (True, list(range(50))) == (again['recovered'], missed)


def test_websocket_closes_with_1000_when_its_channel_has_ended(
    server: ServerProcess,
) -> None:
    """A blocking WebSocket gets everything, the end, and a code without a return."""
    with subscribed(server, 'rooms:ends') as (ws, _):
        post(server, 'rooms:ends', 'a')
        HTTP.put(f'{server.url}/rooms:ends', params={'error': 'too long'})
        messages = [json.loads(ws.recv(30)) for _ in range(2)]
        assert ('a', {'error': 'too long'}) == (messages[0]['data'], messages[1]['end'])
        with pytest.raises(websockets.ConnectionClosed):
            ws.recv(30)
        assert (1000, 'too long') == (ws.close_code, ws.close_reason)


def test_responders_see_the_context_variables_of_their_handshake(
    server: ServerProcess,
) -> None:
    """Responders see what middleware set, also if another user ends the client."""
    with subscribed(server, 'traced:log', 'user=ann') as (ann, _):
        ann.send('1')
        assert 1 == json.loads(ann.recv(30))['data']
        HTTP.request('DELETE', f'{server.url}/traced:log?user=ann')
    wait_until(lambda: len(get(server, 'rooms:log')['publications']) == 3, 'the calls')
    assert [
        'on_subscribe for ann',
        'on_publish for ann',
        'on_unsubscribe for ann',
    ] == [item['data'] for item in get(server, 'rooms:log')['publications']]


@pytest.mark.parametrize(
    ('name', 'code'), [('disconnect', 4321), ('unsubscribe', 3403)]
)
def test_client_whose_right_is_taken_away_in_on_subscribe_is_closed(
    server: ServerProcess, name: str, code: int
) -> None:
    """A command about a user reaches a client that is not accepted yet."""
    with connect(f'{server.ws_url}/traced:{name}?user=eve', open_timeout=30) as ws:
        with pytest.raises(websockets.ConnectionClosed):
            ws.recv(30)
        assert code == ws.close_code


def test_concurrent_clients_receive_all_messages_in_one_order(
    server: ServerProcess,
) -> None:
    """Ten clients that send at the same time receive all messages in the same order."""
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(subscribed(server, 'rooms:many', f'user=u{n}'))[0]
            for n in range(10)
        ]
        for n in range(20):
            for number, client in enumerate(clients):
                client.send(json.dumps([number, n]))
        received = [
            [json.loads(client.recv(30))['data'] for _ in range(200)]
            for client in clients
        ]
    assert all(order == received[0] for order in received)
    assert sorted(received[0]) == [
        [number, n] for number in range(10) for n in range(20)
    ]


def test_client_without_media_sends_and_receives_text(server: ServerProcess) -> None:
    """Without `media`, text is published unchanged."""
    with connect(f'{server.ws_url}/rooms:text?text=1', open_timeout=30) as ws:
        ws.send('héllo')
        assert 'héllo' == ws.recv(30)


def test_async_responders_of_channels_refuse_change_and_fail(
    server: ServerProcess,
) -> None:
    """Responders behave as on ASGI: they can refuse, change a publication, or fail."""
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(f'{server.ws_url}/secret:a', open_timeout=30).__enter__()
    assert 403 == refused.value.response.status_code
    with pytest.raises(websockets.InvalidStatus) as unknown:
        connect(f'{server.ws_url}/nowhere', open_timeout=30).__enter__()
    assert 404 == unknown.value.response.status_code
    with subscribed(server, 'secret:a', 'secret=open+sesame') as (ws, _):
        ws.send('"bad"')
        assert 400 == json.loads(ws.recv(30))['error']['status']
        ws.send('"good"')
        assert ['a', 'good'] == json.loads(ws.recv(30))['data']
        ws.send('"bug"')
        with pytest.raises(websockets.ConnectionClosed) as closed:
            ws.recv(30)
    assert 1011 == closed.value.rcvd.code


def test_disconnected_user_receives_the_code_in_every_process(
    server: ServerProcess,
) -> None:
    """`disconnect_user` closes the WebSockets of a user in all processes."""
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(subscribed(server, 'rooms:away', 'user=eve'))[0]
            for _ in range(6)
        ]
        HTTP.delete(f'{server.url}/rooms:away?user=eve')
        for client in clients:
            with pytest.raises(websockets.ConnectionClosed) as caught:
                client.recv(30)
            assert (4321, 'go away') == (
                caught.value.rcvd.code,
                caught.value.rcvd.reason,
            )


def test_client_that_does_not_read_is_closed_and_delays_no_other(
    server: ServerProcess,
) -> None:
    """A slow client is closed. Others receive everything meanwhile, in order."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(('127.0.0.1', server.port))
    with sock, subscribed(server, 'rooms:slow', 'user=quick') as (quick, _):
        sock.sendall(
            b'GET /rooms:slow?user=lazy HTTP/1.1\r\nHost: 127.0.0.1\r\n'
            b'Upgrade: websocket\r\nConnection: Upgrade\r\n'
            b'Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n'
            b'Sec-WebSocket-Version: 13\r\n\r\n'
        )
        wait_until(lambda: get_users(server) == ['lazy', 'quick'], 'both are present')
        payload = 'x' * 60_000
        count = 0
        while get_users(server) != ['quick']:
            assert count < 400
            post(server, 'rooms:slow', payload)
            count += 1
            assert count == json.loads(quick.recv(30))['offset']


def get_users(server: ServerProcess) -> Any:
    return HTTP.get(f'{server.url}/rooms:slow?limit=0').json()['users']


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=pytest.mark.xdist_group(f'portal end {name}'))
        for name in ('gthread', 'gevent')
    ],
)
def test_server_with_an_idle_portal_stops_on_sigterm(name: str, tmp_path: Path) -> None:
    """A server whose portal was used stops on SIGTERM without an error."""
    with start(name, tmp_path) as server:
        post(server, 'rooms:end', 1)
        with subscribed(server, 'rooms:end'):
            pass
        wait_until(
            lambda: get(server, 'rooms:end')['users'] == [], 'the client has left'
        )
        server.signal(signal.SIGTERM)
        assert server.process is not None
        assert 0 == server.process.wait(30)
        assert 'Traceback' not in server.log()


def test_refused_websocket_that_was_accepted_is_logged_with_its_close_code(
    server: ServerProcess,
) -> None:
    """The code in the log is the one that the client received."""
    with connect(f'{server.ws_url}/nowhere?accept=true', open_timeout=30) as ws:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            ws.recv(30)
    assert closed.value.rcvd is not None
    assert 3404 == closed.value.rcvd.code
    wait_until(
        lambda: "subscribe 'nowhere' refused with 3404" in server.log(), 'it is logged'
    )


def test_several_workers_with_a_memory_broker_log_a_warning(tmp_path: Path) -> None:
    """Each worker warns once that a memory broker delivers within one process only."""
    with start('gthread', tmp_path, '--workers', '2') as server:
        for _ in range(4):
            with subscribed(server, 'rooms:alone'):
                pass
        assert server.log().count('delivers within one process only') in (1, 2)


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=pytest.mark.xdist_group(f'portal drain {name}'))
        for name in ('gthread', 'gevent')
    ],
)
def test_sigterm_with_close_on_closes_websockets_with_1012(
    name: str, tmp_path: Path
) -> None:
    """With `close_on`, SIGTERM closes WebSockets with 1012, and the server stops.

    Event streams end, too.
    """
    hooks = tmp_path / 'gunicorn_hooks.py'
    hooks.write_text(
        'import signal\n\n\n'
        'def post_worker_init(worker):\n'
        '    from support.portal_app import portal\n\n'
        '    portal.close_on(signal.SIGTERM)\n'
    )
    with start(name, tmp_path, '--config', str(hooks)) as server:
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(subscribed(server, 'rooms:end'))[0]
                for _ in range(20)
            ]
            client = stack.enter_context(httpx.Client(base_url=server.url, timeout=30))
            reader = stack.enter_context(EventReader.open(client, '/events/rooms:end'))
            reader.start()
            server.signal(signal.SIGTERM)
            assert None is reader.next()
            for ws in clients:
                with pytest.raises(websockets.ConnectionClosed) as caught:
                    ws.recv(30)
                assert caught.value.rcvd is not None
                assert 1012 == caught.value.rcvd.code
        assert server.process is not None
        assert 0 == server.process.wait(30)
        assert 'Traceback' not in server.log()
