"""``falcon-channels serve`` as a process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
import datetime
import ipaddress
import json
import os
from pathlib import Path
import re
import signal
import socket
import ssl
import subprocess
import sys
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
import falcon.asgi
import httpx
import pytest
from support.processes import ServerProcess
from support.processes import wait_until
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect
from websockets.sync.client import unix_connect
from websockets.typing import Origin

from falcon_channels.server.app_loading import drop_receive_queue
from falcon_channels.server.garbage_collection import OBJECTS
from falcon_channels.server.options import ServerOptions
from server.running import Peer
from server.running import running

SERVE = ['python', '-m', 'falcon_channels', 'serve']
APP = 'tests.server.served_app:app'

pytestmark = pytest.mark.server


def process(*words: str, ignores_hangup: bool = False) -> ServerProcess:
    command = [*SERVE, '--port', '{port}', *words, APP]
    return ServerProcess(command, ignores_hangup=ignores_hangup)


def close_code(ws: ClientConnection) -> int:
    with contextlib.suppress(ConnectionClosed):
        while True:
            ws.recv(timeout=20)
    assert ws.close_code is not None
    return ws.close_code


def exit_code(server: ServerProcess, timeout_s: float = 20) -> int:
    assert server.process is not None
    return server.process.wait(timeout_s)


@pytest.fixture(scope='module')
def certificate(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp('tls')
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'localhost')])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address('127.0.0.1'))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (folder / 'cert.pem').write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / 'key.pem').write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / 'cert.pem', folder / 'key.pem'


def test_sigterm_drains_and_exits_with_0() -> None:
    """Drain hooks run, all clients get 1012, the app ends, and the exit code is 0."""
    with process() as server, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(connect(f'{server.ws_url}/echo?token=SECRET'))
            for _ in range(3)
        ]
        direct = stack.enter_context(connect(f'{server.ws_url}/direct'))
        direct.send('x')
        assert 'x' == direct.recv()
        assert 200 == httpx.get(f'{server.url}/pid?token=SECRET').status_code
        server.signal(signal.SIGTERM)
        assert [1012] * 4 == [close_code(ws) for ws in [*clients, direct]]
        assert 0 == exit_code(server)
        log = server.log()
        assert log.index('DRAINING') < log.index('ENDED')
        assert 'Traceback' not in log
        assert 'SECRET' not in log
        assert '"GET /pid?[redacted] HTTP/1.1" 200' in log


@pytest.mark.parametrize('sig', [signal.SIGINT, signal.SIGHUP])
def test_sigint_and_sighup_drain_a_single_process(sig: signal.Signals) -> None:
    """Ctrl-C and a hangup of a single process also drain its connections."""
    with process() as server:
        with connect(f'{server.ws_url}/echo') as ws:
            ws.recv()
            server.signal(sig)
            assert 1012 == close_code(ws)
        assert 0 == exit_code(server)
        assert 'ENDED' in server.log()


def test_drain_timeout_of_0_closes_all_connections_at_once() -> None:
    """The option accepts 0. The clients still receive 1012."""
    with process('--drain-timeout', '0') as server, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(connect(f'{server.ws_url}/echo')) for _ in range(3)
        ]
        server.signal(signal.SIGTERM)
        assert [1012] * 3 == [close_code(ws) for ws in clients]
        assert 0 == exit_code(server)


def test_sighup_ignored_at_start_stays_ignored() -> None:
    """A server started by ``nohup`` serves on when its terminal is closed."""
    with process(ignores_hangup=True) as server:
        server.signal(signal.SIGHUP)
        with connect(f'{server.ws_url}/echo') as ws:
            assert 'ws' == ws.recv()
        server.signal(signal.SIGTERM)
        assert 0 == exit_code(server)


def test_second_signal_ends_the_process_at_once() -> None:
    """While a request delays the graceful stop, a second signal ends the process."""
    with process() as server, Peer(server.port) as peer:
        peer.send(b'GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n')
        wait_until(lambda: 'STUBBORN' in server.log(), 'the request waits')
        server.signal(signal.SIGTERM)
        wait_until(lambda: 'Waiting for conn' in server.log(), 'the stop begins')
        assert server.process is not None
        assert server.process.poll() is None
        server.signal(signal.SIGINT)
        assert exit_code(server) is not None
        assert 'ENDED' not in server.log()


def test_signal_to_the_parent_drains_all_workers() -> None:
    """Two processes share a port; a signal to the parent drains both."""
    with process('--workers', '2') as server, contextlib.ExitStack() as stack:
        pids = set()

        def ask() -> bool:
            with httpx.Client() as client:
                pids.add(client.get(f'{server.url}/pid').text)
            return len(pids) == 2

        wait_until(ask, 'both workers have answered')
        clients = [
            stack.enter_context(connect(f'{server.ws_url}/echo')) for _ in range(6)
        ]
        server.signal(signal.SIGTERM)
        assert [1012] * 6 == [close_code(ws) for ws in clients]
        assert 0 == exit_code(server)
        assert 2 == server.log().count('ENDED')


def test_sighup_to_the_process_group_replaces_workers() -> None:
    """If SIGHUP reaches all processes, the workers drain and are replaced."""
    with process('--workers', '2') as server:
        assert server.process is not None
        # NOTE: A worker that has not started yet would die of SIGHUP and be replaced.
        wait_until(
            lambda: 2 == server.log().count('Application startup complete'),
            'both workers have started',
        )
        with connect(server.ws_url + '/echo') as ws:
            ws.recv()
            os.killpg(server.process.pid, signal.SIGHUP)
            assert 1012 == close_code(ws)
        wait_until(
            lambda: 4 == server.log().count('Application startup complete'),
            'both workers are replaced',
        )
        with connect(server.ws_url + '/echo') as ws:
            assert 'ws' == ws.recv(timeout=20)
        server.signal(signal.SIGTERM)
        assert 0 == exit_code(server)


def test_second_signal_kills_workers_at_once() -> None:
    """The parent kills workers whose stop is delayed."""
    with process('--workers', '2') as server, Peer(server.port) as peer:
        peer.send(b'GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n')
        wait_until(lambda: 'STUBBORN' in server.log(), 'the request waits')
        server.signal(signal.SIGTERM)
        wait_until(lambda: 'Waiting for conn' in server.log(), 'the stop begins')
        server.signal(signal.SIGTERM)
        assert exit_code(server) is not None


class UnixServer(ServerProcess):
    """A server that has started when its UNIX socket accepts."""

    path = ''

    def _listening(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, 'exited'
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(self.path) == 0


def test_unix_socket_serves_and_is_removed_at_the_end(tmp_path: Path) -> None:
    """Both ways to send work over a UNIX socket; the stop removes the file."""
    path = str(tmp_path / 'app.sock')
    server = UnixServer([*SERVE, '--uds', path, APP])
    server.path = path
    with server:
        for place in ('/echo', '/direct'):
            with unix_connect(path, uri=f'ws://localhost{place}') as ws:
                if place == '/echo':
                    assert 'ws' == ws.recv()
                ws.send('over a file')
                assert 'over a file' == ws.recv()
        server.signal(signal.SIGTERM)
        assert 0 == exit_code(server)
    assert not Path(path).exists()


_PROXIED_APP = """
import falcon.asgi
from falcon_channels import OriginCheck


