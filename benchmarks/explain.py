"""Measure what it costs to record deliveries for `Channels.explain`.

    python -m benchmarks.explain [--before FOLDER]

The first table has the CPU time of each step by itself: a check per batch if nothing is
recorded, and otherwise one record per batch, and one per subscription. A batch is what
a channel delivers in one iteration of the event loop, to all its subscribers. The
others compare servers that do and do not record. With --before, a server of an older
version is measured, too; FOLDER is its ``src``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import os
import statistics
import time
from typing import Any

from benchmarks import harness
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Publication
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.publication import Position
from falcon_channels.testing import SimulatedClient

_ROUNDS = 9
_CALLS = 20_000


def _ns(call: Callable[[int], None], calls: int = _CALLS) -> float:
    """Return the CPU time of one call in nanoseconds, the median of the rounds."""
    samples = []
    for _ in range(_ROUNDS):
        started = time.process_time_ns()
        call(calls)
        samples.append((time.process_time_ns() - started) / calls)
    return statistics.median(samples)


def _nothing(calls: int) -> None:
    for _ in range(calls):
        pass


async def _steps() -> list[tuple[str, float]]:
    """Return the steps and their CPU times in nanoseconds."""
    channels = Channels()
    for template, record in (('on', True), ('off', False)):
        options = ChannelOptions(
            history_size=10, subscribers='anybody', record_deliveries=record
        )
        channels.add_route(template, None, options)
    async with channels, SimulatedClient(channels, user='ann') as client:
        await client.subscribe('on')
        await client.subscribe('off')
        on = channels.node.hub.local_channel('on')
        off = channels.node.hub.local_channel('off')
        assert on is not None
        assert on.observer is not None
        assert off is not None
        loop_ns = _ns(_nothing)
        check_ns = _ns(lambda calls: _check(off, calls)) - loop_ns
        record_ns = _ns(lambda calls: _write(on, calls)) - loop_ns
        subscribe = {}
        for name in ('on', 'off'):
            client.unsubscribe(name)
            subscribe[name] = await _subscribe_ns(client, name)
        return [
            ('nothing is recorded: check of a batch', check_ns),
            ('recorded: a batch of one publication', record_ns),
            (
                'recorded: start and end of a subscription',
                subscribe['on'] - subscribe['off'],
            ),
        ]


def _check(local_channel: LocalChannel, calls: int) -> None:
    for _ in range(calls):
        if local_channel.observer is not None:
            raise AssertionError('it is observed')


def _write(local_channel: LocalChannel, calls: int) -> None:
    items = [Publication(data=b'"x"', offset=1)]
    position = Position(1, local_channel.position.epoch)
    for _ in range(calls):
        if local_channel.observer is not None:
            local_channel.observer.on_written(items, position)


async def _subscribe_ns(client: SimulatedClient, channel: str) -> float:
    samples = []
    for _ in range(_ROUNDS):
        started = time.process_time_ns()
        for _ in range(500):
            await client.subscribe(channel)
            client.unsubscribe(channel)
        samples.append((time.process_time_ns() - started) / 500)
        client.events.clear()
    return statistics.median(samples)


def print_steps() -> None:
    """Print the table of the steps."""
    print('\n### The steps by themselves\n')
    print('| step | CPU us |')
    print('|---|--:|')
    for name, ns in asyncio.run(_steps()):
        print(f'| {name} | {ns / 1000:.3f} |', flush=True)


def peer(name: str, env: dict[str, str]) -> harness.Peer:
    """Return the server, for clients of the client protocol."""
    return harness.Peer(
        name,
        [*harness.SERVE, 'benchmarks.apps.rooms:app'],
        env,
        dialect=[
            *('--sub', '/connection/websocket', '--pub', '/pub-sdk'),
            *('--sub-hello', harness.SDK_HELLO),
        ],
    )


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = harness.arguments(__doc__ or '', {'recipients': [500]})
    parser.add_argument('--recipients', type=int, nargs='+', default=[1, 10, 500])
    parser.add_argument('--in-flight', type=int, nargs='+', default=[1])
    parser.add_argument('--before', metavar='FOLDER')
    args = parser.parse_args()
    print_steps()
    peers = [peer('not recorded', {}), peer('recorded', {'CHANNELS_RECORD': 'on'})]
    if args.before:
        path: dict[str, Any] = {'PYTHONPATH': os.path.abspath(args.before)}
        peers.insert(0, peer('before', path))
    cases = [
        harness.Case(
            f'Recipients: {recipients}, {in_flight} at once',
            ['fanout', recipients, in_flight, args.bytes],
        )
        for recipients in args.recipients
        for in_flight in args.in_flight
    ]
    harness.measure(peers, cases, args, unit='delivery')


if __name__ == '__main__':
    main()
