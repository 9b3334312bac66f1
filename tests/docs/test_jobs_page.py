"""Test the page about jobs: serve its app and publish to it with its other programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
import subprocess
import sys
import urllib.request

import pytest
from support.asgi_servers import AsgiServer
from support.processes import ROOT
from support.processes import ServerProcess
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

TEXT = (ROOT / 'docs/jobs.md').read_text()
BLOCKS = dict(re.findall(r'<!-- (\w+\.py) -->\n```\w+\n(.*?)```', TEXT, re.DOTALL))
#: A worker that forks, as Celery's workers do. Two children call the task of the page.
WORKER = """
import concurrent.futures
import multiprocessing
import tasks

if __name__ == '__main__':
    fork = multiprocessing.get_context('fork')
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool:
        for done in [pool.submit(tasks.deliver, 7) for _ in range(2)]:
            done.result(30)
"""

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('tutorial')]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('jobs')
    for name, text in BLOCKS.items():
        (folder / name).write_text(text)
    (folder / 'worker.py').write_text(WORKER)
    return folder


@pytest.fixture(scope='module')
def watcher(asgi_server: AsgiServer, folder: Path) -> Iterator[ClientConnection]:
    with (
        ServerProcess(asgi_server.command('app:app'), cwd=folder) as server,
        connect(f'{server.ws_url}/orders/7') as watcher,
    ):
        yield watcher


def run(folder: Path, name: str) -> str:
    result = subprocess.run(
        [sys.executable, '-W', 'error', name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ('', 0) == (result.stderr, result.returncode)
    return result.stdout


def test_script_that_runs_twice_publishes_once(
    folder: Path, watcher: ClientConnection
) -> None:
    """Subscribers receive what a script publishes, and only once if it runs twice."""
    assert 'offset 1\n' == run(folder, 'script.py')
    assert 'offset 1\n' == run(folder, 'script.py')
    assert 'packed' == watcher.recv(timeout=30)
    run(folder, 'await.py')
    assert 'shipped' == watcher.recv(timeout=30)


def test_portal_created_before_a_fork_publishes_in_each_child(
    folder: Path, watcher: ClientConnection
) -> None:
    """A portal that was created before the fork works in each child process."""
    run(folder, 'worker.py')
    assert ['delivered'] * 2 == [watcher.recv(timeout=30) for _ in range(2)]


def test_thread_of_an_asgi_app_publishes(
    asgi_server: AsgiServer, folder: Path, watcher: ClientConnection
) -> None:
    """A thread of an ASGI app publishes in the event loop of the app."""
    command = asgi_server.command('threads:app')
    with ServerProcess(command, cwd=folder) as server:
        request = urllib.request.Request(f'{server.url}/packing/7', data=b'')
        with urllib.request.urlopen(request) as response:
            assert 200 == response.status
        assert 'Traceback' not in server.log()
    assert 'packed by hand' == watcher.recv(timeout=30)


def test_every_code_block_has_a_name_and_is_run() -> None:
    """The page has no code block that is not run by a test."""
    names = ['app.py', 'await.py', 'live.py', 'script.py', 'tasks.py', 'threads.py']
    assert names == sorted(BLOCKS)
    assert TEXT.count('```') == 2 * len(BLOCKS)
