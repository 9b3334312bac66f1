"""The file of a UNIX socket, signals at unusual times, and arguments for TLS."""

from __future__ import annotations

import contextlib
from http.client import HTTPConnection
import os
from pathlib import Path
import re
import signal
import socket
import subprocess
import sys

import pytest
from support.processes import ServerProcess
from support.processes import wait_until

SERVE = ['python', '-m', 'falcon_channels', 'serve']
APP = 'tests.server.served_app:app'

pytestmark = pytest.mark.server


def accepts(path: Path) -> bool:
    """Return whether a process listens on a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


class UnixServer(ServerProcess):
    """A server on a UNIX socket; it has started when its log says so."""

    def __init__(self, path: Path, *words: str) -> None:
        super().__init__([*SERVE, '--uds', str(path), *words, APP])

    def _listening(self) -> bool:
        return 'Application startup complete' in self.log()


def fail_to_start(path: Path, app: str, *words: str) -> str:
    """Start a server that cannot start; return what it prints."""
    done = subprocess.run(
        [sys.executable, *SERVE[1:], '--uds', str(path), *words, app],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert 3 == done.returncode
    assert 'Traceback' not in done.stderr
    return done.stderr


@pytest.mark.parametrize('words', [(), ('--workers', '2')])
def test_other_file_at_the_path_of_the_socket_stays(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """A mistake in `--uds` does not delete a file of the user."""
    path = tmp_path / 'notes.txt'
    path.write_text('important')
    assert 'in use' in fail_to_start(path, APP, *words)
    assert 'important' == path.read_text()


@pytest.mark.parametrize('words', [(), ('--workers', '2')])
def test_server_that_cannot_start_leaves_the_socket_of_another(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """A server keeps its socket when another one fails at the same path."""
    path = tmp_path / 'app.sock'
    with UnixServer(path, *words):
        wait_until(lambda: accepts(path), 'it listens')
        app = APP if words else 'nowhere:app'
        fail_to_start(path, app, *words)
        assert accepts(path)


def test_stopped_server_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    """A server that has taken over the path can be reached after the old one stops."""
    path = tmp_path / 'app.sock'
    with UnixServer(path) as old:
        wait_until(lambda: accepts(path), 'it listens')
        before = path.stat().st_ino
        with UnixServer(path):
            wait_until(lambda: path.stat().st_ino != before, 'it has taken over')
            assert 0 == old.stop()
            assert accepts(path)


@pytest.mark.parametrize('words', [(), ('--workers', '2')])
def test_socket_of_a_killed_server_does_not_prevent_a_start(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """The file that a killed server leaves is replaced, and removed at the end."""
    path = tmp_path / 'app.sock'
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with UnixServer(path, *words) as server:
        wait_until(lambda: accepts(path), 'it listens')
        server.stop()
        assert not path.exists()


_HANGING_APP = """
import asyncio

import falcon.asgi


class Hook:
    async def process_{moment}(self, scope, event):
        print('HANGS')
        await asyncio.Event().wait()


app = falcon.asgi.App(middleware=[Hook()])
"""


class HangingServer(ServerProcess):
    """A server whose application hangs while it starts or stops."""

    def __init__(self, folder: Path, moment: str) -> None:
        (folder / 'app.py').write_text(_HANGING_APP.format(moment=moment))
        super().__init__([*SERVE, '--port', '0', 'app:app'], cwd=folder)

    def _listening(self) -> bool:
        return 'HANGS' in self.log() or 'startup complete' in self.log()


@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('moment', ['startup', 'shutdown'])
def test_second_signal_ends_a_server_whose_application_hangs(
    moment: str, sig: signal.Signals, tmp_path: Path
) -> None:
    """A hook of the application cannot prevent the end."""
    with HangingServer(tmp_path, moment) as server:
        server.signal(sig)
        wait_until(lambda: 'HANGS' in server.log(), 'the application hangs')
        assert server.process is not None
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.3)
        server.signal(sig)
        assert -sig == server.process.wait(20)


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (['--ssl-verify-client'], 'without --ssl-certfile'),
        (['--ssl-ca-certs', 'ca.pem'], 'without --ssl-certfile'),
        (['--ssl-keyfile', 'key.pem'], 'without --ssl-certfile'),
        (
            ['--ssl-certfile', 'cert.pem', '--ssl-verify-client'],
            'needs --ssl-ca-certs',
        ),
    ],
)
def test_arguments_for_tls_without_the_others_are_refused(
    words: list[str], text: str
) -> None:
    """A server that should check its clients never serves plain HTTP instead."""
    done = subprocess.run(
        [sys.executable, *SERVE[1:], *words, APP],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert 2 == done.returncode
    assert text in done.stderr


_EXITS = {
    'import': "import sys\n\nsys.exit('DATABASE_URL is missing')\n",
    'startup': """
