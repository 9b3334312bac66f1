"""The programs in README.md are files of examples/, and work as documented."""

from __future__ import annotations

import re
import tomllib

import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import ROOT
from support.processes import ServerProcess
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.server


@pytest.mark.parametrize('name', ['echo_asgi', 'echo_wsgi', 'rooms_asgi'])
def test_programs_in_the_readme_equal_the_examples(name: str) -> None:
    """README.md contains the exact text of the files of examples/."""
    program = (ROOT / 'examples' / f'{name}.py').read_text()
    assert f'```python\n{program}```\n' in (ROOT / 'README.md').read_text()


def test_readme_lists_every_extra() -> None:
    """The section "Install" of README.md lists every extra."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    section = (ROOT / 'README.md').read_text().partition('\n## Install\n')[2]
    rows = re.findall(r'^\| (`.*`) \|', section.partition('\n## ')[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r'`(\w+)`', row)}
    assert {*project['optional-dependencies']} - {'dev'} == named


@pytest.mark.parametrize(
    'command',
    [
        'uvicorn examples.echo_asgi:app --port {port}',
        'gunicorn -k gevent -b :{port} --no-control-socket examples.echo_wsgi:app',
    ],
)
def test_echo_example_answers_under_common_servers(command: str) -> None:
    """The two echo programs answer, and refuse pages of other sites."""
    with ServerProcess(['python', '-m', *command.split()]) as server:
        with connect(server.ws_url) as ws:
            ws.send('hello')
            assert 'Message text was: hello' == ws.recv(30)
        with pytest.raises(InvalidStatus) as caught:
            connect(server.ws_url, origin='https://evil.example')
        assert 403 == caught.value.response.status_code
        assert 'Traceback' not in server.log()


@pytest.mark.every_server
def test_rooms_example_delivers_and_stores_messages(asgi_server: AsgiServer) -> None:
    """All clients in a room get every message; the history stores it."""
    with ServerProcess(asgi_server.command('examples.rooms_asgi:app')) as server:
        url = f'{server.ws_url}/rooms/garden'
        with connect(url) as alice, connect(url) as bob:
            alice.send('"hello"')
            assert '"hello"' == bob.recv(30)
            assert '"hello"' == alice.recv(30)
            httpx.post(f'{server.url}/rooms/garden', json={'text': 'posted'})
            assert '{"text":"posted"}' == bob.recv(30)
        page = httpx.get(f'{server.url}/rooms/garden').json()
        assert 2 == len(page['publications'])
        with pytest.raises(InvalidStatus) as caught:
            connect(f'{server.ws_url}/rooms/secret')
        assert 403 == caught.value.response.status_code
