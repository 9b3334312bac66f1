"""Redis servers for tests, on free ports."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
import signal
import subprocess
from typing import Self

from support.processes import free_port
from support.processes import ServerProcess
from support.processes import wait_until


class RedisServer:
    """A server that can be killed, frozen and started again.

    Args:
        folder: Folder for the files of the server.
        options: Additional arguments of its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._words = [
            *('redis-server', '--port', str(self.port), '--bind', '127.0.0.1'),
            *('--dir', str(folder), '--save', '', '--io-threads', '1'),
            *options,
        ]
        self.process = self._new()

    def _new(self) -> ServerProcess:
        return ServerProcess(self._words, port=self.port).start()

    @property
    def url(self) -> str:
        return f'redis://127.0.0.1:{self.port}'

    def ask(self, *words: object) -> str:
        """Execute a command and return the answer of the server."""
        command = ['redis-cli', '-p', str(self.port), *map(str, words)]
        answer = subprocess.run(command, capture_output=True, check=True, text=True)
        return answer.stdout.strip()

    def kill(self) -> None:
        """Kill the server."""
        self.process.kill()
        self.process.__exit__(None, None, None)

    def start(self) -> None:
        """Start the server after `kill`."""
        self.process = self._new()

    def freeze(self) -> None:
        """Stop the process of the server until `thaw`."""
        self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the process of the server."""
        self.process.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill the server, in any state."""
        self.kill()


class RedisReplicaSet:
    """A primary, a replica that has its data, and a Sentinel that watches both.

    Args:
        folder: Folder for the files of the servers.

    Attributes:
        primary: The first primary.
        replica: The other server.
        url: The URL of a broker, without options.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            servers = []
            for name in ('primary', 'replica'):
                folder = self._folder / name
                folder.mkdir()
                servers.append(RedisServer(folder, '--repl-diskless-sync-delay', '0'))
                stack.callback(servers[-1].stop)
            self.primary, self.replica = servers
            self.replica.ask('REPLICAOF', '127.0.0.1', self.primary.port)
            wait_until(
                lambda: _replication(self.replica)['master_link_status'] == 'up',
                'the replica is synchronised',
            )
            config = self._folder / 'sentinel.conf'
            port = free_port()
            config.write_text(
                f'port {port}\nbind 127.0.0.1\ndir {self._folder}\n'
                f'sentinel monitor news 127.0.0.1 {self.primary.port} 1\n'
                'sentinel down-after-milliseconds news 1000\n'
                'sentinel failover-timeout news 5000\n'
            )
            words = ['redis-server', str(config), '--sentinel']
            stack.enter_context(ServerProcess(words, port=port))
            self.url = f'redis+sentinel://127.0.0.1:{port}/news'
            self._sentinel = port
            wait_until(
                lambda: 'slaves=1' in self.ask_sentinel('INFO', 'sentinel'),
                'the Sentinel knows the replica',
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask_sentinel(self, *words: str) -> str:
        """Execute a command on the Sentinel and return its answer."""
        command = ['redis-cli', '-p', str(self._sentinel), *words]
        answer = subprocess.run(command, capture_output=True, check=True, text=True)
        return answer.stdout.strip()

    def wait_for_all_data(self) -> None:
        """Wait until the replica has acknowledged all writes."""
        written = int(_replication(self.primary)['master_repl_offset'])
        wait_until(
            lambda: int(_replication(self.replica)['slave_repl_offset']) >= written,
            'the replica has all data',
        )


def _replication(server: RedisServer) -> dict[str, str]:
    lines = server.ask('INFO', 'replication').splitlines()
    return dict(line.strip().split(':', 1) for line in lines if ':' in line)


class RedisCluster:
    """A Cluster of three servers; each serves a third of the slots.

    Args:
        folder: Folder for the files of the servers.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.servers: list[RedisServer] = []

    @property
    def url(self) -> str:
        return self.servers[1].url

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            buses = []
            for number in range(3):
                folder = self._folder / str(number)
                folder.mkdir()
                bus = free_port()
                server = RedisServer(
                    folder, '--cluster-enabled', 'yes', '--cluster-port', str(bus)
                )
                stack.callback(server.stop)
                self.servers.append(server)
                buses.append(bus)
            first, *_ = self.servers
            bounds = (0, 5461, 10923, 16384)
            for server, begin, end in zip(
                self.servers, bounds, bounds[1:], strict=False
            ):
                server.ask('CLUSTER', 'ADDSLOTSRANGE', begin, end - 1)
                server.ask('CLUSTER', 'MEET', '127.0.0.1', first.port, buses[0])
            for server in self.servers:
                wait_until(partial(_complete, server), 'the Cluster is complete')
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def num_connections(self) -> int:
        """Return how many connections all servers have accepted so far."""
        found = 0
        for server in self.servers:
            for line in server.ask('INFO', 'stats').splitlines():
                name, _, value = line.partition(':')
                if name == 'total_connections_received':
                    found += int(value)
        return found

    def move_slot(self, name: str) -> None:
        """Move the slot of a key with all its keys to another server."""
        slot = self.servers[0].ask('CLUSTER', 'KEYSLOT', name)
        source = next(s for s in self.servers if _has(s, int(slot)))
        target = self.servers[self.servers.index(source) - 1]
        ids = [server.ask('CLUSTER', 'MYID') for server in (source, target)]
        target.ask('CLUSTER', 'SETSLOT', slot, 'IMPORTING', ids[0])
        source.ask('CLUSTER', 'SETSLOT', slot, 'MIGRATING', ids[1])
        for key in source.ask('CLUSTER', 'GETKEYSINSLOT', slot, 100).split():
            source.ask('MIGRATE', '127.0.0.1', target.port, key, 0, 5000)
        for server in (target, source, *self.servers):
            server.ask('CLUSTER', 'SETSLOT', slot, 'NODE', ids[1])


def _complete(server: RedisServer) -> bool:
    info = server.ask('CLUSTER', 'INFO')
    return 'cluster_state:ok' in info and 'cluster_known_nodes:3' in info


def _has(server: RedisServer, slot: int) -> bool:
    for line in server.ask('CLUSTER', 'NODES').splitlines():
        words = line.split()
        if 'myself' not in words[2]:
            continue
        for word in words[8:]:
            first, _, last = word.partition('-')
            if first.isdecimal() and int(first) <= slot <= int(last or first):
                return True
    return False
