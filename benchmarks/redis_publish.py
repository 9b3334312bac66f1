"""Measure what a publication through Redis costs our process and the Redis server.

    python -m benchmarks.redis_publish [--before SRC] [--seconds 2] [--turns 5]

The script starts a Redis server on one core. `benchmarks.publish_load` describes the
load on the other core.

With ``--before ../other-tree/src``, a second version of the library takes turns with
this one, so that other work on the machine meets both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from benchmarks import harness
from benchmarks import publish_load


class Redis:
    """A Redis server on the core of the load.

    Args:
        cluster: Whether the server is a Cluster by itself. Publications are then
            announced by sharded pub/sub.
    """

    def __init__(self, *, cluster: bool = False) -> None:
        self._cluster = cluster

    def __enter__(self) -> Redis:
        self._folder = tempfile.TemporaryDirectory()
        self._port = harness.free_port()
        self._process = subprocess.Popen(
            [
                *('redis-server', '--port', str(self._port), '--bind', '127.0.0.1'),
                *('--save', '', '--io-threads', '1', '--dir', self._folder.name),
                *('--cluster-enabled', 'yes' if self._cluster else 'no'),
            ],
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {harness.cores()[1]}),
        )
        self.pid = self._process.pid
        if self._cluster:
            self._make_cluster()
        return self

    def _make_cluster(self) -> None:
        """Assign all slots to the server, and wait until it accepts commands."""
        command = ['redis-cli', '-p', str(self._port), 'cluster']
        deadline_s = time.monotonic() + 30
        for words, expected in (
            (['addslotsrange', '0', '16383'], 'OK'),
            (['info'], 'cluster_state:ok'),
        ):
            while (
                expected
                not in subprocess.run(
                    [*command, *words], capture_output=True, text=True
                ).stdout
            ):
                if time.monotonic() > deadline_s:
                    raise SystemExit('Redis did not form a Cluster within 30 s')
                time.sleep(0.05)

    def url(self, version: str) -> str:
        """Return the URL for `Channels`, which is the same for all versions."""
        return f'redis://127.0.0.1:{self._port}'

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def main() -> None:
    """Run all cases in turns, and print the medians."""
    parser = publish_load.arguments(__doc__ or '', publish_load.CASES)
    parser.add_argument(
        '--cluster', action='store_true', help='use a Cluster of one server'
    )
    parser.add_argument(
        '--without-hiredis',
        choices=['before', 'all'],
        help='which versions parse answers in Python',
    )
    args = parser.parse_args()
    if args.work and args.without_hiredis:
        # NOTE: an import of a module that is ``None`` here fails.
        sys.modules['hiredis'] = None  # type: ignore[assignment]
    if publish_load.run_if_worker(args):
        return
    versions = publish_load.versions(args)
    publish_load.print_head('Redis')
    for case in args.cases or publish_load.CASES:
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
        with Redis(cluster=args.cluster) as redis:
            load = publish_load.Load('benchmarks.redis_publish', redis, args)
            for _ in range(args.turns):
                for name, source in versions.items():
                    samples[name].append(load.measure(case, source))
        for name, found in samples.items():
            publish_load.print_row(publish_load.CASES[case], name, found)


if __name__ == '__main__':
    main()
