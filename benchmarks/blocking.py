"""Measure for how long one message of a client blocks the event loop.

    python -m benchmarks.blocking

Each row is a message of 64 KiB that is slow to process. The figure is the CPU time of
the longest event-loop iteration while the server processes the message. It does not
depend on other load of the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import json
from pathlib import Path
import statistics
import urllib.request

from websockets.sync.client import connect

from benchmarks import harness

#: One message, with some room for the command around it.
SIZE_BYTES = 65_000
SERVER = harness.Peer(
    'falcon-channels', [*harness.SERVE, 'benchmarks.apps.blocking:app']
)


def repeated(item: str, separator: str = ',') -> str:
    """Return as many copies of `item` as one message takes."""
    count = SIZE_BYTES // (len(item) + len(separator))
    return separator.join([item] * count)


ESCAPED_KEY = '{"\\u0061":1}'
PAYLOADS = {
    'text': '"' + 'x' * SIZE_BYTES + '"',
    'text of quotes': '"' + repeated('\\"', '') + '"',
    'empty strings': f'[{repeated(json.dumps(""))}]',
    'empty objects': f'[{repeated("{}")}]',
    'empty lists': f'[{repeated("[]")}]',
    'nested objects': f'[{repeated(json.dumps({"a": {"b": 1}}))}]',
    'lists of 30 levels': f'[{repeated("[" * 30 + "]" * 30)}]',
    'keys of the envelope': f'[{repeated(json.dumps({"channel": 1}))}]',
    'escaped keys': f'[{repeated(ESCAPED_KEY)}]',
    'large numbers': f'[{repeated("1e300")}]',
    'small numbers': f'[{repeated("5e-324")}]',
    'long numbers': f'[{repeated("9" * 190)}]',
}
FRAMES = {
    'pongs': repeated('{}', '\n'),
    'pongs with a space': repeated('{ }', '\n'),
    'sends': repeated('{"send":{}}', '\n'),
    'pings': repeated('{"id":1,"ping":{}}', '\n'),
    'rpc calls': repeated('{"id":1,"rpc":{}}', '\n'),
    'publishes': repeated('{"id":1,"publish":{"channel":"rooms:a","data":{}}}', '\n'),
    'subscribes': repeated('{"id":1,"subscribe":{"channel":"rooms:b"}}', '\n'),
    'requests for history': repeated('{"id":1,"history":{"channel":"rooms:a"}}', '\n'),
}
HELLO = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"rooms:a"}}'


def messages() -> Iterator[tuple[str, str, str, str]]:
    """Yield the way in, the name, the greeting and the message of each row."""
    sdk = '/connection/websocket'
    for name, payload in PAYLOADS.items():
        publish = '{"id":9,"publish":{"channel":"rooms:a","data":' + payload + '}}'
        yield sdk, f'publish, {name}', HELLO, publish
    for name, payload in PAYLOADS.items():
        yield sdk, f'rpc, {name}', HELLO, '{"id":9,"rpc":{"data":' + payload + '}}'
    for name, payload in PAYLOADS.items():
        yield sdk, f'connect, {name}', '', '{"id":9,"connect":{"data":' + payload + '}}'
    subs = ','.join(f'"{number}":{{}}' for number in range(SIZE_BYTES // 11))
    yield sdk, 'connect, many subs', '', '{"id":9,"connect":{"subs":{' + subs + '}}}'
    for name, frame in FRAMES.items():
        yield sdk, f'one frame of {name}', HELLO, frame
    for name, payload in PAYLOADS.items():
        yield '/media', f'plain media, {name}', '', payload
        yield '/text', f'plain text, {name}', '', payload


def longest_ms(server: harness.Server) -> float:
    """Return the longest iteration since the last call, in milliseconds."""
    url = f'http://127.0.0.1:{server.port}/longest'
    with urllib.request.urlopen(url) as answer:
        return 1000 * float(json.load(answer))


def measure(server: harness.Server, path: str, hello: str, message: str) -> float:
    """Return the longest iteration while the server processes one message."""
    url = f'ws://127.0.0.1:{server.port}{path}'
    with connect(url, compression=None, max_size=None) as ws:
        if hello:
            ws.send(hello)
            ws.recv()
        longest_ms(server)
        ws.send(message)
        # NOTE: the server answers the close frame after the message.
    return longest_ms(server)


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--repetitions', type=int, default=5)
    parser.add_argument('--quick', action='store_true', help='two repetitions')
    parser.add_argument('--only', default='', help='rows with this text')
    parser.add_argument('--json', type=Path, help='write the table to this file')
    args = parser.parse_args()
    rows = {}
    repetitions = 2 if args.quick else args.repetitions
    print('| way in | message | bytes | median ms | maximum ms |')
    print('|---|---|--:|--:|--:|')
    with harness.Server(SERVER) as server:
        for path, name, hello, message in messages():
            if args.only in name:
                values = rows[f'{path} {name}'] = [
                    measure(server, path, hello, message) for _ in range(repetitions)
                ]
                print(
                    f'| {path} | {name} | {len(message)} '
                    f'| {statistics.median(values):.1f} | {max(values):.1f} |',
                    flush=True,
                )
    if args.json is not None:
        args.json.write_text(json.dumps(rows))


if __name__ == '__main__':
    main()
