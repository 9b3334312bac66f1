"""Builds the programs for the SDKs of Go and Java; skips a test if it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.toolchains import BUILD
from support.toolchains import build
from support.toolchains import missing_for_go
from support.toolchains import missing_for_java

GO = Path(__file__).with_name('go')
JAVA = Path(__file__).with_name('java')


def require_go() -> None:
    """Skip the test if Go is missing."""
    if missing := missing_for_go():
        pytest.skip(f'The tests of the Go SDK do not run: {missing}')


def go_program() -> Path:
    """Return the compiled scenarios of the Go SDK."""
    require_go()
    program = BUILD / 'go.test'
    build('go', GO, ['go', 'test', '-c', '-buildvcs=false', '-o', str(program)])
    return program


def go_suite() -> Path:
    """Return the compiled test suite of the Go SDK, which is part of its package."""
    require_go()
    suite = BUILD / 'go-suite.test'
    package = 'github.com/centrifugal/centrifuge-go'
    command = ['go', 'test', '-c', '-buildvcs=false', '-o', str(suite), package]
    build('go-suite', GO, command)
    return suite


def java_class_path() -> str:
    """Return the class path with the Java SDK and its compiled scenarios."""
    if missing := missing_for_java():
        pytest.skip(f'The tests of the Java SDK do not run: {missing}')
    build(
        'java',
        JAVA,
        ['mvn', '--batch-mode', '--quiet', 'compile', 'dependency:copy-dependencies'],
    )
    # NOTE: pom.xml has the same folder.
    folder = BUILD / 'java'
    return os.pathsep.join([str(folder / 'classes'), str(folder / 'dependency/*')])
