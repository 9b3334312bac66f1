"""The official Java SDK against a server of this project."""

from __future__ import annotations

import os
from pathlib import Path
import re

import pytest
from support.asgi_servers import AsgiServer
from support.toolchains import BUILD
from support.toolchains import build
from support.toolchains import missing_for_java

from conformance.controlled_server import run_program
from conformance.features import documented_column
from conformance.features import Support

FOLDER = Path(__file__).with_name('java')
#: pom.xml has the same folder.
CLASSES = BUILD / 'java'

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture(scope='module')
def class_path() -> str:
    """The class path of the compiled program."""
    if missing := missing_for_java():
        pytest.skip(f'The tests of the Java SDK do not run: {missing}')
    build(
        'java',
        FOLDER,
        ['mvn', '--batch-mode', '--quiet', 'compile', 'dependency:copy-dependencies'],
    )
    return os.pathsep.join([str(CLASSES / 'classes'), str(CLASSES / 'dependency/*')])


def test_java_sdk_passes_the_scenarios_of_the_documented_features(
    asgi_server: AsgiServer, class_path: str
) -> None:
    """The features that docs/clients.md lists for the Java SDK work."""
    output = run_program(
        asgi_server, ['java', '-cp', class_path, 'conformance.Features'], {}
    )
    [version] = re.findall(
        r'centrifuge-java</artifactId>\s*<version>([\d.]+)<',
        (FOLDER / 'pom.xml').read_text(),
    )
    support = Support(
        version=version,
        encodings=('Protobuf',),
        features=re.findall(r'^ok (\w+)$', output, re.M),
        absent=re.findall(r'^absent (\w+)$', output, re.M),
    )
    assert support.column() == documented_column('Java')
