"""Test the parts of the site: reference pages, tables, diagrams and links."""

from __future__ import annotations

from collections.abc import Sized
import dataclasses
import importlib
import inspect
import os
from pathlib import Path
import re
import subprocess
import sys

import msgspec
import pytest
from support.processes import python_path
from support.processes import ROOT
from test_architecture import LAYERS
from test_public_interface import PUBLIC

from falcon_channels import errors
from falcon_channels.metrics import COUNTERS
from falcon_channels.metrics import GAUGES
from falcon_channels.metrics import HISTOGRAMS
from falcon_channels.metrics import LABELLED_COUNTERS
from falcon_channels.protocol import codes
from falcon_channels.transports import asgi_extensions
from scripts.site import check_links
from scripts.site import diagrams
from scripts.site import pages
from scripts.site import tables

DOCS = ROOT / 'docs'
REFERENCE = sorted((DOCS / 'reference').glob('*.md'))
#: Path and shown members of each object on the reference pages.
DOCUMENTED = {
    path: members
    for page in REFERENCE
    for _, path, members in pages.documented(page.read_text())
}
OPTIONS = re.findall(
    r'^```\{generated\} options (\S+)$',
    (DOCS / 'reference/options.md').read_text(),
    re.M,
)
#: A link to a file, as Markdown writes it.
LINK = re.compile(r'\]\((?!\w+:|/)([^)#\s]*)(?:#([^)\s]*))?\)')


def public_objects() -> list[object]:
    """Return each public class, function and value once."""
    found = {
        id(value): value
        for module_name, names in PUBLIC.items()
        for value in [
            getattr(importlib.import_module(module_name), name) for name in names
        ]
    }
    return list(found.values())


def test_every_public_name_is_on_a_reference_page() -> None:
    """A public name without an entry in the reference is missing for readers."""
    shown = [id(tables.load(path)) for path in DOCUMENTED]
    assert [] == [value for value in public_objects() if id(value) not in shown]


@pytest.mark.parametrize('path', REFERENCE, ids=lambda path: path.stem)
def test_reference_page_names_the_source_of_its_entries(path: Path) -> None:
    """A reader of the repository sees no entries, and finds them in the source."""
    text = path.read_text()
    if '```{eval-rst}' in text or '```{generated}' in text:
        introduction = ' '.join(text.split('```{')[0].split())
        assert 'In the repository, read [' in introduction
        assert '](../../src/falcon_channels/' in introduction


def test_default_without_a_fraction_is_shown_as_in_the_guides() -> None:
    """An option of 10.0 seconds is 10 in the tables, as on all other pages."""
    assert ['10', '0.5', '10', 'True', 'None', "'close'"] == [
        tables.shown(value) for value in (10.0, 0.5, 10, True, None, 'close')
    ]


def test_reference_pages_have_public_names_only_and_each_once() -> None:
    """The reference promises that a name stays, so it has only the listed names."""
    paths = [
        path for page in REFERENCE for _, path, _ in pages.documented(page.read_text())
    ]
    assert len(paths) == len(set(paths))
    public = {f'{module}.{name}' for module, names in PUBLIC.items() for name in names}
    assert set() == set(paths) - public


def test_every_shown_member_exists_and_has_a_docstring() -> None:
    """Sphinx leaves out a member without a docstring, and readers would miss it."""
    missing = []
    for path, members in DOCUMENTED.items():
        target = tables.load(path)
        if members is None:
            members = [
                name
                for name, value in vars(target).items()
                if not name.startswith('_')
                and (inspect.isroutine(value) or isinstance(value, property))
            ]
        for name in members:
            if not inspect.getdoc(inspect.getattr_static(target, name, None)):
                missing.append(f'{path}.{name}')
    assert [] == missing


def test_classes_without_shown_arguments_are_documented() -> None:
    """A renamed class or attribute must be renamed in the list, too."""
    assert set() == set(pages.CREATED_BY_LIBRARY) - set(DOCUMENTED)
    for path, hidden in pages.CREATED_BY_LIBRARY.items():
        kind = tables.load(path)
        assert set() == hidden - set(tables.attributes(kind))
        shown = pages.for_apps(path, pages.docstring(kind))
        assert [] == [name for name in hidden if f'    {name}: ' in shown]


