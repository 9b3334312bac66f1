"""docs/explain.md has every verdict and every fact of an explanation."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
import re

from falcon_channels import Verdict

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / 'src/falcon_channels/explain' / name
    for name in (
        'verdicts.py',
        'findings.py',
        'subscription_findings.py',
        'connection_findings.py',
        'explanations.py',
        'explainer.py',
    )
]
TEXT = (ROOT / 'docs/explain.md').read_text()


def rows(title: str) -> list[str]:
    """Return the first cells of the table below a title."""
    section = TEXT.partition(f'\n## {title}\n')[2].partition('\n## ')[0]
    cells = re.findall(r'^\| (.+?) \|', section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r'`(\w+)`', cell)]


def fact_names() -> Iterator[str]:
    """Yield the names of facts: keys of dicts, in the source."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            keys: list[ast.expr | None] = []
            if isinstance(node, ast.Dict):
                keys = node.keys
            elif isinstance(node, ast.Subscript):
                keys = [node.slice]
            for key in keys:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value


def test_page_has_every_verdict() -> None:
    """The table of verdicts has all verdicts, in the order of the code."""
    assert [str(verdict) for verdict in Verdict] == rows('Verdicts')


def test_page_has_every_fact() -> None:
    """The table of evidence has the facts that the code gives, and no others."""
    # The fields of an explanation are keys of its JSON form.
    fields = {'verdict', 'text', 'at', 'node', 'connection', 'facts'}
    assert set(fact_names()) - fields == set(rows('Evidence'))