class Who:
    async def on_get(self, req, resp):
        resp.media = [req.scheme, req.remote_addr]

    async def on_websocket(self, req, ws):
        await ws.accept()
        await ws.send_media([req.scheme, req.remote_addr])


app = falcon.asgi.App(middleware=[OriginCheck()])
app.add_route('/', Who())
"""


@pytest.mark.parametrize(
    ('allowed', 'seen', 'client'),
    [((), 'https', '203.0.113.9'), (('10.0.0.1',), 'http', '127.0.0.1')],
)
def test_proxy_at_a_unix_socket_is_trusted_like_localhost(
    allowed: tuple[str, ...], seen: str, client: str, tmp_path: Path
) -> None:
    """Scheme and address come from the proxy, unless other proxies are named."""
    (tmp_path / 'app.py').write_text(_PROXIED_APP)
    path = str(tmp_path / 'app.sock')
    words = ['--uds', path, *(f'--forwarded-allow-ips={ip}' for ip in allowed)]
    server = UnixServer([*SERVE, *words, 'app:app'], cwd=tmp_path)
    server.path = path
    # NOTE: An address that the client has invented is left of the proxy's one.
    headers = {
        'Host': 'example.com',
        'X-Forwarded-Proto': 'https',
        'X-Forwarded-For': '6.6.6.6, 203.0.113.9',
    }
    with server:
        with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as http:
            answer = http.get('http://example.com/', headers=headers)
        scheme = 'wss' if seen == 'https' else 'ws'
        with unix_connect(
            path,
            uri='ws://example.com/',
            origin=Origin(f'{seen}://example.com'),
            additional_headers=[(k, v) for k, v in headers.items() if k != 'Host'],
        ) as ws:
            assert [scheme, client] == json.loads(ws.recv(timeout=20))
    assert [seen, client] == answer.json()


_MOUNTED_APP = """
import falcon.asgi