def test_every_public_class_and_function_has_a_docstring() -> None:
    """The reference shows the docstring of each public name."""
    assert [] == [
        value
        for value in public_objects()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not value.__doc__
    ]


@pytest.mark.parametrize('path', OPTIONS)
def test_every_option_has_default_unit_and_meaning(path: str) -> None:
    """Each option has one row, with the default that the code has."""
    kind = tables.load(path)
    if issubclass(kind, msgspec.Struct):
        fields = {field.name: field.default for field in msgspec.structs.fields(kind)}
    else:
        fields = {field.name: field.default for field in dataclasses.fields(kind)}
    rows = {
        row[0]: row[1:]
        for row in re.findall(
            r'^\| `(\w+)` \| `(.*?)` \| (.*?) \| (.+) \|$', tables.options(path), re.M
        )
    }
    assert {name: tables.shown(value) for name, value in fields.items()} == {
        name: row[0] for name, row in rows.items()
    }
    numbers = [
        name
        for name, value in fields.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    assert [] == [name for name in numbers if not rows[name][1]]
    assert [] == [name for name, row in rows.items() if len(row[2]) < 20]


def test_page_of_options_has_all_option_classes() -> None:
    """Each public class of options has a table."""
    public = {
        f'falcon_channels.{name}'
        for name in PUBLIC['falcon_channels']
        if name.endswith('Options')
    }
    assert public == {path for path in OPTIONS if path in public} != set()


def test_generated_tables_have_all_errors_codes_metrics_and_commands() -> None:
    """The tables have a row for each thing that the code has."""
    listed = re.findall(r'^\| `(\w+)`', tables.error_tree(), re.M)
    assert set(PUBLIC['falcon_channels.errors']) == set(listed)
    assert len(listed) == len(tables.error_classes())
    assert errors.ChannelsError is tables.error_classes()[0]
    for table, rows in (
        (tables.reply_errors(), codes.REPLY_ERRORS),
        (tables.unsubscribe_codes(), codes.UNSUBSCRIBES),
        (tables.disconnect_codes(), codes.DISCONNECTS),
    ):
        assert [*rows] == [int(n) for n in re.findall(r'^\| (\d+) \|', table, re.M)]
    kinds: list[Sized] = [COUNTERS, GAUGES, LABELLED_COUNTERS, HISTOGRAMS]
    assert sum(map(len, kinds)) == len(
        re.findall(r'^\| `falcon_channels_', tables.metrics(), re.M)
    )
    assert {'serve', 'publish', 'tail', 'token'} < set(tables.command_names())
    text = tables.commands()
    assert [] == [
        name
        for name in tables.command_names()
        if f'\n```text\nusage: falcon-channels {name} ' not in text
    ]


def test_page_of_asgi_extensions_has_the_value_of_each_key() -> None:
    """The table has each key that an app or a server writes into the scope."""
    text = (DOCS / 'reference/asgi_extensions.md').read_text()
    keys = [
        getattr(asgi_extensions, name)
        for name in asgi_extensions.__all__
        if name.isupper()
    ]
    assert len(keys) >= 5
    assert [] == [key for key in keys if f'| `{key}` |' not in text]


@pytest.mark.parametrize('name', diagrams.DIAGRAMS)
def test_diagram_is_as_the_script_draws_it(name: str) -> None:
    """A changed diagram must be drawn again: ``make diagrams``."""
    assert diagrams.DIAGRAMS[name] == (diagrams.FOLDER / name).read_text()


def test_diagram_of_the_layers_has_the_order_of_the_checked_list() -> None:
    """The diagram and the test of imports have the same layers in the same order."""
    drawn = [set(re.findall(r'\w+', words)) for words in diagrams.LAYERS]
    checked = [names for names in LAYERS if '__main__' not in names]
    assert checked == drawn


def anchors(path: Path) -> set[str]:
    """Return the anchors of a Markdown file's headings, as GitHub makes them."""
    text = re.sub(r'^```.*?^```', '', path.read_text(), flags=re.M | re.DOTALL)
    return {
        re.sub(r'[^\w\- ]', '', title.replace('`', '').lower())
        .strip()
        .replace(' ', '-')
        for title in re.findall(r'^#+ (.+)$', text, re.M)
    }


def markdown_files() -> list[Path]:
    return [*ROOT.glob('*.md'), *DOCS.rglob('*.md')]


@pytest.mark.parametrize(
    'path', markdown_files(), ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_of_a_page_lead_to_a_file_and_a_heading(path: Path) -> None:
    """Each relative link of the documentation works in the repository, too."""
    text = re.sub(r'^```.*?^```', '', path.read_text(), flags=re.M | re.DOTALL)
    broken = []
    for link, anchor in LINK.findall(text):
        target = path.parent / link if link else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f'{link}#{anchor}')
    assert [] == broken


@pytest.mark.parametrize(
    ('source', 'link', 'expected'),
    [
        ('docs/login.md', 'testing.md#x', '[a](testing.md#x)'),
        ('docs/login.md', '../CONTRIBUTING.md', '[a](contributing.md)'),
        ('docs/reference/codes.md', '../login.md', '[a](../login.md)'),
        ('docs/reference/codes.md', '../../CHANGELOG.md', '[a](../changelog.md)'),
        ('docs/login.md', '../Makefile', '[a](https://host/us/blob/main/Makefile)'),
        ('docs/login.md', '../examples', '[a](https://host/us/tree/main/examples)'),
        ('docs/login.md', 'https://example.com/', '[a](https://example.com/)'),
        ('docs/login.md', '../none.md', '[a](../none.md)'),
    ],
)
def test_link_to_a_file_that_is_no_page_leads_to_the_repository(
    source: str, link: str, expected: str
) -> None:
    """The site has only pages, so links to other files leave it; others stay."""
    assert expected == pages.relink(f'[a]({link})', ROOT / source, 'https://host/us')


def test_link_to_the_repository_is_text_if_the_address_is_not_known() -> None:
    """A link that leads nowhere is worse than none."""
    assert 'a' == pages.relink('[a](../Makefile)', DOCS / 'login.md', '')


def write(folder: Path, **files: str) -> Path:
    (folder / 'llms.txt').write_text('')
    for name, text in files.items():
        (folder / f'{name}.html').write_text(text)
    return folder


def test_link_check_accepts_pages_anchors_and_other_sites(tmp_path: Path) -> None:
    """Links to existing pages and anchors, and links to other sites, are correct."""
    site = write(
        tmp_path,
        one='<p id="a"></p><a href="two.html#b">two</a><a href="#a">here</a>',
        two='<p id="b"></p><a href="https://example.com/">elsewhere</a>',
    )
    assert [] == list(check_links.broken_links(site))


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('<a href="three.html">x</a>', 'is no file of the site'),
        ('<a href="#none">x</a>', 'has no such anchor'),
        ('<img src="missing.png">', 'is no file of the site'),
        ('<script src="https://cdn.example.com/x.js"></script>', 'from another site'),
        ('<link rel="stylesheet" href="//cdn.example.com/x.css">', 'from another site'),
    ],
)
def test_link_check_reports_broken_and_foreign_links(
    tmp_path: Path, text: str, problem: str
) -> None:
    """A link that leads nowhere, or that loads from another site, is reported."""
    (found,) = check_links.broken_links(write(tmp_path, one=text))
    assert problem in found
    assert 1 == check_links.main([str(tmp_path)])


