"""Compare publishing through Redis and PostgreSQL with Centrifugo.

    python -m benchmarks.broker_peers

Back ends publish to the HTTP API of both servers, in alternating turns. Each server
has one core. Both use the same Redis or PostgreSQL server, which has the other core
together with the load. The figures are the CPU times of both for one publication.
Centrifugo must be on the path, or Go builds it below build/.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import json
from pathlib import Path
import statistics
import tempfile
from typing import Any

from benchmarks import harness
from benchmarks import others
from benchmarks import postgres_publish
from benchmarks import publish_load
from benchmarks import redis_publish

_BYTES = 200


def _publication(number: int) -> dict[str, object]:
    return {'channel': f'rooms:{number % 50}', 'data': 'x' * (_BYTES - 2)}


def _case(path: str, connections: int, media: object, units: int) -> harness.Case:
    body = json.dumps(media, separators=(',', ':'))
    options = ['--path', path, '--key', others.API_KEY, '--body', body]
    return harness.Case(path, ['post', connections, units, 0, *options])


_BATCH = {
    'parallel': True,
    'commands': [{'publish': _publication(number)} for number in range(100)],
}
CASES = {
    '50 back ends, one publication in each request': _case(
        '/api/publish', 50, _publication(0), 1
    ),
    '8 back ends, 100 publications to 50 channels in each request': _case(
        '/api/batch', 8, _BATCH, 100
    ),
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """CPU times of one publication in microseconds, and publications a second."""

    own_us: float
    store_us: float
    per_second: float


def median(costs: Sequence[Cost]) -> Cost:
    """Return the medians of the figures."""
    columns = zip(*map(dataclasses.astuple, costs), strict=True)
    return Cost(*map(statistics.median, columns))


@contextlib.contextmanager
def started(store: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Start a Redis or PostgreSQL server.

    Args:
        store: ``Redis`` or ``PostgreSQL``.

    Yields:
        The id of its process, the URL for our server, and the settings for Centrifugo.
    """
    if store == 'Redis':
        with redis_publish.Redis() as redis:
            url = redis.url('this')
            yield (
                redis.pid,
                url,
                {'engine': {'type': 'redis', 'redis': {'address': url}}},
            )
    else:
        with postgres_publish.Postgres([]) as postgres:
            url = postgres.url('this')
            broker = {
                'enabled': True,
                'type': 'postgres',
                'postgres': {'dsn': url.partition('?')[0]},
            }
            yield postgres.pid, url, {'broker': broker}


def make_peers(folder: Path, url: str, settings: dict[str, Any]) -> list[harness.Peer]:
    """Return our server, and Centrifugo if it can be found or built."""
    command = [*harness.SERVE, 'benchmarks.apps.open_rooms:app']
    peers = [harness.Peer('falcon-channels', command, {'CHANNELS_URL': url})]
    program = others.centrifugo_program()
    if program is not None:
        peer = others.centrifugo(program, folder)
        config = folder / 'centrifugo.json'
        config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
        peers.append(dataclasses.replace(peer, dialect=()))
    return peers


def measure(
    load_program: Path,
    peers: Sequence[harness.Peer],
    case: harness.Case,
    store_pid: int,
    seconds: float,
    turns: int = 3,
) -> list[Cost]:
    """Load the servers in alternating turns, and return the cost of each."""
    found: list[list[Cost]] = [[] for _ in peers]
    with contextlib.ExitStack() as stack:
        loads = []
        for peer in peers:
            server = stack.enter_context(harness.Server(peer))
            loads.append(harness.Load(load_program, server, case.words))
            stack.callback(loads[-1].close)
        for _ in range(turns):
            for own, load in zip(found, loads, strict=True):
                before_s = publish_load.cpu_s(store_pid)
                sample = load.run(seconds / turns)
                store_s = publish_load.cpu_s(store_pid) - before_s
                count = sample.per_second * seconds / turns
                own.append(
                    Cost(sample.cpu_us, store_s / count * 1e6, sample.per_second)
                )
    return [median(own) for own in found]


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--repetitions', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=3.0)
    args = parser.parse_args()
    others.centrifugo_program()
    print(
        '\n| broker | case | server | us of the server | us of the broker | a second |'
    )
    print('|---|---|---|--:|--:|--:|')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load_program = harness.compile_c('http', folder)
        for store in ('Redis', 'PostgreSQL'):
            for title, case in CASES.items():
                rows: dict[str, list[Cost]] = {}
                for _ in range(args.repetitions):
                    with started(store) as (pid, url, settings):
                        peers = make_peers(folder, url, settings)
                        costs = measure(load_program, peers, case, pid, args.seconds)
                    for peer, cost in zip(peers, costs, strict=True):
                        rows.setdefault(peer.name, []).append(cost)
                for server, own in rows.items():
                    middle = median(own)
                    print(
                        f'| {store} | {title} | {server} | {middle.own_us:.0f} '
                        f'| {middle.store_us:.0f} | {middle.per_second:,.0f} |',
                        flush=True,
                    )


if __name__ == '__main__':
    main()
