"""The log as JSON on real servers: every line, every event, and no secret."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
import contextlib
from http.client import HTTPConnection
import json
from pathlib import Path
import re
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import httpx
import pytest
from support.processes import ROOT
from support.processes import ServerProcess
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect
from websockets.typing import Origin

from falcon_channels.tokens import make_connection_token
from server.logged_app import API_KEY
from server.logged_app import TOKEN_KEY
from server.running import Peer

pytestmark = pytest.mark.server

APP = 'tests.server.logged_app:app'
WSGI_APP = 'tests.server.logged_app:wsgi_app'
SERVE = ['python', '-m', 'falcon_channels', 'serve', '--port', '{port}', APP]
PAYLOAD = 'PAYLOAD-of-a-client'
SECRET = 'SECRET-of-the-query'

#: Events that a broker in memory cannot cause. Other tests cause them.
NOT_HERE = {'link_lost', 'link_restored', 'publications_lost'}

PAGE = (ROOT / 'docs' / 'events.md').read_text()
BLOCKS = dict(re.findall(r'<!-- ([^>\n]+) -->\n```\w+\n(.*?)```', PAGE, re.DOTALL))


def ask(client: ClientConnection, **command: Any) -> Any:
    """Send a command of the client protocol, and return the answer."""
    client.send(json.dumps({'id': 1, **command}))
    return json.loads(client.recv(timeout=20))


def close_code(client: ClientConnection) -> int | None:
    """Wait for the end of a connection, and return its close code."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            client.recv(timeout=20)
    return client.close_code


def drive_sdk(server: ServerProcess, token: str) -> None:
    """Connect with a token, publish, be refused twice, and cause an error."""
    with connect(f'{server.ws_url}/connection/websocket?{SECRET}') as client:
        ask(client, connect={'token': token})
        ask(client, subscribe={'channel': 'rooms:lobby'})
        ask(client, publish={'channel': 'rooms:lobby', 'data': PAYLOAD})
        assert PAYLOAD in str(client.recv(timeout=20))
        for room, code in (('vip', 103), ('vip', 103), ('bug', 100)):
            answer = ask(client, subscribe={'channel': f'rooms:{room}'})
            assert code == answer['error']['code']
    with connect(f'{server.ws_url}/connection/websocket') as client:
        client.send(json.dumps({'id': 1, 'connect': {'token': f'{token}x'}}))
        assert 3500 == close_code(client)


def drive_plain(server: ServerProcess) -> None:
    """Be refused before the accept: by a responder, by an error, and by the origin."""
    for name, origin, status in (
        ('rooms:vip', None, 403),
        ('rooms:bug', None, 500),
        ('unknown', None, 404),
        ('rooms:lobby', 'https://evil.example', 403),
    ):
        url = f'{server.ws_url}/plain/{name}?token={SECRET}'
        with (
            pytest.raises(InvalidStatus) as caught,
            connect(url, origin=Origin(origin) if origin else None),
        ):
            pass
        assert status == caught.value.response.status_code


def drive_slow_reader(server: ServerProcess, api: httpx.Client) -> None:
    """Read nothing until publications are dropped, and then read on."""

    def published_until(text: str) -> bool:
        done = api.post(
            '/api/publish', json={'channel': 'big', 'data': PAYLOAD * 4_000}
        )
        assert done.status_code == 200
        return text in server.log()

    with Peer(server.port, receive_buffer_bytes=4096) as peer:
        peer.open(path=f'/plain/big?token={SECRET}')
        wait_until(lambda: published_until('publications_dropped'), 'a slow reader')
        peer.sock.settimeout(0.5)
        ended = threading.Event()

        def read() -> None:
            with contextlib.suppress(OSError):
                while not ended.is_set():
                    with contextlib.suppress(TimeoutError):
                        peer.sock.recv(65536)

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: 'reader_caught_up' in server.log(), 'it has caught up')
        ended.set()
        reader.join()


