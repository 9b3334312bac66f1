"""Measure what a publication through PostgreSQL costs our process and the server.

    python -m benchmarks.postgres_publish [--before SRC] [--seconds 2] [--turns 5]

The script starts a PostgreSQL server on one core, with its usual settings: each commit
waits for the disk. `benchmarks.publish_load` describes the load on the other core.

With ``--before ../other-tree/src``, a second version of the library takes turns with
this one, so that other work on the machine meets both. With ``--setting``, the server
gets another setting, such as ``--setting fsync=off`` or ``--setting commit_delay=200``.

Some cases publish with SQL: `pgbench` runs the function ``publish`` in the core of our
process, with 8 connections or ``--connections 32``. A process of the library receives
the publications. Transactions that only change one of 50 rows, and add a row to a
table, take turns with them. They show what the server and the disk allow.

In the cases ``shared``, no process of the library publishes, so PostgreSQL may use all
cores. It shares two of them with `pgbench`, which is a C program, and with the process
that receives. `pgbench` uses the Unix socket.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import contextlib
import dataclasses
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import tempfile
import time

import psycopg

from benchmarks import harness
from benchmarks import publish_load


@dataclasses.dataclass(frozen=True)
class SqlCase:
    """A case of `pgbench`.

    Attributes:
        title: As it is printed.
        count: Number of publications in each transaction.
        synchronous: Value of ``synchronous_commit``: whether transactions wait for the
            disk.
        shared: Whether all processes share two cores.
        protocol: How `pgbench` sends a statement: ``prepared``, or ``simple`` as psql
            does.
        channels: Number of channels.
    """

    title: str
    count: int = 1
    synchronous: str = 'on'
    shared: bool = False
    protocol: str = 'prepared'
    channels: int = 50


_SQL_CASES = {
    'sql': SqlCase('connections publish with SQL over 50 channels'),
    'sql-async': SqlCase(
        'the same, with `synchronous_commit = off`', synchronous='off'
    ),
    'sql-100': SqlCase('the same, with 100 publications in each transaction', 100),
    'shared': SqlCase('SQL over 50 channels, two shared cores', shared=True),
    'shared-simple': SqlCase(
        'the same, with the simple protocol', shared=True, protocol='simple'
    ),
    'shared-one': SqlCase(
        'SQL in one channel, two shared cores', shared=True, channels=1
    ),
}
CASES = {
    **publish_load.CASES,
    **{name: case.title for name, case in _SQL_CASES.items()},
}
#: The name of the transactions without the library in the table, one of them, and the
#: tables that it needs.
ONLY_ROWS = 'two rows, without the library'
_ROWS = """\\set n random(1, {channels})
WITH log AS (
    UPDATE rows.channels SET top = top + 1 WHERE id = :n RETURNING id, top
)
INSERT INTO rows.items (channel, "offset", stored_ms, body)
SELECT id, top, 1, convert_to(repeat('x', {bytes}), 'UTF8') FROM log;
"""
_ROWS_TABLES = """
DROP SCHEMA IF EXISTS rows CASCADE;
CREATE SCHEMA rows;
CREATE TABLE rows.channels (LIKE this.channels INCLUDING ALL);
CREATE TABLE rows.items (LIKE this.items INCLUDING ALL);
INSERT INTO rows.channels (name, epoch, top, low, run)
SELECT convert_to(n::text, 'UTF8'), '', 0, 0, '' FROM generate_series(1, 50) AS n;
"""
_LOGIN = 'host=127.0.0.1 user=postgres dbname=postgres'


def program(name: str) -> str:
    """Return the path of a PostgreSQL program, which is not in the PATH on Debian."""
    found = sorted(Path('/usr/lib/postgresql').glob(f'*/bin/{name}'))
    return str(found[-1]) if found else (shutil.which(name) or name)


class Postgres:
    """A PostgreSQL server on the core of the load.

    Args:
        settings: Settings of the server, such as ``fsync=off``.
        cores: Numbers of its cores; by default the core of the load.

    Attributes:
        folder: Folder of its Unix socket.
    """

    def __init__(self, settings: Sequence[str], cores: Sequence[int] = ()) -> None:
        self._settings = settings
        self._cores = cores or [harness.cores()[1]]

    def __enter__(self) -> Postgres:
        self.folder = Path(tempfile.mkdtemp(prefix='postgres-'))
        # NOTE: PostgreSQL refuses to run as root.
        user = 'postgres' if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(self.folder, user, user)
        self.port = harness.free_port()
        data = str(self.folder / 'data')
        subprocess.run(
            [
                *(program('initdb'), '--pgdata', data, '--username', 'postgres'),
                *('--auth', 'trust', '--encoding', 'UTF8', '--no-locale'),
            ],
            user=user,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
        )
        words = [program('postgres'), '-D', data]
        for setting in (
            *(f'port={self.port}', 'listen_addresses=127.0.0.1'),
            f'unix_socket_directories={self.folder}',
            *self._settings,
        ):
            words += ['-c', setting]
        self._process = subprocess.Popen(
            words,
            user=user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            preexec_fn=lambda: os.sched_setaffinity(0, self._cores),
        )
        self.pid = self._process.pid
        ready = [program('pg_isready'), '--quiet', '--port', str(self.port)]
        deadline_s = time.monotonic() + 30
        while subprocess.run([*ready, '--host', '127.0.0.1']).returncode:
            if time.monotonic() > deadline_s:
                raise SystemExit('PostgreSQL did not start within 30 s')
            time.sleep(0.05)
        return self

    def url(self, version: str) -> str:
        """Return a URL for `Channels`, with a schema for each version."""
        return (
            f'postgresql://postgres@127.0.0.1:{self.port}/postgres'
            f'?schema={version}&migrate=yes'
        )

    def __exit__(self, *_: object) -> None:
        # NOTE: this signal makes the server close its connections.
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def measure_sql(
    case: SqlCase,
    source: Path | None,
    server: Postgres,
    load: publish_load.Load,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Publish with `pgbench`, while a process receives; return what was counted.

    Args:
        case: The case.
        source: Source folder of the library; ``None`` for `ONLY_ROWS`.
        server: The server.
        load: The processes that run cases.
        args: The arguments.
    """
    core = harness.cores()[0]
    text = 'x' * (args.bytes - 2)
    schema = 'this' if source == harness.ROOT / 'src' else 'before'
    publish = f"{schema}.publish('news-' || n % {case.channels}, '\"{text}\"')"
    if case.count == 1:
        query = f'SELECT {publish} FROM (SELECT :n::int AS n) AS chosen'
    else:
        # NOTE: all connections publish in the order of the names.
        query = (
            f'SELECT count({publish}) FROM (SELECT n FROM generate_series(1, '
            f"{case.count}) AS n ORDER BY 'news-' || n % 50) AS sorted"
        )
    script = f'\\set n random(0, {case.channels - 1})\n{query};\n'
    with contextlib.ExitStack() as stack:
        first = _ROWS_TABLES
        if source is None:
            script = _ROWS.format(bytes=args.bytes, channels=case.channels)
        else:
            first = (
                f"SELECT {schema}.publish('news-' || n, '1') "
                f'FROM generate_series(0, {case.channels - 1}) AS n'
            )
            receiver = stack.enter_context(
                load.start('receive', source, core, args.seconds + 60)
            )
            stack.callback(receiver.kill)
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == 'ready\n'
            if case.shared:
                os.sched_setaffinity(receiver.pid, harness.cores())
        # NOTE: on a server in use, autovacuum counts the rows of the tables soon. The
        #   plans of statements depend on these numbers.
        with psycopg.connect(_LOGIN, port=server.port, autocommit=True) as connection:
            connection.execute(first)
            connection.execute('VACUUM ANALYZE')
        before_s = publish_load.cpu_s(server.pid)
        host = str(server.folder) if case.shared else '127.0.0.1'
        done = subprocess.run(
            [
                *(program('pgbench'), '--host', host, '--port'),
                *(str(server.port), '--username', 'postgres', '--no-vacuum'),
                *('--client', str(args.connections), '--protocol', case.protocol),
                *('--file', '/dev/stdin'),
                *('--time', str(max(1, int(args.seconds))), 'postgres'),
            ],
            env={
                **os.environ,
                'PGOPTIONS': f'-c synchronous_commit={case.synchronous}',
            },
            input=script,
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(
                0, harness.cores() if case.shared else {core}
            ),
        )
        server_s = publish_load.cpu_s(server.pid) - before_s
    transactions = re.search(r'actually processed: (\d+)', done.stdout)
    rate = re.search(r'tps = ([\d.]+)', done.stdout)
    assert transactions is not None
    assert rate is not None
    return {
        'per_second': float(rate[1]) * case.count,
        'server_us': server_s / (int(transactions[1]) * case.count) * 1e6,
    }


