"""Test the page about testing: its files pass as a test suite of an application."""

from __future__ import annotations

import os
from pathlib import Path
import re
import subprocess
import sys

from support.processes import python_path
from support.processes import ROOT

from falcon_channels import testing

TEXT = (ROOT / 'docs/testing.md').read_text()
BLOCKS = dict(re.findall(r'<!-- (\w+\.py) -->\n```\w+\n(.*?)```', TEXT, re.DOTALL))


def test_test_suite_of_the_page_passes_twice(tmp_path: Path) -> None:
    """The tests of the page pass one after the other, in both orders."""
    for name, text in BLOCKS.items():
        (tmp_path / name).write_text(text)
    names = sorted(name for name in BLOCKS if name.startswith('test_'))
    options = ['-q', '-p', 'no:cacheprovider', '-p', 'no:asyncio', '-c', os.devnull]
    for order in (names, names[::-1]):
        done = subprocess.run(
            [sys.executable, '-W', 'error', '-m', 'pytest', *options, *order],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': python_path(str(tmp_path))},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert '7 passed' in done.stdout, done.stdout + done.stderr


def test_every_code_block_has_a_name_and_is_run() -> None:
    """The page has no code block that is not run by a test."""
    assert TEXT.count('```') == 2 * len(BLOCKS)


def test_page_names_every_method_of_the_simulated_sdk() -> None:
    """The page contains each public method of `SimulatedSdk`, and each helper."""
    public = [name for name in vars(testing.SimulatedSdk) if not name.startswith('_')]
    public.remove('disconnect')  # the end of the block calls it
    public.remove('end')  # a property
    assert [] == [name for name in public if f'{name}(' not in TEXT]
    names = set(testing.__all__) - {'FakeClockLoop', 'FakeClockStuckError', 'Recorder'}
    names -= {'Joined', 'Received', 'Signal', 'Subscribed', 'Unsubscribed'}
    assert set() == {name for name in names if name not in TEXT}
