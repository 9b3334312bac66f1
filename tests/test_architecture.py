"""The rules of ARCHITECTURE.md that a program can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / 'src' / 'falcon_channels'

#: Layers from the bottom to the top. A module may import from its own package and from
#: the layers before its own, also under `TYPE_CHECKING`. Packages of one layer do not
#: import each other.
LAYERS: list[set[str]] = [
    {'errors'},
    {'publication', 'metrics', 'origin', 'tokens', 'options', 'timer_wheel'},
    {'routing'},
    {'protocol', 'brokers'},
    {'transports'},
    {'websocket'},
    {'server', 'wsgi'},
    {'hub'},
    {'cluster'},
    {'access'},
    {'node'},
    {'plain', 'endpoint', 'monitoring', 'local_subscription'},
    {'server_api'},
    {'mounts'},
    {'channels'},
    {'portal', 'testing', 'commands'},
    {'cli'},
    {'__main__', '__init__'},
]

# Layers that compute and do nothing else: no loop, socket, clock or dice.
PURE = {'protocol', 'errors', 'publication', 'options', 'metrics'}
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


#: What is still to be cut.
KNOWN_UPWARD_IMPORTS = {
    ('access/server_side.py', 'channels'),
    ('endpoint/endpoint.py', 'channels'),
    ('endpoint/http.py', 'channels'),
    ('hub/hub.py', 'cluster.messages'),
    ('local_subscription.py', 'channels'),
    ('monitoring/prometheus.py', 'channels'),
    ('mounts.py', 'channels'),
    ('plain/websocket.py', 'channels'),
    ('server_api/methods.py', 'channels'),
    ('server_api/resource.py', 'channels'),
}


def upward_imports() -> set[tuple[str, str]]:
    """Return (module, imported name) of each import that goes to a layer above."""
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = set()
    for path in modules(SOURCE):
        here = layer(path)
        assert here in level, f'{path} is in no layer: add it to LAYERS'
        for name, _ in imports(path):
            parts = name.split('.')
            if parts[0] != 'falcon_channels' or len(parts) < 2 or parts[1] == here:
                continue
            assert parts[1] in level or here == '__init__', name
            if level[parts[1]] >= level[here]:
                wrong.add((str(path.relative_to(SOURCE)), '.'.join(parts[1:-1])))
    return wrong


def test_layers_import_only_what_lies_below() -> None:
    """A module imports its own package and the layers below it."""
    assert KNOWN_UPWARD_IMPORTS == upward_imports()


#: Packages whose modules have no circular imports yet.
WITHOUT_CIRCLES = {
    'brokers',
    'protocol',
    'server',
    'timer_wheel',
    'transports',
    'websocket',
    'wsgi',
}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def import_graph() -> dict[str, set[str]]:
    """Return the modules that each module imports, also under `TYPE_CHECKING`."""
    names = {module_name(path): path for path in modules(SOURCE)}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        targets = graph[name] = set()
        for imported, _ in imports(path):
            # The last part may be a name in a module, or a module in a package.
            parent = imported.rpartition('.')[0]
            targets.update({imported if imported in names else parent} & {*names})
        targets.discard(name)
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components of more than one module."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        found: set[str] = set()
        pending = [start]
        while pending:
            new = graph[pending.pop()] - found
            found |= new
            pending += new
        reached[start] = found
    components: list[set[str]] = []
    for name, found in reached.items():
        component = {other for other in found if name in reached[other]}
        if len(component) > 1 and component not in components:
            components.append(component)
    return components


def test_modules_import_without_circles() -> None:
    """No two modules import each other, directly or by way of others."""
    wrong = [
        sorted(component)
        for component in circles(import_graph())
        if any(
            name.split('.')[1] in WITHOUT_CIRCLES for name in component if '.' in name
        )
    ]
    assert [] == wrong


def test_circles_are_found() -> None:
    """The search finds each circle once, and no module that only leads to one."""
    graph = {
        'a': {'b'},
        'b': {'c'},
        'c': {'b', 'd'},
        'd': set(),
        'e': {'f'},
        'f': {'e'},
    }
    assert [{'b', 'c'}, {'e', 'f'}] == circles(graph)


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