class Where:
    async def on_get(self, req, resp):
        resp.media = [req.root_path, req.path, req.relative_uri]

    async def on_websocket(self, req, ws):
        await ws.accept()
        await ws.send_media([req.root_path, req.path, req.relative_uri])


def make():
    app = falcon.asgi.App()
    app.add_route('/where', Where())
    return app


app = make()
"""


_COLLECTOR_APP = """
import gc

import falcon.asgi

{line}


class Threshold:
    async def on_get(self, req, resp):
        resp.media = gc.get_threshold()[0]


app = falcon.asgi.App()
app.add_route('/', Threshold())
"""


@pytest.mark.parametrize(
    ('line', 'expected'), [('', OBJECTS), ('gc.set_threshold(1000)', 1000)]
)
def test_collector_runs_less_often_unless_the_application_has_set_it(
    line: str, expected: int, tmp_path: Path
) -> None:
    """A busy server does not collect the objects in progress all the time."""
    (tmp_path / 'app.py').write_text(_COLLECTOR_APP.format(line=line))
    path = str(tmp_path / 'app.sock')
    server = UnixServer([*SERVE, '--uds', path, 'app:app'], cwd=tmp_path)
    server.path = path
    with server, httpx.Client(transport=httpx.HTTPTransport(uds=path)) as http:
        assert expected == http.get('http://localhost/').json()


@pytest.mark.parametrize('words', [('app:app',), ('--factory', 'app:make')])
def test_root_path_is_not_a_part_of_the_routed_path(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """The proxy has removed the prefix; URLs of the application have it again."""
    (tmp_path / 'app.py').write_text(_MOUNTED_APP)
    path = str(tmp_path / 'app.sock')
    words = ('--uds', path, '--root-path', '/api/', *words)
    server = UnixServer([*SERVE, *words], cwd=tmp_path)
    server.path = path
    expected = ['/api', '/where', '/api/where?a=1']
    with server:
        with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as http:
            assert expected == http.get('http://localhost/where?a=1').json()
        with unix_connect(path, uri='ws://localhost/where?a=1') as ws:
            assert expected == json.loads(ws.recv(timeout=20))


@contextlib.contextmanager
def tls_process(
    certificate: tuple[Path, Path],
) -> Iterator[tuple[ServerProcess, ssl.SSLContext]]:
    """Run the server with TLS; yield it, and the context of its clients."""
    cert, key = certificate
    context = ssl.create_default_context(cafile=str(cert))
    with process('--ssl-certfile', str(cert), '--ssl-keyfile', str(key)) as server:
        yield server, context


def test_tls_passes_messages_of_all_sizes_and_drains(
    certificate: tuple[Path, Path],
) -> None:
    """Messages of all sizes pass, with and without a receiver, and the stop drains."""
    with tls_process(certificate) as (server, context):
        assert [1012, 1012] == asyncio.run(talk_over_tls(server, context))
        assert 0 == exit_code(server)


def test_tls_handshake_that_ends_during_the_drain_gets_no_websocket(
    certificate: tuple[Path, Path],
) -> None:
    """A server that stops serves no new client, and does not wait for one."""
    with tls_process(certificate) as (server, context):
        slow = HalfTls(server.port, context)
        with connect(f'wss://127.0.0.1:{server.port}/echo', ssl=context):
            slow.begin()
            server.signal(signal.SIGTERM)
            wait_until(lambda: 'Shutting down' in server.log(), 'the stop begins')
            assert b'' == slow.request('/echo')
        assert 0 == exit_code(server)


@pytest.mark.parametrize('request_lines', [b'', b'GET / HTTP/1.1\r\nHost: x\r\n\r\n'])
def test_idle_tls_client_does_not_delay_the_stop(
    certificate: tuple[Path, Path], request_lines: bytes
) -> None:
    """A client that does not read the end of its connection is aborted."""
    cert, key = certificate
    context = ssl.create_default_context(cafile=str(cert))
    app = falcon.asgi.App()
    with running(
        app,
        http='falcon_channels.server.http:BoundedHttpProtocol',
        options=ServerOptions(close_timeout_s=0.3),
        timeout_graceful_shutdown=25,
        ssl_certfile=str(cert),
        ssl_keyfile=str(key),
    ) as server:
        sock = socket.create_connection(('127.0.0.1', server.port), 20)
        with context.wrap_socket(sock, server_hostname='127.0.0.1') as client:
            client.sendall(request_lines)
            if request_lines:
                assert client.recv(4096).startswith(b'HTTP/1.1 404 ')
            server.server.should_exit = True
            wait_until(lambda: not server.thread.is_alive(), 'the stop ends', 10)


class HalfTls:
    """A client that stops within its TLS handshake."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._sock = socket.create_connection(('127.0.0.1', port), 20)
        self._read, self._written = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._read, self._written, server_hostname='127.0.0.1'
        )

    def begin(self) -> None:
        """Send the first message, and wait for the answer of the server."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._sock.sendall(self._written.read())
        self._read.write(self._sock.recv(65536))

    def request(self, path: str) -> bytes:
        """End the handshake, and send an upgrade request; return the answer."""
        with contextlib.suppress(ConnectionError), self._sock:
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    self._read.write(self._sock.recv(65536))
            self._tls.write(HANDSHAKE % path.encode())
            self._sock.sendall(self._written.read())
            while data := self._sock.recv(65536):
                self._read.write(data)
                with contextlib.suppress(ssl.SSLWantReadError):
                    if answer := self._tls.read(1000):
                        return answer
        return b''


HANDSHAKE = (
    b'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n'
    b'Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n'
    b'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
)


async def talk_over_tls(
    server: ServerProcess, context: ssl.SSLContext
) -> list[int | None]:
    """Exchange messages, stop the server, and return the clients' close codes.

    NOTE: The blocking client reads and writes one TLS socket in two threads at once. On
    a busy machine its handshake was lost now and then, so this client is asynchronous.
    """
    url = f'wss://127.0.0.1:{server.port}'
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(40):
        clients = []
        for place in ('/echo', '/direct'):
            connecting = connect_async(url + place, ssl=context, open_timeout=30)
            ws = await stack.enter_async_context(connecting)
            if place == '/echo':
                await ws.recv()
            for text in ('small', 'y' * 300_000, 'small again'):
                await ws.send(text)
                assert text == await ws.recv()
            clients.append(ws)
        server.signal(signal.SIGTERM)
        for ws in clients:
            await ws.wait_closed()
        return [ws.close_code for ws in clients]


def test_reload_serves_a_changed_module(tmp_path: Path) -> None:
    """With --reload the server restarts when a module has changed."""
    module = tmp_path / 'changing.py'
    text = (
        'import falcon.asgi\n'
        'class R:\n'
        '    async def on_get(self, req, resp):\n'
        '        resp.text = "one"\n'
        'app = falcon.asgi.App()\n'
        'app.add_route("/", R())\n'
    )
    module.write_text(text)
    words = [*SERVE, '--port', '{port}', '--reload', '--app-dir', str(tmp_path)]
    with ServerProcess([*words, 'changing:app'], cwd=tmp_path) as server:
        assert 'one' == httpx.get(server.url).text

        saved_at = 0.0

        def changed() -> bool:
            nonlocal saved_at
            # NOTE: The reloader ignores changes before its first look, so the module
            # is saved again.
            if time.monotonic() > saved_at + 5:
                saved_at = time.monotonic()
                module.write_text(text.replace('one', 'three'))
            try:
                return httpx.get(server.url).text == 'three'
            except httpx.HTTPError:
                return False

        wait_until(changed, 'the changed module is served')
        server.signal(signal.SIGTERM)
        assert 0 == exit_code(server)


WRONG = {
    'no such command': (['dance'], 2, 'invalid choice'),
    'no application': (['serve'], 2, 'required: app'),
    'no such module': (
        ['serve', 'nowhere:app'],
        3,
        "Could not import module 'nowhere': it is not in the folder",
    ),
    'a module without an attribute': (
        ['serve', 'main'],
        3,
        'write module:attribute, such as main:app',
    ),
    'the name of a file': (
        ['serve', 'examples/echo_asgi.py:app'],
        3,
        'write the name of the module, echo_asgi:app',
    ),
    'no such attribute': (
        ['serve', 'examples.echo_asgi:application'],
        3,
        'did you mean examples.echo_asgi:app?',
    ),
    'a folder that is not there': (
        ['serve', 'main:app', '--app-dir', '/nowhere'],
        2,
        "'/nowhere' is not a folder",
    ),
    'a factory that is an application': (
        ['serve', '--factory', 'examples.echo_asgi:app'],
        3,
        'examples.echo_asgi:app is an app, and no function: leave out --factory',
    ),
    'no such attribute in a module without apps': (
        ['serve', '--factory', 'os:application', '--port', '0'],
        3,
        "the module 'os' has no 'application', and no falcon.asgi.App",
    ),
    'a factory that takes arguments': (
        ['serve', '--factory', 'os.path:join', '--port', '0'],
        3,
        'os.path:join cannot be called without arguments',
    ),
    'a factory that returns no application': (
        ['serve', '--factory', 'os:getpid', '--port', '0'],
        3,
        'the result of os:getpid is not an ASGI app, but an object of the class int',
    ),
    'a class that is no application': (
        ['serve', 'examples.echo_asgi:Echo', '--port', '0'],
        3,
        'the result of examples.echo_asgi:Echo is not an ASGI app',
    ),
    'a proxy that is the name of a host': (
        ['serve', '--forwarded-allow-ips', '10.0.0.1, nginx', 'x:y'],
        2,
        "'nginx' is not an IP address or network",
    ),
    'a network of proxies with the address of a host': (
        ['serve', '--forwarded-allow-ips', '10.0.0.1/24', 'x:y'],
        2,
        'has host bits set',
    ),
    'a first message in no time': (
        ['serve', '--ws-first-message-timeout', '0', 'x:y'],
        2,
        'leave the option out for no limit',
    ),
    'a port that is no number': (
        ['serve', '--port', 'http', 'x:y'],
        2,
        "argument --port: 'http' is not a whole number",
    ),
    'a time that is no number': (
        ['serve', '--drain-timeout', 'soon', 'x:y'],
        2,
        "argument --drain-timeout: 'soon' is not a number of seconds",
    ),
    'a stop that ends before the drain': (
        ['serve', '--stop-timeout', '10', 'x:y'],
        2,
        '--stop-timeout of 10 s must be longer than --drain-timeout of 20 s',
    ),
    'a stop that ends with the drain': (
        ['serve', '--stop-timeout', '30', '--drain-timeout', '30', 'x:y'],
        2,
        '--stop-timeout of 30 s must be longer than --drain-timeout of 30 s',
    ),
    'a WSGI application': (
        ['serve', 'examples.echo_wsgi:app'],
        3,
        'examples.echo_wsgi:app is a WSGI app (App)',
    ),
    'a socket in a folder that is not there': (
        ['serve', '--uds', '/nowhere/app.sock', APP],
        2,
        "'/nowhere' is not a folder; create it first",
    ),
    'an object that is no application': (
        ['serve', 'examples.room:channels', '--port', '0'],
        3,
        'examples.room:channels is not an ASGI app, but an object of the class ',
    ),
    'a root path without a slash': (
        ['serve', '--root-path', 'api', 'x:y'],
        2,
        "'api' must begin with a slash",
    ),
    'a port too many': (['serve', '--port', '70000', 'x:y'], 2, '0 to 65535'),
    'not a number': (['serve', '--workers', 'many', 'x:y'], 2, 'not a whole number'),
    'workers and reload': (
        ['serve', '--workers', '2', '--reload', 'x:y'],
        2,
        'exclude each other',
    ),
    'a certificate that is not there': (
        ['serve', '--ssl-certfile', '/nowhere.pem', APP],
        2,
        'loaded from /nowhere.pem: ',
    ),
}


@pytest.mark.parametrize('name', WRONG)
def test_mistake_on_the_command_line_prints_one_clear_error(name: str) -> None:
    """The error is one line without a traceback."""
    words, code, text = WRONG[name]
    done = subprocess.run(
        [sys.executable, '-m', 'falcon_channels', *words],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert code == done.returncode
    assert text in done.stderr
    assert 'Traceback' not in done.stderr


def test_variable_with_a_proxy_that_is_no_address_is_refused() -> None:
    """A name in FORWARDED_ALLOW_IPS would trust nobody, and nothing would say so."""
    done = subprocess.run(
        [sys.executable, '-m', 'falcon_channels', 'serve', APP],
        env={**os.environ, 'FORWARDED_ALLOW_IPS': 'nginx'},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert 2 == done.returncode
    assert "FORWARDED_ALLOW_IPS: 'nginx' is not an IP address or network" in done.stderr


@pytest.mark.parametrize('root_path', ['', '/api'])
def test_function_that_returns_an_app_works_without_the_option_factory(
    root_path: str, tmp_path: Path
) -> None:
    """The server calls the function, and a warning names the option.

    With a root path, each request called the function, and failed.
    """
    text = _MEMORY_APP.replace('app = ', 'def create():\n    app = ').replace(
        'app.add_route', '    app.add_route'
    )
    (tmp_path / 'made.py').write_text(f'{text}    return app\n')
    options = ['--root-path', root_path] if root_path else []
    command = [*SERVE, '--port', '{port}', *options, 'made:create']
    env = {'BROKER': 'memory://', 'MIDDLEWARE': 'yes'}
    with ServerProcess(command, cwd=tmp_path, env=env) as server:
        assert 200 == httpx.get(f'{server.url}/publish').status_code
        assert 'start it with --factory' in server.log()


def test_port_in_use_prints_a_clear_error() -> None:
    """A port that another process uses is reported without a traceback."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, '-m', 'falcon_channels', 'serve', '--port', port, APP],
            capture_output=True,
            text=True,
            timeout=30,
        )

    assert 3 == done.returncode
    assert 'address already in use' in done.stderr
    assert 'Traceback' not in done.stderr


