"""Measure what metrics and tracing cost a publish and a delivery.

    python -m benchmarks.monitoring

A publish goes to a channel in memory without subscribers. Its cost is the CPU time of
the process. A delivery is the one of `benchmarks.fanout`. Spans are made and collected,
but not exported. Each case has its own process, and the cases take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time

from benchmarks import harness

MODES = {
    'nothing': '',
    'add_metrics': 'metrics',
    'tracing, 1 % sampled': 'trace:0.01',
    'tracing, all sampled': 'trace:1',
}


async def publish(seconds: float) -> float:
    """Return the CPU time in microseconds of one publish."""
    from benchmarks.apps.monitored import channels

    best_us = float('inf')
    deadline_s = time.monotonic() + seconds
    async with channels:
        while time.monotonic() < deadline_s:
            start_s = time.process_time()
            for _ in range(2000):
                await channels.publish('rooms:raw', 'hello')
            best_us = min(best_us, (time.process_time() - start_s) / 2000 * 1e6)
    return best_us


def measure_publish(args: argparse.Namespace) -> None:
    """Print the table of the publishes."""
    samples: dict[str, list[float]] = {name: [] for name in MODES}
    for _ in range(args.repetitions):
        for name, mode in MODES.items():
            done = subprocess.run(
                [
                    sys.executable,
                    '-m',
                    'benchmarks.monitoring',
                    '--publish',
                    str(args.seconds),
                ],
                env={**os.environ, 'MONITORING': mode},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            samples[name].append(float(done.stdout))
    first = statistics.median(samples['nothing'])
    print('\n### A publish, CPU microseconds\n')
    print('| | CPU | to nothing | all |\n|---|--:|--:|---|')
    for name, values in samples.items():
        median = statistics.median(values)
        everything = ' '.join(f'{value:.1f}' for value in sorted(values))
        print(f'| {name} | {median:.1f} | {median / first:.2f} | {everything} |')


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = harness.arguments(__doc__ or '', {'recipients': [500], 'in_flight': [1]})
    parser.add_argument('--recipients', type=int, nargs='+', default=[10, 500])
    parser.add_argument('--in-flight', type=int, nargs='+', default=[1, 4])
    parser.add_argument('--publish', type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.publish is not None:
        print(asyncio.run(publish(args.publish)))
        return
    measure_publish(args)
    peers = [
        harness.Peer(
            name,
            [*harness.SERVE, 'benchmarks.apps.monitored:app'],
            {'MONITORING': mode},
        )
        for name, mode in MODES.items()
    ]
    cases = [
        harness.Case(
            f'Fan-out to {recipients}, {in_flight} in flight',
            ['fanout', recipients, in_flight, args.bytes],
        )
        for recipients in args.recipients
        for in_flight in args.in_flight
    ]
    harness.measure(peers, cases, args, unit='delivery')


if __name__ == '__main__':
    main()
