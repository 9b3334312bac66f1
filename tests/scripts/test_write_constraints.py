"""The pinned versions, and the script that writes them."""

from __future__ import annotations

from importlib.metadata import distribution
from importlib.metadata import PackageNotFoundError

from packaging.requirements import Requirement
from support.processes import ROOT

from scripts.write_constraints import oldest_python
from scripts.write_constraints import unsupported

#: A Python that no current distribution supports.
ANCIENT = '2.0.0'


def test_pinned_versions_support_the_oldest_python() -> None:
    """pip can install each pinned version on each Python that the project supports."""
    pins = [
        Requirement(line)
        for line in (ROOT / 'constraints.txt').read_text().splitlines()
        if not line.startswith('#')
    ]
    installed = []
    for pin in pins:
        # NOTE: some pins are for newer versions of Python only.
        try:
            dist = distribution(pin.name)
        except PackageNotFoundError:
            continue
        if dist.version in pin.specifier:
            installed.append(dist)
    assert len(installed) > len(pins) / 2
    assert [] == unsupported(installed, oldest_python())


def test_version_that_needs_a_newer_python_is_named() -> None:
    """The script names the distribution, what it needs and what the project needs."""
    (line,) = unsupported([distribution('packaging')], ANCIENT)
    assert line.startswith(f'packaging {distribution("packaging").version} needs ')
    assert ANCIENT in line
