"""The rules of ARCHITECTURE.md that a program can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / 'src' / 'falcon_channels'
MAX_LINES = 600

# Which layer may import which: the keys are modules or packages of falcon_channels,
# a package speaks for all that is in it. A module that is not named here fails.
_VALUES = {'publication', 'errors', 'options', 'metrics', 'control'}
_CORE = {*_VALUES, 'protocol', 'brokers', 'transports', 'subscription', 'connection'}

ALLOWED: dict[str, set[str]] = {
    # Values.
    'publication': set(),
    'errors': set(),
    'options': {'errors'},
    'metrics': set(),
    'control': {'publication'},
    # The layers below the hub.
    'protocol': {'publication', 'errors'},
    'brokers': {'publication', 'errors', 'options'},
    'transports': {'protocol', 'publication', 'errors', 'options'},
    # The hub. A connection and its subscriptions know each other.
    'routing': {'errors', 'options'},
    'subscription': {'publication', 'connection', 'routing', 'transports'},
    'connection': {'publication', 'subscription', 'hub', 'transports'},
    'feed': _CORE,
    'fanout': {*_CORE, 'feed'},
    'repair': {*_CORE, 'feed', 'fanout'},
    'feeds': {*_CORE, 'feed'},
    'reads': _CORE,
    'hub': {*_CORE, 'feed', 'feeds', 'fanout', 'repair', 'reads'},
    'presence': {*_CORE, 'hub'},
    # What clients may do, the ways in, and the facade.
    'access': {*_CORE, 'routing'},
    'admission': {*_CORE, 'access', 'hub', 'presence', 'origin'},
    'raw': {*_CORE, 'routing', 'access', 'hub', 'channels'},
    'local': {*_CORE, 'routing', 'hub', 'channels'},
    'nodes': {*_CORE, 'hub'},
    'users': {*_CORE, 'hub'},
    'server_side': {*_CORE, 'channels'},
    'census': {'hub', 'nodes'},
    'api_methods': {*_CORE, 'users', 'channels'},
    'api': {'errors', 'api_methods', 'channels'},
    'figures': {'metrics', 'channels'},
    'mounts': {'errors', 'api', 'figures', 'channels'},
    'channels': {
        *_CORE,
        'census',
        'mounts',
        'nodes',
        'users',
        'server_side',
        'routing',
        'access',
        'hub',
        'presence',
        'admission',
        'raw',
        'local',
        'origin',
        'endpoint',
        'doors',
        'http_doors',
        'tokens',
    },
    # For synchronous code.
    'portal': {*_CORE, 'raw', 'channels', 'wsgi'},
    # For tests: the contract of brokers.
    # The client protocol.
    'heartbeat': set(),
    'rates': set(),
    'session': {*_CORE, 'access', 'hub', 'endpoint'},
    'handlers': {*_CORE, 'access', 'hub', 'session'},
    'endpoint': {
        *_CORE,
        'handlers',
        'heartbeat',
        'rates',
        'routing',
        'session',
        'tokens',
        'channels',
        'http_doors',
    },
    'http_doors': {*_CORE, 'session', 'endpoint', 'channels'},
    'unidirectional': {*_CORE, 'session', 'endpoint', 'http_doors'},
    'doors': {'errors', 'endpoint', 'http_doors', 'unidirectional'},
    'testing': {*_CORE, 'access', 'channels', 'hub'},
    # Beside the hub.
    'server': {'errors', 'transports', 'options'},
    'wsgi': {'errors', 'origin'},
    'origin': {'errors'},
    'tokens': {'errors'},
    'commands': {'errors', 'tokens'},
    # NOTE: It imports the module of a subcommand by its name, when it is used.
    'cli': {'errors'},
    '__main__': {'cli'},
}

# Layers that compute and do nothing else: no loop, socket, clock or dice.
PURE = {'protocol', *_VALUES}
IMPURE_MODULES = {
    'asyncio',
    'concurrent',
    'http',
    'multiprocessing',
    'os',
    'random',
    'secrets',
    'select',
    'selectors',
    'socket',
    'ssl',
    'subprocess',
    'threading',
    'time',
    'uuid',
    'gevent',
    'eventlet',
    'uvicorn',
}


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob('*.py')) if folder.exists() else []


def layer(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix('.py')


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the absolute name and line of each import, at any depth."""
    package = list(path.relative_to(SOURCE.parent).with_suffix('').parts)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level]
                name = '.'.join([*base, *([node.module] if node.module else [])])
            else:
                name = node.module or ''
            for alias in node.names:
                yield f'{name}.{alias.name}', node.lineno


def test_layers_import_only_what_lies_below() -> None:
    """A module imports its own layer and those that the table allows."""
    wrong = []
    for path in modules(SOURCE):
        here = layer(path)
        if here == '__init__':
            continue
        assert here in ALLOWED, f'{path} is in no layer: add it to ALLOWED'
        for name, line in imports(path):
            parts = name.split('.')
            if parts[0] != 'falcon_channels' or len(parts) < 2:
                continue
            if parts[1] != here and parts[1] not in ALLOWED[here]:
                wrong.append(f'{path.relative_to(ROOT)}:{line} imports {name}')
    assert [] == wrong


def test_pure_layers_touch_nothing_outside() -> None:
    """The pure layers import no loop, socket, clock or source of chance."""
    wrong = []
    for path in modules(SOURCE):
        if layer(path) not in PURE:
            continue
        for name, line in imports(path):
            if name.split('.')[0] in IMPURE_MODULES:
                wrong.append(f'{path.relative_to(ROOT)}:{line} imports {name}')
    assert [] == wrong


@pytest.mark.parametrize('folder', ['src', 'tests', 'examples', 'benchmarks'])
def test_modules_stay_small(folder: str) -> None:
    """No module is longer than 600 lines."""
    long = [
        f'{path.relative_to(ROOT)} has {lines} lines'
        for path in modules(ROOT / folder)
        if '_pb2' not in path.name
        and (lines := len(path.read_text().splitlines())) > MAX_LINES
    ]
    assert [] == long


def test_packages_hold_no_logic_in_init() -> None:
    """An __init__ module re-exports and does nothing else."""
    allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign)
    wrong = []
    for path in modules(SOURCE):
        if path.name != '__init__.py':
            continue
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, allowed):
                wrong.append(f'{path.relative_to(ROOT)}:{node.lineno}')
    assert [] == wrong


@pytest.mark.parametrize('folder', ['examples', 'src/falcon_channels_chat'])
def test_users_of_the_library_import_public_names(folder: str) -> None:
    """Examples and the chat application use no private name of the library."""
    wrong = []
    for path in modules(ROOT / folder):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [f'{node.module}.{alias.name}' for alias in node.names]
            for name in names:
                parts = name.split('.')
                if parts[0] == 'falcon_channels' and any(
                    part.startswith('_') for part in parts
                ):
                    wrong.append(f'{path.relative_to(ROOT)}:{node.lineno} {name}')
    assert [] == wrong


@pytest.mark.parametrize('name', ['utils', 'helpers', 'common', 'misc'])
def test_no_module_is_a_drawer(name: str) -> None:
    """No module or folder has a name that says nothing."""
    assert [] == [
        str(path.relative_to(ROOT)) for path in SOURCE.rglob('*') if path.stem == name
    ]
