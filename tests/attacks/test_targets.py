"""What differs from what is expected today is written down for users."""

from __future__ import annotations

from collections import Counter

from attacks.targets import DIFFERS
from attacks.targets import ELSEWHERE
from attacks.targets import GIVES_WAY
from attacks.targets import TARGETS
from attacks.targets import Today
import pytest
from support.processes import ROOT

TEXT = (ROOT / 'docs' / 'security.md').read_text()


@pytest.mark.parametrize(
    ('heading', 'entries'),
    [
        ('Where a server gives way today', GIVES_WAY),
        ('Other answers that do no harm', DIFFERS),
    ],
)
def test_what_differs_is_documented(heading: str, entries: tuple[Today, ...]) -> None:
    """Each entry is in docs/security.md in the same words, and nothing else is."""
    section = TEXT.partition(f'\n## {heading}\n')[2].partition('\n## ')[0]
    lines = [
        tuple(cell.strip() for cell in line.strip('|').split('|'))
        for line in section.splitlines()
        if line.startswith(('| H', '| F'))
    ]
    documented = Counter(
        (row, server, cells[0])
        for rows, servers, *cells in lines
        for row in rows.split(', ')
        for server in servers.split(', ')
    )
    known = Counter(
        (today.row, name, today.instead) for today in entries for name in today.targets
    )
    assert known == documented


def test_entries_are_about_targets() -> None:
    """No entry is about a target that is not attacked, and no two about the same."""
    seen = Counter(
        (today.row, name) for today in (*GIVES_WAY, *DIFFERS) for name in today.targets
    )
    assert {1} == set(seen.values())
    targets = {target.name for target in (*TARGETS, *ELSEWHERE)}
    assert {name for _, name in seen} <= targets
