"""Known differences from the expected outcomes are documented for users."""

from __future__ import annotations

from collections import Counter

from attacks.targets import Difference
from attacks.targets import DIFFERS
from attacks.targets import ELSEWHERE
from attacks.targets import TARGETS
from attacks.targets import WEAKNESSES
import pytest
from support.processes import ROOT

TEXT = (ROOT / 'docs' / 'security.md').read_text()


@pytest.mark.parametrize(
    ('heading', 'entries'),
    [
        ('Attacks that succeed', WEAKNESSES),
        ('Other answers that do no harm', DIFFERS),
    ],
)
def test_known_differences_are_documented_in_the_same_words(
    heading: str, entries: tuple[Difference, ...]
) -> None:
    """docs/security.md has exactly the entries of the table."""
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
        (difference.row, name, difference.description)
        for difference in entries
        for name in difference.targets
    )
    assert known == documented


def test_known_difference_names_an_attacked_target_once() -> None:
    """No entry names an unknown target, and no two name the same row and target."""
    seen = Counter(
        (difference.row, name)
        for difference in (*WEAKNESSES, *DIFFERS)
        for name in difference.targets
    )
    assert {1} == set(seen.values())
    targets = {target.name for target in (*TARGETS, *ELSEWHERE)}
    assert {name for _, name in seen} <= targets
