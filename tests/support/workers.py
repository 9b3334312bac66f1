"""A server with two workers, and connections to a chosen one of them.

The kernel decides which worker gets a new connection. A test therefore asks on each
connection for the worker's process id, until it has a connection to the chosen worker.
It then sends HTTP requests on that connection, or starts a WebSocket on it.
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
    """Start the server of an empty broker, if it needs one, and yield the URL."""
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
    """Return a server of `support.rooms_app` with two workers, not started."""
    command = asgi_server.command('support.rooms_app:app', '--workers', '2')
    return ServerProcess(command, env={'PYTHONPATH': 'tests', 'BROKER': url})


class Worker(NamedTuple):
    """One of the worker processes of a server."""

    server: ServerProcess
    pid: int

    @contextlib.contextmanager
    def dial(self) -> Iterator[HTTPConnection]:
        """Open connections to the server until this worker has accepted one."""
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
        """Send a request to this worker and return the answer."""
        with self.dial() as connection:
            with send_request(connection, method, path, json.dumps(body)) as response:
                content = response.read()
                assert response.status < 300, content
                return json.loads(content or 'null')

    @contextlib.contextmanager
    def enter(self, room: str, user: str) -> Iterator[ClientConnection]:
        """Open a WebSocket at this worker, and wait until it is subscribed."""
        with self.dial() as connection:
            url = f'{self.server.ws_url}/rooms/{room}?user={user}'
            with connect(url, sock=connection.sock, proxy=None) as ws:
                assert 'subscribed' in receive(ws)
                yield ws

    def users(self, room: str) -> Any:
        """Return the users in a room according to this worker."""
        return self.ask('GET', f'/rooms/{room}')


@contextlib.contextmanager
def dial(server: ServerProcess) -> Iterator[HTTPConnection]:
    """Open a connection that is not opened again after it was closed."""
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
    """Send a request and return the answer without reading its body."""
    headers = {'Content-Type': 'application/json'}
    connection.request(method, path, None if method == 'GET' else body, headers)
    return connection.getresponse()


def worker_of(connection: HTTPConnection) -> int:
    """Return the process id of the worker that has accepted a connection."""
    with send_request(connection, 'GET', '/worker', '') as response:
        return int(response.read())


def meet(server: ServerProcess, *ignored: int) -> tuple[Worker, Worker]:
    """Return two workers of a server.

    Args:
        server: The server.
        ignored: Process ids of workers that were killed.
    """
    pids: set[int] = set()

    def both() -> bool:
        with dial(server) as connection, contextlib.suppress(ConnectionError):
            pids.add(worker_of(connection))
        return len(pids - {*ignored}) == 2

    wait_until(both, 'two workers answer')
    one, two = sorted(pids - {*ignored})
    return Worker(server, one), Worker(server, two)


def receive(ws: ClientConnection) -> Any:
    """Receive a message and decode it from JSON."""
    return json.loads(ws.recv(timeout=30))
