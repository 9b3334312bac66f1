"""The package as a user has it: built as a wheel, and installed in a folder."""

from __future__ import annotations

from dataclasses import dataclass
import os
from pathlib import Path
import subprocess
import sys

from support.processes import ROOT


@dataclass(frozen=True)
class InstalledWheel:
    """An installed wheel.

    Attributes:
        folder: Folder with the packages.
        command: Path of the command ``falcon-channels``.
    """

    folder: Path
    command: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment in which Python imports the installed packages first."""
        return {**os.environ, 'PYTHONPATH': str(self.folder)}


def install_wheel(folder: Path) -> InstalledWheel:
    """Build the wheel and install it in an empty folder, without its dependencies.

    NOTE: the dependencies are those of this environment. The folder comes before the
    source of the repository, so that a file that the wheel lacks is missing.
    """
    build = [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d']
    _run([*build, str(folder / 'dist')])
    (wheel,) = (folder / 'dist').glob('*.whl')
    target = folder / 'installed'
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index']
    _run([*pip, '--target', str(target), str(wheel)])
    return InstalledWheel(target, target / 'bin' / 'falcon-channels')


def _run(command: list[str]) -> None:
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert 0 == result.returncode, result.stdout + result.stderr
