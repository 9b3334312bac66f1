"""Test the page with questions: its snippets run, and its table of names is right."""

from __future__ import annotations

import importlib.util
from pathlib import Path
import re
from types import ModuleType

import falcon
from falcon import testing
import falcon.asgi
from support.processes import ROOT

from falcon_channels import Channels

TEXT = (ROOT / 'docs/faq.md').read_text()
BLOCKS = dict(re.findall(r'<!-- (\w+\.py) -->\n```\w+\n(.*?)```', TEXT, re.DOTALL))
TABLE = re.findall(r'^\| (`.*?) \| (.*) \|$', TEXT, re.MULTILINE)
#: The objects whose attributes the table names.
OWNERS = {
    'falcon': falcon,
    'falcon.asgi': falcon.asgi,
    'app': falcon.asgi.App,
    'ws': falcon.asgi.WebSocket,
    'channels': Channels,
}
NAME = re.compile(r'`((?:falcon\.asgi|falcon|app|ws|channels))\.(\w+)`')


def load(name: str, folder: Path) -> ModuleType:
    """Import a file of the page."""
    path = folder / name
    path.write_text(BLOCKS[name])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_wrong_names_do_not_exist_and_right_names_do() -> None:
    """No name of the left column exists, and every name of the right column does."""
    wrong = [found for left, _ in TABLE for found in NAME.findall(left)]
    right = [found for _, cell in TABLE for found in NAME.findall(cell)]
    assert ('falcon', 'WebSocketResource') in wrong
    assert ('app', 'add_websocket') in wrong
    assert ('app', 'add_route') in right
    assert [] == [(o, name) for o, name in wrong if hasattr(OWNERS[o], name)]
    assert [] == [(o, name) for o, name in right if not hasattr(OWNERS[o], name)]
    assert not hasattr(falcon.asgi.WebSocket, '__aiter__')


async def test_websocket_of_the_page_echoes(tmp_path: Path) -> None:
    """The first snippet is a complete app."""
    module = load('echo.py', tmp_path)
    async with (
        testing.ASGIConductor(module.app) as conductor,
        conductor.simulate_ws('/echo') as ws,
    ):
        await ws.send_text('hello')
        assert 'hello' == await ws.receive_text()


def test_every_code_block_has_a_name_and_is_run() -> None:
    """The page has no code block that is not run by a test."""
    assert ['echo.py'] == sorted(BLOCKS)
    assert TEXT.count('```') == 2 * len(BLOCKS)
