"""The test helpers are usable without pytest."""

from __future__ import annotations

import subprocess
import sys

#: An entry of ``sys.modules`` that is ``None`` makes an import fail.
SCRIPT = """
import sys
sys.modules['pytest'] = None
import falcon_channels.testing as testing
assert {'Recorder', 'SimulatedClient', 'run_with_fake_clock'} <= set(testing.__all__)
assert all(hasattr(testing, name) for name in testing.__all__)

async def main():
    return 7

assert 7 == testing.run_with_fake_clock(main())
try:
    import falcon_channels.testing.contract
except ImportError:
    print('no contract suites')
"""


def test_helpers_without_pytest_can_be_imported() -> None:
    """`falcon_channels.testing` does not import pytest; only the contract suites do."""
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT], capture_output=True, text=True, check=False
    )
    assert ('no contract suites\n', '') == (done.stdout, done.stderr)
