"""The hello examples on WSGI, served by gunicorn and by gevent's own server."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from support.processes import ROOT
from support.processes import ServerProcess
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

TIMEOUT_S = 30.0
COMMANDS = {
    'gunicorn': [
        *('python', '-m', 'gunicorn', '--no-control-socket', '--worker-class'),
        *('gevent', '--bind', '127.0.0.1:{port}', 'examples.hello_wsgi:app'),
    ],
    'gevent': ['python', 'examples/wsgi.py', '--port', '{port}'],
}

pytestmark = pytest.mark.server


@pytest.fixture(scope='module', params=list(COMMANDS))
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with ServerProcess(COMMANDS[request.param]) as server:
        yield server


def get(server: ServerProcess, path: str) -> str:
    with urlopen(server.url + path, timeout=TIMEOUT_S) as response:
        text: str = response.read().decode()
        return text


def wait_for_close(client: ClientConnection) -> tuple[int | None, str | None]:
    """Wait until the server closes the connection; return the code and the reason."""
    with pytest.raises(ConnectionClosed):
        client.recv(timeout=TIMEOUT_S)
    return client.close_code, client.close_reason


def test_get_of_the_websocket_path_returns_a_text(server: ServerProcess) -> None:
    """A GET request to the path of the WebSocket returns an explanation."""
    assert 'This endpoint is for Websockets only.' == get(server, '/')


def test_page_and_its_assets_are_served(server: ServerProcess) -> None:
    """The page at /hello loads its script, style sheet and icon from this server."""
    page = get(server, '/hello')
    assert '<title>WebSocket Chat</title>' in page
    for path in ('/static/hello.js', '/static/hello.css', '/static/hello.svg'):
        assert path in page
        assert get(server, path)


def test_every_text_is_answered(server: ServerProcess) -> None:
    """Every text is answered."""
    with connect(f'{server.ws_url}/') as client:
        for text in ('hello', '<img src=x onerror=alert(1)>'):
            client.send(text)
            expected = f'Message text was: {text}'
            assert expected == client.recv(timeout=TIMEOUT_S)


def test_binary_and_too_long_messages_close_the_connection(
    server: ServerProcess,
) -> None:
    """A binary message closes with 1003 and a reason, a text over 1 MiB with 1009."""
    with connect(f'{server.ws_url}/') as client:
        client.send(b'\x00')
        assert (1003, 'This WebSocket accepts text only') == wait_for_close(client)
    with connect(f'{server.ws_url}/', max_size=None) as client:
        client.send('x' * (1 << 20))
        assert 1 << 20 < len(client.recv(timeout=TIMEOUT_S))
        client.send('x' * ((1 << 20) + 1))
        assert 1009 == wait_for_close(client)[0]


def test_handshake_from_another_origin_is_refused(server: ServerProcess) -> None:
    """A handshake from a page of another site is answered with HTTP 403."""
    with pytest.raises(InvalidStatus) as caught:
        with connect(f'{server.ws_url}/', origin='http://evil.example'):
            pass
    assert 403 == caught.value.response.status_code


def test_disconnected_clients_cause_no_traceback(server: ServerProcess) -> None:
    """Clients that disconnect, with or without a close frame, cause no traceback."""
    with connect(f'{server.ws_url}/') as client:
        client.send('hello')
    with connect(f'{server.ws_url}/') as client:
        client.socket.close()
    assert get(server, '/')
    assert 'Traceback' not in server.log()


@pytest.mark.parametrize('name', ['hello_wsgi.py', 'wsgi.py'])
def test_examples_have_less_than_60_lines(name: str) -> None:
    """An example has less than 60 lines."""
    assert len((ROOT / 'examples' / name).read_text().splitlines()) < 60
