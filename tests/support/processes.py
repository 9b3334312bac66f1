"""Server processes for tests: started on a free port, waited for, always stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import os
from pathlib import Path
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]

#: Where ports of servers begin, and how many workers share them.
_FIRST_PORT = 12_288
_PORT_STEP = 8
_USUAL_CLIENT_PORT = 32_768
#: The last ports that were given away here.
_given: deque[int] = deque(maxlen=200)


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on.

    NOTE: Not one that the system gives to clients, for the thousands of connections of
    another test might get it before the server does; nor one of another worker's.
    """
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]) % _PORT_STEP
    while True:
        steps = secrets.randbelow((_first_client_port() - _FIRST_PORT) // _PORT_STEP)
        port = _FIRST_PORT + steps * _PORT_STEP + worker
        if port in _given:
            continue  # perhaps its server has yet to start
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(('127.0.0.1', port))
            _given.append(port)
            return port


def _first_client_port() -> int:
    """Return where the system's ports of clients begin, or where they usually do."""
    try:
        text = Path('/proc/sys/net/ipv4/ip_local_port_range').read_text()
    except OSError:
        return _USUAL_CLIENT_PORT
    first = int(text.split()[0])
    return first if first > _FIRST_PORT + 4096 else _USUAL_CLIENT_PORT


def wait_until(
    condition: Callable[[], object], what: str, timeout_s: float = 30.0
) -> None:
    """Return as soon as `condition()` is true; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f'not within {timeout_s} s: {what}')
        time.sleep(0.01)


class ServerProcess:
    """A server as a child process, in a process group of its own.

    Args:
        command: Words of the command; ``{port}`` is replaced in each, and a first
            word of ``python`` is this interpreter.
        port: Where it will listen; a free one by default.
        env: Additions to the environment.
        cwd: Working folder; the top of the repository by default.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        start_timeout_s: float = 30.0,
    ) -> None:
        self.port = port or free_port()
        words = [word.replace('{port}', str(self.port)) for word in command]
        if words[0] == 'python':
            words[0] = sys.executable
        self._command = words
        self._env = {**os.environ, 'PYTHONUNBUFFERED': '1', **(env or {})}
        self._cwd = cwd or ROOT
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._start_timeout_s = start_timeout_s
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    @property
    def ws_url(self) -> str:
        return f'ws://127.0.0.1:{self.port}'

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> Self:
        """Start it and return when its port accepts connections."""
        self.process = subprocess.Popen(
            self._command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,
        )
        try:
            wait_until(
                self._listening, f'{self._command} listens', self._start_timeout_s
            )
        except BaseException:
            log = self.log()
            self.kill()
            self._log.close()
            raise AssertionError(f'{self._command} did not start:\n{log}') from None
        return self

    def _listening(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f'exited with {self.process.returncode}')
        try:
            socket.create_connection(('127.0.0.1', self.port), 1).close()
        except OSError:
            return False
        return True

    def log(self) -> str:
        """Return what the process has printed so far."""
        # NOTE: pread, for the file position is shared with the child's writes.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors='replace')

    def child_pids(self) -> list[int]:
        """Return the processes that the first one has started."""
        children = Path(f'/proc/{self.pid}/task/{self.pid}/children').read_text()
        return [int(pid) for pid in children.split()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the first process only."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, timeout_s: float = 15.0) -> int:
        """Ask it to end with SIGTERM, kill it after `timeout_s`; return its code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        return self.kill()

    def kill(self) -> int:
        """End the whole process group at once; return the exit code."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def rss_bytes(self) -> int:
        """Return the resident memory of the first process."""
        text = Path(f'/proc/{self.pid}/statm').read_text()
        return int(text.split()[1]) * os.sysconf('SC_PAGE_SIZE')

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if kind is not None:
            print(f'--- log of {self._command}\n{self.log()}')  # noqa: T201
        self._log.close()
