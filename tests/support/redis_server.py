"""A Redis server for tests: on a free port, in a folder of its own."""

from __future__ import annotations

from pathlib import Path
import signal

from support.processes import free_port
from support.processes import ServerProcess


class RedisServer:
    """A server that can be killed, frozen and started again.

    Args:
        folder: For its files.
        options: Words of its command line.
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

    def start_again(self) -> None:
        """Kill it at once, and start it with what it has on the disk."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.__exit__(None, None, None)

    def start(self) -> None:
        """Start it after `kill`."""
        self.process = self._new()

    def freeze(self) -> None:
        """Let it stop doing anything."""
        self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, whatever its state."""
        self.kill()
