"""Compare everything but large fan-outs with Centrifugo.

    python -m benchmarks.centrifugo

The cases are new connections, clients that return together, small rooms, the HTTP API,
presence and history. Both servers have one core, and take turns. Centrifugo must be on
the path, or Go builds it below build/. The last case needs no Centrifugo: it compares
our handshake with that of uvicorn's default.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
from pathlib import Path
import statistics
import tempfile

from benchmarks import harness
from benchmarks import others

OURS = 'falcon-channels'
_ENDPOINT = '/connection/websocket'
_HELLO = '{"id":1,"connect":{}}'
_RECOVER = (
    '{"id":2,"subscribe":{"channel":"rooms:sdk","recover":true,"offset":0,"epoch":""}}'
)
_SUBSCRIBE_PRESENT = '{"id":2,"subscribe":{"channel":"present:all"}}'
_PUBLICATION = {'channel': 'rooms:api', 'data': {'text': 'x' * 64}}
_BATCH = {'commands': [{'publish': _PUBLICATION}] * 100}
_PUBLISHER = [
    *('--pub', _ENDPOINT, '--pub-hello', _HELLO),
    *('--pub-text', '{"id":2,"publish":{"channel":"rooms:sdk","data":"%s"}}'),
]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A case for two servers.

    Attributes:
        title: As it is printed.
        program: Name of the load generator.
        words: Its words for both servers.
        goal: Highest ratio that is wanted.
        turns: Number of turns of each server.
        against: Name of the server that is the base of the ratio.
    """

    title: str
    program: str
    words: Sequence[object]
    goal: float
    turns: int = 4
    against: str = 'Centrifugo'


def _ask(title: str, goal: float, question: str, *, present: int) -> Comparison:
    """Return a case in which a client repeats a command."""
    subscribe = [_HELLO, _SUBSCRIBE_PRESENT] if present > 1 else [_HELLO]
    return Comparison(
        title,
        'connect',
        [
            *('ask', present, 0 if present > 1 else 100, 64, '--sub', _ENDPOINT),
            *('--sub-hello', '\n'.join(subscribe)),
            *('--until', f'"id":{len(subscribe)}'),
            *('--ask', question, '--answer', '"id":3', *_PUBLISHER),
        ],
        goal,
    )


def _post(title: str, goal: float, path: str, media: object, units: int) -> Comparison:
    """Return a case with requests to the HTTP API."""
    body = json.dumps(media, separators=(',', ':'))
    options = ['--path', path, '--key', others.API_KEY, '--body', body]
    return Comparison(title, 'http', ['post', 8, units, 0, *options], goal)


COMPARISONS = [
    Comparison(
        'connect, subscribe, disconnect',
        'connect',
        [
            *('each', 16, 0, 0, '--sub', _ENDPOINT),
            *('--sub-hello', harness.SDK_HELLO, '--until', '"id":2'),
        ],
        1.6,
    ),
    Comparison(
        '500 clients return and recover 100 each',
        'connect',
        [
            *('storm', 500, 100, 64, '--sub', _ENDPOINT),
            *('--sub-hello', f'{_HELLO}\n{_RECOVER}', *_PUBLISHER),
        ],
        1.2,
        turns=2,
    ),
    *(
        Comparison(
            f'delivery to 10 of a client publish, {in_flight} in flight',
            'load',
            [
                *('fanout', 10, in_flight, 64, '--sub', _ENDPOINT),
                *('--sub-hello', harness.SDK_HELLO, *_PUBLISHER),
            ],
            1.0,
        )
        for in_flight in (1, 4, 16)
    ),
    _post('HTTP publish, single', 1.8, '/api/publish', _PUBLICATION, 1),
    _post('HTTP publish, in batches of 100', 1.0, '/api/batch', _BATCH, 100),
    _ask(
        'presence of 500',
        1.0,
        '{"id":3,"presence":{"channel":"present:all"}}',
        present=500,
    ),
    _ask(
        'presence stats of 500',
        1.5,
        '{"id":3,"presence_stats":{"channel":"present:all"}}',
        present=500,
    ),
    _ask(
        'history of 100',
        1.0,
        '{"id":3,"history":{"channel":"rooms:sdk","limit":100}}',
        present=1,
    ),
    Comparison(
        'new WebSocket by hand',
        'connect',
        ['each', 16, 0, 0],
        0.3,
        against='uvicorn default, Falcon by hand',
    ),
]


def peers(comparison: Comparison, folder: Path) -> list[harness.Peer]:
    """Return the base of the ratio and our server; without Centrifugo only ours."""
    default, _, by_hand, *_ = harness.falcon_peers()
    if comparison.against == default.name:
        return [default, by_hand]
    ours = harness.Peer(OURS, [*harness.SERVE, 'benchmarks.apps.open_rooms:app'])
    program = others.centrifugo_program()
    if program is None:
        return [ours]
    centrifugo = others.centrifugo(program, folder)
    return [dataclasses.replace(centrifugo, dialect=()), ours]


def row(comparison: Comparison, samples: Sequence[Sequence[harness.Sample]]) -> str:
    """Return the line of a case.

    Args:
        comparison: The case.
        samples: For each repetition, the samples of the base, if any, and of ours.
    """

    def median(index: int, name: str) -> float:
        return statistics.median(getattr(own[index], name) for own in samples)

    ours = f'{median(-1, "cpu_us"):.1f}'
    if len(samples[0]) == 1:
        return f'| {comparison.title} | {ours} | | | | {comparison.goal} | | |'
    ratios = [own.cpu_us / base.cpu_us for base, own in samples]
    ratio = statistics.median(ratios)
    verdict = 'met' if ratio <= comparison.goal else 'missed'
    return (
        f'| {comparison.title} | {ours} | {median(0, "cpu_us"):.1f} | {ratio:.2f} '
        f'| {min(ratios):.2f}-{max(ratios):.2f} | {comparison.goal} | {verdict} '
        f'| {median(-1, "p99_us"):.0f} / {median(0, "p99_us"):.0f} |'
    )


def main() -> None:
    """Run the benchmark and print the table."""
    parser = harness.arguments(__doc__ or '')
    args = parser.parse_args()
    facts = harness.machine()
    print('; '.join(f'{name} {value}' for name, value in facts.items()))
    others.centrifugo_program()
    print('\n| case | our us | other us | ratio | spread | goal | | p99 us, both |')
    print('|---|--:|--:|--:|---|--:|---|--:|')
    tables = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = {
            program: harness.compile_c(program, folder)
            for program in ('connect', 'http', 'load')
        }
        for comparison in COMPARISONS:
            if not any(part in comparison.title for part in args.only):
                continue
            case = harness.Case(comparison.title, comparison.words)
            samples = [
                harness.measure_once(
                    programs[comparison.program],
                    peers(comparison, folder),
                    case,
                    args.seconds,
                    turns=comparison.turns,
                )
                for _ in range(args.repetitions)
            ]
            print(row(comparison, samples), flush=True)
            tables[comparison.title] = [
                [dataclasses.asdict(sample) for sample in own] for own in samples
            ]
    if args.json is not None:
        document = {'machine': facts, 'tables': tables}
        args.json.write_text(json.dumps(document, indent=1))


if __name__ == '__main__':
    main()
