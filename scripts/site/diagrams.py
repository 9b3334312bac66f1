"""Draw the diagrams of the documentation as SVG files in docs/images.

A diagram is data in this module. Run ``make diagrams`` after a change; a test compares
the files with the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
import itertools
from pathlib import Path

FOLDER = Path(__file__).parents[2] / 'docs/images'

_INK = '#1f2937'
_FILL = '#e8f4f7'
_LINE = '#0a7d91'
_CHARACTER = 7.1
_LINE_HEIGHT = 18


@dataclass(frozen=True)
class Sequence:
    """Messages between participants, from top to bottom.

    Attributes:
        title: Description for readers who do not see the diagram.
        participants: Names, from left to right.
        messages: Index of the sender, index of the receiver, and text. A message to
            oneself is a note.
    """

    title: str
    participants: tuple[str, ...]
    messages: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True)
class Boxes:
    """Boxes on a grid, with arrows.

    Attributes:
        title: Description for readers who do not see the diagram.
        boxes: Column, row, width in columns, and text, by name.
        arrows: Name of the first and of the second box.
        two_way: Whether the arrows have two heads.
        column: Width of a column, in pixels.
        row: Height of a row, in pixels.
    """

    title: str
    boxes: dict[str, tuple[float, float, float, str]]
    arrows: tuple[tuple[str, str], ...]
    two_way: bool = False
    column: int = 200
    row: int = 92


def text(x: float, y: float, words: str, *, anchor: str = 'middle') -> str:
    """Return a text; each line of it is centred on its own."""
    lines = words.split('\n')
    top = y - (len(lines) - 1) * _LINE_HEIGHT / 2
    return ''.join(
        f'<text x="{x:g}" y="{top + n * _LINE_HEIGHT:g}" text-anchor="{anchor}">'
        f'{escape(line)}</text>\n'
        for n, line in enumerate(lines)
    )


def box(x: float, y: float, width: float, height: float) -> str:
    """Return a rectangle."""
    return (
        f'<rect class="box" x="{x:g}" y="{y:g}" width="{width:g}" '
        f'height="{height:g}" rx="6"/>\n'
    )


def line(
    x1: float, y1: float, x2: float, y2: float, *, heads: int = 1, dashed: bool = False
) -> str:
    """Return a line with 0, 1 or 2 heads."""
    marks = ' marker-end="url(#head)"' if heads else ''
    if heads == 2:
        marks += ' marker-start="url(#head)"'
    if dashed:
        marks += ' stroke-dasharray="3 4"'
    return f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}"{marks}/>\n'


def document(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """Return the SVG file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img">\n'
        f'<title>{escape(title)}</title>\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto-start-reverse">'
        f'<path d="M0 0L8 4L0 8z" style="fill:{_LINE};stroke:none"/></marker></defs>\n'
        f'<style>text{{font:13px system-ui,sans-serif;fill:{_INK}}}'
        f'path{{stroke:{_LINE};stroke-width:1.5;fill:none}}'
        f'.box{{fill:{_FILL};stroke:{_LINE}}}</style>\n'
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#fff"/>\n'
        f'{"".join(parts)}</svg>\n'
    )


def draw_sequence(diagram: Sequence) -> str:
    """Return a sequence diagram as SVG."""
    column, head, step, margin = 190, 46, 44, 20
    width = margin * 2 + column * len(diagram.participants)
    height = margin * 2 + head + step * len(diagram.messages) + 12

    def middle(index: float) -> float:
        return margin + column * (index + 0.5)

    parts = []
    for index, name in enumerate(diagram.participants):
        x = middle(index)
        parts.append(line(x, margin + head, x, height - margin, heads=0, dashed=True))
        parts.append(box(x - 80, margin, 160, head))
        parts.append(text(x, margin + head / 2 + 4, name))
    for number, (sender, receiver, words) in enumerate(diagram.messages):
        y = margin + head + step * (number + 0.9)
        label = f'{number + 1}. {words}'
        if sender == receiver:
            lines = label.split('\n')
            wide = max(map(len, lines)) * _CHARACTER + 16
            left = min(max(middle(sender) - wide / 2, 6), width - wide - 6)
            tall = len(lines) * _LINE_HEIGHT + 6
            parts.append(box(left, y - tall / 2 - 4, wide, tall))
            parts.append(text(left + wide / 2, y, label))
            continue
        wide = len(label) * _CHARACTER
        centre = middle((sender + receiver) / 2)
        left = min(max(centre - wide / 2, 6), width - wide - 6)
        parts.append(
            f'<rect x="{left:g}" y="{y - 22:g}" width="{wide:g}" height="18" '
            'fill="#fff"/>\n'
        )
        parts.append(text(left + wide / 2, y - 8, label))
        parts.append(line(middle(sender), y, middle(receiver), y))
    return document(diagram.title, width, height, parts)