def test_page_for_programs_has_tables_and_docstrings() -> None:
    """The Markdown of `llms-full.txt` has what the site makes from the code."""
    text = pages.plain(DOCS / 'reference/options.md')
    assert '| `history_ttl_s` | `86400` | seconds |' in text
    text = pages.plain(DOCS / 'reference/channels.md')
    assert '#### `async publish(' in text
    assert 'idempotency_key' in text
    assert '{eval-rst}' not in text
    text = pages.plain(DOCS / 'reference/connections.md')
    assert '### `falcon_channels.RpcCall`\n' in text
    assert 'Args:' not in text.partition('ClientConnection`')[2].partition('####')[0]
    assert '# Changelog' in pages.plain(DOCS / 'changelog.md')
    assert 'This page shows how to log in.' == pages.summary(
        '# Login\n\nThis page shows how to [log\nin](login.md). More.\n'
    )


def test_link_check_reports_a_missing_page_of_llms_txt(tmp_path: Path) -> None:
    """Programs follow the links of `llms.txt`, so they must exist, too."""
    write(tmp_path, one='')
    (tmp_path / 'llms.txt').write_text('- [Start](start.md): Install it.\n')
    (found,) = check_links.broken_links(tmp_path)
    assert 'llms.txt: start.md is no file of the site' == found


