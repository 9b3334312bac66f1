"""The page about security: each answer of "Who may do what" has a test."""

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


def test_rows_are_numbered() -> None:
    """No row is missing or there twice."""
    assert len(ROWS) > 20
    numbers = [row.split()[1] for row in ROWS]
    assert [f'W{n}' for n in range(1, len(ROWS) + 1)] == numbers


def test_each_row_names_tests_that_exist() -> None:
    """No row is without a test, and no test is named that is not there."""
    assert [] == [row for row in ROWS if not NAMED.search(row)]
    missing = [
        f'{path}::{name}'
        for path, name in NAMED.findall(SECTION)
        if not name.startswith('test_') or name not in functions(path)
    ]
    assert [] == missing
