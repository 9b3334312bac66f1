"""Draw the results of the benchmarks as SVG.

    python -m benchmarks.fanout --json build/fanout.json
    python -m benchmarks.plot build/fanout.json docs/fanout.svg --ratio

One group of bars for each table, one bar for each server: the median CPU time for one
unit, or its ratio to the first row. The line on a bar is the spread of the repetitions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from html import escape
import json
from pathlib import Path
import statistics
from typing import Any
from typing import NamedTuple

_ROW, _BAR, _LEFT, _WIDE, _RIGHT = 20, 14, 270, 380, 70
_COLOURS = {'bare C': '#777', 'uvicorn': '#c76b29', 'falcon-channels': '#2a6fb0'}


class Bar(NamedTuple):
    """A bar: its label, its length, and the ends of the spread."""

    label: str
    value: float
    low: float
    high: float


def bars(rows: dict[str, list[dict[str, float]]], *, ratio: bool) -> list[Bar]:
    """Return the bars of one table."""
    limit = [sample['cpu_us'] for sample in next(iter(rows.values()))]
    found = []
    for name, samples in rows.items():
        values = [sample['cpu_us'] for sample in samples]
        if ratio:
            values = [own / base for own, base in zip(values, limit, strict=True)]
        found.append(Bar(name, statistics.median(values), min(values), max(values)))
    return found


def _colour(label: str) -> str:
    for beginning, colour in _COLOURS.items():
        if label.startswith(beginning):
            return colour
    return '#8a6bb0'


def draw(tables: Sequence[dict[str, Any]], heading: str, *, ratio: bool) -> str:
    """Return an SVG document."""
    parts: list[str] = []
    y = 24
    for table in tables:
        drawn = bars(table['rows'], ratio=ratio)
        scale = _WIDE / max(bar.high for bar in drawn)
        y += 26
        parts.append(f'<text x="8" y="{y}" class="t">{escape(table["title"])}</text>')
        y += 8
        for bar in drawn:
            middle = y + _BAR / 2
            end = _LEFT + bar.value * scale
            low, high = (_LEFT + side * scale for side in (bar.low, bar.high))
            parts += [
                (
                    f'<text x="{_LEFT - 8}" y="{middle + 4}" class="l">'
                    f'{escape(bar.label)}</text>'
                ),
                (
                    f'<rect x="{_LEFT}" y="{y}" width="{bar.value * scale:.1f}" '
                    f'height="{_BAR}" fill="{_colour(bar.label)}"/>'
                ),
                f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#111"/>',
                (
                    f'<text x="{max(high, end) + 6:.1f}" y="{middle + 4}">'
                    f'{bar.value:.2f}</text>'
                ),
            ]
            y += _ROW
    width, height = _LEFT + _WIDE + _RIGHT, y + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n'
        f'<title>{escape(heading)}</title>\n'
        '<style>text{font:12px sans-serif;fill:#111}.t{font-weight:bold}'
        '.l{text-anchor:end}</style>\n'
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n'
        f'<text x="8" y="20">{escape(heading)}</text>\n'
        + '\n'.join(parts)
        + '\n</svg>\n'
    )


def main() -> None:
    """Read samples and write a picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('samples', type=Path, help='JSON file of a script')
    parser.add_argument('picture', type=Path)
    parser.add_argument(
        '--ratio', action='store_true', help='draw ratios to the first row'
    )
    parser.add_argument('--without', nargs='*', default=[], help='rows to leave out')
    args = parser.parse_args()
    document = json.loads(args.samples.read_text())
    for table in document['tables']:
        table['rows'] = {
            name: row for name, row in table['rows'].items() if name not in args.without
        }
    unit = document['unit']
    heading = f'Server CPU for one {unit}, {"ratio to C" if args.ratio else "us"}'
    args.picture.write_text(draw(document['tables'], heading, ratio=args.ratio))


if __name__ == '__main__':
    main()
