"""Servers that cannot serve WebSockets, or only with limits, and their log lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import signal
from urllib.error import HTTPError
from urllib.request import Request
from urllib.request import urlopen

import pytest
from support.processes import ServerProcess
from support.wsgi import CASES
from support.wsgi import DEADLINE_S
from support.wsgi import HERE
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.server

ENV = {'PYTHONPATH': str(HERE)}
COMMANDS = {case.name: case.command for case in CASES}
GEVENT = COMMANDS['gunicorn-gevent']


def serve(*command: str) -> ServerProcess:
    return ServerProcess(command, env=ENV)


@pytest.mark.parametrize(
    'command',
    [
        ('python', '-m', 'uvicorn', '--interface', 'wsgi', '--port', '{port}'),
        ('python', '-m', 'granian', '--interface', 'wsgi', '--port', '{port}'),
        (
            *('python', '-m', 'waitress', '--listen', '127.0.0.1:{port}'),
            *('--channel-request-lookahead', '1'),
        ),
    ],
    ids=['uvicorn', 'granian', 'waitress-with-lookahead'],
)
def test_unsupported_server_answers_websockets_with_501(command: Sequence[str]) -> None:
    """The log has the names of usable servers, and ordinary requests work."""
    with serve(*command, 'echo_wsgi:app') as server:
        with pytest.raises(InvalidStatus) as caught, connect(server.ws_url):
            pass
        assert 501 == caught.value.response.status_code
        with urlopen(server.url, timeout=DEADLINE_S) as response:
            assert b'plain' == response.read()
        assert 1 == server.log().count('Use one of these servers')
        assert 'gunicorn sync, gthread, gevent' in server.log()


def test_hypercorn_refuses_websockets_with_403() -> None:
    """Hypercorn in WSGI mode does not ask the app."""
    command = ('python', '-m', 'hypercorn', '--bind', '127.0.0.1:{port}')
    with serve(*command, 'wsgi:echo_wsgi:app') as server:
        with pytest.raises(InvalidStatus) as caught, connect(server.ws_url):
            pass
        assert 403 == caught.value.response.status_code


def test_sync_worker_of_gunicorn_logs_one_warning() -> None:
    """Only the first WebSocket under gunicorn's sync worker logs the warning."""
    with serve(*COMMANDS['gunicorn-sync']) as server:
        for _ in range(2):
            with connect(server.ws_url) as client:
                client.send('hello')
                assert 'hello' == client.recv(timeout=DEADLINE_S)
        assert 1 == server.log().count('gunicorn runs its sync worker')


def test_gevent_websocket_handler_works_and_logs_its_limits_once() -> None:
    """Refusals are close codes there, and the log says why."""
    with serve(*COMMANDS['pywsgi-geventwebsocket']) as server:
        for path, code in (('/nowhere', 3404), ('/closing', 4002)):
            with connect(server.ws_url + path) as client:
                if path == '/closing':
                    client.send('hello')
                with pytest.raises(ConnectionClosed):
                    client.recv(timeout=DEADLINE_S)
                assert code == client.close_code
        with connect(server.ws_url, origin='http://evil.example') as client:
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=DEADLINE_S)
            assert 3403 == client.close_code
        assert 1 == server.log().count('gevent-websocket answers the handshake')


#: The hook of docs/wsgi.md, with a shorter time.
HOOK = """
def post_fork(server, worker):
    worker.cfg.set('graceful_timeout', 1)
"""


@pytest.mark.parametrize(
    ('number', 'hook', 'code'),
    [
        (signal.SIGTERM, '', 1006),
        (signal.SIGTERM, HOOK, 1001),
        (signal.SIGHUP, '', 1001),
    ],
    ids=['stop', 'stop-with-the-hook', 'reload'],
)
def test_stop_of_gunicorn_with_gevent_closes_as_documented(
    tmp_path: Path, number: signal.Signals, hook: str, code: int
) -> None:
    """A worker closes with 1001, unless the main process kills it before."""
    config = tmp_path / 'gunicorn.conf.py'
    config.write_text(hook)
    command = ['6' if word == '1' else word for word in GEVENT]
    with serve(*command, '--config', str(config)) as server:
        with connect(server.ws_url) as client:
            client.send('hello')
            assert 'hello' == client.recv(timeout=DEADLINE_S)
            server.signal(number)
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=DEADLINE_S)
            assert code == client.close_code


def test_request_with_another_upgrade_is_served_as_http() -> None:
    """h2c, and an Upgrade without Connection, reach the resource."""
    with serve(*COMMANDS['gunicorn-gthread']) as server:
        for headers in ({'Upgrade': 'h2c'}, {'Upgrade': 'websocket'}):
            # urllib sends Connection: close.
            request = Request(server.url, headers=headers)
            with urlopen(request, timeout=DEADLINE_S) as response:
                assert b'plain' == response.read()
        with pytest.raises(HTTPError) as caught:
            urlopen(f'{server.url}/nowhere', timeout=DEADLINE_S)
        assert 404 == caught.value.code
        caught.value.close()
