"""Compare docs/security.md with the maintainers' table tests/security_cases.md."""

from __future__ import annotations

import ast
import re

from support.processes import ROOT

PAGE = (ROOT / 'docs/security.md').read_text()
SECTION = PAGE.partition('\n## What a connected client can try\n')[2].partition(
    '\n## '
)[0]
CASES = re.findall(r'^\| (W\d+) \| .* \|$', SECTION, re.MULTILINE)
TABLE = (ROOT / 'tests/security_cases.md').read_text()
ROWS = re.findall(r'^\| (W\d+) \| (.*) \|$', TABLE, re.MULTILINE)
NAMED = re.compile(r'`([\w/]+\.py)::(\w+)`')


def functions(path: str) -> set[str]:
    """Return the names of all functions of a module, methods included."""
    tree = ast.parse((ROOT / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_cases_of_the_page_are_in_the_order_of_their_numbers() -> None:
    """No case is listed twice. A number that is not used is harmless."""
    assert len(CASES) > 20
    numbers = [int(case.removeprefix('W')) for case in CASES]
    assert sorted(set(numbers)) == numbers


def test_each_case_has_one_row_in_the_table_of_tests() -> None:
    """The page and the maintainers' table list the same cases in the same order."""
    assert CASES == [case for case, _ in ROWS]


def test_each_row_names_only_tests_that_exist() -> None:
    """Every row names at least one test, and every named test exists."""
    assert [] == [case for case, tests in ROWS if not NAMED.search(tests)]
    missing = [
        f'{path}::{name}'
        for _, tests in ROWS
        for path, name in NAMED.findall(tests)
        if not name.startswith('test_') or name not in functions(path)
    ]
    assert [] == missing


def test_page_for_users_names_no_tests() -> None:
    """Names of tests are for maintainers, so the page does not have them."""
    assert [] == NAMED.findall(PAGE)
