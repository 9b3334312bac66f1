"""Two workers with 200 connections, a slow reader and a refused user, to look at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import json
import socket
from typing import Any
from urllib.parse import quote

import httpx

from support.asgi_servers import SERVE
from support.lean_client import LeanClient
from support.processes import ServerProcess

#: A name that is markup, and ends with a character that reverses the text after it.
SCRIPT_NAME = '<img src=x onerror=alert(1)>\u202e'
#: Number of connections in each channel; the others are the slow and the refused one.
IN_LOBBY, IN_STAFF = 150, 48
NUM_CONNECTIONS = IN_LOBBY + IN_STAFF + 2
#: The slow reader answers no pings, and must not be closed for that.
OPTIONS = ('--workers', '2', '--ws-ping-interval', '600')
REFUSED, SLOW = 'eve', 'sam'


def inspected_server(broker: str) -> ServerProcess:
    """Return a server of `support.inspector_app` with two workers, not started."""
    command = SERVE.command('support.inspector_app:app', *OPTIONS)
    return ServerProcess(command, env={'PYTHONPATH': 'tests', 'BROKER': broker})


class Member(LeanClient):
    """A plain WebSocket whose number of messages is counted."""

    def __init__(self, port: int, channel: str, user: str) -> None:
        super().__init__(port, f'/sockets/{quote(channel)}?user={quote(user)}')
        self.num_messages = 0

    def on_text(self, text: str) -> None:
        self.num_messages += 1

    def stop_reading(self) -> None:
        """Read nothing from now on, with a small buffer in the system."""
        assert self.transport is not None
        sock: socket.socket = self.transport.get_extra_info('socket')
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.transport.pause_reading()


class Refused(LeanClient):
    """A client of the client protocol that subscribes to a closed channel."""

    def __init__(self, port: int) -> None:
        super().__init__(port, '/connection/websocket')
        self.replies: list[Any] = []

    def on_open(self) -> None:
        self.say(json.dumps({'id': 1, 'connect': {'data': REFUSED}}))
        self.say(json.dumps({'id': 2, 'subscribe': {'channel': 'closed:vault'}}))

    def on_text(self, text: str) -> None:
        self.replies += [json.loads(line) for line in text.splitlines()]


class Crowd:
    """The clients of a server.

    Args:
        server: A server of `inspected_server`.
        publisher: The HTTP client that publishes.

    Attributes:
        members: Plain WebSockets by user.
        refused: The client that was refused.
    """

    def __init__(self, server: ServerProcess, publisher: httpx.AsyncClient) -> None:
        self.server = server
        self._publisher = publisher
        names = [SCRIPT_NAME, *(f'user-{number}' for number in range(1, IN_LOBBY))]
        self.members = {
            name: Member(server.port, 'rooms:lobby', name) for name in names
        }
        for number in range(IN_STAFF):
            name = f'staff-{number}'
            self.members[name] = Member(server.port, 'rooms:staff', name)
        self.members[SLOW] = Member(server.port, 'states:load', SLOW)
        self.refused = Refused(server.port)

    async def publish(self, channel: str, data: Any) -> None:
        """Publish to a channel, in the server."""
        url = f'{self.server.url}/publications/{quote(channel)}'
        (await self._publisher.post(url, json=data)).raise_for_status()

    async def arrive(self) -> None:
        """Connect all clients; return when each has subscribed or was refused."""
        clients: list[LeanClient] = [*self.members.values(), self.refused]
        for client in clients:
            await client.connect()
        await until(lambda: all(m.num_messages for m in self.members.values()))
        await until(lambda: len(self.refused.replies) == 2)

    async def fill_the_slow_reader(self) -> None:
        """Publish to the client that does not read, until it has a backlog."""
        self.members[SLOW].stop_reading()
        for number in range(16):
            data = {'number': number, 'text': 'x' * 500_000}
            await self.publish('states:load', data)

    def leave(self) -> None:
        """Disconnect all clients."""
        for client in (*self.members.values(), self.refused):
            client.cut()


async def until(condition: Any) -> None:
    """Return as soon as `condition()` is true; fail after 30 seconds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def crowd_of(server: ServerProcess) -> AsyncIterator[Crowd]:
    """Yield the crowd of a server after it has arrived."""
    async with httpx.AsyncClient(timeout=30) as publisher:
        crowd = Crowd(server, publisher)
        try:
            await crowd.arrive()
            yield crowd
        finally:
            crowd.leave()
