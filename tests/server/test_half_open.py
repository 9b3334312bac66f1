"""Clients whose network fails without a TCP reset: a cable that is pulled."""

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

PORT = 8000  # no other process is on that machine

pytestmark = [
    pytest.mark.server,
    pytest.mark.namespaces,
    pytest.mark.timeout(120),
]


class World:
    """A server, with clients on its own machine and clients behind a cable."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._relays = {
            name: network.relay(name, PORT) for name in ('server', 'client')
        }

    @contextlib.contextmanager
    def enter(self, machine: str, user: str, since: str = '') -> Iterator[Any]:
        """Subscribe to the room from a machine, and wait for the confirmation."""
        uri = f'ws://test/tables/cable?user={user}' + (since and f'&since={since}')
        with unix_connect(
            self._relays[machine],
            uri,
            compression=None,
            ping_interval=None,
            close_timeout=0,
        ) as ws:
            begin = receive(ws, 'subscribed')['subscribed']
            assert bool(since) == begin.get('recovered', False)
            yield ws

    def gone(self) -> bool:
        """Return whether no process has a socket of a client behind the cable any more.

        NOTE: The kernel may still try to close a connection, with a socket of inode 0.
        """
        return all(words[9] == '0' for words in self.network.links(PORT))

    def resent(self) -> int:
        """Return how often the server has sent unacknowledged bytes again."""
        return max(int(words[6], 16) for words in self.network.links(PORT))


def receive(ws: ClientConnection, kind: str) -> Any:
    """Return the next message of a kind."""
    while True:
        message = json.loads(ws.recv(30))
        if kind in message:
            return message


class MachineServer(ServerProcess):
    """A server on the server's machine, whose port is not visible on this one."""

    def __init__(self, network: Network, command: list[str], broker: str) -> None:
        env = {'PYTHONPATH': 'tests', 'BROKER': broker}
        words = [*network.on('server'), sys.executable, *command[1:]]
        super().__init__(words, port=PORT, env=env)
        self._network = network

    def _listening(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, 'the server has ended'
        return self._network.listens(PORT)


@pytest.fixture(params=['pings', 'acknowledgements'])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    command = ['python', '-m', 'server.impatient', str(PORT), request.param]
    broker = f'sqlite:///{tmp_path}/channels.db'
    with Network(tmp_path) as network, MachineServer(network, command, broker) as up:
        yield World(network)
        assert 'Traceback' not in up.log()


def test_client_behind_a_cut_cable_is_disconnected_and_recovers_later(
    world: World,
) -> None:
    """The client is disconnected within seconds, and recovers everything later."""
    with world.enter('server', 'near') as near:
        assert 'near' == receive(near, 'join')['join']['user']
        with world.enter('client', 'far') as far:
            assert 'far' == receive(near, 'join')['join']['user']
            near.send('"before"')
            before = receive(far, 'data')
            receive(near, 'data')
            assert not world.gone()

            world.network.cut()
            # NOTE: Without pings, only unacknowledged bytes detect the failure.
            near.send('"while it is away"')
            assert 'while it is away' == receive(near, 'data')['data']
            assert 'far' == receive(near, 'leave')['leave']['user']
            wait_until(world.gone, 'the server has closed its socket')

        near.send('"after"')
        assert 'after' == receive(near, 'data')['data']
        world.network.mend()
        since = f'{before["offset"]}:{before["epoch"]}'
        with world.enter('client', 'far', since) as far:
            missed = [receive(far, 'data')['data'] for _ in range(2)]
    assert ['while it is away', 'after'] == missed


def test_outage_of_three_seconds_loses_nothing(tmp_path: Path) -> None:
    """A cable that is back after seconds is not noticed; all arrives, in order."""
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
                assert number == receive(near, 'data')['data']
            # NOTE: Sent again four times: after 0.2 + 0.4 + 0.8 + 1.6 seconds.
            wait_until(lambda: world.resent() >= 4, 'three seconds are over')
            network.mend()
            assert list(range(100)) == [
                receive(far, 'data')['data'] for _ in range(100)
            ]
            far.send('"still the same"')
            assert 'still the same' == receive(near, 'data')['data']
        assert '' == up.log()
