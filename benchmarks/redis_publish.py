"""Measure what a publication through Redis costs our process and the Redis server.

    python -m benchmarks.redis_publish [--before SRC] [--seconds 2] [--turns 5]

The script starts a Redis server on one core. A process on the other core publishes
through `Channels`, or receives what a third process publishes. The cost is CPU time,
also that of the kernel for the process. It does not depend on the speed of the load.

With ``--before ../other-tree/src``, a second version of the library takes turns with
this one, so that other work on the machine meets both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time

import uvloop

from benchmarks import harness

CASES = {
    'publish-50': '50 publishers over 50 channels, each waits for its publication',
    'publish-1': 'one publisher that waits for each publication',
    'broadcast': 'one publisher that broadcasts to 100 channels',
    'receive': 'a process with a subscription in each of 10 channels',
}
_CHANNELS = 10


def cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process so far."""
    return sum(
        int((task / 'schedstat').read_text().split()[0]) / 1e9
        for task in Path(f'/proc/{pid}/task').iterdir()
    )


async def work(case: str, url: str, server_pid: int, seconds: float, size: int) -> None:
    """Run one case in this process, and print what was counted."""
    from falcon_channels import ChannelOptions
    from falcon_channels import Channels

    channels = Channels(url)
    channels.add_route('{name}', object(), ChannelOptions(history_size=100))
    await channels.start()
    data = 'x' * (size - 2)
    count = 0
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()

    async def publish(name: str, end_s: float) -> None:
        nonlocal count
        while loop.time() < end_s:
            await channels.publish(name, data)
            count += 1

    async def broadcast(end_s: float) -> None:
        nonlocal count
        names = [f'news-{number}' for number in range(100)]
        while loop.time() < end_s:
            count += len(await channels.broadcast(names, data))

    async def listen(name: str, entered: asyncio.Barrier) -> None:
        nonlocal count
        async with channels.subscribe(name) as subscription:
            await entered.wait()
            async for _ in subscription:
                count += 1
                begun.set()

    async def load(seconds: float) -> None:
        end_s = loop.time() + seconds
        if case == 'broadcast':
            await broadcast(end_s)
        elif case == 'receive':
            await asyncio.sleep(seconds)
        else:
            publishers = 1 if case == 'publish-1' else 50
            names = _CHANNELS if case == 'source' else publishers
            await asyncio.gather(
                *(publish(f'news-{n % names}', end_s) for n in range(publishers))
            )

    listeners: list[asyncio.Task[None]] = []
    if case == 'receive':
        barrier = asyncio.Barrier(_CHANNELS + 1)
        listeners += [
            asyncio.create_task(listen(f'news-{n}', barrier)) for n in range(_CHANNELS)
        ]
        await barrier.wait()
        print('ready', flush=True)
        await begun.wait()
    await load(0.3)
    first = count
    before = time.process_time(), cpu_s(server_pid), time.perf_counter()
    await load(seconds)
    after = time.process_time(), cpu_s(server_pid), time.perf_counter()
    done = count - first
    for task in listeners:
        task.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    await channels.close()
    own, server, passed = (new - old for old, new in zip(before, after, strict=True))
    counted = {
        'per_second': done / passed,
        'own_us': own / done * 1e6,
        'server_us': server / done * 1e6,
    }
    print(json.dumps(counted), flush=True)


class Redis:
    """A Redis server on the core of the load."""

    def __enter__(self) -> Redis:
        self._folder = tempfile.TemporaryDirectory()
        port = harness.free_port()
        self.url = f'redis://127.0.0.1:{port}'
        self.process = subprocess.Popen(
            [
                *('redis-server', '--port', str(port), '--bind', '127.0.0.1'),
                *('--save', '', '--io-threads', '1', '--dir', self._folder.name),
            ],
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {harness.cores()[1]}),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()


def start(
    case: str, source: Path, redis: Redis, args: argparse.Namespace, core: int
) -> subprocess.Popen[str]:
    """Start a process that runs one case with the library in a source folder."""
    words = ['--work', case, '--url', redis.url, '--pid', str(redis.process.pid)]
    words += ['--seconds', str(args.seconds), '--bytes', str(args.bytes)]
    hidden = args.without_hiredis == 'all' or (
        args.without_hiredis and source != harness.ROOT / 'src'
    )
    hiredis = ['--without-hiredis', 'all'] if hidden else []
    words += ['--loop', args.loop, *hiredis]
    return subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.redis_publish', *words],
        cwd=harness.ROOT,
        env={**os.environ, 'PYTHONPATH': str(source)},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def measure(
    case: str, source: Path, redis: Redis, args: argparse.Namespace
) -> dict[str, float]:
    """Run one case once, and return what was counted."""
    own, other = harness.cores()
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(start(case, source, redis, args, own))
        assert worker.stdout is not None
        if case == 'receive':
            assert worker.stdout.readline() == 'ready\n'
            longer = argparse.Namespace(**vars(args))
            longer.seconds = args.seconds + 30
            load = stack.enter_context(start('source', source, redis, longer, other))
            stack.callback(load.kill)
        counted: dict[str, float] = json.loads(worker.stdout.readline())
    return counted


def main() -> None:
    """Run all cases in turns, and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('cases', nargs='*', choices=[[], *CASES], metavar='CASE')
    parser.add_argument('--before', type=Path, help='source folder of another version')
    parser.add_argument('--turns', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=2.0)
    parser.add_argument('--bytes', type=int, default=200)
    parser.add_argument('--loop', choices=['uvloop', 'asyncio'], default='uvloop')
    parser.add_argument(
        '--without-hiredis',
        choices=['before', 'all'],
        help='which versions parse answers in Python',
    )
    parser.add_argument('--work', help=argparse.SUPPRESS)
    parser.add_argument('--url', help=argparse.SUPPRESS)
    parser.add_argument('--pid', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        if args.without_hiredis:
            # NOTE: an import of a module that is ``None`` here fails.
            sys.modules['hiredis'] = None  # type: ignore[assignment]
        run = uvloop.run if args.loop == 'uvloop' else asyncio.run
        run(work(args.work, args.url, args.pid, args.seconds, args.bytes))
        return
    versions = {'this version': harness.ROOT / 'src'}
    if args.before is not None:
        versions = {'before': args.before.resolve(), **versions}
    print('| case | version | per second | us of our process | us of Redis |')
    print('|---|---|--:|--:|--:|')
    for case in args.cases or CASES:
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
        with Redis() as redis:
            for _ in range(args.turns):
                for name, source in versions.items():
                    samples[name].append(measure(case, source, redis, args))
        for name, found in samples.items():
            middle = {
                key: statistics.median(sample[key] for sample in found)
                for key in found[0]
            }
            print(
                f'| {CASES[case]} | {name} | {middle["per_second"]:,.0f} '
                f'| {middle["own_us"]:.0f} | {middle["server_us"]:.0f} |',
                flush=True,
            )


if __name__ == '__main__':
    main()
