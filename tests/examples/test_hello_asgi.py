"""The hello example on ASGI, started in each of its documented ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import signal
import socket
import struct

import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.asgi_servers import SERVE
from support.processes import ServerProcess
from support.processes import wait_until
from websockets.exceptions import ConnectionClosedError
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

MAX_TEXT_BYTES = 1024 * 1024

COMMANDS = {
    'module': ['python', '-m', 'examples.hello_asgi', '--port', '{port}'],
    'script': ['python', 'examples/hello_asgi.py', '--port', '{port}'],
    'reload': [
        *('python', '-m', 'uvicorn', 'examples.hello_asgi:app'),
        *('--port', '{port}', '--reload', '--reload-dir', 'examples'),
    ],
}

pytestmark = [
    pytest.mark.server,
    pytest.mark.every_server,
    pytest.mark.xdist_group('hello_asgi'),
]


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    command = COMMANDS['module']  # our server, started as the example documents
    if asgi_server is not SERVE:
        command = asgi_server.command('examples.hello_asgi:app')
    with ServerProcess(command) as server:
        yield server


def is_open(server: ServerProcess, client_port: int) -> bool:
    """Return whether the server's side of a connection still exists."""
    ends = (f':{server.port:04X}', f':{client_port:04X}')
    lines = Path('/proc/net/tcp').read_text().splitlines()[1:]
    # Words 1 to 3 are the local address, the remote address and the state. In state 06
    # (TIME_WAIT) the connection belongs to no process.
    return any(
        words[1].endswith(ends[0]) and words[2].endswith(ends[1]) and words[3] != '06'
        for words in map(str.split, lines)
    )


@pytest.mark.parametrize('path', ['/hello', '/ws'])
def test_page_loads_scripts_of_its_own_site_only(
    server: ServerProcess, path: str
) -> None:
    """Both addresses return the page, which can run only the script of its own site."""
    response = httpx.get(server.url + path)
    assert 200 == response.status_code
    assert 'text/html; charset=utf-8' == response.headers['content-type']
    assert '<title>WebSocket Chat</title>' in response.text
    assert "default-src 'none'" in response.headers['content-security-policy']
    assert 'unsafe' not in response.headers['content-security-policy']
    script = httpx.get(server.url + '/static/hello.js')
    assert 200 == script.status_code
    assert script.headers['content-type'].startswith('text/javascript')


def test_home_redirects_to_the_page(server: ServerProcess) -> None:
    """The root address redirects to the page."""
    response = httpx.get(server.url, follow_redirects=True)
    assert f'{server.url}/hello' == str(response.url)
    assert 200 == response.status_code


@pytest.mark.parametrize('path', ['/hello', '/ws'])
def test_every_text_is_answered_in_order(server: ServerProcess, path: str) -> None:
    """Every text is answered, in order, up to the maximum size."""
    with connect(server.ws_url + path, compression=None, max_size=None) as ws:
        for text in ('hello', '', 'Grüße 🌍', 'x' * 70_000):
            ws.send(text)
            assert f'Message text was: {text}' == ws.recv(30)
        ws.send('a' * MAX_TEXT_BYTES)
        answer = ws.recv(30)
        assert len('Message text was: ') + MAX_TEXT_BYTES == len(answer)


def test_binary_message_closes_the_connection_with_1003(server: ServerProcess) -> None:
    """A binary message closes the connection with 1003, a reason and no traceback."""
    with connect(server.ws_url + '/hello') as ws:
        ws.send(b'\x00\x01')
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv(30)
    assert caught.value.rcvd is not None
    assert 1003 == caught.value.rcvd.code
    assert 'This WebSocket accepts text only' == caught.value.rcvd.reason
    assert 'Traceback' not in server.log()


@pytest.mark.parametrize(
    'text', ['a' * (MAX_TEXT_BYTES + 1), 'é' * (MAX_TEXT_BYTES // 2 + 1)]
)
def test_text_over_the_limit_closes_the_connection_with_1009(
    server: ServerProcess, text: str
) -> None:
    """A text over the limit in bytes closes the connection with 1009 and a reason."""
    with connect(server.ws_url + '/hello', compression=None, max_size=None) as ws:
        ws.send(text)
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv(30)
    assert caught.value.rcvd is not None
    assert 1009 == caught.value.rcvd.code
    assert str(MAX_TEXT_BYTES) in caught.value.rcvd.reason


@pytest.mark.parametrize('end', ['close', 'reset'])
def test_disconnected_client_causes_no_error(server: ServerProcess, end: str) -> None:
    """A client that closes or resets its connection causes no error in the log."""
    before = len(server.log())
    with connect(server.ws_url + '/hello', close_timeout=1) as ws:
        ws.send('hello')
        assert 'Message text was: hello' == ws.recv(30)
        port = ws.local_address[1]
        assert is_open(server, port)
        if end == 'reset':
            ws.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
            )
            ws.socket.shutdown(socket.SHUT_RDWR)
    wait_until(
        lambda: not is_open(server, port), 'the server has closed the connection'
    )
    with connect(server.ws_url + '/hello') as ws:
        ws.send('next')
        assert 'Message text was: next' == ws.recv(30)
    log = server.log()[before:]
    assert 'Traceback' not in log
    assert 'ERROR' not in log
    assert '[FALCON]' not in log


def test_handshake_from_another_origin_is_refused(server: ServerProcess) -> None:
    """A handshake from a page of another site is answered with HTTP 403."""
    with pytest.raises(InvalidStatus) as caught:
        connect(server.ws_url + '/hello', origin='https://evil.example')
    assert 403 == caught.value.response.status_code
    with connect(server.ws_url + '/hello', origin=server.url) as ws:
        ws.send('hello')
        assert 'Message text was: hello' == ws.recv(30)


@pytest.mark.parametrize('way', ['module', 'script'])
def test_ctrl_c_stops_the_server_with_exit_code_0(way: str) -> None:
    """Ctrl-C stops the server with exit code 0, even while a client is connected."""
    with ServerProcess(COMMANDS[way]) as server:
        with connect(server.ws_url + '/hello') as ws:
            server.signal(signal.SIGINT)
            with pytest.raises(ConnectionClosedError) as caught:
                ws.recv(30)
        assert caught.value.rcvd is not None
        assert 1012 == caught.value.rcvd.code
        process = server.process
        assert process is not None
        wait_until(lambda: process.poll() is not None, 'it ended')
        assert 0 == process.returncode
        assert f'Page:      http://localhost:{server.port}/hello' in server.log()
        assert 'Traceback' not in server.log()


def test_uvicorn_reload_serves_the_app() -> None:
    """The app also works with uvicorn's --reload, which starts a child process."""
    with ServerProcess(COMMANDS['reload']) as server:
        wait_until(lambda: 'startup complete' in server.log(), 'the child started')
        with connect(server.ws_url + '/hello') as ws:
            ws.send('hello')
            assert 'Message text was: hello' == ws.recv(30)