def main() -> None:
    """Run all cases in turns, and print the medians."""
    parser = publish_load.arguments(__doc__ or '', CASES)
    parser.add_argument('--setting', action='append', default=[])
    parser.add_argument('--connections', type=int, default=8)
    args = parser.parse_args()
    if publish_load.run_if_worker(args):
        return
    cases = args.cases or CASES
    if shutil.which(program('pgbench')) is None and not _SQL_CASES.keys().isdisjoint(
        cases
    ):
        raise SystemExit(
            'the cases of SQL need pgbench, which is missing: install it together with '
            'PostgreSQL (on Debian, the package "postgresql")'
        )
    versions = publish_load.versions(args)
    publish_load.print_head('PostgreSQL')
    for case in cases:
        sql = _SQL_CASES.get(case)
        taking_turns: dict[str, Path | None] = {**versions}
        if sql is not None and sql.count == 1:
            taking_turns[ONLY_ROWS] = None
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in taking_turns}
        shared = sql is not None and sql.shared
        with Postgres(args.setting, harness.cores() if shared else ()) as server:
            load = publish_load.Load('benchmarks.postgres_publish', server, args)
            for _ in range(args.turns):
                for name, source in taking_turns.items():
                    if sql is not None:
                        found = measure_sql(sql, source, server, load, args)
                    else:
                        assert source is not None
                        found = load.measure(case, source)
                    samples[name].append(found)
        for name, own in samples.items():
            publish_load.print_row(CASES[case], name, own)


if __name__ == '__main__':
    main()
