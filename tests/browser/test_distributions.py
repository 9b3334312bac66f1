"""The sdist and the wheel, as a user gets them: built, installed, and opened."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from support.chat_pages import Guests
from support.processes import ROOT
from support.processes import ServerProcess

CHAT = 'src/falcon_channels_chat'
INSPECTOR = 'src/falcon_channels/inspector'

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope='session'),
]


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run a command of Python; return its output, or fail with it."""
    finished = subprocess.run(
        [sys.executable, '-m', *command],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': '', **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert 0 == finished.returncode, finished.stdout
    return finished.stdout


def checkout(folder: Path) -> Path:
    """Copy the files of the repository, without files that a build made."""
    listed = subprocess.run(
        ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split('\0')):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


async def test_installed_wheel_serves_the_chat(guests: Guests, tmp_path: Path) -> None:
    """Sdist and wheel contain the pages, and only building the sdist needs Node.js.

    Before, the page was built by `make web` only. Both distributions of a fresh
    checkout had no page, and the installed chat answered 503.
    """
    dist = tmp_path / 'dist'
    source = checkout(tmp_path / 'checkout')
    assert not (source / CHAT / 'page').exists()
    run('build', '--sdist', '--outdir', dist, cwd=source)
    (sdist,) = dist.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter='data')
    unpacked = tmp_path / sdist.name.removesuffix('.tar.gz')
    for folder in (CHAT, INSPECTOR):
        assert (unpacked / folder / 'page/index.html').exists()
        assert (unpacked / folder / 'web/src/main.ts').exists()

    # An environment of its own would show nothing new here, and takes seconds.
    options = ('--no-isolation', '--wheel', '--outdir', str(dist))
    run('build', *options, cwd=unpacked, PATH='')
    (wheel,) = dist.glob('*.whl')
    names = set(zipfile.ZipFile(wheel).namelist())
    built = [unpacked / folder / 'page' for folder in (CHAT, INSPECTOR)]
    assert {
        path.relative_to(unpacked / 'src').as_posix()
        for folder in built
        for path in folder.rglob('*.*')
    } == {name for name in names if '/page/' in name}
    assert [] == [name for name in names if '/web/' in name]
    run('twine', 'check', '--strict', sdist, wheel, cwd=tmp_path)

    run('venv', '--without-pip', 'empty', cwd=tmp_path)
    python = tmp_path / 'empty/bin/python'
    pip = ('pip', '--python', str(python), 'install', '--quiet', '--constraint')
    run(*pip, ROOT / 'constraints.txt', f'{wheel}[chat]', cwd=tmp_path)
    home = tmp_path / 'home'
    home.mkdir()
    # Isolated, so that no module of the checkout is found.
    command = [str(python), '-I', str(python.with_name('falcon-channels'))]
    with ServerProcess([*command, 'chat', '--port', '{port}'], cwd=home) as server:
        ada = await guests.come(server.url, 'Ada')
        await ada.open('lobby')
        await ada.say('Hello')
        await ada.sees('Hello')
