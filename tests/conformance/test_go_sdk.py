"""The official Go SDK against a server of this project."""

from __future__ import annotations

import re

import pytest
from support.asgi_servers import AsgiServer

from conformance.controlled_server import run_program
from conformance.features import documented_column
from conformance.features import Support
from conformance.programs import GO
from conformance.programs import go_program

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
