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
from support.processes import ROOT

FOLDER = Path(__file__).with_name('js')
SERVE = [
    str(Path(sys.executable).with_name('falcon-channels')),
    'serve',
    'tests.conformance.js_app:app',
    *('--app-dir', str(ROOT)),
]
UVICORN = [
    *(sys.executable, '-m', 'uvicorn', 'tests.conformance.js_app:app'),
    *('--app-dir', str(ROOT), '--ws', 'websockets-sansio'),
]

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ('transport', 'command'),
    [
        ('websocket', SERVE),
        ('protobuf', SERVE),
        ('http_stream', SERVE),
        ('sse', SERVE),
        ('websocket', UVICORN),
    ],
    ids=['websocket', 'protobuf', 'http_stream', 'sse', 'websocket on plain uvicorn'],
)
def test_the_javascript_sdk_works(transport: str, command: list[str]) -> None:
    """Every scenario of sdk.test.mjs passes with this transport."""
    assert (FOLDER / 'node_modules').is_dir(), f'run npm ci in {FOLDER}: make test does'
    node = subprocess.Popen(
        ['node', '--test', '--test-reporter=tap', 'sdk.test.mjs'],
        cwd=FOLDER,
        env={
            **os.environ,
            'TRANSPORT': transport,
            'SERVER_COMMAND': json.dumps(command),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = node.communicate(timeout=240)
    finally:
        # NOTE: Node runs each file in a process of its own, which starts servers.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()
    print(output)  # noqa: T201 - shown where the test fails
    counts = dict(re.findall(r'^# (pass|fail|skipped|cancelled) (\d+)$', output, re.M))
    assert {'fail': '0', 'skipped': '0', 'cancelled': '0'} == {
        name: count for name, count in counts.items() if name != 'pass'
    }
    assert int(counts['pass']) >= 15
    assert 0 == node.returncode
