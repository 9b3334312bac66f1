"""Measure what a publication through Redis costs our process and the Redis server.

    python -m benchmarks.redis_publish [--before SRC] [--seconds 2] [--turns 5]

The script starts a Redis server on one core. `benchmarks.publish_load` describes the
load on the other core.

"hiredis alone" is the least that a Python process needs for these publications: it
sends the same commands on a blocking socket, as many at once as there are publishers.
It has no event loop, checks nothing and waits for no deadline.

With ``--before ../other-tree/src``, a second version of the library takes turns with
this one, so that other work on the machine meets both.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from urllib.parse import urlsplit

from benchmarks import harness
from benchmarks import publish_load

#: Number of commands that hiredis alone sends at once, by case.
PIPELINED = {'publish-50': 50, 'publish-1': 1}
ALONE = 'alone-'


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


class BarePublisher:
    """Publishes with hiredis and a blocking socket, without the library.

    Args:
        url: URL of the server.
        number: Number of channels, and of commands that are sent at once.
        size: Number of bytes of a publication.
    """

    def __init__(self, url: str, number: int, size: int) -> None:
        import hiredis

        from falcon_channels.brokers.encoding import encode_publication
        from falcon_channels.brokers.redis.keys import Keys
        from falcon_channels.brokers.redis.scripts import PUBLISH
        from falcon_channels.publication import Publication

        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self._pack = hiredis.pack_command
        self._ask([('SCRIPT', 'LOAD', PUBLISH.text_of(b''))])
        keys = Keys('falcon', 0)
        body = encode_publication(Publication(data=b'"%b"' % (b'x' * (size - 2))))
        self._commands = [
            (
                *('EVALSHA', PUBLISH.sha_of(b''), 2, *keys.log(name), keys.name(name)),
                *('PUBLISH', 100, -1, 30 * 86_400_000, 0, f'epoch of {name}', 0, body),
            )
            for name in (f'alone-{index}' for index in range(number))
        ]

    def _ask(self, commands: list[tuple[object, ...]]) -> None:
        self._socket.sendall(b''.join([self._pack(words) for words in commands]))
        missing = len(commands)
        while missing:
            self._reader.feed(self._socket.recv(65536))
            while (answer := self._reader.gets()) is not False:
                if isinstance(answer, Exception):
                    raise answer
                missing -= 1

    def publish(self, seconds: float) -> int:
        """Publish for a time, and return the number of publications."""
        end_s = time.monotonic() + seconds
        count = 0
        while time.monotonic() < end_s:
            self._ask(self._commands)
            count += len(self._commands)
        return count


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
    if args.work and args.work.startswith(ALONE):
        number = PIPELINED[args.work.removeprefix(ALONE)]
        publisher = BarePublisher(args.url, number, args.bytes)
        publisher.publish(0.3)
        meter = publish_load.Meter(args.pid)
        print(json.dumps(meter.counted(publisher.publish(args.seconds))))
        return
    if args.work and args.without_hiredis:
        # NOTE: an import of a module that is ``None`` here fails.
        sys.modules['hiredis'] = None  # type: ignore[assignment]
    if publish_load.run_if_worker(args):
        return
    versions = publish_load.versions(args)
    publish_load.print_head('Redis')
    for case in args.cases or publish_load.CASES:
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
        if case in PIPELINED and not args.cluster:
            samples['hiredis alone'] = []
        with Redis(cluster=args.cluster) as redis:
            load = publish_load.Load('benchmarks.redis_publish', redis, args)
            for _ in range(args.turns):
                for name, found in samples.items():
                    work = case if name in versions else ALONE + case
                    source = versions.get(name, versions['this version'])
                    found.append(load.measure(work, source))
        for name, found in samples.items():
            publish_load.print_row(publish_load.CASES[case], name, found)


if __name__ == '__main__':
    main()