def draw_boxes(diagram: Boxes) -> str:
    """Return boxes and arrows as SVG."""
    margin, gap = 16, 20
    places = {}
    for name, (x, y, span, words) in diagram.boxes.items():
        tall = 26 + _LINE_HEIGHT * words.count('\n')
        places[name] = (
            margin + x * diagram.column,
            margin + y * diagram.row + (diagram.row - 32 - tall) / 2,
            span * diagram.column - gap,
            tall,
        )
    width = max(x + wide for x, _, wide, _ in places.values()) + margin
    height = max(y + tall for _, y, _, tall in places.values()) + margin
    parts = []
    for first, second in diagram.arrows:
        x1, y1, wide1, tall1 = places[first]
        x2, y2, wide2, tall2 = places[second]
        down = y2 > y1
        # A wide box gets the arrow above or below the middle of the other box.
        narrow = (x1, wide1) if wide1 <= wide2 else (x2, wide2)
        centre = narrow[0] + narrow[1] / 2
        start = min(max(centre, x1 + 10), x1 + wide1 - 10)
        end = min(max(centre, x2 + 10), x2 + wide2 - 10)
        parts.append(
            line(
                start,
                y1 + tall1 + 2 if down else y1 - 2,
                end,
                y2 - 2 if down else y2 + tall2 + 2,
                heads=2 if diagram.two_way else 1,
            )
        )
    for name, (x, y, wide, tall) in places.items():
        parts.append(box(x, y, wide, tall))
        parts.append(text(x + wide / 2, y + tall / 2 + 4, diagram.boxes[name][3]))
    return document(diagram.title, width, height, parts)


PUBLICATION = Sequence(
    'The way of one publication, from a publisher to the subscribers of all processes',
    (
        'publisher',
        'process of\nthe publisher',
        'broker',
        'every process with\na subscriber',
        'subscribers',
    ),
    (
        (0, 1, 'data'),
        (1, 1, 'route, on_publish, size'),
        (1, 2, 'publish'),
        (2, 2, 'assign offset, store'),
        (2, 1, 'position'),
        (2, 3, 'announce'),
        (3, 3, 'is an offset missing?'),
        (3, 3, 'encode once'),
        (3, 4, 'one frame for each'),
    ),
)

RECOVERY = Sequence(
    'A client reconnects and recovers two publications by offset and epoch',
    ('client', 'process', 'broker'),
    (
        (2, 1, 'publication 7'),
        (1, 0, 'publication 7'),
        (0, 0, 'position: 7, epoch x'),
        (0, 0, 'the connection is lost'),
        (2, 2, 'stores 8 and 9'),
        (0, 1, 'subscribe since 7, x'),
        (1, 2, 'read after 7'),
        (2, 1, '8 and 9, epoch x'),
        (1, 0, '8, 9, recovered'),
        (1, 0, 'new publications: 10 ...'),
    ),
)

ONE_PROCESS = Boxes(
    'One process: clients connect to it, and the memory broker is inside',
    {
        'clients': (0, 0, 1.5, 'clients'),
        'process': (0, 1, 1.5, 'process: app, hub,\nmemory broker'),
    },
    (('clients', 'process'),),
    two_way=True,
)

ONE_HOST = Boxes(
    'One host: several processes share a database file',
    {
        'clients': (0, 0, 3, 'clients'),
        'one': (0, 1, 1, 'process 1:\napp and hub'),
        'two': (1, 1, 1, 'process 2:\napp and hub'),
        'three': (2, 1, 1, 'process 3:\napp and hub'),
        'file': (0, 2, 3, 'one database file: SQLite'),
    },
    tuple(
        pair
        for name in ('one', 'two', 'three')
        for pair in (('clients', name), (name, 'file'))
    ),
    two_way=True,
)

MANY_HOSTS = Boxes(
    'Many hosts: processes on several hosts share Redis or PostgreSQL',
    {
        'clients': (0, 0, 4, 'clients'),
        'proxy': (0, 1, 4, 'load balancer'),
        'a1': (0, 2, 1, 'host A, process 1'),
        'a2': (1, 2, 1, 'host A, process 2'),
        'b1': (2, 2, 1, 'host B, process 1'),
        'b2': (3, 2, 1, 'host B, process 2'),
        'store': (0, 3, 4, 'Redis, Valkey or PostgreSQL'),
    },
    (
        ('clients', 'proxy'),
        *(
            pair
            for name in ('a1', 'a2', 'b1', 'b2')
            for pair in (('proxy', name), (name, 'store'))
        ),
    ),
    two_way=True,
)

#: The layers of the package, from the lowest to the highest.
LAYERS = (
    'errors',
    'checks · json_decoding · operations',
    'events',
    (
        'app_routes · burst_log · class_hooks · converters · filters\n'
        'metrics · names · options · origin · parts · publication · timer_wheel'
    ),
    'chunk_rate · logs · measurements · tokens',
    'routing',
    'protocol · brokers',
    'transports · append_queue',
    'websocket',
    'server · wsgi',
    'hub',
    'cluster',
    'explain',
    'access',
    'node',
    'plain · endpoint · server_api · monitoring · streams · local_subscription',
    'inspector',
    'channels',
    'portal · testing · commands',
    'cli',
)

LAYERS_STACK = Boxes(
    'The layers of the package: a layer may use all layers below it',
    {words: (0, index, 2.5, words) for index, words in enumerate(reversed(LAYERS))},
    tuple(itertools.pairwise(LAYERS)),
    row=62,
)

DIAGRAMS = {
    'layers.svg': draw_boxes(LAYERS_STACK),
    'publication_path.svg': draw_sequence(PUBLICATION),
    'recovery.svg': draw_sequence(RECOVERY),
    'one_process.svg': draw_boxes(ONE_PROCESS),
    'one_host.svg': draw_boxes(ONE_HOST),
    'many_hosts.svg': draw_boxes(MANY_HOSTS),
}


def main() -> None:
    """Write all diagrams."""
    for name, content in DIAGRAMS.items():
        (FOLDER / name).write_text(content)
        print(FOLDER / name)


if __name__ == '__main__':
    main()
