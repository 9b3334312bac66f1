"""Compare the cost of a delivery with other projects.

    python -m benchmarks.others

Each other project is set up as in its own documentation, in one process: Django
Channels on Daphne, python-socketio and Litestar's channels on uvicorn, ws and socket.io
on Node, and Centrifugo if it is on the path or Go can build it. They are installed
apart, below build/. `benchmarks.centrifugo` compares more cases with Centrifugo.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

from benchmarks import harness

HERE = Path(__file__).parent / 'peers'
BUILD = harness.ROOT / 'build' / 'benchmark-peers'
_CENTRIFUGO_MODULE = 'github.com/centrifugal/centrifugo/v6@v6.9.1'
#: Key of Centrifugo's server API.
API_KEY = 'benchmark-of-the-api'
_SOCKET_IO = [
    *('--sub', '/socket.io/?EIO=4&transport=websocket'),
    *('--pub', '/socket.io/?EIO=4&transport=websocket'),
    *('--sub-hello', '40', '--pub-hello', '40', '--pub-text', '42["message","%s"]'),
]
_CENTRIFUGO = [
    *('--sub', '/connection/websocket', '--pub', '/connection/websocket'),
    *('--sub-hello', harness.SDK_HELLO, '--pub-hello', '{"id":1,"connect":{}}'),
    *('--pub-text', '{"id":2,"publish":{"channel":"rooms:sdk","data":"%s"}}'),
]


def install() -> Path:
    """Install the other projects; return the Python that has them."""
    python = BUILD / 'venv' / 'bin' / 'python'
    done = BUILD / 'done'
    wanted = (HERE / 'requirements.txt').read_text() + (
        HERE / 'package.json'
    ).read_text()
    if done.exists() and done.read_text() == wanted:
        return python
    BUILD.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, '-m', 'venv', BUILD / 'venv'], check=True)
    pip = [python, '-m', 'pip', 'install', '--quiet']
    subprocess.run([*pip, '-r', HERE / 'requirements.txt'], check=True)
    for path in HERE.glob('*.js*'):
        shutil.copy(path, BUILD)
    npm = ['npm', 'install', '--silent', '--no-audit', '--no-fund']
    subprocess.run([*npm, '--no-package-lock'], cwd=BUILD, check=True)
    done.write_text(wanted)
    return python


def others(python: Path, folder: Path) -> list[harness.Peer]:
    """Return the other projects as peers."""
    env = {'PYTHONPATH': str(HERE), 'NODE_ENV': 'production'}
    uvicorn = [str(python), '-m', 'uvicorn', '--port', '{port}', '--log-level', 'error']
    daphne = [str(python), '-m', 'daphne', '-p', '{port}', '-v', '0']
    peers = [
        harness.Peer('Django Channels, Daphne', [*daphne, 'django_room:app'], env),
        harness.Peer('Litestar channels', [*uvicorn, 'litestar_room:app'], env),
        harness.Peer(
            'python-socketio', [*uvicorn, 'socketio_room:app'], env, _SOCKET_IO
        ),
        harness.Peer('ws, Node', ['node', str(BUILD / 'ws_room.js'), '{port}'], env),
        harness.Peer(
            'socket.io, Node',
            ['node', str(BUILD / 'socketio_room.js'), '{port}'],
            env,
            _SOCKET_IO,
        ),
    ]
    program = centrifugo_program()
    if program is not None:
        peers.append(centrifugo(program, folder))
    return peers


def centrifugo_program() -> str | None:
    """Find Centrifugo on the path, or build it with Go; else say so."""
    built = BUILD / 'bin' / 'centrifugo'
    found = shutil.which('centrifugo') or (str(built) if built.exists() else None)
    if found is not None:
        return found
    go = shutil.which('go')
    if go is None:
        print('Centrifugo is left out: it is not on the path, and neither is Go.')
        return None
    print(f'Go builds {_CENTRIFUGO_MODULE}; this takes minutes.', flush=True)
    subprocess.run(
        [go, 'install', _CENTRIFUGO_MODULE],
        env={**os.environ, 'GOBIN': str(built.parent)},
        check=True,
    )
    return str(built)


def centrifugo(program: str, folder: Path) -> harness.Peer:
    """Return Centrifugo on one core, with channels that keep 100 publications."""
    config = folder / 'centrifugo.json'
    config.write_text(
        '{"client": {"insecure": true, "allowed_origins": ["*"]}, "channel": '
        '{"namespaces": [{"name": "rooms", "history_size": 100, "history_ttl": "300s",'
        ' "force_recovery": true}, {"name": "present", "presence": true}]}, '
        f'"http_api": {{"key": "{API_KEY}"}}}}'
    )
    command: Sequence[str] = [
        *(program, '--config', str(config), '--http_server.port', '{port}'),
        *('--log.level', 'error'),
    ]
    return harness.Peer('Centrifugo', command, {'GOMAXPROCS': '1'}, _CENTRIFUGO)


def main() -> None:
    """Run the benchmark and print the table."""
    parser = harness.arguments(__doc__ or '', {'in_flight': [1]})
    parser.add_argument('--recipients', type=int, nargs='+', default=[500])
    parser.add_argument('--in-flight', type=int, nargs='+', default=[1, 4])
    args = parser.parse_args()
    cases = [
        harness.Case(
            f'Fan-out to {recipients}, {in_flight} in flight',
            ['fanout', recipients, in_flight, args.bytes],
        )
        for recipients in args.recipients
        for in_flight in args.in_flight
    ]
    python = install()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = harness.falcon_peers()
        peers = [
            harness.c_server(folder),
            *ours[-2:],
            ours[0],
            *others(python, folder),
        ]
        harness.measure(peers, cases, args, unit='delivery')


if __name__ == '__main__':
    main()
