"""Measure the cost of one delivery in many small rooms.

    python -m benchmarks.rooms

There are five hundred rooms of ten members each. One publisher works through the rooms.
It sends one message to each of the next 1, 4 or 16 rooms at once. When all members of
these rooms have received it, the next rooms follow. Here, a publication costs as much
as its ten deliveries.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
import tempfile

from benchmarks import harness


def peers(folder: Path) -> list[harness.Peer]:
    """Return the servers, each with its form of a room name."""
    default, _, ours, _, _, raw, sdk = harness.falcon_peers()
    by_number = ['--sub', '/sub/%d', '--pub', '/pub-room']
    return [
        dataclasses.replace(harness.c_server(folder), dialect=['--sub', '/sub/%d']),
        dataclasses.replace(default, dialect=by_number),
        dataclasses.replace(ours, dialect=by_number),
        dataclasses.replace(raw, dialect=by_number),
        dataclasses.replace(
            sdk,
            dialect=[
                *('--sub', '/connection/websocket', '--pub', '/pub-room'),
                *('--sub-hello', harness.ROOM_HELLO),
            ],
        ),
    ]


def main() -> None:
    """Run the benchmark and print the table."""
    parser = harness.arguments(__doc__ or '', {'in_flight': [16]})
    parser.add_argument('--rooms', type=int, default=500)
    parser.add_argument('--in-flight', type=int, nargs='+', default=[1, 4, 16])
    args = parser.parse_args()
    cases = [
        harness.Case(
            f'{args.rooms} rooms of 10, {in_flight} of them at once',
            ['rooms', args.rooms, in_flight, args.bytes],
        )
        for in_flight in args.in_flight
    ]
    with tempfile.TemporaryDirectory() as folder:
        harness.measure(peers(Path(folder)), cases, args, unit='delivery')


if __name__ == '__main__':
    main()
