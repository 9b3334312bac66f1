"""What gives way today is written down for users."""

from __future__ import annotations

from attacks.targets import TARGETS
from attacks.targets import TODAY
from support.processes import ROOT


def test_what_gives_way_is_documented() -> None:
    """Each entry of `TODAY` is a line of docs/security.md, and each line an entry."""
    text = (ROOT / 'docs' / 'security.md').read_text()
    table = text.partition('## Where a server gives way today')[2]
    lines = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in table.splitlines()
        if line.startswith(('| H', '| F'))
    ]
    documented = {(row, name) for row, names, *_ in lines for name in names.split(', ')}
    known = {(row, name) for row in TODAY for names in TODAY[row] for name in names}
    assert known == documented


def test_entries_name_targets() -> None:
    """No entry is about a target that is not attacked."""
    names = {name for row in TODAY.values() for group in row for name in group}
    assert names <= {target.name for target in TARGETS}
