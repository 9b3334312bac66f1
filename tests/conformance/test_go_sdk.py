"""The official Go SDK against a server of this project."""

from __future__ import annotations

from pathlib import Path
import re
import subprocess

import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess

from conformance.controlled_server import run_program
from conformance.features import documented_column
from conformance.features import Support
from conformance.port_8000 import GROUP
from conformance.port_8000 import locked_port
from conformance.programs import GO
from conformance.programs import go_program
from conformance.programs import go_suite

ENCODINGS = ('JSON', 'Protobuf')

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_go_sdk_passes_the_scenarios_of_the_documented_features(
    asgi_server: AsgiServer, encoding: str
) -> None:
    """The features that docs/clients.md lists for the Go SDK work in each encoding."""
    output = run_program(
        asgi_server, [str(go_program()), '-test.v'], {'ENCODING': encoding.lower()}
    )
    [version] = re.findall(
        r'centrifuge-go v([\d.]+)$', (GO / 'go.mod').read_text(), re.M
    )
    support = Support(
        version=version,
        encodings=ENCODINGS,
        features=re.findall(r'--- PASS: TestFeatures/(\w+) ', output),
        absent=re.findall(r'--- PASS: TestAbsent/(\w+) ', output),
    )
    assert support.column() == documented_column('Go')


@pytest.mark.xdist_group(GROUP)
def test_go_sdk_suite_passes(asgi_server: AsgiServer, tmp_path: Path) -> None:
    """The tests in the SDK's package pass, except for one that publishes no JSON."""
    suite = go_suite()
    command = asgi_server.command('tests.conformance.go_suite_app:app')
    with locked_port() as port, ServerProcess(command, port=port):
        done = subprocess.run(
            [str(suite), '-test.v', '-test.timeout=200s'],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    print(done.stdout, done.stderr)  # noqa: T201 - shown where the test fails
    results = re.findall(r'^--- (\w+): (\w+)', done.stdout, re.M)
    # NOTE: a channel carries either JSON for all clients, or any bytes for clients that
    #   use Protobuf. The suite uses its channel `test` for both.
    assert [('FAIL', 'TestPublishProtobuf')] == [
        (result, name) for result, name in results if result != 'PASS'
    ]
    assert len(results) >= 59
