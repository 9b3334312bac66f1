"""A server with two thousand connections of all kinds that stops."""

from __future__ import annotations

import asyncio
from collections import Counter
import itertools
from pathlib import Path
import resource
import signal

import pytest
from support.asgi_servers import SERVE
from support.lean_client import LeanClient
from support.processes import ServerProcess

from falcon_channels import ChannelOptions
from falcon_channels import Channels

ENDPOINT, PLAIN, ECHO = 700, 700, 600
TOTAL = ENDPOINT + PLAIN + ECHO
BATCH = 100
#: First message of a client of the protocol.
HELLO = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"rooms:all"}}'

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]


class Client(LeanClient):
    """One of two thousand clients."""

    def __init__(self, port: int, path: str, kind: str, hello: str = '') -> None:
        super().__init__(port, path)
        self.kind = kind
        self.hello = hello
        self.ready = False
        self.closed_s = 0.0

    def on_open(self) -> None:
        if self.hello:
            self.say(self.hello)

    def on_text(self, text: str) -> None:
        self.ready = self.ready or self.kind in text

    def on_close(self, code: int) -> None:
        self.closed_s = asyncio.get_running_loop().time()


def all_clients(port: int) -> list[Client]:
    """Return clients of the protocol, plain WebSockets, and clients of an echo."""
    return [
        *(
            Client(port, f'/connection/websocket?user=sdk{n}', '"subscribe":', HELLO)
            for n in range(ENDPOINT)
        ),
        *(Client(port, f'/rooms/all?user=raw{n}', 'subscribed') for n in range(PLAIN)),
        *(Client(port, '/echo', 'hello', 'hello') for _ in range(ECHO)),
    ]


async def connect_and_stop(server: ServerProcess) -> list[Client]:
    """Connect all clients, stop the server, and wait for the end of all."""
    clients = all_clients(server.port)
    for start in range(0, TOTAL, 50):
        some = clients[start : start + 50]
        for client in some:
            await client.connect()
        async with asyncio.timeout(60):
            while not all(client.ready for client in some):
                await asyncio.sleep(0.005)
    server.signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        await asyncio.gather(*(client.lost.wait() for client in clients))
    return clients


async def users(broker: str) -> set[str]:
    """Return the users in the room, from the presence in the broker."""
    channels = Channels(broker)
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(subscribers='anybody', presence=True)
    )
    await channels.start()
    there = await channels.presence('rooms:all')
    await channels.close()
    return {info.user for info in there.values()}


def test_stop_with_2000_connections_closes_all_in_batches(tmp_path: Path) -> None:
    """Channels come first, then others, 100 at a time; presence stays; exit code 0."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    assert hard >= 2 * TOTAL, f'{hard} descriptors are too few (ulimit -Hn)'
    broker, notes = f'sqlite:///{tmp_path}/channels.db', tmp_path / 'notes'
    env = {'PYTHONPATH': 'tests', 'BROKER': broker, 'STOP_NOTES': str(notes)}
    command = SERVE.command('support.stop_app:app', '--log-level', 'warning')
    with ServerProcess(command, env=env) as server:
        clients = asyncio.run(connect_and_stop(server))
        assert server.process is not None
        assert 0 == server.process.wait(30)
        assert '' == server.log()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    kinds = Counter((client.kind, client.close_code) for client in clients)
    assert {
        ('"subscribe":', 3001): ENDPOINT,
        ('subscribed', 1012): PLAIN,
        ('hello', 1012): ECHO,
    } == kinds
    # Clients of channels reconnect, so their presence does not end.
    expected = {f'sdk{n}' for n in range(ENDPOINT)} | {f'raw{n}' for n in range(PLAIN)}
    assert expected == asyncio.run(users(broker))
    # The server's own notes: they do not depend on how fast clients read.
    times, events = zip(
        *(line.split(' ', 1) for line in notes.read_text().splitlines()), strict=True
    )
    assert f'before: {ENDPOINT + PLAIN} {ECHO}' == events[0]
    assert events[1].startswith('after: ')
    assert events[1].endswith(f' {ECHO}')
    assert ['end 1012'] * ECHO == list(events[2:])
    # NOTE: In theory at least 13 pauses of 0.05 s and 5 of 0.125 s.
    assert float(times[1]) - float(times[0]) >= 0.65
    ends = [float(when) for when in times[2:]]
    pauses = [later - one for one, later in itertools.pairwise(ends)]
    assert sum(pause >= 0.1 for pause in pauses) >= ECHO // BATCH - 3
    heard = sorted(client.closed_s for client in clients)
    assert heard[-1] - heard[0] >= 1
