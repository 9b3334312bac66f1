"""The suite of the official Python SDK passes against a server of this project.

The suite is not part of the wheel of the SDK. Its source distribution is therefore
downloaded once from the package index, into a folder that git ignores. The suite
expects its server at ``localhost:8000``. If a reply is missing, it hangs instead of
failing, so each of its tests has a time limit.
"""

from __future__ import annotations

from importlib.metadata import version
import os
from pathlib import Path
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

from conformance.port_8000 import GROUP
from conformance.port_8000 import locked_port

# Functions of the suite that are named like tests but are not tests.
NOT_TESTS = ('test_get_client_token', 'test_get_subscription_token')

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group(GROUP),
]


@pytest.fixture(scope='module')
def suite() -> Path:
    """The folder with the source distribution of the installed version of the SDK."""
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
            # NOTE: another worker of pytest has created the folder at the same time.
            if not folder.is_dir():
                raise
    return folder


def test_python_sdk_suite_passes(
    asgi_server: AsgiServer, suite: Path, tmp_path: Path
) -> None:
    """All tests of the SDK's own suite pass, in JSON and in Protobuf."""
    # NOTE: the tests outside test_client.py start their own servers, so they run only
    #   once, with our server.
    ours = asgi_server is SERVE
    tests, expected = ('tests', 185) if ours else ('tests/test_client.py', 62)
    report = tmp_path / 'report.xml'
    command = asgi_server.command('tests.conformance.sdk_app:app')
    with locked_port() as port, ServerProcess(command, port=port):
        done = subprocess.run(
            [
                *(sys.executable, '-W', 'ignore', '-m', 'pytest', tests, '-q'),
                *('-p', 'no:cacheprovider', '-p', 'no:xdist', '--timeout=60'),
                # NOTE: without `-c` pytest would use the configuration of this
                #   repository, because the suite is in a folder below it.
                *('--rootdir=.', '-c', os.devnull, f'--junitxml={report}'),
                *(f'--deselect=tests/test_client.py::{name}' for name in NOT_TESTS),
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
