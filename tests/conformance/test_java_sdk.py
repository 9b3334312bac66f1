"""The official Java SDK against a server of this project."""

from __future__ import annotations

import re

import pytest
from support.asgi_servers import AsgiServer

from conformance.controlled_server import run_program
from conformance.features import documented_column
from conformance.features import Support
from conformance.programs import JAVA
from conformance.programs import java_class_path

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


def test_java_sdk_passes_the_scenarios_of_the_documented_features(
    asgi_server: AsgiServer,
) -> None:
    """The features that docs/clients.md lists for the Java SDK work."""
    output = run_program(
        asgi_server, ['java', '-cp', java_class_path(), 'conformance.Features'], {}
    )
    [version] = re.findall(
        r'centrifuge-java</artifactId>\s*<version>([\d.]+)<',
        (JAVA / 'pom.xml').read_text(),
    )
    support = Support(
        version=version,
        encodings=('Protobuf',),
        features=re.findall(r'^ok (\w+)$', output, re.M),
        absent=re.findall(r'^absent (\w+)$', output, re.M),
    )
    assert support.column() == documented_column('Java')
