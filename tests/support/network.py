"""Two machines with a cable between them: network namespaces that a test can separate.

The server's machine has 10.99.0.1, the clients' machine 10.99.0.2. Root can create
network namespaces; other users need user namespaces, in which they are root. UNIX
sockets with a path work across namespaces, so a test connects to a relay on either
machine.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
import subprocess
import sys
from types import TracebackType
from typing import Self

from support.processes import python_path
from support.processes import ROOT
from support.processes import wait_until

SERVER_ADDRESS = '10.99.0.1'
CLIENT_ADDRESS = '10.99.0.2'

_NEEDED = (
    'this test needs network namespaces: the programs ip, unshare and nsenter (make '
    'system), and either root or user namespaces for all users (sysctl '
    "kernel.unprivileged_userns_clone=1). Without them: pytest -m 'not namespaces'"
)


class Network:
    """Two machines with a cable between them.

    Args:
        folder: Folder of the relays' sockets.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        root = os.geteuid() == 0
        self._unshare_user = [] if root else ['--user', '--map-root-user']
        self._enter_user = [] if root else ['--user', '--preserve-credentials']

    def __enter__(self) -> Self:
        try:
            self._server = self._hold(['unshare', *self._unshare_user, '--net'])
            inside = ['nsenter', '-t', str(self._server), *self._enter_user]
            self._client = self._hold([*inside, 'unshare', '--net'])
            self._ip(
                'server',
                f'link add cable type veth peer name cable netns {self._client}',
            )
            for where, address in (
                ('server', SERVER_ADDRESS),
                ('client', CLIENT_ADDRESS),
            ):
                self._ip(where, 'link set lo up')
                self._ip(where, f'addr add {address}/24 dev cable')
                self._ip(where, 'link set cable up')
        except (OSError, subprocess.CalledProcessError, AssertionError) as ex:
            self._stack.close()
            words = getattr(ex, 'stderr', None) or ex
            raise AssertionError(f'{_NEEDED}\n{words}') from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def on(self, machine: str) -> list[str]:
        """Return the start of a command that runs on ``server`` or ``client``."""
        pid = self._server if machine == 'server' else self._client
        return ['nsenter', '-t', str(pid), *self._enter_user, '--net', '--']

    def cut(self) -> None:
        """Pull the cable: packets are lost without an error."""
        self._ip('client', 'link set cable down')

    def mend(self) -> None:
        """Plug the cable in again."""
        self._ip('client', 'link set cable up')

    def relay(self, machine: str, port: int) -> str:
        """Start a relay on a machine; return the path of its socket."""
        path = self._folder / f'{machine}.sock'
        command = [*self.on(machine), sys.executable, '-m', 'support.unix_socket_relay']
        self._start([*command, str(path), SERVER_ADDRESS, str(port)])
        wait_until(path.exists, f'the relay on the {machine} listens')
        return str(path)

    def listens(self, port: int) -> bool:
        """Return whether a process listens on a port of the server's machine."""
        return any(words[3] == '0A' for words in self._tcp(port))

    def links(self, port: int) -> list[list[str]]:
        """Return the server's sockets with clients behind the cable.

        Fields as in proc_net(5): the seventh is the number of retransmissions, the
        tenth is the inode.
        """
        peer = ''.join(f'{int(part):02X}' for part in CLIENT_ADDRESS.split('.')[::-1])
        return [words for words in self._tcp(port) if words[2].startswith(peer)]

    def _tcp(self, port: int) -> list[list[str]]:
        lines = Path(f'/proc/{self._server}/net/tcp').read_text().splitlines()[1:]
        found = [line.split() for line in lines]
        return [words for words in found if words[1].endswith(f':{port:04X}')]

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': python_path('tests')},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._stack.callback(_end, process)
        return process

    def _hold(self, command: list[str]) -> int:
        """Start a process that only keeps its namespaces alive."""
        process = self._start([*command, 'sleep', 'infinity'])
        own = os.readlink('/proc/self/ns/net')

        def apart() -> bool:
            if process.poll() is not None:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read().decode())
            # NOTE: unshare and nsenter execute their command in the same process.
            name = Path(f'/proc/{process.pid}/comm').read_text().strip()
            return name == 'sleep'

        wait_until(apart, 'the namespaces exist')
        assert own != os.readlink(f'/proc/{process.pid}/ns/net')
        return process.pid

    def _ip(self, machine: str, words: str) -> None:
        subprocess.run(
            [*self.on(machine), 'ip', *words.split()],
            check=True,
            capture_output=True,
            text=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()
