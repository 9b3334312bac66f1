"""Measure answers that are written in small chunks, each read by one event stream.

    python -m benchmarks.event_streams

1,000 answers get 30 chunks a second each, as from a language model. A chunk has the
time of its write, and the client compares it with the time of its arrival. Falcon's own
server-sent events (``resp.sse``) are the lower limit: they store nothing, and an answer
ends with its connection. "publish" publishes each chunk, and "stream" writes it to
`Channels.stream`, which joins chunks of the same stream. The server runs on one core,
and the client on the other.

The source of the chunks runs on the core of the server, too. In "stream", one task
writes the chunks of all streams, which costs little. In all other servers, each stream
has a task that sleeps until its next chunk. This costs 5 to 9 us for each chunk.

If the server cannot keep up, it writes fewer chunks than it was asked for. The table
therefore has the chunks that arrived.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import harness

_WRITTEN = re.compile(rb'"t": ?(\d+)')
_REQUEST = 'GET %s/%d HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n'
#: Seconds from the last connection to the measurement.
WARM_S = 3.0


# --- the client, a process of its own ------------------------------------------------


def read_streams(port: int, path: str, count: int) -> None:
    """Open the streams; for each line with seconds, print what arrived in them."""
    selector = selectors.DefaultSelector()
    for number in range(count):
        sock = socket.create_connection(('127.0.0.1', port))
        sock.sendall((_REQUEST % (path, number)).encode())
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    print('ready', flush=True)
    for line in sys.stdin:
        cpu_s = time.process_time()
        begun_s = time.monotonic()
        latencies_ns = _read(selector, begun_s + float(line))
        elapsed_s = time.monotonic() - begun_s
        latencies_ns.sort()
        arrived = len(latencies_ns)
        result = {
            'messages': arrived,
            'seconds': elapsed_s,
            'load_cpu_s': time.process_time() - cpu_s,
            'p50_us': latencies_ns[arrived // 2] / 1000,
            'p99_us': latencies_ns[arrived * 99 // 100] / 1000,
            'max_us': latencies_ns[-1] / 1000,
        }
        print(json.dumps(result), flush=True)


def _read(selector: selectors.BaseSelector, end_s: float) -> list[int]:
    """Return the latency of each chunk that arrives until `end_s`."""
    latencies_ns = []
    while time.monotonic() < end_s:
        for key, _ in selector.select(0.1):
            data = key.fileobj.recv(65536)  # type: ignore[union-attr]  # a socket
            if not data:
                raise SystemExit('a stream has ended')
            now_ns = time.monotonic_ns()
            latencies_ns += [now_ns - int(t) for t in _WRITTEN.findall(data)]
    return latencies_ns


# --- the benchmark -------------------------------------------------------------------


def peers(folder: str, rate: float) -> list[tuple[harness.Peer, str]]:
    """Return the servers and their paths, the lower limit first."""
    command = [*harness.SERVE, 'benchmarks.apps.answers:app']
    env = {'CHUNKS_PER_S': str(rate)}
    sqlite = {**env, 'CHANNELS_URL': f'sqlite:///{folder}/{{port}}.db'}
    tasks = {**sqlite, 'PRODUCERS': 'tasks'}
    return [
        (harness.Peer('Falcon by hand (resp.sse)', command, env), '/by-hand'),
        (harness.Peer('publish, memory', command, env), '/answers'),
        (harness.Peer('publish, SQLite', command, sqlite), '/answers'),
        (harness.Peer('stream, SQLite', command, sqlite), '/streams'),
        (harness.Peer('stream, SQLite, tasks', command, tasks), '/streams'),
    ]


def measure(peer: harness.Peer, path: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return one sample of a server."""
    core = harness.cores()[1]
    with harness.Server(peer) as server:
        client = subprocess.Popen(
            [
                *('taskset', '-c', str(core), sys.executable),
                *('-m', 'benchmarks.event_streams', '--client', path),
                *('--port', str(server.port), '--streams', str(args.streams)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            if client.stdout.readline() != 'ready\n':
                raise SystemExit(f'{peer.name}: the client failed')
            time.sleep(WARM_S)
            # The first sample has what waited in the sockets.
            for seconds in (0.5, args.seconds):
                before_s = server.cpu_s()
                client.stdin.write(f'{seconds}\n')
                client.stdin.flush()
                sample = json.loads(client.stdout.readline())
                cpu_s = server.cpu_s() - before_s
            sample['cpu_us'] = cpu_s * 1e6 / sample['messages']
            sample['cpu_share'] = cpu_s / sample['seconds']
            return sample
        finally:
            client.kill()
            client.communicate()


def main() -> None:
    """Run the benchmark and print the table."""
    quick = {'streams': 200, 'seconds': 2.0}
    parser = harness.arguments(__doc__ or '', quick)
    parser.set_defaults(repetitions=3, seconds=5.0)
    parser.add_argument('--streams', type=int, default=1000)
    parser.add_argument('--rate', type=float, default=30.0, help='chunks a second')
    parser.add_argument('--client', help=argparse.SUPPRESS)
    parser.add_argument('--port', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client is not None:
        read_streams(args.port, args.client, args.streams)
        return
    facts = harness.machine()
    print('; '.join(f'{name} {value}' for name, value in facts.items()))
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repetitions):
            for peer, path in peers(folder, args.rate):
                if any(part in peer.name for part in args.only):
                    rows.setdefault(peer.name, []).append(measure(peer, path, args))
    print(f'\n### {args.streams} streams of {args.rate:g} chunks a second\n')
    print('| server | chunks/s | CPU us/chunk | ratio | CPU | p50 ms | p99 ms | load |')
    print('|---|--:|--:|--:|--:|--:|--:|--:|')
    limit = next(iter(rows.values()))
    for name, samples in rows.items():

        def median(key: str, samples: list[dict[str, Any]] = samples) -> float:
            return statistics.median(sample[key] for sample in samples)

        ratio = statistics.median(
            own['cpu_us'] / base['cpu_us']
            for own, base in zip(samples, limit, strict=True)
        )
        rate = statistics.median(s['messages'] / s['seconds'] for s in samples)
        load = statistics.median(s['load_cpu_s'] / s['seconds'] for s in samples)
        print(
            f'| {name} | {rate:.0f} | {median("cpu_us"):.1f} | {ratio:.2f} '
            f'| {median("cpu_share"):.0%} | {median("p50_us") / 1000:.1f} '
            f'| {median("p99_us") / 1000:.1f} | {load:.0%} |'
        )
    if args.json is not None:
        args.json.write_text(json.dumps({'machine': facts, 'rows': rows}, indent=1))


if __name__ == '__main__':
    main()
