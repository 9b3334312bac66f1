"""Measure what a publication through PostgreSQL costs our process and the server.

    python -m benchmarks.postgres_publish [--before SRC] [--seconds 2] [--turns 5]

The script starts a PostgreSQL server on one core, with its usual settings: each commit
waits for the disk. `benchmarks.publish_load` describes the load on the other core.

With ``--before ../other-tree/src``, a second version of the library takes turns with
this one, so that other work on the machine meets both. With ``--setting``, the server
gets another setting, such as ``--setting fsync=off``.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import shutil
import signal
import subprocess
import tempfile
import time

from benchmarks import harness
from benchmarks import publish_load

CASES = publish_load.CASES


def program(name: str) -> str:
    """Return the path of a PostgreSQL program, which is not in the PATH on Debian."""
    found = sorted(Path('/usr/lib/postgresql').glob(f'*/bin/{name}'))
    return str(found[-1]) if found else (shutil.which(name) or name)


class Postgres:
    """A PostgreSQL server on the core of the load.

    Args:
        settings: Settings of the server, such as ``fsync=off``.
    """

    def __init__(self, settings: Sequence[str]) -> None:
        self._settings = settings

    def __enter__(self) -> Postgres:
        self._folder = Path(tempfile.mkdtemp(prefix='postgres-'))
        # NOTE: PostgreSQL refuses to run as root.
        user = 'postgres' if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(self._folder, user, user)
        self.port = harness.free_port()
        data = str(self._folder / 'data')
        subprocess.run(
            [
                *(program('initdb'), '--pgdata', data, '--username', 'postgres'),
                *('--auth', 'trust', '--encoding', 'UTF8', '--no-locale'),
            ],
            user=user,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self._folder,
        )
        words = [program('postgres'), '-D', data]
        for setting in (
            *(f'port={self.port}', 'listen_addresses=127.0.0.1'),
            f'unix_socket_directories={self._folder}',
            *self._settings,
        ):
            words += ['-c', setting]
        self._process = subprocess.Popen(
            words,
            user=user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            preexec_fn=lambda: os.sched_setaffinity(0, {harness.cores()[1]}),
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
        shutil.rmtree(self._folder, ignore_errors=True)


def main() -> None:
    """Run all cases in turns, and print the medians."""
    parser = publish_load.arguments(__doc__ or '', CASES)
    parser.add_argument('--setting', action='append', default=[])
    args = parser.parse_args()
    if publish_load.run_if_worker(args):
        return
    versions = publish_load.versions(args)
    publish_load.print_head('PostgreSQL')
    for case in args.cases or CASES:
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
        with Postgres(args.setting) as server:
            load = publish_load.Load('benchmarks.postgres_publish', server, args)
            for _ in range(args.turns):
                for name, source in versions.items():
                    samples[name].append(load.measure(case, source))
        for name, found in samples.items():
            publish_load.print_row(CASES[case], name, found)


if __name__ == '__main__':
    main()