def test_default_receive_queue_of_falcon_apps_is_removed() -> None:
    """Only Falcon's default is replaced, and only in Falcon's apps."""
    default = falcon.asgi.App()
    chosen = falcon.asgi.App()
    chosen.ws_options.max_receive_queue = 16

    for app in (default, chosen, object()):
        drop_receive_queue(app)

    assert 0 == default.ws_options.max_receive_queue
    assert 16 == chosen.ws_options.max_receive_queue


_MEMORY_APP = """
import os

import falcon.asgi
from falcon_channels import Channels

channels = Channels(os.environ['BROKER'])
channels.add_route('rooms:{room}', None)


class Publish:
    async def on_get(self, req, resp):
        await channels.publish('rooms:a', 1)


app = falcon.asgi.App(middleware=[channels] if os.environ['MIDDLEWARE'] else None)
app.add_route('/publish', Publish())
"""


@pytest.mark.parametrize('middleware', ['', 'yes'])
@pytest.mark.parametrize(
    ('broker', 'workers', 'warns'),
    [('memory://', 2, True), ('memory://', 1, False), ('sqlite:///a.db', 2, False)],
)
def test_workers_without_a_shared_broker_log_a_warning(
    broker: str, workers: int, warns: bool, middleware: str, tmp_path: Path
) -> None:
    """Each worker warns once that its clients get only its own publications.

    It does so at the start. If the channels are not middleware of the app, they start
    with the first call, and warn then.
    """
    (tmp_path / 'app.py').write_text(_MEMORY_APP)
    words = ['--port', '{port}', '--workers', str(workers), 'app:app']
    env = {'BROKER': broker, 'MIDDLEWARE': middleware}
    with ServerProcess([*SERVE, *words], cwd=tmp_path, env=env) as server:
        wait_until(
            lambda: workers == server.log().count('Application startup complete'),
            'all workers have started',
        )
        if not middleware:
            assert 'delivers within one process only' not in server.log()
        for _ in range(3):
            assert 200 == httpx.get(f'{server.url}/publish').status_code
        found = server.log().count('delivers within one process only')
    most = workers if warns else 0
    assert found == most if middleware else min(1, most) <= found <= most


