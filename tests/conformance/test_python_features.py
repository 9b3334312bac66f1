"""The features of the official Python SDK against a server of this project."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
import re
import sys

import pytest
from support.asgi_servers import AsgiServer

from conformance.controlled_server import run_program
from conformance.features import documented_column
from conformance.features import Support

PROGRAM = Path(__file__).parent / 'python' / 'features.py'
ENCODINGS = ('JSON', 'Protobuf')

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_python_sdk_passes_the_scenarios_of_the_documented_features(
    asgi_server: AsgiServer, encoding: str
) -> None:
    """The features that docs/clients.md lists for the Python SDK work."""
    output = run_program(
        asgi_server, [sys.executable, str(PROGRAM)], {'ENCODING': encoding.lower()}
    )
    support = Support(
        version=version('centrifuge-python'),
        encodings=ENCODINGS,
        features=re.findall(r'^ok (\w+)$', output, re.M),
        absent=re.findall(r'^absent (\w+)$', output, re.M),
    )
    assert support.column() == documented_column('Python')
