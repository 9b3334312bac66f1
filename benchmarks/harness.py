"""Shared code of the benchmarks: servers, the load generator, ratios.

The figure is the CPU time of the server's process for one unit of work, such as an echo
or a delivery. It is not throughput. The CPU time does not depend on the speed of the
load generator or on other load of the machine. It shows the cost of one more delivery.

The server runs on one core and the load generator on another. In each repetition, all
servers are started and measured in a few short turns. Other load of the machine
therefore affects all of them. Each server is compared with the first one (the limit) of
the same repetition. The medians and the spread are printed.

The load generator is written in C. Each row has its CPU use. Below 100 %, the load
generator waited for the server. At 100 %, the server waited for the load generator,
which costs the server no CPU time. docs/benchmarks.md has more about the method.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import importlib.metadata
import json
import os
from pathlib import Path
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Any
from typing import Self

ROOT = Path(__file__).parents[1]
C_SOURCES = Path(__file__).parent / 'c'
#: What a client of the Centrifuge protocol says to subscribe, in one frame.
SDK_HELLO = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"rooms:sdk"}}'
#: The same for one of many rooms, whose number the load generator puts in.
ROOM_HELLO = SDK_HELLO.replace('rooms:sdk', 'rooms:%d')
# NOTE: the load generator answers no pings.
_COMMON = [
    *('--port', '{port}', '--log-level', 'error', '--ws-ping-timeout', '3600'),
]
#: uvicorn as it comes, without the application's name.
UVICORN = ['python', '-m', 'uvicorn', *_COMMON]
#: Our server, the same.
SERVE = ['python', '-m', 'falcon_channels', 'serve', *_COMMON]
_CLOCK_TICK_S = 1 / os.sysconf('SC_CLK_TCK')


def free_port() -> int:
    """Return a free TCP port of the loopback interface."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port: int = sock.getsockname()[1]
        return port


def cores() -> tuple[int, int]:
    """Return the core for the server and the one for the load."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit('benchmarks need two cores: one for the server, one for load')
    return usable[0], usable[1]


def compile_c(name: str, folder: Path) -> Path:
    """Compile one of the C programs into `folder`."""
    compiler = shutil.which('cc')
    if compiler is None:
        raise SystemExit('benchmarks need a C compiler: cc')
    program = folder / name
    subprocess.run(
        [compiler, '-O2', '-D_GNU_SOURCE', '-o', program, C_SOURCES / f'{name}.c'],
        check=True,
    )
    return program


@dataclasses.dataclass(frozen=True)
class Peer:
    """A server to be measured.

    Attributes:
        name: As it is printed.
        command: Its words; ``{port}`` is replaced, ``python`` is this interpreter.
        env: Additions to the environment; ``{port}`` is replaced here, too.
        dialect: Options of the load generator for this peer: see ``c/load.c``.
    """

    name: str
    command: Sequence[str]
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    dialect: Sequence[str] = ()


class Server:
    """A peer that runs, pinned to the server's core."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.port = free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> Self:
        words = [self._fill(word) for word in self.peer.command]
        if words[0] == 'python':
            words[0] = sys.executable
        env = {name: self._fill(value) for name, value in self.peer.env.items()}
        core = cores()[0]
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(('127.0.0.1', self.port), 1).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self._log.seek(0)
                    log = self._log.read().decode(errors='replace')
                    raise SystemExit(
                        f'{self.peer.name} did not start:\n{log}'
                    ) from None
                time.sleep(0.05)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()

    def _fill(self, word: str) -> str:
        return word.replace('{port}', str(self.port))

    def cpu_s(self) -> float:
        """Return the CPU time of it and its workers so far, user and system."""
        return sum(map(_cpu_s, _process_tree(self.process.pid)))

    def rss_bytes(self) -> int:
        """Return its resident memory."""
        text = Path(f'/proc/{self.process.pid}/statm').read_text()
        return int(text.split()[1]) * os.sysconf('SC_PAGE_SIZE')


def _process_tree(pid: int) -> list[int]:
    """Return a process and all processes that it has started."""
    found = [pid]
    for task in Path(f'/proc/{pid}/task').iterdir():
        for child in (task / 'children').read_text().split():
            found += _process_tree(int(child))
    return found


