"""A server whose broker cannot be used ends, and says why in a line."""

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
    params=['sqlite without folder', 'nobody at Redis', 'PostgreSQL without tables'],
    scope='module',
)
def broken(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The URL of a broker that cannot be used, and what is to be said about it."""
    with contextlib.ExitStack() as stack:
        if 'sqlite' in request.param:
            path = tmp_path_factory.mktemp('start') / 'missing' / 'rooms.db'
            yield f'sqlite:///{path}', f'{path}: the file cannot be opened; does its'
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
    """Run a server until it ends by itself."""
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


def test_serve_says_why_in_a_line(broken: tuple[str, str]) -> None:
    """`falcon-channels serve` ends with code 3 and a line, and shows no traceback."""
    url, reason = broken
    ended = run(SERVE, url)
    assert 3 == ended.returncode
    assert f'ERROR:    Channels cannot start: {reason}' in ended.stderr
    assert 'Traceback' not in ended.stderr


def test_workers_end_as_well(tmp_path: Path) -> None:
    """With several workers nothing is tried again, and the code is the same."""
    path = tmp_path / 'missing' / 'rooms.db'
    ended = run(WORKERS, f'sqlite:///{path}')
    assert 3 == ended.returncode
    assert f'ERROR:    Channels cannot start: {path}: the file' in ended.stderr
    assert 'Traceback' not in ended.stderr


def test_uvicorn_says_why_at_the_end(broken: tuple[str, str]) -> None:
    """Under uvicorn's own command Falcon's traceback is short, and ends with why."""
    url, reason = broken
    ended = run(UVICORN, url)
    assert 3 == ended.returncode
    _, after = ended.stderr.split('Traceback (most recent call last):\n')
    frames, _, told = after.partition('falcon_channels.errors.BrokerUnavailableError: ')
    assert 2 == frames.count('  File "')
    assert reason in told.splitlines()[0]
    assert told.endswith('ERROR:    Application startup failed. Exiting.\n')


@pytest.mark.parametrize('words', [SERVE, WORKERS], ids=['one', 'workers'])
def test_serve_names_a_broker_that_is_none(words: list[str]) -> None:
    """A mistake in the URL ends the server, workers too, with a line."""
    ended = run(words, 'kafka://user:s3cret@host')
    assert 3 == ended.returncode
    assert (
        "ERROR:    Error loading ASGI app: no broker for a URL with scheme 'kafka'"
        in (ended.stderr)
    )
    assert 'Traceback' not in ended.stderr
    assert 's3cret' not in ended.stderr


@pytest.mark.parametrize('more', [[], ['--workers', '2']], ids=['one', 'workers'])
def test_a_broken_app_ends_the_server(tmp_path: Path, more: list[str]) -> None:
    """An application that cannot be imported is not tried again and again."""
    (tmp_path / 'broken_app.py').write_text('app = 1 / 0\n')
    words = ['falcon-channels', 'serve', 'broken_app:app', '--app-dir', str(tmp_path)]
    ended = run([*words, *more], '')
    assert 3 == ended.returncode
    assert 'ZeroDivisionError: division by zero' in ended.stderr
    assert ended.stderr.count('ZeroDivisionError') <= 2


def test_a_worker_that_dies_while_the_broker_is_away(tmp_path: Path) -> None:
    """Its successor cannot start yet; the other worker's clients stay until it can."""
    redis = RedisServer(tmp_path, '--appendonly', 'yes', '--appendfsync', 'always')
    url = f'{redis.url}?timeout_s=1&probe_s=0.2&trusted=yes'
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: redis.stop())
        server = stack.enter_context(two_workers(url))
        one, two = meet(server)
        ann = stack.enter_context(one.enter('bar', 'ann'))
        # NOTE: the last thing that needs the broker when somebody comes in.
        wait_until(lambda: two.users('bar') == ['ann'], 'ann is seen')
        redis.kill()
        lost = 'the link to the broker is lost'
        wait_until(lambda: server.log().count(lost) == 2, 'both have noticed')
        os.kill(two.pid, signal.SIGKILL)
        wait_until(lambda: 'failed to start; retrying in' in server.log(), 'one fails')
        redis.start()
        _, successor = sorted(meet(server, two.pid), key=lambda w: w.pid != one.pid)
        successor.ask('POST', '/rooms/bar', 'still here?')
        assert 'still here?' == receive(ann)['data']
        assert 'Traceback' not in server.log()
        server.signal(signal.SIGTERM)
        assert server.process is not None
        assert 0 == server.process.wait(30)