def drive_http(server: ServerProcess, token: str, api: httpx.Client) -> None:
    """Send requests with secrets in the URL and in headers, and one that is invalid."""
    query = {'cf_connect': json.dumps({'token': token})}
    with httpx.stream('GET', f'{server.url}/connection/uni_sse', params=query) as found:
        assert 200 == found.status_code
    with httpx.stream(
        'GET',
        f'{server.url}/plain/rooms:lobby?token={SECRET}',
        headers={'Authorization': f'Bearer {SECRET}', 'Cookie': f'session={SECRET}'},
    ) as found:
        assert 200 == found.status_code
    headers = {'Authorization': f'Bearer {SECRET}', 'Referer': f'http://x/?a={SECRET}'}
    for path, status in (
        (f'/broken?token={SECRET}', 500),
        (f'/none?{SECRET}', 404),
        (f'/plain/rooms:bug?{SECRET}', 500),
    ):
        assert status == httpx.get(f'{server.url}{path}', headers=headers).status_code
    assert 200 == api.post('/api/info', json={}).status_code
    ended = api.post('/api/disconnect', json={'user': 'nobody'})
    assert 200 == ended.status_code
    wrong = {'X-API-Key': f'{SECRET}-wrong-key'}
    done = httpx.post(f'{server.url}/api/info', json={}, headers=wrong)
    assert 401 == done.status_code
    with socket.create_connection(('127.0.0.1', server.port), 20) as client:
        client.sendall(b'\x16\x03 ' + SECRET.encode() + b'\r\n\r\n')
        assert b' 400 ' in client.recv(4096)


def output_of(*words: str) -> str:
    """Return what a server has printed that several clients use, and that stops."""
    token = make_connection_token(TOKEN_KEY, 'ann')
    api = httpx.Client(headers={'X-API-Key': API_KEY})
    with ServerProcess([*SERVE, *words]) as server, api:
        api.base_url = httpx.URL(server.url)
        drive_sdk(server, token)
        drive_plain(server)
        drive_http(server, token, api)
        drive_slow_reader(server, api)
        with connect(f'{server.ws_url}/plain/rooms:lobby') as client:
            server.signal(signal.SIGTERM)
            assert 1012 == close_code(client)
        assert server.process is not None
        assert 0 == server.process.wait(20)
        text = server.log()
    for part in token.split('.'):
        assert part not in text
    return text


@pytest.fixture(scope='module')
def json_log() -> str:
    return output_of('--log-json', '--log-level', 'debug')


@pytest.fixture(scope='module')
def text_log() -> str:
    return output_of('--log-level', 'trace')


@pytest.fixture
def lines(json_log: str) -> list[dict[str, Any]]:
    """Each line of the log as an object."""
    return [json.loads(line) for line in json_log.splitlines()]