def _cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process so far."""
    try:
        return sum(
            int((task / 'schedstat').read_text().split()[0]) / 1e9
            for task in Path(f'/proc/{pid}/task').iterdir()
        )
    except FileNotFoundError:  # a kernel without scheduler statistics
        stat = Path(f'/proc/{pid}/stat').read_text()
        fields = stat.rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) * _CLOCK_TICK_S


class Load:
    """The load generator, connected and warmed up."""

    def __init__(self, program: Path, server: Server, words: Sequence[object]) -> None:
        core = cores()[1]
        self._server = server
        self._process = subprocess.Popen(
            [program, str(server.port), *map(str, words), *server.peer.dialect],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        self._expect('ready')

    def _expect(self, what: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line.startswith(what):
            raise SystemExit(f'{self._server.peer.name}: the load generator failed')
        return line

    def run(self, seconds: float) -> Sample:
        """Load the server for this many seconds."""
        assert self._process.stdin is not None
        before = self._server.cpu_s()
        self._process.stdin.write(f'{seconds}\n')
        self._process.stdin.flush()
        told = json.loads(self._expect('{'))
        cpu_s = self._server.cpu_s() - before
        return Sample(
            cpu_us=cpu_s * 1e6 / told['messages'],
            per_second=told['messages'] / told['seconds'],
            load_share=told['load_cpu_s'] / told['seconds'],
            p50_us=told['p50_us'],
            p99_us=told['p99_us'],
            max_us=told['max_us'],
        )

    def close(self) -> None:
        """Close all connections."""
        self._process.kill()
        self._process.communicate()


@dataclasses.dataclass(frozen=True)
class Sample:
    """One repetition: server CPU per unit, and what else was seen."""

    cpu_us: float
    per_second: float
    load_share: float
    p50_us: float
    p99_us: float
    max_us: float


def merged(samples: Sequence[Sample]) -> Sample:
    """Return what was seen in turns of equal length as one sample.

    Latencies are the medians of the turns', but for the largest.
    """
    return Sample(
        cpu_us=sum(sample.cpu_us * sample.per_second for sample in samples)
        / sum(sample.per_second for sample in samples),
        per_second=statistics.mean(sample.per_second for sample in samples),
        load_share=statistics.mean(sample.load_share for sample in samples),
        p50_us=_median(samples, lambda sample: sample.p50_us),
        p99_us=_median(samples, lambda sample: sample.p99_us),
        max_us=max(sample.max_us for sample in samples),
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """One row group: the load that all peers get.

    Attributes:
        title: As it is printed.
        words: The words after the port: see ``c/load.c``.
    """

    title: str
    words: Sequence[object]


def machine() -> dict[str, str]:
    """Return the machine and the versions that the figures depend on."""
    cpu = platform.machine()
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            cpu = line.partition(':')[2].strip()
            break
    found = {
        'CPU': f'{cpu}, {os.cpu_count()} cores',
        'kernel': f'{platform.system()} {platform.release()}',
        'Python': f'{platform.python_implementation()} {platform.python_version()}',
    }
    for name in ('falcon-channels', 'falcon', 'uvicorn', 'uvloop', 'websockets'):
        found[name] = importlib.metadata.version(name)
    load = ', '.join(f'{value:.1f}' for value in os.getloadavg())
    found['load average before'] = load
    return found


def measure(
    peers: Sequence[Peer],
    cases: Sequence[Case],
    args: argparse.Namespace,
    *,
    program: str = 'load',
    unit: str = 'message',
    turns: int = 4,
) -> None:
    """Run every case with all servers in turn. The first server is the limit.

    Args:
        peers: Servers that are measured.
        cases: Tasks of the load generator.
        args: Result of the parser of `arguments`.
        program: Name of the load generator.
        unit: Name of a message of the load generator, such as ``'echo'``.
        turns: Number of parts of each measurement.
    """
    first, *rest = peers
    peers = [first, *(p for p in rest if any(part in p.name for part in args.only))]
    facts = machine()
    print('; '.join(f'{name} {value}' for name, value in facts.items()))
    samples: dict[str, dict[str, list[Sample]]] = {
        case.title: {peer.name: [] for peer in peers} for case in cases
    }
    with tempfile.TemporaryDirectory() as folder:
        load_program = compile_c(program, Path(folder))
        for _ in range(args.repetitions):
            for case in cases:
                repetition = measure_once(
                    load_program, peers, case, args.seconds, turns=turns
                )
                for peer, own in zip(peers, repetition, strict=True):
                    samples[case.title][peer.name].append(own)
    for title, rows in samples.items():
        print_case(title, rows, unit)
    if args.json is not None:
        tables = [
            {
                'title': title,
                'rows': {
                    name: [dataclasses.asdict(sample) for sample in row]
                    for name, row in rows.items()
                },
            }
            for title, rows in samples.items()
        ]
        document = {'machine': facts, 'unit': unit, 'tables': tables}
        args.json.write_text(json.dumps(document, indent=1))


def measure_once(
    load_program: Path,
    peers: Sequence[Peer],
    case: Case,
    seconds: float,
    *,
    turns: int = 4,
) -> list[Sample]:
    """Start all peers, and load them in alternating turns; return their samples.

    Args:
        load_program: The compiled load generator.
        peers: Servers to measure.
        case: Load for each of them.
        seconds: Time for each peer, over all turns.
        turns: Number of turns of each peer.
    """
    with contextlib.ExitStack() as stack:
        loads = []
        for peer in peers:
            server = stack.enter_context(Server(peer))
            loads.append(Load(load_program, server, case.words))
            stack.callback(loads[-1].close)
        parts = [[load.run(seconds / turns) for load in loads] for _ in range(turns)]
    return [merged(own) for own in zip(*parts, strict=True)]


def print_case(title: str, rows: dict[str, list[Sample]], unit: str) -> None:
    """Print one table: medians, and ratios to the first row with their spread."""
    limit = next(iter(rows.values()))
    columns = [f'CPU us/{unit}', 'ratio', 'spread', 'per second']
    columns += ['p50 us', 'p99 us', 'ratio', 'max us', 'load']
    print(f'\n### {title}\n')
    print(f'| server | {" | ".join(columns)} |')
    print('|---|--:|--:|---|--:|--:|--:|--:|--:|--:|')
    for name, samples in rows.items():
        pairs = list(zip(samples, limit, strict=True))
        ratios = [own.cpu_us / base.cpu_us for own, base in pairs]
        p99_ratio = statistics.median(own.p99_us / base.p99_us for own, base in pairs)
        print(
            f'| {name} | {_median(samples, lambda s: s.cpu_us):.2f} '
            f'| {statistics.median(ratios):.2f} '
            f'| {min(ratios):.2f}-{max(ratios):.2f} '
            f'| {_median(samples, lambda s: s.per_second):.0f} '
            f'| {_median(samples, lambda s: s.p50_us):.0f} '
            f'| {_median(samples, lambda s: s.p99_us):.0f} '
            f'| {p99_ratio:.2f} '
            f'| {max(s.max_us for s in samples):.0f} '
            f'| {_median(samples, lambda s: s.load_share):.0%} |',
            flush=True,
        )


def _median(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    return statistics.median(value(sample) for sample in samples)


def arguments(
    description: str, quick: Mapping[str, Any] | None = None
) -> argparse.ArgumentParser:
    """Return a parser with the arguments of all scripts.

    Args:
        description: Description of the script, for ``--help``.
        quick: Arguments that ``--quick`` sets, in addition to one short repetition.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog='Needs Linux, two cores and a C compiler (cc).',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--repetitions', type=int, default=5)
    parser.add_argument(
        '--seconds',
        type=float,
        default=2.0,
        help='seconds of each measurement (default 2)',
    )
    parser.add_argument(
        '--bytes', type=int, default=64, help='bytes of a message (default 64)'
    )
    parser.add_argument(
        '--only',
        nargs='+',
        default=[''],
        help='run only servers whose names contain one of these',
    )
    parser.add_argument('--json', type=Path, help='write all samples to this file')
    parser.add_argument(
        '--quick',
        action=_Quick,
        nargs=0,
        values={'repetitions': 1, 'seconds': 0.5, **(quick or {})},
        help='one short repetition of the main case, for rough figures only',
    )
    return parser


