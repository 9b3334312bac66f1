"""Measure the memory of an idle connection in the server.

    python -m benchmarks.idle_memory

The number of connections grows from 200 to N. The figure is the growth of the server's
resident memory, divided by the number of new connections. Clients send the headers of a
browser. Each case is measured with and without an offer of compression, except event
streams.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
from pathlib import Path
import subprocess
import tempfile
import time

from benchmarks import harness

WARM = 200
_SUBSCRIBE = (
    '{"id":1,"connect":{"name":"js"}}\n{"id":2,"subscribe":{"channel":"rooms:a"}}'
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of connection.

    Attributes:
        title: Name in the printed table.
        peer: Server that is measured.
        path: Path to which clients connect.
        talk: First messages of each client, and the answer that it then waits for.
        events: Whether clients request an event stream instead of a WebSocket.
    """

    title: str
    peer: harness.Peer
    path: str
    talk: Sequence[str] = ()
    events: bool = False


def kinds() -> list[Kind]:
    """Return the kinds of connections, uvicorn's own classes first."""
    peers = {peer.name: peer for peer in harness.falcon_peers()}
    default = peers['uvicorn default, Falcon by hand']
    ours = peers['falcon-channels, Falcon by hand']
    direct = peers['falcon-channels, direct']
    rooms = peers['falcon-channels, plain WebSocket']
    return [
        Kind('uvicorn default, on_websocket', default, '/echo'),
        Kind('falcon-channels, on_websocket', ours, '/echo'),
        Kind('falcon-channels, direct extension only', direct, '/sub'),
        Kind('falcon-channels, plain WebSocket (Channels.serve)', rooms, '/sub'),
        Kind(
            'falcon-channels, SDK connection with one subscription',
            rooms,
            '/connection/websocket',
            (_SUBSCRIBE, '"id":2'),
        ),
        Kind('falcon-channels, resp.stream by hand', ours, '/events', events=True),
        Kind(
            'falcon-channels, event stream (Channels.serve_events)',
            rooms,
            '/events',
            events=True,
        ),
    ]


def growth_bytes(program: Path, kind: Kind, count: int, deflate: bool) -> float:
    """Return the resident memory of one more connection."""
    offer = '2' if kind.events else str(int(deflate))
    with harness.Server(kind.peer) as server:
        clients = subprocess.Popen(
            [
                *(program, str(server.port), str(count), kind.path, offer),
                *kind.talk,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert clients.stdin is not None
        assert clients.stdout is not None
        try:
            before = _settled(server, clients)
            clients.stdin.write('on\n')
            clients.stdin.flush()
            return (_settled(server, clients) - before) / (count - WARM)
        finally:
            clients.kill()
            clients.communicate()


def _settled(server: harness.Server, clients: subprocess.Popen[str]) -> int:
    assert clients.stdout is not None
    if clients.stdout.readline().strip() != 'ready':
        raise SystemExit(f'{server.peer.name}: the clients failed')
    time.sleep(1)
    return server.rss_bytes()


def main() -> None:
    """Run the benchmark and print the table."""
    parser = harness.arguments(__doc__ or '', {'connections': [2000]})
    parser.add_argument('--connections', type=int, nargs='+', default=[5000, 9000])
    args = parser.parse_args()
    facts = harness.machine()
    print('; '.join(f'{name} {value}' for name, value in facts.items()) + '\n')
    print('| KiB for each idle connection |', end='')
    columns = [(count, deflate) for count in args.connections for deflate in (0, 1)]
    for count, deflate in columns:
        print(f' {count}{", compression offered" if deflate else ""} |', end='')
    print('\n|---|' + '--:|' * len(columns))
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = harness.compile_c('idle', Path(folder))
        for kind in kinds():
            if not any(part in kind.title for part in args.only):
                continue
            print(f'| {kind.title} |', end='', flush=True)
            row = rows[kind.title] = []
            for count, deflate in columns:
                row.append(growth_bytes(program, kind, count, bool(deflate)))
                print(f' {row[-1] / 1024:.1f} |', end='', flush=True)
            print()
    if args.json is not None:
        document = {'machine': facts, 'columns': columns, 'bytes': rows}
        args.json.write_text(json.dumps(document, indent=1))


if __name__ == '__main__':
    main()
