"""A server with two workers, and connections of which one knows whose they are.

Whose connection a worker gets is up to the kernel. So a test asks on a connection which
worker has it, until it has one to each, and goes on with these: by HTTP requests on the
same connection, or by a WebSocket that begins on it.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from http.client import HTTPConnection
from http.client import HTTPResponse
import json
from pathlib import Path
from typing import Any
from typing import NamedTuple

from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from support.asgi_servers import AsgiServer
from support.asgi_servers import SERVE
from support.postgres_server import PostgresServer
from support.processes import ServerProcess
from support.processes import wait_until
from support.redis_server import RedisServer

#: The brokers that several processes can share.
BROKERS = ['sqlite', 'redis', 'postgresql']


@contextlib.contextmanager
def broker_url(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a broker of a kind with nothing in it; its server, started."""
    with contextlib.ExitStack() as stack:
        if kind == 'sqlite':
            yield f'sqlite:///{folder}/rooms.db'
        elif kind == 'redis':
            redis = RedisServer(folder)
            stack.callback(redis.stop)
            yield redis.url
        else:
            postgres = PostgresServer('fsync=off')
            stack.callback(postgres.stop)
            yield f'{postgres.url}?migrate=yes'


def two_workers(url: str, asgi_server: AsgiServer = SERVE) -> ServerProcess:
    """Return a server of `support.rooms_app` on a broker, not started."""
    command = asgi_server.command('support.rooms_app:app', '--workers', '2')
    return ServerProcess(command, env={'PYTHONPATH': 'tests', 'BROKER': url})


class Worker(NamedTuple):
    """One of the processes behind the server's port."""

    server: ServerProcess
    pid: int

    @contextlib.contextmanager
    def dial(self) -> Iterator[HTTPConnection]:
        """Open connections to the server until this worker has one."""
        with contextlib.ExitStack() as stack:
            found: list[HTTPConnection] = []

            def reach() -> bool:
                connection = stack.enter_context(dial(self.server))
                if worker_of(connection) == self.pid:
                    found.append(connection)
                return bool(found)

            wait_until(reach, f'a connection to {self.pid}')
            yield found[0]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return what this worker answers to a request."""
        with self.dial() as connection:
            with send_request(connection, method, path, json.dumps(body)) as response:
                content = response.read()
                assert response.status < 300, content
                return json.loads(content or 'null')

    @contextlib.contextmanager
    def enter(self, room: str, user: str) -> Iterator[ClientConnection]:
        """Open a WebSocket in a room at this worker, and read that it is subscribed."""
        with self.dial() as connection:
            url = f'{self.server.ws_url}/rooms/{room}?user={user}'
            with connect(url, sock=connection.sock, proxy=None) as ws:
                assert 'subscribed' in receive(ws)
                yield ws

    def users(self, room: str) -> Any:
        """Return who is in a room, as this worker sees it."""
        return self.ask('GET', f'/rooms/{room}')


@contextlib.contextmanager
def dial(server: ServerProcess) -> Iterator[HTTPConnection]:
    """Open a connection that ends rather than being opened again."""
    connection = HTTPConnection('127.0.0.1', server.port, timeout=30)
    connection.auto_open = 0
    connection.connect()
    try:
        yield connection
    finally:
        connection.close()


def send_request(
    connection: HTTPConnection, method: str, path: str, body: str
) -> HTTPResponse:
    """Send a request and return the answer, whose body is still to come."""
    headers = {'Content-Type': 'application/json'}
    connection.request(method, path, None if method == 'GET' else body, headers)
    return connection.getresponse()


def worker_of(connection: HTTPConnection) -> int:
    """Return the process id of the worker that has a connection."""
    with send_request(connection, 'GET', '/worker', '') as response:
        return int(response.read())


def meet(server: ServerProcess, *strangers: int) -> tuple[Worker, Worker]:
    """Open connections until two workers have one; not those of `strangers`."""
    pids: set[int] = set()

    def both() -> bool:
        with dial(server) as connection, contextlib.suppress(ConnectionError):
            pids.add(worker_of(connection))
        return len(pids - {*strangers}) == 2

    wait_until(both, 'two workers answer')
    one, two = sorted(pids - {*strangers})
    return Worker(server, one), Worker(server, two)


def receive(ws: ClientConnection) -> Any:
    """Return the next message, of JSON."""
    return json.loads(ws.recv(timeout=30))