import os

import falcon.asgi


class Hook:
    async def process_startup(self, scope, event):
        os._exit(7)


app = falcon.asgi.App(middleware=[Hook()])
""",
}


@pytest.mark.parametrize('moment', _EXITS)
def test_workers_that_exit_while_they_start_end_the_server(
    moment: str, tmp_path: Path
) -> None:
    """Any exit code of a worker that was never ready means that it cannot start.

    With another code than 3, the parent started the workers again and again.
    """
    (tmp_path / 'exits.py').write_text(_EXITS[moment])
    words = ['--port', '0', '--workers', '2', 'exits:app']
    done = subprocess.run(
        [sys.executable, *SERVE[1:], *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert 3 == done.returncode
    assert 'failed to start, stopping the parent process' in done.stderr
    assert (moment == 'import') == ('DATABASE_URL is missing' in done.stderr)


def test_signal_stops_workers_that_are_being_replaced() -> None:
    """The parent handles a signal while a worker that it replaces still drains.

    It waited for that worker, replaced the others, and stopped only then. A second
    signal had no effect meanwhile.
    """
    words = ['--port', '{port}', '--workers', '2', APP]
    with ServerProcess([*SERVE, *words]) as server:
        wait_until(
            lambda: server.log().count('startup complete') == 2, 'both have started'
        )
        with socket.create_connection(('127.0.0.1', server.port)) as client:
            client.sendall(b'GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n')
            wait_until(lambda: 'STUBBORN' in server.log(), 'the request waits')
            server.signal(signal.SIGHUP)
            wait_until(
                lambda: 'Waiting for connections' in server.log(), 'one worker drains'
            )
            started = server.log().count('Started server process')
            server.signal(signal.SIGTERM)
            wait_until(
                lambda: (
                    server.log().count('Finished server process')
                    == server.log().count('Started server process') - 1
                ),
                'all other workers have stopped',
            )
            assert started == server.log().count('Started server process')
            server.signal(signal.SIGTERM)
            assert server.process is not None
            assert 0 == server.process.wait(10)


def test_signal_stops_the_workers_while_one_of_them_is_removed() -> None:
    """After SIGTTOU, the parent does not wait for the worker that drains."""
    words = ['--port', '{port}', '--workers', '2', APP]
    with ServerProcess([*SERVE, *words]) as server, contextlib.ExitStack() as stack:
        busy: set[bytes] = set()

        def occupy() -> bool:
            """Let one more worker wait for a request that never ends."""
            client = HTTPConnection('127.0.0.1', server.port, timeout=20)
            stack.callback(client.close)
            client.request('GET', '/pid')
            busy.add(client.getresponse().read())
            client.request('GET', '/stubborn')
            return len(busy) == 2

        wait_until(occupy, 'both workers are busy')
        waiting = 'Waiting for connections'
        server.signal(signal.SIGTTOU)
        wait_until(lambda: server.log().count(waiting) == 1, 'one worker drains')
        server.signal(signal.SIGTERM)
        wait_until(lambda: server.log().count(waiting) == 2, 'both workers drain')
        server.signal(signal.SIGTERM)
        assert server.process is not None
        assert 0 == server.process.wait(10)


def test_signals_that_arrive_together_are_all_handled() -> None:
    """A stop right after a restart ends the server and all workers.

    The restart had handled the second signal already. The parent failed at it, and left
    workers that served on.
    """
    words = ['--port', '{port}', '--workers', '2', APP]
    with ServerProcess([*SERVE, *words]) as server:
        wait_until(
            lambda: server.log().count('startup complete') == 2, 'both have started'
        )
        assert server.process is not None
        # NOTE: a stopped process gets both signals before it handles one of them.
        server.signal(signal.SIGSTOP)
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        assert 0 == server.process.wait(20)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(('127.0.0.1', server.port))


def test_no_worker_is_started_while_the_workers_stop() -> None:
    """SIGTTIN that comes after SIGTERM is ignored.

    The parent started a worker that nothing stopped, and waited for it for ever.
    """
    words = ['--port', '{port}', '--workers', '2', APP]
    with ServerProcess([*SERVE, *words]) as server:
        wait_until(
            lambda: server.log().count('startup complete') == 2, 'both have started'
        )
        with socket.create_connection(('127.0.0.1', server.port)) as client:
            client.sendall(b'GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n')
            wait_until(lambda: 'STUBBORN' in server.log(), 'the request waits')
            server.signal(signal.SIGTERM)
            wait_until(lambda: 'Finished server' in server.log(), 'one worker is left')
            server.signal(signal.SIGTTIN)
            log = server.log()
            started = set(re.findall(r'Started server process \[(\d+)', log))
            finished = set(re.findall(r'Finished server process \[(\d+)', log))
            [pid] = started - finished
            os.kill(int(pid), signal.SIGKILL)
            assert server.process is not None
            assert 0 == server.process.wait(20)


_FAILS_ON_DEMAND = """
from pathlib import Path

