"""Server processes for tests: started on a free port, awaited, always stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
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
import threading
import time
from types import FrameType
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]

#: First port of servers, and the number of test workers that share them.
_FIRST_PORT = 12_288
_PORT_STEP = 8
_USUAL_CLIENT_PORT = 32_768
#: The ports that this process has returned last.
_given: deque[int] = deque(maxlen=200)


def free_port() -> int:
    """Return a TCP port of loopback on which no process listens.

    NOTE: Ports that the system gives to clients are excluded, because one of the
    thousands of connections of another test might get the port before the server does.
    Test workers have different ports.
    """
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]) % _PORT_STEP
    while True:
        steps = secrets.randbelow((_first_client_port() - _FIRST_PORT) // _PORT_STEP)
        port = _FIRST_PORT + steps * _PORT_STEP + worker
        if port in _given:
            continue  # perhaps its server has not started yet
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(('127.0.0.1', port))
            _given.append(port)
            return port


def _first_client_port() -> int:
    """Return the first port that the system gives to clients."""
    try:
        text = Path('/proc/sys/net/ipv4/ip_local_port_range').read_text()
    except OSError:
        return _USUAL_CLIENT_PORT
    first = int(text.split()[0])
    return first if first > _FIRST_PORT + 4096 else _USUAL_CLIENT_PORT


def wait_until(
    condition: Callable[[], object], what: str, timeout_s: float = 30.0
) -> None:
    """Return as soon as `condition()` is true; fail after `timeout_s`.

    Args:
        condition: Called every 10 ms.
        what: The condition in words, for the failure.
        timeout_s: Longest wait in seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f'not within {timeout_s} s: {what}')
        time.sleep(0.01)


@contextlib.contextmanager
def _hangup_for_children(*, ignored: bool) -> Iterator[None]:
    """Start children in which SIGHUP has its default action, or is ignored.

    NOTE: Under ``nohup`` SIGHUP is ignored in the tests, and an ignored signal is
    ignored in children, too. A signal with a handler gets its default action there.
    Only the main thread can set handlers; other threads leave SIGHUP as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.SIG_IGN if ignored else _ignore_signal
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    """Do nothing: a handler that is not inherited, unlike SIG_IGN."""


def python_path(*folders: str) -> str:
    """Return a PYTHONPATH of folders and of the one of this process."""
    return os.pathsep.join([*folders, *filter(None, [os.environ.get('PYTHONPATH')])])


class ServerProcess:
    """A server as a child process, in a process group of its own.

    Args:
        command: Words of the command; ``{port}`` is replaced in each, and a first
            word of ``python`` is this interpreter.
        port: Port on which it will listen; a free one by default.
        env: Additions to the environment; a PYTHONPATH is put before the inherited one.
        cwd: Working folder; the top of the repository by default.
        start_timeout_s: Longest time in seconds until its port accepts connections.
        ignores_hangup: Whether it is started as by ``nohup``.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        start_timeout_s: float = 30.0,
        ignores_hangup: bool = False,
    ) -> None:
        self.port = port or free_port()
        words = [word.replace('{port}', str(self.port)) for word in command]
        if words[0] == 'python':
            words[0] = sys.executable
        self._command = words
        self._env = {**os.environ, 'PYTHONUNBUFFERED': '1', **(env or {})}
        if env and 'PYTHONPATH' in env:
            self._env['PYTHONPATH'] = python_path(env['PYTHONPATH'])
        self._cwd = cwd or ROOT
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._start_timeout_s = start_timeout_s
        self._ignores_hangup = ignores_hangup
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
        with _hangup_for_children(ignored=self._ignores_hangup):
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
        # NOTE: pread, because the child's writes share the file position.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors='replace')

    def child_pids(self) -> list[int]:
        """Return the ids of the processes that the first process has started."""
        children = Path(f'/proc/{self.pid}/task/{self.pid}/children').read_text()
        return [int(pid) for pid in children.split()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the first process only."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, timeout_s: float = 15.0) -> int:
        """Send SIGTERM, kill the group after `timeout_s`, and return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        return self.kill()

    def kill(self) -> int:
        """Kill the whole process group; return the exit code."""
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
