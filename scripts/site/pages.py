"""The text of the pages: changed for the site, and as plain Markdown for programs.

The pages are Markdown that GitHub shows, too. The site has copies of some pages of the
root folder, so links to those pages are changed.
"""

from __future__ import annotations

from collections.abc import Iterator
import inspect
from pathlib import Path
import re
import textwrap
import tomllib

from scripts.site.tables import generate
from scripts.site.tables import load

ROOT = Path(__file__).parents[2]
DOCS = ROOT / 'docs'

#: Pages of the root folder, and the pages of the site that include them.
COPIES = {
    'ARCHITECTURE.md': 'architecture.md',
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
}

#: Classes of which the library creates all objects, so that apps need not know the
#: arguments. The values are attributes that only the library uses.
CREATED_BY_LIBRARY: dict[str, set[str]] = {
    'falcon_channels.ClientConnection': set(),
    'falcon_channels.ClientMessage': set(),
    'falcon_channels.Connection': {
        'context',
        'granted_bytes',
        'num_commands',
        'out',
        'takes_subscriptions',
    },
    'falcon_channels.LocalSubscription': set(),
    'falcon_channels.PublicationDraft': set(),
    'falcon_channels.RpcCall': set(),
    'falcon_channels.Subscription': {
        'buffered',
        'end',
        'joined',
        'offset',
        'pending',
        'pending_bytes',
        'present',
        'route',
        'state',
    },
    'falcon_channels.server.http.BoundedHttpProtocol': set(),
    'falcon_channels.server.protocol.WebSocketProtocol': set(),
    'falcon_channels.wsgi.WebSocket': set(),
}

