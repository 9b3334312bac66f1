"""The rules of the tests that a program can check; see CONTRIBUTING.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SLEEPS = ('asyncio.sleep', 'time.sleep')


def sleeps_of(tree: ast.AST, *, may_sleep: bool = True) -> Iterator[ast.Call]:
    """Yield the sleeps of tests that wait for a time on the real clock.

    Args:
        tree: A module, or a part of it.
        may_sleep: Whether this part may sleep: it is outside a test, in a function
            within a test, or in a loop, which checks a condition.
    """
    for child in ast.iter_child_nodes(tree):
        allowed = may_sleep
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = ' '.join(map(ast.unparse, child.decorator_list))
            is_test = child.name.startswith('test_')
            allowed = not is_test or 'on_fake_clock' in decorators
        elif isinstance(child, ast.While | ast.For | ast.AsyncFor):
            allowed = True
        elif isinstance(child, ast.Call) and not may_sleep:
            is_sleep = ast.unparse(child.func) in SLEEPS
            if is_sleep and ast.unparse(child.args[0]) != '0':
                yield child
        yield from sleeps_of(child, may_sleep=allowed)


@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('async def test_a():\n    await asyncio.sleep(0.1)', [2]),
        ('def test_a():\n    with b:\n        time.sleep(s)', [3]),
        ('async def test_a():\n    await asyncio.sleep(0)', []),
        ('def test_a():\n    while not done():\n        time.sleep(0.01)', []),
        ('@on_fake_clock\nasync def test_a():\n    await asyncio.sleep(9)', []),
        ('def test_a():\n    async def b():\n        await asyncio.sleep(1)', []),
    ],
)
def test_rule_finds_waits_for_time(source: str, expected: list[int]) -> None:
    """The rule below finds a sleep of a test, and nothing else."""
    assert expected == [call.lineno for call in sleeps_of(ast.parse(source))]


def test_tests_wait_for_conditions_and_not_for_time() -> None:
    """On a slow machine, a fixed time is too short; on a fast one, it is too long.

    Wait in a loop until a condition holds, or use `on_fake_clock`.
    """
    found = [
        f'{path.relative_to(TESTS)}:{call.lineno}'
        for path in sorted(TESTS.rglob('test_*.py'))
        if 'node_modules' not in path.parts
        for call in sleeps_of(ast.parse(path.read_text()))
    ]
    assert [] == found
