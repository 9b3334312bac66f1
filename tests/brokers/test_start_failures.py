"""A server whose broker cannot be used exits, and prints the reason in one line."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import signal
import subprocess
import sys

import pytest
from support.postgres_server import PostgresServer
from support.processes import free_port
from support.processes import ROOT
from support.processes import wait_until
from support.redis_server import RedisServer
from support.workers import meet
from support.workers import receive
from support.workers import two_workers

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('start failures')]

APP = 'support.rooms_app:app'
SERVE = ['falcon-channels', 'serve', APP]
WORKERS = [*SERVE, '--workers', '2']
UVICORN = ['uvicorn', APP]


@pytest.fixture(
    params=['sqlite without folder', 'no Redis server', 'PostgreSQL without tables'],
    scope='module',
)
def broken(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The URL of a broker that cannot be used, and the start of the error message."""
    with contextlib.ExitStack() as stack:
        if 'sqlite' in request.param:
            path = tmp_path_factory.mktemp('start') / 'missing' / 'rooms.db'
            yield (
                f'sqlite:///{path}',
                f'{path}: the folder {path.parent} does not exist',
            )
        elif 'Redis' in request.param:
            port = free_port()
            yield (
                f'redis://127.0.0.1:{port}',
                f'cannot connect to Redis at 127.0.0.1:{port}',
            )
        else:
            server = PostgresServer('fsync=off')
            stack.callback(server.stop)
            yield server.url, "the database has no schema 'falcon_channels': run"


def run(words: list[str], broker: str) -> subprocess.CompletedProcess[str]:
    """Run a server until it exits."""
    program, *more = words
    return subprocess.run(
        [str(Path(sys.executable).with_name(program)), *more, '--port', '0'],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': 'tests', 'BROKER': broker},
        timeout=50,
        check=False,
    )


def test_serve_with_an_unusable_broker_prints_one_line(broken: tuple[str, str]) -> None:
    """`falcon-channels serve` exits with code 3 and one line, without a traceback."""
    url, reason = broken
    completed = run(SERVE, url)
    assert 3 == completed.returncode
    assert f'ERROR:    Channels cannot start: {reason}' in completed.stderr
    assert 'Traceback' not in completed.stderr


def test_workers_with_an_unusable_broker_are_not_restarted(tmp_path: Path) -> None:
    """With several workers nothing is tried again, and the exit code is the same."""
    path = tmp_path / 'missing' / 'rooms.db'
    completed = run(WORKERS, f'sqlite:///{path}')
    assert 3 == completed.returncode
    assert f'ERROR:    Channels cannot start: {path}: the folder' in completed.stderr
    assert 'Traceback' not in completed.stderr


def test_uvicorn_with_an_unusable_broker_ends_with_the_reason(
    broken: tuple[str, str],
) -> None:
    """Under plain uvicorn, the traceback is short and ends with the reason."""
    url, reason = broken
    completed = run(UVICORN, url)
    assert 3 == completed.returncode
    _, after = completed.stderr.split('Traceback (most recent call last):\n')
    frames, _, message = after.partition(
        'falcon_channels.errors.BrokerUnavailableError: '
    )
    assert 2 == frames.count('  File "')
    assert reason in message.splitlines()[0]
    assert message.endswith('ERROR:    Application startup failed. Exiting.\n')


@pytest.mark.parametrize('words', [SERVE, WORKERS], ids=['one', 'workers'])
def test_serve_with_an_unknown_scheme_prints_one_line(words: list[str]) -> None:
    """An unknown scheme in the URL stops the server and its workers with one line."""
    completed = run(words, 'kafka://user:s3cret@host')
    assert 3 == completed.returncode
    assert (
        "ERROR:    Error loading ASGI app: no broker for a URL with scheme 'kafka'"
        in (completed.stderr)
    )
    assert 'Traceback' not in completed.stderr
    assert 's3cret' not in completed.stderr


@pytest.mark.parametrize('more', [[], ['--workers', '2']], ids=['one', 'workers'])
def test_application_that_cannot_be_imported_stops_the_server(
    tmp_path: Path, more: list[str]
) -> None:
    """The server does not try again to import a broken application."""
    (tmp_path / 'broken_app.py').write_text('app = 1 / 0\n')
    words = ['falcon-channels', 'serve', 'broken_app:app', '--app-dir', str(tmp_path)]
    completed = run([*words, *more], '')
    assert 3 == completed.returncode
    assert 'ZeroDivisionError: division by zero' in completed.stderr
    assert completed.stderr.count('ZeroDivisionError') <= 2


def test_worker_killed_without_broker_is_replaced_when_it_is_back(
    tmp_path: Path,
) -> None:
    """The successor starts when the broker is back; other clients stay connected."""
    redis = RedisServer(tmp_path, '--appendonly', 'yes', '--appendfsync', 'always')
    url = f'{redis.url}?timeout_s=1&probe_s=0.2&trusted=yes'
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: redis.stop())
        server = stack.enter_context(two_workers(url))
        one, two = meet(server)
        ann = stack.enter_context(one.enter('bar', 'ann'))
        # NOTE: entering presence is the last step that needs the broker.
        wait_until(lambda: two.users('bar') == ['ann'], 'ann is present')
        redis.kill()
        lost = 'the link to the broker is lost'
        wait_until(lambda: server.log().count(lost) == 2, 'both workers have noticed')
        os.kill(two.pid, signal.SIGKILL)
        wait_until(
            lambda: 'failed to start; retrying in' in server.log(),
            'the successor has failed',
        )
        redis.start()
        _, successor = sorted(meet(server, two.pid), key=lambda w: w.pid != one.pid)
        successor.ask('POST', '/rooms/bar', 'still here?')
        assert 'still here?' == receive(ann)['data']
        assert 'Traceback' not in server.log()
        server.signal(signal.SIGTERM)
        assert server.process is not None
        assert 0 == server.process.wait(30)
