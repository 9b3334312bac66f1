"""Measure deltas: how many bytes they save, and what they cost.

    python -m benchmarks.delta

The first table is about states of 40 KB of which a part changes: the bytes that a
client receives with delta, as a share of those without it, and the CPU time for making
one delta. The others compare a fan-out to 500 clients with and without delta. Each
publication is compared with the one before it once, for all clients.
"""

from __future__ import annotations

from collections.abc import Callable
import itertools
import statistics
import time

from benchmarks import harness
from benchmarks.states import json_states
from falcon_channels.protocol import json_codec
from falcon_channels.protocol import protobuf_codec
from falcon_channels.protocol.deltas import with_deltas
from falcon_channels.protocol.fossil import create_delta
from falcon_channels.publication import Publication

STATE_BYTES = 40_000
COUNT = 60

_SUBSCRIBE = '{"channel":"state"}'
_SUBSCRIBE_DELTA = '{"channel":"state","delta":"fossil"}'


def print_states() -> None:
    """Print the table of bytes and CPU time for several kinds of changes."""
    print('\n### States of 40 KB\n')
    print('| change | JSON | Protobuf | CPU us per delta |')
    print('|---|--:|--:|--:|')
    for text, share, kind in (
        ('nothing but a mark', 0.0, 'fields'),
        ('two numbers in 1 % of the records', 0.01, 'fields'),
        ('two numbers in 5 % of the records', 0.05, 'fields'),
        ('two numbers in 25 % of the records', 0.25, 'fields'),
        ('all of 5 % of the records', 0.05, 'records'),
        ('all of 25 % of the records', 0.25, 'records'),
        ('1 % of the records move', 0.01, 'moves'),
        ('5 % of the records move', 0.05, 'moves'),
        ('all of the records', 1.0, 'records'),
    ):
        states = list(json_states(STATE_BYTES, COUNT, share, kind))
        json_share = _share(states, json_codec.encode_publication)
        protobuf_share = _share(states, protobuf_codec.encode_publication)
        print(
            f'| {text} | {json_share:.1%} | {protobuf_share:.1%} '
            f'| {_delta_us(states):.0f} |',
            flush=True,
        )


def _share(states: list[bytes], encode: Callable[[str, Publication], bytes]) -> float:
    """Return the bytes of all states with delta, as a share of those without it."""
    items = [
        Publication(data=state, offset=number, time_ms=1_800_000_000_000)
        for number, state in enumerate(states, 1)
    ]
    plain = sum(len(encode('state', item)) for item in items[1:])
    delta = sum(len(encode('state', item)) for item in with_deltas(items, None)[1:])
    return delta / plain


def _delta_us(states: list[bytes]) -> float:
    """Return the CPU time in microseconds for one delta."""
    samples = []
    for _ in range(5):
        started = time.process_time()
        for base, target in itertools.pairwise(states):
            create_delta(base, target)
        samples.append((time.process_time() - started) * 1e6 / (len(states) - 1))
    return statistics.median(samples)


def peer(name: str, subscribe: str, state_bytes: int) -> harness.Peer:
    """Return the server, for clients that send a subscribe request."""
    hello = f'{{"id":1,"connect":{{}}}}\n{{"id":2,"subscribe":{subscribe}}}'
    return harness.Peer(
        name,
        [*harness.SERVE, 'benchmarks.apps.states:app'],
        {'STATE_BYTES': str(state_bytes)},
        dialect=[
            *('--sub', '/connection/websocket', '--pub', '/pub'),
            *('--sub-hello', hello),
        ],
    )


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = harness.arguments(
        __doc__ or '', {'in_flight': [1], 'state_bytes': [64, STATE_BYTES]}
    )
    parser.add_argument('--in-flight', type=int, nargs='+', default=[1, 16])
    parser.add_argument(
        '--state-bytes', type=int, nargs='+', default=[64, 500, 5_000, STATE_BYTES]
    )
    args = parser.parse_args()
    print_states()
    for state_bytes in args.state_bytes:
        peers = [
            peer('without delta', _SUBSCRIBE, state_bytes),
            peer('with delta', _SUBSCRIBE_DELTA, state_bytes),
        ]
        cases = [
            harness.Case(
                f'States of {state_bytes} bytes to 500, {in_flight} at once',
                ['fanout', 500, in_flight, args.bytes],
            )
            for in_flight in args.in_flight
        ]
        harness.measure(peers, cases, args, unit='delivery')


if __name__ == '__main__':
    main()
