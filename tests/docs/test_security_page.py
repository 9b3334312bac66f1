"""Test the page about security: each row of "Who may do what" has a test."""

from __future__ import annotations

import ast
import re

from support.processes import ROOT

TEXT = (ROOT / 'docs/security.md').read_text()
SECTION = TEXT.partition('\n## Who may do what\n')[2].partition('\n## ')[0]
ROWS = re.findall(r'^\| W\d+ \| .* \|$', SECTION, re.MULTILINE)
NAMED = re.compile(r'`([\w/]+\.py)::(\w+)`')


def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_rows_are_numbered_without_gaps() -> None:
    """The rows have the numbers W1, W2, W3 and so on."""
    assert len(ROWS) > 20
    numbers = [row.split()[1] for row in ROWS]
    assert [f'W{n}' for n in range(1, len(ROWS) + 1)] == numbers


def test_each_row_names_only_tests_that_exist() -> None:
    """Each row names at least one test, and each named test exists."""
    assert [] == [row for row in ROWS if not NAMED.search(row)]
    missing = [
        f'{path}::{name}'
        for path, name in NAMED.findall(SECTION)
        if not name.startswith('test_') or name not in functions(path)
    ]
    assert [] == missing
