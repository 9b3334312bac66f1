"""A PostgreSQL server for tests, on a free port and with its own folder."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import signal
import subprocess
import tempfile

import psycopg

from support.processes import free_port
from support.processes import wait_until


def program(name: str) -> str:
    """Return the path of a PostgreSQL program, which is not in the PATH on Debian."""
    found = sorted(Path('/usr/lib/postgresql').glob(f'*/bin/{name}'))
    return str(found[-1]) if found else (shutil.which(name) or name)


class PostgresServer:
    """A server that can be killed, frozen and started again.

    Args:
        settings: Settings of the server, such as ``fsync=off``.
    """

    def __init__(self, *settings: str) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix='postgres-'))
        # NOTE: PostgreSQL refuses to run as root.
        self._user = 'postgres' if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self.folder, self._user, self._user)
        data = self.folder / 'data'
        self._run(
            *(program('initdb'), '--pgdata', str(data), '--username', 'postgres'),
            *('--auth', 'trust', '--encoding', 'UTF8', '--no-locale', '--no-sync'),
        )
        settings = (
            *(f'port={self.port}', 'listen_addresses=127.0.0.1'),
            f'unix_socket_directories={self.folder}',
            *('shared_buffers=16MB', 'max_connections=60', 'wal_level=minimal'),
            *('max_wal_senders=0', *settings),
        )
        self._words = [program('postgres'), '-D', str(data)]
        for setting in settings:
            self._words += ['-c', setting]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _run(self, *words: str) -> None:
        subprocess.run(
            words, user=self._user, check=True, capture_output=True, cwd=self.folder
        )

    @property
    def url(self) -> str:
        return f'postgresql://postgres@127.0.0.1:{self.port}/postgres'

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        with (self.folder / 'log').open('ab') as log:
            self._process = subprocess.Popen(
                self._words,
                user=self._user,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        try:
            wait_until(self._ready, 'PostgreSQL accepts connections', 60)
        except BaseException:
            text = (self.folder / 'log').read_text()
            self.stop()
            raise AssertionError(f'PostgreSQL did not start:\n{text}') from None

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f'exited with {self._process.returncode}')
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True

    def _processes(self) -> list[int]:
        """Return the process ids of the server and its children."""
        assert self._process is not None
        command = ['ps', '-o', 'pid=', '--ppid', str(self._process.pid)]
        found = subprocess.run(command, capture_output=True, text=True).stdout.split()
        return [self._process.pid, *map(int, found)]

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def kill(self) -> None:
        """Kill all processes of the server."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def freeze(self) -> None:
        """Stop all processes of the server until `thaw`."""
        # NOTE: the first process starts the others. While it runs, a new one could be
        #   missed.
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue all processes of the server."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill the server and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
