"""Measure the cost of a delivery with each broker, and the memory of 100,000 channels.

One process publishes to one channel with many server-side subscribers, and counts the
CPU for each delivery. Then it opens many channels that nobody else uses, with one
publication in each::

    python benchmarks/brokers.py memory:// sqlite:////tmp/bench.db redis://127.0.0.1
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
import time

from falcon_channels import ChannelOptions
from falcon_channels import Channels


def rss_bytes() -> int:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


async def deliveries(channels: Channels, subscribers: int, count: int) -> float:
    """Return microseconds of CPU for each delivery."""
    entered = asyncio.Barrier(subscribers + 1)

    async def listen() -> None:
        async with channels.subscribe('hot') as subscription:
            await entered.wait()
            for _ in range(count):
                await anext(subscription)

    tasks = [asyncio.create_task(listen()) for _ in range(subscribers)]
    await entered.wait()
    cpu = time.process_time()
    for number in range(count):
        await channels.publish('hot', {'number': number, 'text': 'x' * 180})
    await asyncio.gather(*tasks)
    return (time.process_time() - cpu) / subscribers / count * 1e6


async def weight(channels: Channels, count: int) -> float:
    """Return the memory of this process per subscribed channel, in bytes."""
    before = rss_bytes()
    subscriptions = []

    async def open_some(first: int) -> None:
        for number in range(first, count, 100):
            subscription = channels.subscribe(f'cold:{number}')
            subscriptions.append(await subscription.__aenter__())
            await channels.publish(f'cold:{number}', number)

    await asyncio.gather(*(open_some(first) for first in range(100)))
    grown = rss_bytes() - before
    for subscription in subscriptions:
        await subscription.__aexit__(None, None, None)
    return grown / count


async def run(url: str, args: argparse.Namespace) -> None:
    channels = Channels(url)
    channels.add_route('{name}', object(), ChannelOptions(history_size=100))
    await channels.start()
    alone = await deliveries(channels, 1, 1000)
    many = await deliveries(channels, args.subscribers, 200)
    begun = time.perf_counter()
    size = await weight(channels, args.channels)
    seconds = time.perf_counter() - begun
    print(
        f'{url.partition(":")[0]:<10} {alone:7.1f} us for a publication with one '
        f'subscriber, {many:5.1f} us for a delivery with {args.subscribers}; '
        f'{size:,.0f} bytes for each of {args.channels:,} channels '
        f'(opened in {seconds:.0f} s)'
    )
    await channels.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('urls', nargs='+')
    parser.add_argument('--subscribers', type=int, default=500)
    parser.add_argument('--channels', type=int, default=100_000)
    args = parser.parse_args()
    for url in args.urls:
        if len(args.urls) == 1:
            asyncio.run(run(url, args))
            continue
        # NOTE: a process for each, for memory that was freed is not given back.
        child = os.fork()
        if not child:
            asyncio.run(run(url, args))
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == '__main__':
    main()
