"""Measure the cost of one echo through Falcon's `on_websocket`.

    python -m benchmarks.echo

Each of fifty connections has 1, 4 or 16 messages in flight. These servers are measured:

* a bare C server,
* Falcon on uvicorn with its own classes,
* Falcon on `falcon-channels serve`,
* the same class under plain uvicorn, where Falcon has its receive queue.
"""

from __future__ import annotations

from pathlib import Path
import tempfile

from benchmarks import harness


def main() -> None:
    """Run the benchmark and print the table."""
    parser = harness.arguments(__doc__ or '', {'in_flight': [1, 16]})
    parser.add_argument('--connections', type=int, default=50)
    parser.add_argument('--in-flight', type=int, nargs='+', default=[1, 4, 16])
    args = parser.parse_args()
    cases = [
        harness.Case(
            f'Echo, {args.connections} connections, {in_flight} in flight on each',
            ['echo', args.connections, in_flight, args.bytes],
        )
        for in_flight in args.in_flight
    ]
    with tempfile.TemporaryDirectory() as folder:
        with_queue = harness.Peer(
            'the same class, Falcon with its receive queue',
            [
                *('python', '-m', 'uvicorn', '--port', '{port}'),
                *('--log-level', 'error'),
                *('--ws', 'falcon_channels.server.protocol:WebSocketProtocol'),
                'benchmarks.apps.by_hand:app',
            ],
        )
        peers = [
            harness.c_server(Path(folder)),
            *harness.falcon_peers()[:3],
            with_queue,
            harness.Peer(
                'falcon-channels, bare ASGI',
                [*harness.SERVE, 'benchmarks.apps.bare:app'],
            ),
        ]
        harness.measure(peers, cases, args, unit='echo')


if __name__ == '__main__':
    main()
