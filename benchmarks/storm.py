"""Measure the cost when all clients lose the connection and reconnect at once.

    python -m benchmarks.storm

A channel stores 100 publications. All clients of the client protocol are disconnected
without a close frame. They reconnect at the same moment, without the back-off of SDKs.
Each client subscribes from the beginning, and is done when it has all publications. A
latency is the time from the disconnect to that moment.

The C server is the lower limit: its clients only do the handshake. The clients of
"plain WebSocket" do the handshake and subscribe, without recovery. Centrifugo is
measured, too, if it is on the path, or if Go can build it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
import tempfile

from benchmarks import harness
from benchmarks import others

_RECOVER = (
    '{"id":1,"connect":{}}\n{"id":2,"subscribe":'
    '{"channel":"rooms:sdk","recover":true,"offset":0,"epoch":""}}'
)


def peers(folder: Path, urls: list[str], workers: int) -> list[harness.Peer]:
    """Return the servers, each with the messages of its clients.

    Args:
        folder: Folder for files of the servers.
        urls: Brokers besides memory.
        workers: Number of processes of the servers with these brokers.
    """
    *_, default_raw, raw, sdk = harness.falcon_peers()
    recover = [
        *('--sub', '/connection/websocket', '--sub-hello', _RECOVER),
        *('--pub', '/pub-sdk'),
    ]
    only_connect = ['--until', '']
    found = [
        dataclasses.replace(harness.c_server(folder), dialect=only_connect),
        dataclasses.replace(raw, dialect=only_connect),
        dataclasses.replace(sdk, dialect=recover),
        dataclasses.replace(
            default_raw, name='uvicorn default, SDK in JSON', dialect=recover
        ),
    ]
    for url in urls:
        several = f', {workers} workers' if workers > 1 else ''
        found.append(
            dataclasses.replace(
                sdk,
                name=f'{sdk.name}, {url.partition(":")[0]}{several}',
                command=[*sdk.command, '--workers', str(workers)],
                env={'CHANNELS_URL': url},
                dialect=recover,
            )
        )
    centrifugo = others.centrifugo_program()
    if centrifugo is not None:
        peer = others.centrifugo(centrifugo, folder)
        found.append(
            dataclasses.replace(
                peer,
                dialect=[
                    *('--sub', '/connection/websocket', '--sub-hello', _RECOVER),
                    *peer.dialect[peer.dialect.index('--pub') :],
                ],
            )
        )
    return found


def main() -> None:
    """Run the benchmark and print the table."""
    parser = harness.arguments(__doc__ or '', {'clients': [200]})
    parser.add_argument('--clients', type=int, nargs='+', default=[500, 2000])
    parser.add_argument('--missed', type=int, default=100)
    parser.add_argument(
        '--url',
        nargs='+',
        default=[],
        help='brokers besides memory; {port} makes each repetition begin anew, as in '
        'sqlite:////tmp/storm-{port}.db, redis://localhost?prefix=storm{port} and '
        'postgresql:///test?schema=storm{port}&migrate=yes',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=1,
        help='processes of each server with another broker, on one core (default 1)',
    )
    args = parser.parse_args()
    cases = [
        harness.Case(
            f'{clients} clients reconnect at once, each recovers {args.missed} '
            f'publications of {args.bytes} bytes',
            ['storm', clients, args.missed, args.bytes],
        )
        for clients in args.clients
    ]
    with tempfile.TemporaryDirectory() as folder:
        harness.measure(
            peers(Path(folder), args.url, args.workers),
            cases,
            args,
            program='connect',
            unit='connection',
            turns=1,
        )


if __name__ == '__main__':
    main()
