"""Sphinx extension of the site: generated tables, names in docstrings, `llms.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.docutils import SphinxRole
from sphinx.util.nodes import make_refnode

from scripts.site import pages
from scripts.site.tables import generate


class Generated(SphinxDirective):
    """Inserts a table that is made from the code."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        name, *arguments = self.arguments[0].split()
        made = self.parse_text_to_nodes(
            generate(self.arguments[0]), allow_section_headings=True
        )
        prefix = arguments[0].rpartition('.')[2] if arguments else name
        return [self.indexed(node, prefix) for node in made]

    def indexed(self, made: nodes.Node, prefix: str) -> nodes.Node:
        """Give each row of a table an anchor, and an entry in the search.

        NOTE: the search ignores words that are numbers, such as 3008. It finds them as
        entries of the index.
        """
        for body in made.findall(nodes.tbody):
            for row in body.findall(nodes.row):
                word = row[0].astext()
                anchor = nodes.make_id(f'{prefix}-{word}')
                entry = ('single', word, anchor, 'main', None)
                row['ids'].append(anchor)
                row[0].insert(0, addnodes.index(entries=[entry]))
        return made


class NameRole(SphinxRole):
    """A name in single backticks in a docstring: code, and a link if it has a page."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        target = self.text.removesuffix('()')
        node = addnodes.pending_xref(
            '',
            nodes.literal(self.rawtext, self.text, classes=['xref', 'py']),
            refdomain='py',
            reftype='obj',
            reftarget=target,
            refdoc=self.env.docname,
            in_docstring=True,
        )
        node['py:module'] = self.env.ref_context.get('py:module')
        node['py:class'] = self.env.ref_context.get('py:class')
        return [node], []


def resolve_name(
    app: Sphinx, env: BuildEnvironment, node: Any, contnode: nodes.Node
) -> nodes.Node | None:
    """Link a name that Sphinx does not find, or show it as text if it has no page.

    A name of an explicit role in a page must have a page. Annotations and docstrings
    also have names of Python, of Falcon and of the inside of this package.
    """
    if node.get('refdomain') != 'py':
        return None
    target = node['reftarget']
    objects = env.domains.python_domain.objects
    found = {
        objects[name].node_id: (name, objects[name])
        for name in objects
        if name.endswith(f'.{target}') or name == target
    }
    if len(found) == 1:
        ((name, entry),) = found.values()
        return make_refnode(
            app.builder, node['refdoc'], entry.docname, entry.node_id, contnode, name
        )
    in_signature = 'refwarn' not in node
    foreign = not target.startswith('falcon_channels') and '.' in target
    if node.get('in_docstring') or in_signature or foreign:
        return contnode
    return None


def hide_arguments(
    app: Sphinx, kind: str, name: str, target: object, options: Any, lines: list[str]
) -> None:
    """Remove what only the library uses from the docstring of a class."""
    if name in pages.CREATED_BY_LIBRARY:
        lines[:] = pages.for_apps(name, '\n'.join(lines) + '\n').split('\n')


def hide_signature(
    app: Sphinx, kind: str, name: str, *rest: object
) -> tuple[str, None] | None:
    """Show no arguments of a class that apps do not create."""
    return ('', None) if name in pages.CREATED_BY_LIBRARY else None


def change_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change the links to files that are no pages, and drop patterns of no page."""
    path = Path(app.env.doc2path(docname))
    text = pages.without_empty_patterns(source[0])
    source[0] = pages.relink(text, path, pages.repository())


def change_included(app: Sphinx, path: Path, docname: str, source: list[str]) -> None:
    """Change the links of an included page."""
    source[0] = pages.relink(
        source[0], Path(app.srcdir, path).resolve(), pages.repository()
    )


def add_keywords(app: Sphinx, doctree: nodes.document) -> None:
    """Add the words of ``search_words`` to a page, for the search."""
    words = app.config.search_words.get(app.env.docname)
    if words:
        doctree.append(nodes.meta('', name='keywords', content=words))


def ordered(env: BuildEnvironment, docname: str) -> Iterator[str]:
    """Yield a page and the pages below it, in the order of the table of contents."""
    yield docname
    for child in env.toctree_includes.get(docname, ()):
        yield from ordered(env, child)


def write_llms(app: Sphinx, exception: Exception | None) -> None:
    """Write `llms.txt`, `llms-full.txt`, and each page as Markdown."""
    if exception or app.builder.name != 'html':
        return
    config = app.config
    index = Path(app.env.doc2path(config.root_doc)).read_text()
    lines = [f'# {pages.title(index)}', '', f'> {pages.summary(index)}', '']
    lines += ['All pages in one file: [llms-full.txt](llms-full.txt)', '']
    full: list[str] = []
    contents: list[str] = []
    for section in config.llms_sections:
        for number, docname in enumerate(ordered(app.env, section)):
            text = pages.plain(Path(app.env.doc2path(docname)))
            target = Path(app.outdir, f'{docname}.md')
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            if number == 0:
                heading = (
                    'Optional' if section in config.llms_optional else pages.title(text)
                )
                lines += ['', f'## {heading}', '']
            lines.append(
                f'- [{pages.title(text)}]({docname}.md): {pages.summary(text)}'
            )
            if section not in config.llms_optional:
                full.append(f'<!-- page: {docname} -->\n\n{text.strip()}\n')
                contents.append(f'- {docname}: {pages.summary(text)}')
    Path(app.outdir, 'llms.txt').write_text(
        re.sub(r'\n{3,}', '\n\n', '\n'.join(lines)) + '\n'
    )
    preface = [
        f'# {pages.title(index)}: all pages in one file',
        '',
        pages.summary(index),
        '',
        'Each page begins with `<!-- page: NAME -->`. A link such as `(NAME.md)` means',
        'that page. These are the pages:',
        '',
        *contents,
        '',
    ]
    Path(app.outdir, 'llms-full.txt').write_text('\n'.join([*preface, *full]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the parts of the extension."""
    for field in PyObject.doc_field_types:
        if field.name == 'variable':
            field.label = 'Attributes'
    app.add_config_value('llms_sections', [], '', list)
    app.add_config_value('llms_optional', [], '', list)
    app.add_config_value('search_words', {}, 'env', dict)
    app.add_directive('generated', Generated)
    app.add_role('name', NameRole())
    app.connect('missing-reference', resolve_name, priority=900)
    # Before napoleon, which changes the sections.
    app.connect('autodoc-process-docstring', hide_arguments, priority=100)
    app.connect('autodoc-process-signature', hide_signature)
    app.connect('doctree-read', add_keywords)
    app.connect('source-read', change_source)
    app.connect('include-read', change_included)
    app.connect('build-finished', write_llms)
    return {'version': '1', 'parallel_read_safe': True, 'parallel_write_safe': True}
