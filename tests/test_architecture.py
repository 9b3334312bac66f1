"""The rules of the structure that a program can check; see ARCHITECTURE.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / 'src' / 'falcon_channels'

#: Layers from the bottom to the top. A module may import from its own package and from
#: the layers before its own, also under `TYPE_CHECKING`. Packages of one layer do not
#: import each other.
LAYERS: list[set[str]] = [
    {'errors'},
    {'checks', 'json_decoding', 'operations'},
    {'events'},
    {
        'app_routes',
        'burst_log',
        'class_hooks',
        'converters',
        'filters',
        'metrics',
        'names',
        'options',
        'origin',
        'parts',
        'publication',
        'timer_wheel',
    },
    {'chunk_rate', 'logs', 'measurements', 'tokens'},
    {'routing'},
    {'protocol', 'brokers'},
    {'append_queue', 'transports'},
    {'websocket'},
    {'server', 'wsgi'},
    {'hub'},
    {'cluster'},
    {'explain'},
    {'access'},
    {'node'},
    {
        'plain',
        'endpoint',
        'server_api',
        'monitoring',
        'streams',
        'local_subscription',
    },
    {'inspector'},
    {'channels'},
    {'portal', 'testing', 'commands'},
    {'cli'},
    {'__main__', '__init__'},
]

#: Layers that only compute: no event loop, socket, clock or random numbers.
PURE = {
    'protocol',
    'errors',
    'json_decoding',
    'publication',
    'filters',
    'options',
    'metrics',
    'names',
}
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


def test_modules_import_only_lower_layers() -> None:
    """A module imports its own package and the layers below it, and nothing else."""
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for path in modules(SOURCE):
        here = layer(path)
        assert here in level, f'{path} is in no layer: add it to LAYERS'
        for name, line in imports(path):
            parts = name.split('.')
            if parts[0] != 'falcon_channels' or len(parts) < 2 or parts[1] == here:
                continue
            if level.get(parts[1], len(LAYERS)) >= level[here]:
                wrong.append(f'{path.relative_to(ROOT)}:{line} imports {name}')
    assert [] == wrong


def import_graph() -> dict[str, set[str]]:
    """Return the modules that each module imports, also under `TYPE_CHECKING`."""
    names = {
        '.'.join(path.relative_to(SOURCE.parent).with_suffix('').parts).removesuffix(
            '.__init__'
        ): path
        for path in modules(SOURCE)
    }
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        graph[name] = set()
        for imported, _ in imports(path):
            # NOTE: `from package import name` imports a module or a name of a module.
            while imported and imported not in names:
                imported = imported.rpartition('.')[0]
            if imported and imported != name:
                graph[name].add(imported)
    return graph


def test_modules_import_without_circles() -> None:
    """No module imports itself by way of others."""
    graph = import_graph()
    done: set[str] = set()
    circles = []

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            circles.append(' -> '.join([*way[way.index(name) :], name]))
        elif name not in done:
            for imported in sorted(graph[name]):
                visit(imported, [*way, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    assert [] == circles


def test_architecture_page_names_all_layers() -> None:
    """The page of the architecture has each package and module of `LAYERS`."""
    page = (ROOT / 'ARCHITECTURE.md').read_text()
    named = set(re.findall(r'`(\w+)/?`', page))
    assert (
        set()
        == {name for layer in LAYERS for name in layer if not name.startswith('__')}
        - named
    )


def test_pure_layers_import_nothing_impure() -> None:
    """The pure layers import no event loop, socket, clock or random numbers."""
    wrong = []
    for path in modules(SOURCE):
        if layer(path) not in PURE:
            continue
        for name, line in imports(path):
            if name.split('.')[0] in IMPURE_MODULES:
                wrong.append(f'{path.relative_to(ROOT)}:{line} imports {name}')
    assert [] == wrong


def test_init_modules_only_import() -> None:
    """An `__init__` module imports names, and has no logic."""
    allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign)
    wrong = []
    for path in modules(SOURCE):
        if path.name != '__init__.py':
            continue
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, allowed):
                wrong.append(f'{path.relative_to(ROOT)}:{node.lineno}')
    assert [] == wrong


@pytest.mark.parametrize('package', ['hub', 'explain'])
def test_package_has_no_import_circle(package: str) -> None:
    """No module of the package imports itself through others, also for types only."""
    prefix = f'falcon_channels.{package}.'
    graph = {
        path.stem: {
            name.removeprefix(prefix).split('.')[0]
            for name, _ in imports(path)
            if name.startswith(prefix)
        }
        for path in modules(SOURCE / package)
    }
    # NOTE: raises CycleError, which names the modules of a circle.
    assert set(graph) == set(TopologicalSorter(graph).static_order())


#: Classes whose attributes only their own module may assign.
OWNED_CLASSES = {
    'Connection': 'hub/connection.py',
    'Subscription': 'hub/connection.py',
    'LocalChannel': 'hub/local_channel.py',
    'ClientConnection': 'endpoint/client_connection.py',
    'Record': 'explain/record_queue.py',
    'ConnectionRecord': 'explain/connection_records.py',
    'SubscriptionRecord': 'explain/subscription_record.py',
    'ChannelRecord': 'explain/channel_records.py',
    'BatchTimes': 'explain/batch_times.py',
}

#: Assignments to attributes of the same names on objects of other classes.
OTHER_OBJECTS = {
    ('brokers/memory.py', 'log.end'),
    ('brokers/memory.py', 'log.version'),
    ('brokers/sqlite/transaction.py', 'channel.end'),
    ('brokers/sqlite/transaction.py', 'channel.version'),
    ('endpoint/http.py', 'resp.data'),
    ('endpoint/unidirectional.py', 'sub.offset'),
    ('inspector/page.py', 'resp.data'),
    ('inspector/resource.py', 'resp.data'),
    ('monitoring/prometheus.py', 'resp.data'),
    ('plain/events.py', 'resp.data'),
    ('plain/poll.py', 'resp.data'),
    ('server/http_requests.py', 'cycle.transport'),
    ('server/http_requests.py', 'self.cycle.transport'),
    ('server_api/resource.py', 'resp.data'),
    ('wsgi/sockets/gevent_websocket.py', 'websocket.closed'),
}


def owned_attributes() -> dict[str, set[str]]:
    """Return the modules that may assign each attribute of `OWNED_CLASSES`."""
    owners: dict[str, set[str]] = {'user': {'hub/connection.py'}}
    for name, module in OWNED_CLASSES.items():
        (owned,) = [
            node
            for node in ast.parse((SOURCE / module).read_text()).body
            if isinstance(node, ast.ClassDef) and node.name == name
        ]
        for node in owned.body:
            if isinstance(node, ast.Assign) and '__slots__' == ast.unparse(
                node.targets[0]
            ):
                for attribute in ast.literal_eval(node.value):
                    owners.setdefault(attribute, set()).add(module)
    return owners


def assigned_attributes(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each attribute assigned on another object."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            if ast.unparse(node.value) != 'self':
                yield node.attr, ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == 'setattr':
            target, name = node.args[:2]
            if ast.unparse(target) != 'self' and isinstance(name, ast.Constant):
                yield name.value, ast.unparse(node)


def test_attributes_are_assigned_by_their_owner_only() -> None:
    """No module assigns an attribute of a connection, subscription or channel.

    A class may assign its own attributes, and those that it inherits, by `self`. Other
    modules call methods. The attributes are the names in `__slots__`.
    """
    owners = owned_attributes()
    wrong = set()
    for path in modules(SOURCE):
        module = str(path.relative_to(SOURCE))
        for name, text in assigned_attributes(path):
            if module not in owners.get(name, {module}):
                wrong.add((module, text))
    assert OTHER_OBJECTS == wrong


#: Values that hold other values. A chain through them reads data, and no object.
VALUES = ('route.options.', 'state.name.')


def attribute_chains(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each longest chain of attributes of a name."""
    inner: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Attribute):
            # NOTE: `ast.walk` yields a node before the nodes in it.
            inner.add(node.value)
            text = ast.unparse(node)
            if node not in inner and re.fullmatch(r'[\w.]+', text):
                yield node.lineno, text.removeprefix('self.')


def test_objects_are_not_reached_through_objects_of_objects() -> None:
    """Code uses its own objects, and their objects. It is given any others."""
    wrong = [
        f'{path.relative_to(ROOT)}:{line} {text}'
        for path in modules(SOURCE)
        for line, text in attribute_chains(path)
        if text.count('.') >= 3
        and not any(value in f'{text}.' for value in VALUES)
        and not text.startswith('falcon.')
    ]
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
def test_no_module_has_a_meaningless_name(name: str) -> None:
    """No module or folder has a name that says nothing about its content."""
    assert [] == [
        str(path.relative_to(ROOT)) for path in SOURCE.rglob('*') if path.stem == name
    ]
