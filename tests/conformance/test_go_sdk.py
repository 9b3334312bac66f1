"""The official Go SDK against a server of this project."""

from __future__ import annotations

from pathlib import Path
import re

import pytest
from support.asgi_servers import AsgiServer
from support.toolchains import BUILD
from support.toolchains import build
from support.toolchains import missing_for_go

from conformance.controlled_server import run_program
from conformance.features import documented_column
from conformance.features import Support

FOLDER = Path(__file__).with_name('go')
PROGRAM = BUILD / 'go.test'
ENCODINGS = ('JSON', 'Protobuf')

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture(scope='module')
def program() -> Path:
    """The compiled program."""
    if missing := missing_for_go():
        pytest.skip(f'The tests of the Go SDK do not run: {missing}')
    build('go', FOLDER, ['go', 'test', '-c', '-buildvcs=false', '-o', str(PROGRAM)])
    return PROGRAM


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_go_sdk_passes_the_scenarios_of_the_documented_features(
    asgi_server: AsgiServer, program: Path, encoding: str
) -> None:
    """The features that docs/clients.md lists for the Go SDK work in each encoding."""
    output = run_program(
        asgi_server, [str(program), '-test.v'], {'ENCODING': encoding.lower()}
    )
    [version] = re.findall(
        r'centrifuge-go v([\d.]+)$', (FOLDER / 'go.mod').read_text(), re.M
    )
    support = Support(
        version=version,
        encodings=ENCODINGS,
        features=re.findall(r'--- PASS: TestFeatures/(\w+) ', output),
        absent=re.findall(r'--- PASS: TestAbsent/(\w+) ', output),
    )
    assert support.column() == documented_column('Go')
