"""Test the page about deployment: its health check, and that its settings fit."""

from __future__ import annotations

import importlib.util
from pathlib import Path
import re
import subprocess
import sys
from types import ModuleType

from falcon import testing
import pytest
from support.processes import ROOT

TEXT = (ROOT / 'docs/deployment.md').read_text()
BLOCK = re.compile(r'<!-- ([^>\n]+) -->\n```\w+\n(.*?)```', re.DOTALL)
BLOCKS = dict(BLOCK.findall(TEXT))
#: Options of other programs than the server.
FOREIGN_OPTIONS = {'--ulimit', '--time'}


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The app of the page, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CHANNELS_BROKER', 'sqlite:///live.db')
    path = tmp_path / 'deployed.py'
    path.write_text(BLOCKS['app.py'])
    spec = importlib.util.spec_from_file_location('deployed', path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def server_help() -> str:
    """Return the help of the server, which has its options and their defaults."""
    done = subprocess.run(
        [sys.executable, '-m', 'falcon_channels', 'serve', '--help'],
        env={'PYTHONPATH': ':'.join(filter(None, sys.path)), 'COLUMNS': '200'},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return done.stdout


async def test_health_check_fails_while_the_process_drains(app: ModuleType) -> None:
    """A process is ready from the start until it drains."""
    async with testing.ASGIConductor(app.app) as conductor:
        found = await conductor.simulate_get('/ready')
        assert (200, {'status': 'ok'}) == (found.status_code, found.json)
        await app.channels.drain()
        found = await conductor.simulate_get('/ready')
        assert (503, {'status': 'draining'}) == (found.status_code, found.json)


def test_pod_has_time_for_the_pause_and_the_whole_stop() -> None:
    """The grace period is longer than `preStop` and the stop of the server together."""
    pod = BLOCKS['deployment.yaml']
    grace_s = int(re.findall(r'terminationGracePeriodSeconds: (\d+)', pod)[0])
    pause_s = int(re.findall(r'command: \["sleep", "(\d+)"\]', pod)[0])
    found = re.search(r'--stop-timeout SECONDS\s+.*?\(default: (\d+)\)', server_help())
    assert found is not None
    stop_s = int(found[1])
    assert grace_s > pause_s + stop_s
    assert f'`--stop-timeout` ({stop_s} s)' in TEXT.replace('\n', ' ')
    assert ["'/ready'"] == re.findall(r'add_route\((.*?),', BLOCKS['app.py'])
    assert ['/ready'] == re.findall(r'path: (.*)', pod)


def test_every_option_of_the_page_exists() -> None:
    """Each option that the page names is an option of the server."""
    named = set(re.findall(r'--[a-z]+(?:-[a-z]+)*(?!-)', TEXT)) - FOREIGN_OPTIONS
    assert len(named) > 5
    known = set(re.findall(r'--[a-z-]+', server_help()))
    assert set() == named - known


def test_every_code_block_is_run_or_says_why_not() -> None:
    """Each code block has the name of a file, or says to which program it belongs."""
    assert TEXT.count('```') == 2 * len(BLOCK.findall(TEXT))
    run = {name for name in BLOCKS if not name.startswith('not run: ')}
    assert {'app.py', 'deployment.yaml'} == run