_MIDDLEWARE_APP = """
import falcon.asgi


class Login:
    async def process_request(self, req, resp):
        req.context.user = 'ann'


class Echo:
    async def on_websocket(self, req, ws):
        await ws.accept()


def make():
    app = falcon.asgi.App(middleware=[Login()], cors_enable=True)
    app.add_route('/echo', Echo())
    return app


app = make()
"""


@pytest.mark.parametrize('words', [['app:app'], ['--factory', 'app:make']])
def test_middleware_for_http_only_is_reported_at_the_start(
    words: list[str], tmp_path: Path
) -> None:
    """The server warns if WebSockets of the app bypass one of its middleware."""
    (tmp_path / 'app.py').write_text(_MIDDLEWARE_APP)
    command = [*SERVE, '--port', '{port}', *words]
    with ServerProcess(command, cwd=tmp_path) as server:
        log = server.log()
    [line] = [line for line in log.splitlines() if 'for HTTP requests only' in line]
    assert 'WARNING falcon_channels: Login.process_request is called' in line
    assert 'WebSockets at /echo pass without it' in line


_LOGGING_APP = """
import logging
import os

import falcon
import falcon.asgi

from falcon_channels import Channels

if os.environ['CONFIGURES']:
    logging.basicConfig(format='own: %(message)s', level='INFO')


class Room:
    async def on_subscribe(self, req, subscription, room):
        raise falcon.HTTPForbidden(description='members only')


channels = Channels()
channels.add_route('rooms:{room}', Room())
app = falcon.asgi.App(middleware=[channels])
channels.add_endpoints(app)
"""
_REFUSED = "subscribe 'rooms:a' refused with 103: 'members only'"


