"""Measure whether the memory of unused channels is released.

    python -m benchmarks.memory_channels

100,000 channels are subscribed and unsubscribed by a few connections, several times.
The memory of the process afterwards is compared with the memory before. The first round
is not counted: it fills Python's own free lists. Objects are counted, too: an allocator
may keep pages that hold nothing of ours but a neighbour.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
from pathlib import Path
import sys

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.testing import SimulatedClient

MIB = 1024 * 1024


def rss_bytes() -> int:
    """Return the resident memory of this process, freed memory handed back first."""
    gc.collect()
    # NOTE: the C library keeps freed pages for later; what it keeps is no leak.
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


async def come_and_go(channels: Channels, count: int, label: str) -> int:
    """Subscribe to `count` channels and unsubscribe; return the peak in bytes."""
    clients = []
    per_client = 1000
    for start in range(0, count, per_client):
        client = SimulatedClient(channels, user=f'user{start}')
        await client.__aenter__()
        clients.append(client)
        for number in range(start, start + per_client):
            await client.subscribe(f'{label}:{number}')
        client.events.clear()
    assert count == len(channels.node.hub.channel_counts())
    peak_bytes = rss_bytes()
    for client in clients:
        client.disconnect()
    clients.clear()
    # NOTE: nobody is told when a channel is forgotten, so that this asks.
    while channels.node.hub._channels:  # noqa: ASYNC110 - no event exists
        await asyncio.sleep(0.1)
    return peak_bytes


async def measure(count: int, rounds: int) -> None:
    """Print for each kind of channel the peak and what is left."""
    kinds = {
        'plain': ChannelOptions(),
        'history': ChannelOptions(history_size=100),
        'presence': ChannelOptions(
            presence=True, presence_ttl_s=20.0, join_leave='user'
        ),
    }
    for name, options in kinds.items():
        channels = Channels(
            options=NodeOptions(
                linger_s=0.2, max_channels_per_connection=1000, position_check_s=None
            )
        )
        channels.add_route(f'{name}:{{number}}', None, options)
        await come_and_go(channels, count, name)
        # NOTE: the memory broker forgets an entry's expiry when that has come.
        settle_s = 2 * options.presence_ttl_s + 6 if options.presence else 0.5
        await asyncio.sleep(settle_s)
        before_bytes = rss_bytes()
        before_blocks = sys.getallocatedblocks()
        peak_bytes = 0
        for _ in range(rounds):
            peak_bytes = await come_and_go(channels, count, name)
        await asyncio.sleep(settle_s)
        left_bytes = rss_bytes() - before_bytes
        left_blocks = sys.getallocatedblocks() - before_blocks
        peak_bytes -= before_bytes
        figures = f'{peak_bytes / MIB:.1f} | {left_bytes / MIB:.1f} | {left_blocks}'
        print(f'| {name} | {figures} |', flush=True)
        await channels.close()


def main() -> None:
    """Run the benchmark and print the table."""
    if os.environ.get('PYTHONMALLOC') != 'malloc':
        # NOTE: Python's own allocator keeps an arena of a MiB for one living object in
        #   it; with the C library's, what is freed can be told from what is not.
        os.environ['PYTHONMALLOC'] = 'malloc'
        os.execv(sys.executable, [sys.executable, '-m', __spec__.name, *sys.argv[1:]])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--channels', type=int, default=100_000)
    parser.add_argument('--rounds', type=int, default=1)
    args = parser.parse_args()
    print(f'{args.channels} channels, MiB beyond the state before', flush=True)
    print('| channels | subscribed | left again | objects left |\n|---|--:|--:|--:|')
    asyncio.run(measure(args.channels, args.rounds))


if __name__ == '__main__':
    main()