class _Quick(argparse.Action):
    """Sets several options at once."""

    def __init__(self, *, values: Mapping[str, Any], **rest: Any) -> None:
        super().__init__(**rest)
        self._values = values

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, *ignored: Any
    ) -> None:
        vars(namespace).update(self._values)


def c_server(folder: Path) -> Peer:
    """Compile the bare C server and return it: the limit."""
    program = compile_c('echo_fanout', folder)
    return Peer('bare C server', [str(program), '{port}'])


def falcon_peers() -> list[Peer]:
    """Return uvicorn with its own classes and ours, serving Falcon."""
    by_hand = 'benchmarks.apps.by_hand:app'
    legacy = {'PYTHONWARNINGS': 'ignore'}
    return [
        Peer('uvicorn default, Falcon by hand', [*UVICORN, by_hand]),
        Peer(
            'uvicorn websockets, Falcon by hand',
            [*UVICORN, '--ws', 'websockets', by_hand],
            legacy,
        ),
        Peer('falcon-channels, Falcon by hand', [*SERVE, by_hand]),
        Peer('falcon-channels, direct', [*SERVE, 'benchmarks.apps.direct:app']),
        Peer(
            'uvicorn default, plain WebSocket', [*UVICORN, 'benchmarks.apps.rooms:app']
        ),
        Peer('falcon-channels, plain WebSocket', [*SERVE, 'benchmarks.apps.rooms:app']),
        Peer(
            'falcon-channels, SDK in JSON',
            [*SERVE, 'benchmarks.apps.rooms:app'],
            dialect=[
                *('--sub', '/connection/websocket', '--pub', '/pub-sdk'),
                *('--sub-hello', SDK_HELLO),
            ],
        ),
    ]
