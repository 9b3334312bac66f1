"""Test the tutorial: each step runs against a server, exactly as printed."""

from __future__ import annotations

from pathlib import Path
import re
import subprocess
import sys

import pytest
from support.asgi_servers import AsgiServer
from support.processes import ROOT
from support.processes import ServerProcess

TEXT = (ROOT / 'docs/tutorial.md').read_text()
STEPS = TEXT.split('\n## ')[1:]
BLOCK = re.compile(r'<!-- (main\.py|try\.py|prints) -->\n```\w+\n(.*?)```', re.DOTALL)

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group('tutorial'),
]


def blocks(step: str) -> dict[str, str]:
    return dict(BLOCK.findall(step))


@pytest.mark.parametrize('step', [s for s in STEPS if '<!-- main.py' in s])
def test_step_of_the_tutorial_prints_the_shown_output(
    asgi_server: AsgiServer, step: str, tmp_path: Path
) -> None:
    """The script of a step prints what the page shows."""
    found = blocks(step)
    assert {'main.py', 'try.py', 'prints'} == set(found)
    (tmp_path / 'main.py').write_text(found['main.py'])
    with ServerProcess(asgi_server.command('main:app'), cwd=tmp_path) as server:
        script = found['try.py'].replace('localhost:8000', f'127.0.0.1:{server.port}')
        result = subprocess.run(
            [sys.executable, '-c', script],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert '' == result.stderr
        assert found['prints'] == result.stdout
        assert 'Traceback' not in server.log()


def test_every_code_block_belongs_to_a_step_that_is_run() -> None:
    """The tutorial has no code block that is not run by a test."""
    assert 5 == len([s for s in STEPS if '<!-- main.py' in s])
    assert TEXT.count('```') == 2 * sum(len(blocks(step)) for step in STEPS)
