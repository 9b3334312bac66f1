"""Measure the cost of one delivery of a fan-out.

    python -m benchmarks.fanout

One publisher sends 1, 4 or 16 messages at once. When all members have received them, it
sends the next ones. These servers are measured:

* a bare C server, with one ``send`` for each delivery,
* Falcon with a loop over the members, on uvicorn's classes and on ours,
* our class with prebuilt frames, through the extension ``falcon_channels.websocket``,
* the library: a channel with history over a plain WebSocket, and over the client
  protocol in JSON with offsets.

The plain WebSocket is also measured with one system call for each delivery, as on
systems without io_uring. The loop over bare ASGI is the lowest possible cost on
unchanged uvicorn.
"""

from __future__ import annotations

from pathlib import Path
import tempfile

from benchmarks import harness


def main() -> None:
    """Run the benchmark and print the table."""
    parser = harness.arguments(
        __doc__ or '', {'recipients': [500], 'in_flight': [1, 16]}
    )
    parser.add_argument('--recipients', type=int, nargs='+', default=[10, 500, 5000])
    parser.add_argument('--in-flight', type=int, nargs='+', default=[1, 4, 16])
    args = parser.parse_args()
    cases = [
        harness.Case(
            f'Fan-out to {recipients}, {in_flight} in flight',
            ['fanout', recipients, in_flight, args.bytes],
        )
        for recipients in args.recipients
        for in_flight in args.in_flight
    ]
    with tempfile.TemporaryDirectory() as folder:
        bare = [*harness.UVICORN, 'benchmarks.apps.bare:app']
        peers = [
            harness.c_server(Path(folder)),
            *harness.falcon_peers(),
            harness.Peer('uvicorn default, bare ASGI', bare),
            harness.Peer(
                'falcon-channels, without io_uring',
                [*harness.SERVE, 'benchmarks.apps.rooms:app'],
                {'CHANNELS_IO_URING': 'off'},
            ),
        ]
        harness.measure(peers, cases, args, unit='delivery')


if __name__ == '__main__':
    main()
