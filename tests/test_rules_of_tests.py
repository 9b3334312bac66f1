"""The rules of the tests that a program can check; see CONTRIBUTING.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def sleeps_of(tree: ast.AST, forbidden: tuple[str, ...] = ()) -> Iterator[ast.Call]:
    """Yield the calls of tests that wait for a time, and not for a condition.

    A loop that can end early is a wait for a condition. A function within a test is
    often the code under test, such as a slow responder.

    Args:
        tree: A module, or a part of it.
        forbidden: Names of the functions that this part may not call.
    """
    for child in ast.iter_child_nodes(tree):
        names = forbidden
        if isinstance(child, FUNCTIONS):
            names = _forbidden_in(child)
        elif isinstance(child, ast.While | ast.For | ast.AsyncFor) and _can_end(child):
            names = ()
        elif isinstance(child, ast.Call) and _is_wait(child, forbidden):
            yield child
        yield from sleeps_of(child, names)


def _forbidden_in(function: ast.AST) -> tuple[str, ...]:
    if not getattr(function, 'name', '').startswith('test_'):
        return ()
    decorators = ' '.join(map(ast.unparse, getattr(function, 'decorator_list', ())))
    if 'on_fake_clock' in decorators:
        return ('time.sleep',)
    return ('asyncio.sleep', 'time.sleep')


def _is_wait(call: ast.Call, forbidden: tuple[str, ...]) -> bool:
    arguments = [ast.unparse(argument) for argument in call.args]
    return ast.unparse(call.func) in forbidden and arguments != ['0']


def _can_end(loop: ast.While | ast.For | ast.AsyncFor) -> bool:
    """Return whether a loop checks a condition, and can end before its time."""
    if isinstance(loop, ast.While) and not isinstance(loop.test, ast.Constant):
        return True
    return any(isinstance(node, ast.Break | ast.Return) for node in ast.walk(loop))


@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('async def test_a():\n    await asyncio.sleep(0.1)', [2]),
        ('async def test_a():\n    await asyncio.sleep(delay=1)', [2]),
        ('def test_a():\n    with b:\n        time.sleep(s)', [3]),
        ('def test_a():\n    for _ in range(9):\n        time.sleep(1)', [3]),
        ('@on_fake_clock\nasync def test_a():\n    time.sleep(9)', [3]),
        ('async def test_a():\n    await asyncio.sleep(0)', []),
        ('def test_a():\n    while not done():\n        time.sleep(0.01)', []),
        ('@on_fake_clock\nasync def test_a():\n    await asyncio.sleep(9)', []),
        ('def test_a():\n    async def b():\n        await asyncio.sleep(1)', []),
        ('def test_a():\n    run(lambda: time.sleep(1))', []),
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


def test_objects_in_memory_are_selected_by_their_type() -> None:
    """`isinstance` follows weak proxies, and fails if another test has left a dead one.

    Write ``issubclass(type(item), Kind)``.
    """
    found = [
        f'{path.relative_to(TESTS)}:{node.lineno}'
        for path in sorted(TESTS.rglob('*.py'))
        if 'node_modules' not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.GeneratorExp | ast.ListComp)
        and 'gc.get_objects()' in ast.unparse(node.generators[0].iter)
        and 'isinstance(' in ast.unparse(node)
    ]
    assert [] == found
