"""Builds test programs in Go and Java, or tells what is missing for them."""

from __future__ import annotations

from collections.abc import Sequence
import fcntl
from pathlib import Path
import re
import shutil
import subprocess

from support.processes import ROOT

#: Git ignores this folder.
BUILD = ROOT / 'build' / 'conformance'

GO_MINIMUM = (1, 25)
JAVA_MINIMUM = 11
_BUILD_TIMEOUT_S = 300


def missing_for_go() -> str | None:
    """Return what to install for programs in Go, or None."""
    wanted = 'Go {}.{} or newer'.format(*GO_MINIMUM)
    if shutil.which('go') is None:
        return f'no command go: install {wanted}'
    # NOTE: outside the module, because an older Go would download a newer one there.
    version = _output('go', 'env', 'GOVERSION')
    found = re.match(r'go(\d+)\.(\d+)', version)
    if found is None or (int(found[1]), int(found[2])) < GO_MINIMUM:
        return f'the command go has the version {version}: install {wanted}'
    return None


def missing_for_java() -> str | None:
    """Return what to install for programs in Java, or None."""
    wanted = (
        f'a JDK {JAVA_MINIMUM} or newer, and Maven '
        '(Debian: apt-get install default-jdk-headless maven)'
    )
    for command in ('java', 'javac', 'mvn'):
        if shutil.which(command) is None:
            return f'no command {command}: install {wanted}'
    version = _output('javac', '-version')
    found = re.search(r'(\d+)', version)
    if found is None or int(found[1]) < JAVA_MINIMUM:
        return f'the command javac has the version {version}: install {wanted}'
    return None


def _output(*command: str) -> str:
    """Return what a command prints."""
    done = subprocess.run(
        command, cwd='/', capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def build(name: str, folder: Path, command: Sequence[str]) -> None:
    """Run a build in a folder, unless its result is newer than all its files.

    NOTE: The lock is for the workers of pytest, which build at the same time.

    Args:
        name: Name of the build; two builds have different names.
        folder: Folder with the source.
        command: Command that builds into `BUILD`.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    done = BUILD / f'{name}.done'
    with (BUILD / f'{name}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        source = max(path.stat().st_mtime for path in folder.rglob('*'))
        if done.exists() and done.stat().st_mtime > source:
            return
        built = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
        assert 0 == built.returncode, f'{" ".join(command)}:\n{built.stdout}'
        done.touch()