_ARGUMENTS = re.compile(r'^Args:\n(?:(?: .*)?\n)+', re.MULTILINE)
_GENERATED = re.compile(r'^```\{generated\} (.+)\n```$', re.MULTILINE)
_INCLUDE = re.compile(r'^```\{include\} (\S+)\n(?::.*\n)*```$', re.MULTILINE)
_TOCTREE = re.compile(r'^```\{toctree\}\n((?:.*\n)*?)```$', re.MULTILINE)
_REST = re.compile(r'^```\{eval-rst\}\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r'^:{3,}.*\n', re.MULTILINE)
_DIRECTIVE = re.compile(
    r'^\.\. (?:auto(?P<kind>class|function|exception|data)|py:class):: (?P<path>\S+)\n'
    r'(?P<options>(?:   :.*\n)*)',
    re.MULTILINE,
)
_LINK = re.compile(r'(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)')
_PATTERN = re.compile(r'^(\w+\*)\n', re.MULTILINE)
_MEMBERS = re.compile(r':members: *(.*)')


def repository() -> str:
    """Return the address of the repository, or ``''`` if the project names none."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    urls: dict[str, str] = project['urls']
    return urls.get('Source', urls.get('Repository', '')).rstrip('/')


def relink(text: str, source: Path, address: str) -> str:
    """Change the links to files that are not in the folder of the documentation.

    A link to a page of the root folder leads to the site's copy. A link to another file
    leads to the repository. It becomes text if the address is not known.

    Args:
        text: Text of the page.
        source: File that has the text.
        address: Address of the repository, or ``''``.
    """

    def changed(match: re.Match[str]) -> str:
        words, link, anchor = match[1], match[2], match[3] or ''
        target = (source.parent / link).resolve()
        if target.is_relative_to(DOCS) or not target.is_relative_to(ROOT):
            return match[0]
        name = str(target.relative_to(ROOT))
        if name in COPIES:
            depth = len(source.relative_to(ROOT).parts) - 2
            return f'[{words}]({"../" * depth}{COPIES[name]}{anchor})'
        if not target.exists():
            return match[0]
        kind = 'tree' if target.is_dir() else 'blob'
        return f'[{words}]({address}/{kind}/main/{name}{anchor})' if address else words

    return _LINK.sub(changed, text)


def without_empty_patterns(text: str) -> str:
    """Remove patterns such as ``migrate_*`` that match no page from a toctree.

    Sphinx warns about them, but a section may have no such page yet.
    """
    return _PATTERN.sub(
        lambda match: match[0] if any(DOCS.glob(f'{match[1]}.md')) else '', text
    )


def documented(text: str) -> Iterator[tuple[str, str, list[str] | None]]:
    """Yield kind, path and members of each documented object of a page.

    The members are ``None`` if the page shows all of them.
    """
    for block in _REST.findall(text):
        for match in _DIRECTIVE.finditer(block):
            found = _MEMBERS.search(match['options'])
            members: list[str] | None = []
            if found:
                members = re.split(r',\s*', found[1]) if found[1] else None
            yield match['kind'] or 'options', match['path'], members


def reference(block: re.Match[str]) -> str:
    """Return the objects of a reStructuredText block as Markdown."""
    return '\n'.join(
        described(path, members)
        for kind, path, members in documented(block[0])
        if kind != 'options'
    )


def described(path: str, members: list[str] | None) -> str:
    """Return signature and docstring of an object and of its members as Markdown."""
    target = load(path)
    if not callable(target):
        return f'### `{path}` = `{target!r}`\n'
    parts = [signature(path, target), docstring(target)]
    if path in CREATED_BY_LIBRARY:
        parts = [f'### `{path}`\n', for_apps(path, docstring(target))]
    if members is None and inspect.isclass(target):
        members = [name for name in vars(target) if not name.startswith('_')]
    for name in members or ():
        member = inspect.getattr_static(target, name)
        called = getattr(target, name)
        if isinstance(member, property) or not callable(called):
            if inspect.getdoc(member):
                parts += [f'#### `{name}`\n', docstring(member)]
        else:
            parts += [signature(name, called).replace('###', '####'), docstring(called)]
    return '\n'.join(part for part in parts if part)


def signature(path: str, target: object) -> str:
    """Return the heading of a callable, with its arguments."""
    try:
        found = inspect.signature(target)  # type: ignore[arg-type]
        arguments = str(
            found.replace(
                parameters=[
                    parameter.replace(annotation=_as_code(parameter.annotation))
                    for name, parameter in found.parameters.items()
                    if name != 'self'
                ],
                return_annotation=_as_code(found.return_annotation),
            )
        )
        arguments = arguments.removesuffix(' -> None')
    except (TypeError, ValueError):
        arguments = '(...)'
    word = 'async ' if inspect.iscoroutinefunction(target) else ''
    return f'### `{word}{path}{arguments}`\n'


class _Code(str):
    """Text that `inspect` writes as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _as_code(annotation: object) -> object:
    """Return an annotation that is text, or contains text, without quotes."""
    if annotation is inspect.Parameter.empty or annotation is None:
        return annotation
    text = getattr(annotation, '__forward_arg__', annotation)
    return _Code(text if isinstance(text, str) else inspect.formatannotation(text))


def for_apps(path: str, text: str) -> str:
    """Return a docstring without what only the library uses.

    Args:
        path: Path of a class in `CREATED_BY_LIBRARY`.
        text: The docstring.
    """
    text = _ARGUMENTS.sub('', text)
    for name in CREATED_BY_LIBRARY[path]:
        text = re.sub(rf'^    {name}: .*\n(?:     .*\n)*', '', text, flags=re.MULTILINE)
    return text


def docstring(target: object) -> str:
    """Return a docstring as a block of text."""
    text = inspect.getdoc(target) or ''
    return textwrap.dedent(text).replace('``', '`') + '\n' if text else ''


def plain(path: Path) -> str:
    """Return a page as plain Markdown: tables and references are written out."""
    text = path.read_text()
    included = _INCLUDE.search(text)
    if included:
        path = (path.parent / included[1]).resolve()
        text = path.read_text()
    text = _GENERATED.sub(lambda match: generate(match[1]), text)
    text = _REST.sub(reference, text)
    text = _TOCTREE.sub('', text)
    text = _FENCE.sub('', text)
    text = relink(text, path, repository())
    return text.replace('](docs/', '](') if included else text


def title(text: str) -> str:
    """Return the first heading of a page."""
    return re.search(r'^# (.+)$', text, re.MULTILINE)[1].replace('\\', '')  # type: ignore[index]


def summary(text: str) -> str:
    """Return the first sentence of a page, on one line, without links."""
    body = text.partition('\n# ')[2] if not text.startswith('# ') else text
    paragraph = re.split(r'\n\s*\n', body.strip())[1]
    line = re.sub(r'\[([^\]]+)\]\([^)]*\)', r'\1', ' '.join(paragraph.split()))
    return re.split(r'(?<=\.)\s', line)[0].rstrip(':')