@pytest.mark.parametrize('workers', ['1', '2'])
@pytest.mark.parametrize(
    ('level', 'configures', 'lines'),
    [
        ('info', '', ['INFO falcon_channels']),
        ('debug', '', ['INFO falcon_channels', 'DEBUG falcon_channels']),
        ('warning', '', []),
        ('info', 'yes', ['own']),
    ],
)
def test_library_logs_with_time_level_and_name(
    level: str, configures: str, lines: list[str], workers: str, tmp_path: Path
) -> None:
    """Our lines have time, level and logger, and follow the level of the command.

    If the application configures logging, its configuration prints each line once.
    """
    (tmp_path / 'app.py').write_text(_LOGGING_APP)
    words = ['--port', '{port}', '--log-level', level, '--workers', workers, 'app:app']
    env = {'CONFIGURES': configures}
    with ServerProcess([*SERVE, *words], cwd=tmp_path, env=env) as server:
        with connect(f'{server.ws_url}/connection/websocket') as ws:
            ws.send('{"id":1,"connect":{"data":"SECRET"}}')
            assert '"connect"' in str(ws.recv())
            for number in (2, 3):
                ws.send(f'{{"id":{number},"subscribe":{{"channel":"rooms:a"}}}}')
                assert '"members only"' in str(ws.recv())
        server.signal(signal.SIGTERM)
        assert 0 == exit_code(server)
        log = server.log()
    found = [line for line in log.splitlines() if _REFUSED in line]
    stamp = '' if configures else r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} '
    assert len(lines) == len(found)
    for start, line in zip(lines, found, strict=True):
        assert re.fullmatch(f'{stamp}{start}: <.*>: {re.escape(_REFUSED)}', line)
    assert 'SECRET' not in log


