"""Measure whether the memory of unused channels is released.

    python -m benchmarks.memory_channels

A few connections subscribe to 100,000 channels and unsubscribe, several times. The
memory of the process afterwards is compared with the memory before. The first round is
not counted, because it fills Python's own free lists. Objects are counted, too, because
an allocator cannot release a page while another object is on it.
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
    """Release freed memory, and return the resident memory of this process."""
    gc.collect()
    # NOTE: The C library keeps freed pages for later use. They are not a leak.
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
    assert count == channels.node.hub.num_channels
    peak_bytes = rss_bytes()
    for client in clients:
        client.disconnect()
    clients.clear()
    # NOTE: No event reports that a channel was removed, so this polls.
    while channels.node.hub._channels:  # noqa: ASYNC110 - no event exists
        await asyncio.sleep(0.1)
    return peak_bytes


async def measure(count: int, rounds: int) -> None:
    """Print the peak and the remaining memory for each kind of channel."""
    kinds = {
        'plain': ChannelOptions(subscribers='anybody'),
        'history': ChannelOptions(subscribers='anybody', history_size=100),
        'presence': ChannelOptions(
            subscribers='anybody', presence=True, presence_ttl_s=20.0, join_leave='user'
        ),
    }
    for name, options in kinds.items():
        channels = Channels(
            options=NodeOptions(
                linger_s=0.2,
                max_channels_per_connection=1000,
                max_batch_bytes=1024000,
                position_check_s=None,
            )
        )
        channels.add_route(f'{name}:{{number}}', None, options)
        await come_and_go(channels, count, name)
        # NOTE: The memory broker removes the expiry of an entry when it is reached.
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
        # NOTE: Python's own allocator keeps an arena of one MiB while one object in it
        #   is in use. With the C library's allocator, freed memory is visible.
        os.environ['PYTHONMALLOC'] = 'malloc'
        os.execv(sys.executable, [sys.executable, '-m', __spec__.name, *sys.argv[1:]])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--channels', type=int, default=100_000)
    parser.add_argument('--rounds', type=int, default=1)
    args = parser.parse_args()
    print(f'{args.channels} channels, growth of the memory in MiB', flush=True)
    print('| channels | subscribed | unsubscribed | objects left |\n|---|--:|--:|--:|')
    asyncio.run(measure(args.channels, args.rounds))


if __name__ == '__main__':
    main()
