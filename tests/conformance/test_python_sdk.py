"""The suite of the official Python SDK passes against a server of this project.

The suite is not in the SDK's wheel: its source distribution is fetched from the
package index, once, into a folder that git ignores. It wants its server at
``localhost:8000`` and hangs, rather than fails, where a reply is missing, so that each
of its tests has a time limit.
"""

from __future__ import annotations

from collections.abc import Iterator
import fcntl
from importlib.metadata import version
import os
from pathlib import Path
import socket
import subprocess
import sys
import tarfile
import tempfile
from xml.etree import ElementTree

import pytest
from support.asgi_servers import AsgiServer
from support.asgi_servers import SERVE
from support.processes import ROOT
from support.processes import ServerProcess
from support.processes import wait_until

PORT = 8000
# NOTE: the suite lies below this repository, whose own settings are not for it; hence
#   the empty configuration.
# Functions of the suite that are named like tests, and are none.
NO_TESTS = ('test_get_client_token', 'test_get_subscription_token')

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group('port 8000'),
]


@pytest.fixture(scope='module')
def suite() -> Path:
    """The folder of the SDK's source distribution, of the version installed here."""
    name = f'centrifuge_python-{version("centrifuge-python")}'
    cache = ROOT / 'artifacts' / 'sdk'
    folder = cache / name
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        subprocess.run(
            [
                *(sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps'),
                *('--disable-pip-version-check', '--no-binary', 'centrifuge-python'),
                *('--dest', scratch),
                f'centrifuge-python=={version("centrifuge-python")}',
            ],
            check=True,
        )
        [archive] = Path(scratch).glob('*.tar.gz')
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter='data')
        try:
            (Path(scratch) / name).rename(folder)
        except OSError:
            # NOTE: another worker was first.
            if not folder.is_dir():
                raise
    return folder


@pytest.fixture
def port() -> Iterator[int]:
    """Port 8000, for nobody else on this machine that runs these tests."""
    with (Path(tempfile.gettempdir()) / 'falcon-channels-port-8000.lock').open(
        'w'
    ) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wait_until(_port_is_free, f'port {PORT} is free: stop what serves there', 300)
        yield PORT


def _port_is_free() -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(('127.0.0.1', PORT))
        except OSError:
            return False
    return True


@pytest.mark.every_server
def test_python_sdk_suite_passes(
    asgi_server: AsgiServer, suite: Path, port: int, tmp_path: Path
) -> None:
    """All tests of the SDK's own suite pass, in JSON and in Protobuf."""
    # NOTE: what is not in this file brings servers of its own: once is enough.
    ours = asgi_server is SERVE
    tests, expected = ('tests', 185) if ours else ('tests/test_client.py', 62)
    report = tmp_path / 'report.xml'
    with ServerProcess(asgi_server.command('tests.conformance.sdk_app:app'), port=port):
        done = subprocess.run(
            [
                *(sys.executable, '-W', 'ignore', '-m', 'pytest', tests, '-q'),
                *('-p', 'no:cacheprovider', '-p', 'no:xdist', '--timeout=60'),
                *('--rootdir=.', '-c', os.devnull, f'--junitxml={report}'),
                *(f'--deselect=tests/test_client.py::{name}' for name in NO_TESTS),
            ],
            cwd=suite,
            capture_output=True,
            text=True,
            check=False,
        )
    print(done.stdout, done.stderr)  # noqa: T201 - shown where the test fails
    cases = ElementTree.parse(report).getroot().findall('.//testcase')
    failed = [
        f'{case.get("classname")}.{case.get("name")}'
        for case in cases
        if case.find('failure') is not None or case.find('error') is not None
    ]
    assert [] == failed
    assert 0 == done.returncode
    names = {(case.get('classname'), case.get('name')) for case in cases}
    assert expected <= len(names)
