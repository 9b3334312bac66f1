"""The official JavaScript SDK, under Node, against a server of this project."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys

import pytest
from support.asgi_servers import AsgiServer
from support.processes import python_path
from support.processes import ROOT

from conformance.features import documented_column
from conformance.features import Support

FOLDER = Path(__file__).with_name('js')
APP = 'tests.conformance.js_app:app'

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


def run_scenarios(asgi_server: AsgiServer, transport: str) -> None:
    """Run sdk.test.mjs; compare the features that pass with docs/clients.md.

    The program starts and stops the server itself.
    """
    assert (FOLDER / 'node_modules').is_dir(), f'run npm ci in {FOLDER}: make test does'
    _, *arguments = asgi_server.command(APP)
    node = subprocess.Popen(
        ['node', '--test', '--test-reporter=tap', 'sdk.test.mjs'],
        cwd=FOLDER,
        env={
            **os.environ,
            'TRANSPORT': transport,
            'SERVER_COMMAND': json.dumps([sys.executable, *arguments]),
            'PYTHONPATH': python_path(str(ROOT)),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = node.communicate(timeout=240)
    finally:
        # NOTE: Node runs each test file in a child process, which starts a server. The
        #   whole process group is killed, so that no server survives.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()
    print(output)  # noqa: T201 - shown where the test fails
    counts = dict(re.findall(r'^# (pass|fail|skipped|cancelled) (\d+)$', output, re.M))
    assert {'fail': '0', 'skipped': '0', 'cancelled': '0'} == {
        name: count for name, count in counts.items() if name != 'pass'
    }
    assert 0 == node.returncode
    package = FOLDER / 'node_modules' / 'centrifuge' / 'package.json'
    passed = re.findall(r'^ok \d+ - ([a-z_, ]+): ', output, re.M)
    support = Support(
        version=json.loads(package.read_text())['version'],
        encodings=('JSON', 'Protobuf'),
        transports=('WebSocket', 'HTTP stream', 'SSE'),
        features={feature for names in passed for feature in names.split(', ')},
    )
    assert support.column() == documented_column('JavaScript')


@pytest.mark.every_server
def test_javascript_sdk_passes_all_scenarios_over_websocket(
    asgi_server: AsgiServer,
) -> None:
    """Every scenario of sdk.test.mjs passes over a WebSocket in JSON."""
    run_scenarios(asgi_server, 'websocket')


@pytest.mark.parametrize('transport', ['protobuf', 'http_stream', 'sse'])
def test_javascript_sdk_passes_all_scenarios_over_other_transports(
    asgi_server: AsgiServer, transport: str
) -> None:
    """Every scenario of sdk.test.mjs passes with the SDK's other transports."""
    run_scenarios(asgi_server, transport)
