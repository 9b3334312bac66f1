"""Measure how many durable publishes per second the SQLite broker acknowledges.

Publishers of one process publish one after another to a few channels; each waits for
its acknowledgement, which comes when the transaction is on the disk::

    python benchmarks/sqlite_publish.py --publishers 100 --seconds 5

With ``--url redis://127.0.0.1`` (or any other) it measures another broker. With
``--listeners 10`` ten more brokers, as ten more processes would have, hear everything:
the difference in CPU is what hearing costs.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
import tempfile
import time

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.urls import open_broker
from falcon_channels.publication import Publication

SETTINGS = LogSettings(size=1000, ttl_s=3600.0)


class Counter:
    """Counts announced publications."""

    def __init__(self) -> None:
        self.publications = 0

    def on_publication(self, channel: str, item: Publication, epoch: str) -> None:
        self.publications += 1

    def on_signal(self, channel: str, signal: bytes) -> None: ...

    def on_control(self, message: bytes) -> None: ...

    def on_link_lost(self) -> None: ...

    def on_link_restored(self) -> None: ...


async def run(args: argparse.Namespace, url: str) -> None:
    broker = open_broker(url)
    seen = Counter()
    await broker.start(seen)
    brokers = [broker]
    for _ in range(args.listeners):
        brokers.append(open_broker(url))
        await brokers[-1].start(seen)
    channels = [f'news:{n}' for n in range(args.channels)]
    for listener in brokers:
        for channel in channels:
            await listener.subscribe(channel, SETTINGS)
    item = Publication(data=b'"' + b'x' * (args.bytes - 2) + b'"')
    latencies: list[float] = []
    deadline = time.perf_counter() + args.seconds

    async def publish(number: int) -> None:
        channel = channels[number % len(channels)]
        while (begun := time.perf_counter()) < deadline:
            await broker.publish(channel, item, SETTINGS)
            latencies.append(time.perf_counter() - begun)

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(publish(n) for n in range(args.publishers)))
    wall = time.perf_counter() - begun
    cpu = time.process_time() - cpu
    for listener in brokers:
        await listener.close()
    latencies.sort()
    count = len(latencies)
    print(
        f'{count / wall:,.0f} acknowledged publishes/s, {args.publishers} publishers, '
        f'{args.channels} channels, {args.bytes} bytes; '
        f'CPU {cpu / wall:.0%} of a core, {cpu / count * 1e6:.0f} us a publish; '
        f'p50 {latencies[count // 2] * 1000:.1f} ms, '
        f'p99 {latencies[count * 99 // 100] * 1000:.1f} ms; '
        f'announced {seen.publications}'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--publishers', type=int, default=100)
    parser.add_argument('--listeners', type=int, default=0)
    parser.add_argument('--channels', type=int, default=10)
    parser.add_argument('--bytes', type=int, default=200)
    parser.add_argument('--seconds', type=float, default=5.0)
    parser.add_argument('--url', default=None)
    parser.add_argument('--folder', type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        asyncio.run(run(args, args.url or f'sqlite:///{folder}/bench.db'))


if __name__ == '__main__':
    main()