def of(lines: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [line for line in lines if line.get('event') == event]


@pytest.mark.parametrize('log', ['json_log', 'text_log'])
def test_no_line_has_a_payload_or_a_secret(
    log: str, request: pytest.FixtureRequest
) -> None:
    """Tokens, query strings, headers, keys and messages are in no line."""
    text = request.getfixturevalue(log)
    assert 'command_refused' in text or ' refused with ' in text
    assert 'SECRET' not in text
    assert PAYLOAD not in text


def test_each_line_has_the_usual_fields(lines: list[dict[str, Any]]) -> None:
    """Records of all loggers are objects with time, level, logger, node and message."""
    for line in lines:
        assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z', line['time'])
        assert {'time', 'level', 'logger', 'node', 'pid', 'message'} <= set(line)
        assert line['node'].endswith(f'_{line["pid"]}')
    loggers = {line['logger'] for line in lines}
    assert {
        *('falcon', 'falcon_channels', 'falcon_channels.events'),
        *('uvicorn.access', 'uvicorn.error'),
    } <= loggers
    assert not any(line['logger'].endswith('websockets') for line in lines)


def test_each_field_is_documented(lines: list[dict[str, Any]]) -> None:
    """The page names every field of every line."""
    named = set(re.findall(r'`(\w+)`', PAGE))
    assert set() == {name for line in lines for name in line} - named


def test_each_event_is_logged_with_its_level(lines: list[dict[str, Any]]) -> None:
    """Every event of the list that this server can have is there, with its level."""
    table = re.findall(r'^\| `(\w+)` \| ([A-Z, ]+) \|', PAGE, re.MULTILINE)
    found = {line['event'] for line in lines if 'event' in line}
    # NOTE: `responder_failed` stands for the room bug, and the others for clients.
    assert {name for name, _ in table} - NOT_HERE == found
    levels = {name: set(words.split(', ')) for name, words in table}
    for line in lines:
        assert 'event' not in line or line['level'] in levels[line['event']], line


def test_each_event_is_logged_once(lines: list[dict[str, Any]]) -> None:
    """A connection opens and closes once, and a node starts, drains and closes once."""
    opened = Counter(line['connection'] for line in of(lines, 'connection_opened'))
    assert 7 == len(opened)
    assert {1} == set(opened.values())
    assert opened == Counter(
        line['connection'] for line in of(lines, 'connection_closed')
    )
    assert len(of(lines, 'subscription_started')) == len(
        of(lines, 'subscription_ended')
    )
    for name in ('node_started', 'node_draining', 'node_closed', 'reader_slow'):
        assert 1 == len(of(lines, name)), name


def test_events_of_a_refused_user_have_user_channel_code_and_reason(
    lines: list[dict[str, Any]],
) -> None:
    """A support engineer can filter by user and channel, and reads the reason."""
    [identified] = [
        line
        for line in of(lines, 'connection_identified')
        if line['connection'] == of(lines, 'connection_opened')[0]['connection']
    ]
    assert ('ann', '') == (identified['user'], identified['before'])
    refused = [
        (line['level'], line['user'], line['code'], line['reason'], line['repeated'])
        for line in of(lines, 'command_refused')
        if line.get('channel') == 'rooms:vip' and 'user' in line
    ]
    assert [
        ('INFO', 'ann', 103, 'members only', False),
        ('DEBUG', 'ann', 103, 'members only', True),
    ] == refused
    failed, *without_sdk = of(lines, 'responder_failed')
    assert ('ann', 'subscribe') == (failed['user'], failed['responder'])
    assert failed['traceback'].endswith('RuntimeError: broken')
    # NOTE: Falcon logs the traceback of a plain WebSocket and of an event stream.
    assert 2 == len(without_sdk)
    for line in without_sdk:
        assert line['message'].endswith(': subscribe failed with RuntimeError')
        assert 'traceback' not in line
    [unknown] = [line for line in lines if line.get('channel') == 'unknown']
    assert ('WARNING', 404) == (unknown['level'], unknown['code'])
    assert unknown['reason'].startswith("no route matches the channel 'unknown'")
    [connection] = of(lines, 'connection_refused')
    assert 403 == connection['code']
    assert '/plain/rooms:lobby' == connection['path']
    assert 'https://evil.example' in connection['reason']
    [slow] = of(lines, 'reader_slow')
    assert ('big', 'latest') == (slow['channel'], slow['policy'])
    # NOTE: the policy may also apply after the client has read a part of it.
    assert isinstance(slow['backlog_bytes'], int)


def test_closes_have_their_code(lines: list[dict[str, Any]]) -> None:
    """The close of a client, a refused token and the drain are told apart."""
    closed = [
        (line.get('code'), line['by_client']) for line in of(lines, 'connection_closed')
    ]
    assert (1000, True) in closed
    assert (3500, False) in closed
    assert 1 == sum(code == 1012 for code, _ in closed)


def test_access_log_has_fields(lines: list[dict[str, Any]]) -> None:
    """Requests and handshakes have method, path and status, without the query."""
    found = {
        (line['method'], line['path'], line['status'])
        for line in lines
        if line['logger'] == 'uvicorn.access'
    }
    assert {
        ('WebSocket', '/connection/websocket?[redacted]', 101),
        ('WebSocket', '/plain/rooms%3Abug?[redacted]', 500),
        ('GET', '/broken?[redacted]', 500),
        ('POST', '/api/info', 401),
    } <= {(method, path.replace(':', '%3A'), status) for method, path, status in found}


def test_client_cannot_fill_the_log() -> None:
    """At INFO, a connection causes 3 lines, and one for each of 8 reasons."""
    with ServerProcess([*SERVE, '--log-json']) as server:
        with connect(f'{server.ws_url}/connection/websocket') as client:
            ask(client, connect={'token': make_connection_token(TOKEN_KEY, 'ann')})
            for n in range(40):
                ask(client, subscribe={'channel': 'rooms:lobby'})
                ask(client, unsubscribe={'channel': 'rooms:lobby'})
                error = ask(client, subscribe={'channel': f'{n}:unknown'})['error']
                assert 102 == error['code']
                assert (
                    103
                    == ask(client, publish={'channel': 'big', 'data': n})['error'][
                        'code'
                    ]
                )
        wait_until(lambda: 'connection_closed' in server.log(), 'the close is logged')
        lines = [json.loads(line) for line in server.log().splitlines()]
    events = Counter(line['event'] for line in lines if 'connection' in line)
    assert {
        *('connection_opened', 'connection_identified', 'connection_closed'),
        'command_refused',
    } == set(events)
    assert 2 == events['command_refused']


def test_workers_write_whole_lines() -> None:
    """Lines of several processes do not mix, and each has its own node."""

    def ask_often(port: int) -> None:
        for _ in range(30):
            client = HTTPConnection('127.0.0.1', port, timeout=20)
            client.request('GET', '/broken')
            assert 500 == client.getresponse().status
            client.close()

    with ServerProcess([*SERVE, '--log-json', '--workers', '2']) as server:
        wait_until(
            lambda: server.log().count('node_started') == 2, 'two workers have started'
        )
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(ask_often, server.port) for _ in '1234']:
                done.result()
        server.signal(signal.SIGTERM)
        assert server.process is not None
        server.process.wait(20)
        lines = [json.loads(line) for line in server.log().splitlines()]
    assert 120 == sum('traceback' in line for line in lines)
    assert 2 == len({line['node'] for line in of(lines, 'node_started')})


