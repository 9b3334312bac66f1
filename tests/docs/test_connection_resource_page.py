"""Test the page about the connection resource: its app and its tests run."""

from __future__ import annotations

import os
from pathlib import Path
import re
import subprocess
import sys

from support.processes import python_path
from support.processes import ROOT

TEXT = (ROOT / 'docs/connection_resource.md').read_text()
BLOCKS = dict(re.findall(r'<!-- (\w+\.py) -->\n```\w+\n(.*?)```', TEXT, re.DOTALL))


def test_test_suite_of_the_page_passes(tmp_path: Path) -> None:
    """The tests of the page pass with its app."""
    for name, text in BLOCKS.items():
        (tmp_path / name).write_text(text)
    options = ['-q', '-p', 'no:cacheprovider', '-p', 'no:asyncio', '-c', os.devnull]
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-m', 'pytest', *options, 'test_app.py'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': python_path(str(tmp_path))},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert '2 passed' in done.stdout, done.stdout + done.stderr


def test_every_code_block_has_a_name_and_is_run() -> None:
    """The page has no code block that is not run by a test."""
    assert ['app.py', 'test_app.py'] == sorted(BLOCKS)
    assert TEXT.count('```') == 2 * len(BLOCKS)


def test_page_names_every_responder_of_a_connection_resource() -> None:
    """The table has one row for each responder, and the app has each of them."""
    responders = {'on_connect', 'on_message', 'on_refresh', 'on_disconnect', 'on_rpc'}
    assert responders <= set(re.findall(r'^\| `(on_[a-z]+)\(', TEXT, re.MULTILINE))
    assert [] == [name for name in responders if f'def {name}' not in BLOCKS['app.py']]
