"""Compare the measured figures with the targets of this project.

    python -m benchmarks --json build/bench
    python -m benchmarks.targets build/bench

Each repetition compares two servers of one turn. A figure is the median over the
repetitions, and the spread is from the lowest to the highest one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import json
from pathlib import Path
import statistics
from typing import Any
from typing import NamedTuple

LIMIT = 'bare C server'
DEFAULT = 'uvicorn default, Falcon by hand'
ECHO = 'falcon-channels, Falcon by hand'
PLAIN = 'falcon-channels, plain WebSocket'
SDK = 'falcon-channels, SDK in JSON'
_WAYS_IN = {'plain WebSocket': PLAIN, 'SDK in JSON': SDK}
_IDLE = {
    'falcon-channels, on_websocket': 11,
    'falcon-channels, SDK connection with one subscription': 8,
}


class Goal(NamedTuple):
    """A target: the compared figures, the highest allowed value, the measured one."""

    what: str
    most: float
    values: list[float]


def ratios(tables: Any, title: str, own: str, base: str, what: str) -> list[float]:
    """Return one server's figures by another's, a value for each repetition."""
    for table in tables:
        if table['title'].startswith(title) and own in table['rows']:
            rows = table['rows']
            pairs = zip(rows[own], rows[base], strict=True)
            return [mine[what] / theirs[what] for mine, theirs in pairs]
    return []


def goals(folder: Path) -> Iterator[Goal]:
    """Read the available results and compare them."""
    tables = _read(folder / 'fanout.json').get('tables', [])
    for in_flight, most in ((1, 1.4), (4, 0.9), (16, 0.3)):
        title = f'Fan-out to 500, {in_flight} in flight'
        for way_in, name in _WAYS_IN.items():
            values = ratios(tables, title, name, LIMIT, 'cpu_us')
            yield Goal(f'{title}, {way_in}: CPU relative to that of C', most, values)
    title = 'Fan-out to 500, 1 in flight'
    for in_flight, most in ((1, 0.35), (4, 0.25)):
        case = f'Fan-out to 500, {in_flight} in flight'
        values = ratios(tables, case, PLAIN, DEFAULT, 'cpu_us')
        yield Goal(
            f'{case}, plain WebSocket: CPU relative to that of a loop by hand',
            most,
            values,
        )
    values = ratios(tables, title, SDK, PLAIN, 'cpu_us')
    yield Goal(
        f'{title}, SDK in JSON: CPU relative to that of the plain WebSocket',
        1.15,
        values,
    )
    for way_in, name in _WAYS_IN.items():
        values = ratios(tables, title, name, LIMIT, 'p99_us')
        yield Goal(f'{title}, {way_in}: p99 relative to that of C', 1.5, values)
    tables = _read(folder / 'echo.json').get('tables', [])
    for in_flight in (1, 4, 16):
        title = f'Echo, 50 connections, {in_flight} in flight'
        values = ratios(tables, title, ECHO, DEFAULT, 'cpu_us')
        yield Goal(f"{title}: CPU relative to that of uvicorn's default", 0.35, values)
    idle = _read(folder / 'idle_memory.json')
    for name, most in _IDLE.items():
        sizes = idle.get('bytes', {}).get(name, [])
        for (count, deflate), size in zip(
            idle.get('columns', []), sizes, strict=bool(sizes)
        ):
            offered = ', compression offered' if deflate else ''
            what = f'{count} idle{offered}, {name.partition(", ")[2]}: KiB'
            yield Goal(what, most, [size / 1024])


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'folder', type=Path, help='folder with the JSON files of the scripts'
    )
    args = parser.parse_args()
    print('| target | at most | measured | spread | |')
    print('|---|--:|--:|---|---|')
    for what, most, values in goals(args.folder):
        if values:
            value = statistics.median(values)
            verdict = (
                'met' if value <= most else f'not met, {value / most - 1:.1%} over'
            )
            spread = f'{min(values):.2f}-{max(values):.2f}' if values[1:] else ''
            print(f'| {what} | {most} | {value:.2f} | {spread} | {verdict} |')


if __name__ == '__main__':
    main()
