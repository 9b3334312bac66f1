"""Measure the cost of a new connection.

    python -m benchmarks.connections

Sixteen clients connect, lose the connection without a close frame, and reconnect at
once. The figure includes TCP, the handshake, the application's accept and the end. With
the client protocol, a connection counts when it has connected and subscribed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
import tempfile

from benchmarks import harness


def peers(folder: Path) -> list[harness.Peer]:
    """Return the servers, each with the messages of its clients."""
    default, legacy, ours, _, default_raw, raw, sdk = harness.falcon_peers()
    sdk_talk = [
        *('--sub', '/connection/websocket', '--sub-hello', harness.SDK_HELLO),
        *('--until', '"id":2'),
    ]
    return [
        harness.c_server(folder),
        default,
        legacy,
        ours,
        dataclasses.replace(raw, dialect=['--sub', '/sub']),
        dataclasses.replace(
            default_raw, name='uvicorn default, SDK in JSON', dialect=sdk_talk
        ),
        dataclasses.replace(sdk, dialect=sdk_talk),
    ]


def main() -> None:
    """Run the benchmark and print the table."""
    parser = harness.arguments(__doc__ or '')
    parser.add_argument('--clients', type=int, default=16)
    args = parser.parse_args()
    cases = [
        harness.Case(
            f'New connections, {args.clients} clients that come and go',
            ['each', args.clients, 0, 0],
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        harness.measure(
            peers(Path(folder)), cases, args, program='connect', unit='connection'
        )


if __name__ == '__main__':
    main()
