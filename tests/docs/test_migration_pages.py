"""Test the pages about migration: our side of each page runs as it is printed."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import re
import subprocess
import sys
from typing import Any

from endpoint.peer import Peer
import jwt
import pytest
from support.asgi_servers import SERVE
from support.processes import ROOT
from support.processes import ServerProcess
from support.processes import wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

PAGES = sorted((ROOT / 'docs').glob('migrate_*.md'))
BLOCK = re.compile(r'<!-- ([^>\n]+) -->\n```\w+\n(.*?)```', re.DOTALL)
NODE_MODULES = ROOT / 'tests/conformance/js/node_modules'
#: The page of Django reads sessions from Django; this stands for its module.
SESSIONS = """
async def find_user(key):
    return {'session-of-ann': 'ann'}.get(key, '')
"""
#: Node 20 has no WebSocket of its own. The address of the page gets the test's port.
DRIVER = """
import WebSocket from 'ws';
globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(url.replace('localhost:8000', process.argv[2]), protocols);
  }
};
await import('./page.mjs');
"""
SECRET = 'a secret of the tests, and of nobody else'

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('tutorial')]


def blocks(page: str) -> dict[str, str]:
    """Return the files of a page by name."""
    text = (ROOT / 'docs' / page).read_text()
    return {
        name: code
        for name, code in BLOCK.findall(text)
        if not name.startswith('not run: ')
    }


def write(folder: Path, page: str, **more: str) -> None:
    """Write the files of a page, and more files whose names end in `.py`."""
    for name, code in blocks(page).items():
        (folder / name).write_text(code)
    for name, code in more.items():
        (folder / f'{name}.py').write_text(code)


def run(folder: Path, *words: str, **env: str) -> str:
    """Run Python in a folder, and return what it prints."""
    done = subprocess.run(
        [sys.executable, '-W', 'error', *words],
        cwd=folder,
        env={'PYTHONPATH': ':'.join(filter(None, sys.path)), **env},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ('', 0) == (done.stderr, done.returncode)
    return done.stdout


@pytest.fixture
def django_app(tmp_path: Path) -> Iterator[ServerProcess]:
    write(tmp_path, 'migrate_django_channels.md', sessions=SESSIONS)
    with ServerProcess(SERVE.command('app:app'), cwd=tmp_path) as server:
        yield server


def test_resource_that_replaces_a_consumer_does_the_same(
    django_app: ServerProcess, tmp_path: Path
) -> None:
    """A client without a session is refused; others receive messages and notices."""
    url = f'{django_app.ws_url}/ws/chat/lobby'
    with pytest.raises(InvalidStatus) as caught:
        connect(url)
    assert 403 == caught.value.response.status_code
    with connect(url, additional_headers={'Cookie': 'sessionid=session-of-ann'}) as ann:
        assert 'subscribed' in json.loads(ann.recv(timeout=30))
        ann.send('{"text": "hello"}')
        message = json.loads(ann.recv(timeout=30))
        assert {'text': 'hello', 'from': 'ann'} == message['data']
        run(tmp_path, '-c', "from notify import announce; announce('lobby', 'packed')")
        notice = json.loads(ann.recv(timeout=30))
        assert {'text': 'packed', 'from': 'system'} == notice['data']


def test_page_that_replaces_socketio_plays_and_asks_for_the_score(
    tmp_path: Path,
) -> None:
    """The page publishes a move, receives it with its sender, and calls a method."""
    write(tmp_path, 'migrate_socketio.md')
    (tmp_path / 'page.js').rename(tmp_path / 'page.mjs')
    (tmp_path / 'driver.mjs').write_text(DRIVER)
    (tmp_path / 'node_modules').symlink_to(NODE_MODULES)
    output = tmp_path / 'output'
    with (
        ServerProcess(SERVE.command('app:app'), cwd=tmp_path) as server,
        output.open('wb') as file,
    ):
        page = subprocess.Popen(
            ['node', 'driver.mjs', f'127.0.0.1:{server.port}'],
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(
                lambda: (
                    ['ann e4 true', 'points 3']
                    == sorted(output.read_text().splitlines())
                ),
                'the page shows the move and the score',
            )
        finally:
            page.kill()
            page.wait()
        with Peer.to(server) as stranger:
            stranger.say({'id': 1, 'connect': {}})
            assert (3500, 'log in first') == stranger.end()
        with Peer.to(server) as bob:
            bob.connect(data={'user': 'bob'})
            assert 103 == bob.error('subscribe', channel='games:private')


def token(user: str, **claims: Any) -> str:
    """Return a token as a back end of Centrifugo makes it, without our library."""
    return jwt.encode({'sub': user, 'exp': 4_102_444_800, **claims}, SECRET)


def test_app_that_replaces_centrifugo_takes_its_tokens_and_its_api_client(
    tmp_path: Path,
) -> None:
    """Tokens of another library connect, and `cent` publishes to the same channels."""
    write(tmp_path, 'migrate_centrifugo.md')
    env = {'TOKEN_SECRET': SECRET, 'API_KEY': 'a-key-of-the-tests'}
    with ServerProcess(SERVE.command('app:app'), cwd=tmp_path, env=env) as server:
        with Peer.to(server) as ann:
            ann.connect(token=token('ann', info={'name': 'Ann'}))
            for channel in ('rooms:lobby', 'personal:ann'):
                assert 'subscribe' in ann.ask('subscribe', channel=channel)
            assert 103 == ann.error('subscribe', channel='personal:bob')
            url = f'{server.url}/api'
            assert 'offset 1\n' == run(
                tmp_path, 'publish.py', API_URL=url, API_KEY=env['API_KEY']
            )
            assert {'text': 'hi'} == ann.push()['pub']['data']
        with Peer.to(server) as eve:
            eve.connect(token=token('eve'))
            assert 103 == eve.error('subscribe', channel='rooms:lobby')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_code_block_is_run_or_says_why_not(page: Path) -> None:
    """Each code block has the name of a file, or says to which program it belongs."""
    text = page.read_text()
    found = BLOCK.findall(text)
    assert text.count('```') == 2 * len(found)
    names = [name for name, _ in found if not name.startswith('not run: ')]
    assert names == [*blocks(page.name)]
    assert [] != names