_COMMANDING_APP = """
import falcon.asgi

from falcon_channels import Channels


class Ban:
    async def on_post(self, req, resp):
        await channels.disconnect_user('ann', reason='spam')


channels = Channels()
app = falcon.asgi.App(middleware=[channels])
app.add_route('/ban', Ban())
channels.add_endpoints(app)
"""


def test_command_of_the_application_is_in_the_log_by_default(tmp_path: Path) -> None:
    """Without options, the log shows whom the application has disconnected."""
    (tmp_path / 'app.py').write_text(_COMMANDING_APP)
    words = ['--port', '{port}', 'app:app']
    with ServerProcess([*SERVE, *words], cwd=tmp_path) as server:
        with connect(f'{server.ws_url}/connection/websocket') as ws:
            ws.send('{"id":1,"connect":{}}')
            assert '"connect"' in str(ws.recv())
        assert 200 == httpx.post(f'{server.url}/ban').status_code
        server.signal(signal.SIGTERM)
        assert 0 == exit_code(server)
        log = server.log()
    lines = [line for line in log.splitlines() if "'ann'" in line]
    assert 1 == len(lines), lines
    assert lines[0].endswith(
        "INFO falcon_channels: application_command user='ann' code=3503 "
        "reason='spam' command='disconnect' one_session=False num_excluded=0"
    )
    assert 'connection_opened' not in log