import falcon.asgi

if Path('broken').exists():
    raise OSError('the database is down')
app = falcon.asgi.App()
"""


def test_worker_that_replaced_a_failed_one_is_treated_like_any_other(
    tmp_path: Path,
) -> None:
    """The log tells that it died, also if SIGHUP replaced the failed one.

    The parent took the time of the next attempt for that of the new worker. It then
    started another one without a word.
    """
    (tmp_path / 'fails.py').write_text(_FAILS_ON_DEMAND)
    words = ['--port', '{port}', '--workers', '2', 'fails:app']
    with ServerProcess([*SERVE, *words], cwd=tmp_path) as server:

        def pids() -> list[int]:
            """Return the ids of the workers, in the order of their start."""
            found = re.findall(r'Started server process \[(\d+)', server.log())
            return [int(number) for number in found]

        wait_until(lambda: len(pids()) == 2, 'both have started')
        # NOTE: the parent started the first one first, and replaces it first.
        first, second = sorted(pids())
        (tmp_path / 'broken').touch()
        os.kill(first, signal.SIGKILL)
        failed = 'failed to start; retrying in'
        wait_until(lambda: failed in server.log(), 'its replacement fails')
        (tmp_path / 'broken').unlink()
        server.signal(signal.SIGHUP)
        finished = f'Finished server process [{second}]'
        wait_until(lambda: finished in server.log(), 'both are replaced')
        # NOTE: on a slow machine, the next attempt came first, and was replaced, too.
        replacements = [
            pid
            for pid in pids()[2:]
            if f'Terminated child process [{pid}]' not in server.log()
        ]
        assert 2 == len(replacements)
        for pid in replacements:
            os.kill(pid, signal.SIGKILL)
        for pid in replacements:
            wait_until(
                lambda pid=pid: f'Child process [{pid}] died' in server.log(),
                'the log tells that it died',
            )


_KILLED_ONCE = """
import os
from pathlib import Path
import signal

import falcon.asgi

try:
    Path('killed').touch(exist_ok=False)
except FileExistsError:
    app = falcon.asgi.App()
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_worker_that_is_killed_before_it_was_seen_ready_has_died(
    tmp_path: Path,
) -> None:
    """The log does not say that it could not start, and it is replaced."""
    (tmp_path / 'killed_once.py').write_text(_KILLED_ONCE)
    words = ['--port', '{port}', '--workers', '2', 'killed_once:app']
    with ServerProcess([*SERVE, *words], cwd=tmp_path) as server:

        def num_started() -> int:
            return len(re.findall('Started server process', server.log()))

        wait_until(lambda: num_started() == 2, 'both workers have started')
        log = server.log()
        assert re.search(r'Child process \[\d+\] died; retrying in', log)
        assert 'failed to start' not in log