def test_application_that_cannot_be_loaded_is_a_line_of_json() -> None:
    """The reason of a failed start is a field, and nothing else is printed."""
    done = subprocess.run(
        [sys.executable, '-m', 'falcon_channels', 'serve', '--log-json', f'{APP}_x'],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=ROOT,
        check=False,
    )
    assert (3, '') == (done.returncode, done.stdout)
    [line] = [json.loads(line) for line in done.stderr.splitlines()]
    assert 'ERROR' == line['level']
    assert 'app_x' in line['message']


def drive_elsewhere(server: ServerProcess) -> None:
    """Use a plain WebSocket, be refused, and cause an error over HTTP."""
    with connect(f'{server.ws_url}/plain/rooms:lobby?token={SECRET}') as client:
        client.send(PAYLOAD)
        assert PAYLOAD == client.recv(timeout=20)
    for name in ('rooms:vip', 'rooms:bug'):
        with (
            pytest.raises(InvalidStatus),
            connect(f'{server.ws_url}/plain/{name}?{SECRET}'),
        ):
            pass
    headers = {'Authorization': f'Bearer {SECRET}', 'Referer': f'http://x/?a={SECRET}'}
    found = httpx.get(f'{server.url}/broken?token={SECRET}', headers=headers)
    assert 500 == found.status_code


UVICORN_COMMAND = ['python', '-m', 'uvicorn', APP, '--port', '{port}', '--log-config']
GUNICORN = ['python', '-m', 'gunicorn', WSGI_APP, '-b', '127.0.0.1:{port}', '-k']


@pytest.mark.parametrize(
    ('command', 'file', 'access'),
    [
        ([*UVICORN_COMMAND, 'log.json'], 'log.json', 'uvicorn.access'),
        (['python', 'serve_uvicorn.py'], 'serve_uvicorn.py', 'uvicorn.access'),
        ([*GUNICORN, 'gevent', '-c', 'gunicorn.conf.py'], 'gunicorn.conf.py', ''),
        ([*GUNICORN, 'gthread', '-c', 'gunicorn.conf.py'], 'gunicorn.conf.py', ''),
    ],
    ids=['uvicorn-command', 'uvicorn-program', 'gunicorn-gevent', 'gunicorn-gthread'],
)
def test_configuration_of_the_page_logs_json_on_another_server(
    command: list[str], file: str, access: str, tmp_path: Path
) -> None:
    """Each configuration of the page works: all lines are JSON, without secrets."""
    text = BLOCKS[file].replace("'app:app'", f"'{APP}', port={{port}}")
    server = ServerProcess(command, cwd=tmp_path, env={'PYTHONPATH': str(ROOT)})
    (tmp_path / file).write_text(text.replace('{port}', str(server.port)))
    with server:
        drive_elsewhere(server)
        server.signal(signal.SIGTERM)
        assert server.process is not None
        server.process.wait(20)
        output = server.log()
    lines = [json.loads(line) for line in output.splitlines()]
    assert 'SECRET' not in output
    assert PAYLOAD not in output
    [opened], [closed] = of(lines, 'connection_opened'), of(lines, 'connection_closed')
    assert opened['connection'] == closed['connection']
    [refused] = of(lines, 'command_refused')
    assert ('rooms:vip', 403) == (refused['channel'], refused['code'])
    assert 1 == len(of(lines, 'node_closed'))
    assert 2 == sum('traceback' in line for line in lines)
    [request] = [line for line in lines if line.get('path', '').startswith('/broken')]
    assert access in ('', request['logger'])
    assert ('/broken?[redacted]', 500) == (request['path'], request['status'])
