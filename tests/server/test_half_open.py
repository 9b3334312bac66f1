"""Clients whose network goes away without a word: a cable that is pulled."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
from pathlib import Path
import sys
from typing import Any

import pytest
from support.asgi_servers import SERVE
from support.network import Network
from support.processes import ServerProcess
from support.processes import wait_until
from websockets.sync.client import ClientConnection
from websockets.sync.client import unix_connect

PORT = 8000  # nobody else is on that machine

pytestmark = [
    pytest.mark.server,
    pytest.mark.namespaces,
    pytest.mark.timeout(120),
]


class World:
    """A server with clients on its own machine, and behind a cable."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._doors = {name: network.door(name, PORT) for name in ('server', 'client')}

    @contextlib.contextmanager
    def enter(self, machine: str, user: str, since: str = '') -> Iterator[Any]:
        """Join the room from a machine, and hear that it is so."""
        uri = f'ws://test/tables/cable?user={user}' + (since and f'&since={since}')
        with unix_connect(
            self._doors[machine],
            uri,
            compression=None,
            ping_interval=None,
            close_timeout=0,
        ) as ws:
            begin = hear(ws, 'subscribed')['subscribed']
            assert bool(since) == begin.get('recovered', False)
            yield ws

    def gone(self) -> bool:
        """Tell whether no process holds a socket of a client out there any more.

        NOTE: the kernel may still try to say goodbye, with a socket of inode 0.
        """
        return all(words[9] == '0' for words in self.network.links(PORT))

    def resent(self) -> int:
        """Return how often the server has sent in vain what is not acknowledged."""
        return max(int(words[6], 16) for words in self.network.links(PORT))


def hear(ws: ClientConnection, kind: str) -> Any:
    """Return the next message of a kind."""
    while True:
        message = json.loads(ws.recv(30))
        if kind in message:
            return message


class MachineServer(ServerProcess):
    """A server on the server's machine, whose port cannot be seen from here."""

    def __init__(self, network: Network, command: list[str], broker: str) -> None:
        env = {'PYTHONPATH': 'tests', 'BROKER': broker}
        words = [*network.on('server'), sys.executable, *command[1:]]
        super().__init__(words, port=PORT, env=env)
        self._network = network

    def _listening(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, 'it has ended'
        return self._network.listens(PORT)


@pytest.fixture(params=['pings', 'acknowledgements'])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    command = ['python', '-m', 'server.impatient', str(PORT), request.param]
    broker = f'sqlite:///{tmp_path}/channels.db'
    with Network(tmp_path) as network, MachineServer(network, command, broker) as up:
        yield World(network)
        assert 'Traceback' not in up.log()


def test_a_client_behind_a_cut_cable_is_found(world: World) -> None:
    """It leaves within seconds, nobody else notices, and it misses nothing after."""
    with world.enter('server', 'near') as near:
        assert 'near' == hear(near, 'join')['join']['user']
        with world.enter('client', 'far') as far:
            assert 'far' == hear(near, 'join')['join']['user']
            near.send('"before"')
            before = hear(far, 'data')
            hear(near, 'data')
            assert not world.gone()

            world.network.cut()
            # NOTE: where there are no pings, what is sent finds out.
            near.send('"while it is away"')
            assert 'while it is away' == hear(near, 'data')['data']
            assert 'far' == hear(near, 'leave')['leave']['user']
            wait_until(world.gone, 'the server has let go of it')

        near.send('"after"')
        assert 'after' == hear(near, 'data')['data']
        world.network.mend()
        since = f'{before["offset"]}:{before["epoch"]}'
        with world.enter('client', 'far', since) as far:
            missed = [hear(far, 'data')['data'] for _ in range(2)]
    assert ['while it is away', 'after'] == missed


def test_a_short_outage_loses_nothing(tmp_path: Path) -> None:
    """A cable that is back after seconds was never noticed; all arrives, in order."""
    command = SERVE.command(
        'support.stop_app:app', '--host', '0.0.0.0', '--log-level', 'warning'
    )
    broker = f'sqlite:///{tmp_path}/channels.db'
    with Network(tmp_path) as network, MachineServer(network, command, broker) as up:
        world = World(network)
        with world.enter('server', 'near') as near, world.enter('client', 'far') as far:
            network.cut()
            for number in range(100):
                near.send(str(number))
                assert number == hear(near, 'data')['data']
            # Four times in vain: 0.2 + 0.4 + 0.8 + 1.6 seconds.
            wait_until(lambda: world.resent() >= 4, 'three seconds are over')
            network.mend()
            assert list(range(100)) == [hear(far, 'data')['data'] for _ in range(100)]
            far.send('"still the same"')
            assert 'still the same' == hear(near, 'data')['data']
        assert '' == up.log()