CONF = """
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'scripts.site.extension']
default_role = 'name'
nitpicky = True
llms_sections = ['guide', 'notes']
llms_optional = ['notes']
search_words = {'guide': 'resume'}
"""
PAGES = {
    'index.md': '# Library\n\nAn index.\n\n```{toctree}\nguide\nnotes\n```\n',
    'guide.md': """# Guide

This page shows the codes.

```{generated} unsubscribe_codes
```

```{eval-rst}
.. autoexception:: falcon_channels.UnsubscribedError
```
""",
    'notes.md': '# Notes\n\nThis page has notes.\n',
}


def build(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Build a small site with the extension, as ``make docs`` does."""
    source = folder / 'source'
    source.mkdir(exist_ok=True)
    for name, text in {'conf.py': CONF, **PAGES}.items():
        (source / name).write_text(text)
    for name, text in more.items():
        (source / f'{name}.md').write_text(text)
    options = ['-W', '--keep-going', '-n', '-q', '-b', 'html']
    return subprocess.run(
        [sys.executable, '-m', 'sphinx', *options, str(source), str(folder / 'site')],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': python_path(str(ROOT))},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.timeout(120)
def test_built_site_has_anchors_search_entries_and_files_for_programs(
    tmp_path: Path,
) -> None:
    """Each row of a generated table can be linked and found; programs get Markdown."""
    done = build(tmp_path)
    assert (0, '', '') == (done.returncode, done.stdout, done.stderr)
    site = tmp_path / 'site'
    page = (site / 'guide.html').read_text()
    assert 'id="unsubscribe-codes-2500"' in page
    search = (site / 'searchindex.js').read_text()
    assert '"2500"' in search
    assert '"resum"' in search or 'resum:' in search
    index = (site / 'llms.txt').read_text()
    assert '## Guide\n\n- [Guide](guide.md): This page shows the codes.\n' in index
    assert '## Optional\n\n- [Notes](notes.md)' in index
    full = (site / 'llms-full.txt').read_text()
    assert '| 2500 | insufficient state | yes |' in full
    assert 'The hub ended a server-side subscription.' in full
    assert '# Notes' not in full


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('# Lost\n\nNo section lists this page.\n', "isn't included in any toctree"),
        ('---\norphan: true\n---\n\n# A\n\n[x](none.md)\n', 'not found'),
        ('---\norphan: true\n---\n\n# A\n\n[x](guide.md#none)\n', 'not found'),
        (
            '---\norphan: true\n---\n\n# A\n\n{py:class}`falcon_channels.None_`\n',
            'reference target not found',
        ),
    ],
    ids=['no section', 'no page', 'no heading', 'no name'],
)
def test_build_fails_at_a_lost_page_and_at_a_wrong_link(
    tmp_path: Path, text: str, problem: str
) -> None:
    """A page that readers cannot reach, and a link to nothing, make the build fail."""
    done = build(tmp_path, lost=text)
    assert 0 != done.returncode
    assert problem in done.stderr
