"""The load of the benchmarks that publish through a broker.

A process on one core publishes through `Channels`, or receives what a third process
publishes. The server of the broker runs on the other core. The cost is CPU time, also
that of the kernel for the process. It does not depend on the speed of the load.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
import contextlib
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import time
from typing import Protocol

import uvloop

from benchmarks import harness

CASES = {
    'publish-50': '50 publishers over 50 channels, each waits for its publication',
    'one-channel': '50 publishers in one channel, each waits for its publication',
    'publish-1': 'one publisher that waits for each publication',
    'broadcast': 'one publisher that broadcasts to 100 channels',
    'receive': 'a process with a subscription in each of 10 channels',
}
_CHANNELS = 10


class Server(Protocol):
    """A server of a broker.

    Attributes:
        pid: Id of its first process.
    """

    pid: int

    def url(self, version: str) -> str:
        """Return a URL for `Channels`.

        Args:
            version: Name of the version of the library that uses the URL.
        """


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children so far, also of ended ones."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    total_s = (int(fields[13]) + int(fields[14])) / os.sysconf('SC_CLK_TCK')
    for task in Path(f'/proc/{pid}/task').iterdir():
        total_s += int((task / 'schedstat').read_text().split()[0]) / 1e9
        for child in (task / 'children').read_text().split():
            # NOTE: a child may end at any time.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total_s += cpu_s(int(child))
    return total_s


class Meter:
    """Measures the CPU time of this process and of a server, from now on.

    Args:
        server_pid: Id of the first process of the server.
    """

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self._before = self._read()

    def _read(self) -> tuple[float, ...]:
        return time.process_time(), cpu_s(self._server_pid), time.perf_counter()

    def counted(self, done: int) -> dict[str, float]:
        """Return what each of a number of publications has cost."""
        pairs = zip(self._before, self._read(), strict=True)
        own_s, server_s, passed_s = (after - before for before, after in pairs)
        return {
            'per_second': done / passed_s,
            'own_us': own_s / done * 1e6,
            'server_us': server_s / done * 1e6,
        }


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
            names = {'source': _CHANNELS, 'one-channel': 1}.get(case, publishers)
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
    meter = Meter(server_pid)
    await load(seconds)
    counted = meter.counted(count - first)
    for task in listeners:
        task.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    await channels.close()
    print(json.dumps(counted), flush=True)


class Load:
    """Processes that run cases.

    Args:
        module: Name of the module that the processes run. Its `main` calls
            `run_if_worker`.
        server: The server of the broker.
        args: The arguments of `arguments`.
    """

    def __init__(self, module: str, server: Server, args: argparse.Namespace) -> None:
        self._module = module
        self._server = server
        self._args = args

    def start(
        self, case: str, source: Path, core: int, seconds: float
    ) -> subprocess.Popen[str]:
        """Start a process that runs one case.

        Args:
            case: Name of the case.
            source: Source folder of the library.
            core: Number of the core for the process.
            seconds: Duration of the load, in seconds.
        """
        args = self._args
        url = self._server.url('this' if source == harness.ROOT / 'src' else 'before')
        words = ['--work', case, '--url', url, '--pid', str(self._server.pid)]
        words += ['--seconds', str(seconds), '--bytes', str(args.bytes)]
        without = getattr(args, 'without_hiredis', None)
        if without == 'all' or (without and source != harness.ROOT / 'src'):
            words += ['--without-hiredis', 'all']
        words += ['--loop', args.loop]
        return subprocess.Popen(
            [sys.executable, '-m', self._module, *words],
            cwd=harness.ROOT,
            env={**os.environ, 'PYTHONPATH': str(source)},
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )

    def measure(self, case: str, source: Path) -> dict[str, float]:
        """Run one case once, and return what was counted."""
        own, other = harness.cores()
        seconds = self._args.seconds
        with contextlib.ExitStack() as stack:
            worker = stack.enter_context(self.start(case, source, own, seconds))
            assert worker.stdout is not None
            if case == 'receive':
                assert worker.stdout.readline() == 'ready\n'
                load = stack.enter_context(
                    self.start('source', source, other, seconds + 30)
                )
                stack.callback(load.kill)
            counted: dict[str, float] = json.loads(worker.stdout.readline())
        return counted


def arguments(description: str, cases: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return a parser for the options of these benchmarks."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('cases', nargs='*', choices=[[], *cases], metavar='CASE')
    parser.add_argument('--before', type=Path, help='source folder of another version')
    parser.add_argument('--turns', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=2.0)
    parser.add_argument('--bytes', type=int, default=200)
    parser.add_argument('--loop', choices=['uvloop', 'asyncio'], default='uvloop')
    parser.add_argument('--work', help=argparse.SUPPRESS)
    parser.add_argument('--url', help=argparse.SUPPRESS)
    parser.add_argument('--pid', type=int, help=argparse.SUPPRESS)
    return parser


def run_if_worker(args: argparse.Namespace) -> bool:
    """Run one case if this process is a worker, and return whether it is."""
    if not args.work:
        return False
    run = uvloop.run if args.loop == 'uvloop' else asyncio.run
    run(work(args.work, args.url, args.pid, args.seconds, args.bytes))
    return True


def versions(args: argparse.Namespace) -> dict[str, Path]:
    """Return the source folder of each version to be measured."""
    found = {'this version': harness.ROOT / 'src'}
    if args.before is not None:
        found = {'before': args.before.resolve(), **found}
    return found


def print_head(server: str) -> None:
    """Print the head of the table.

    Args:
        server: Name of the server.
    """
    print(f'| case | version | per second | us of our process | us of {server} |')
    print('|---|---|--:|--:|--:|')


def print_row(case: str, version: str, found: list[dict[str, float]]) -> None:
    """Print the medians of the samples of one case."""
    middle = {
        key: statistics.median(sample[key] for sample in found) for key in found[0]
    }
    own = f'{middle["own_us"]:.0f}' if 'own_us' in middle else ''
    print(
        f'| {case} | {version} | {middle["per_second"]:,.0f} | {own} '
        f'| {middle["server_us"]:.0f} |',
        flush=True,
    )
