"""Test the page about the first look: its searches find the story in a real log."""

from __future__ import annotations

import json
from pathlib import Path
import re
import subprocess
import sys

import httpx
import pytest
from support.processes import ROOT
from support.processes import ServerProcess
from support.processes import wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from falcon_channels.events import EVENTS

TEXT = (ROOT / 'docs/first_look.md').read_text()
COMMANDS = [
    line
    for block in re.findall(r'```sh\n(.*?)```', TEXT, re.DOTALL)
    for line in block.splitlines()
]
KEY = 'k' * 32

APP = """
import falcon
import falcon.asgi
from falcon_channels import ChannelOptions
from falcon_channels import Channels

channels = Channels()


class Room:
    async def on_subscribe(self, req, subscription, room):
        if room == 'staff':
            raise falcon.HTTPForbidden(description='not a member')

    async def on_websocket(self, req, ws, room):
        await channels.serve(req, ws, f'rooms:{room}')

    async def on_get(self, req, resp, room):
        await channels.serve_events(req, resp, f'rooms:{room}')


class Clients:
    async def on_connect(self, req, connection):
        connection.user = 'ann'


options = ChannelOptions(history_size=1, record_deliveries=True)
room = Room()
channels.add_route('rooms:{room}', room, options)
app = falcon.asgi.App(middleware=[channels])
app.add_route('/rooms/{room}', room)
channels.add_endpoints(app, resource=Clients())
channels.add_api(app, keys='%s')
"""


def command(server: ServerProcess, *words: str) -> str:
    """Return what a command prints for a running app."""
    done = subprocess.run(
        [sys.executable, '-m', 'falcon_channels', *words],
        env={
            'PYTHONPATH': ':'.join(filter(None, sys.path)),
            'FALCON_CHANNELS_API_KEY': KEY,
            'FALCON_CHANNELS_API_URL': f'{server.url}/api',
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return done.stdout


def test_commands_of_the_page_find_the_cause(tmp_path: Path) -> None:
    """Each search of the page finds a line, and each command prints what it says."""
    (tmp_path / 'looked.py').write_text(APP % KEY)
    words = ['python', '-m', 'falcon_channels', 'serve', 'looked:app', '--log-json']
    with ServerProcess([*words, '--port', '{port}'], cwd=tmp_path) as server:
        url = f'{server.ws_url}/connection/websocket'
        with (
            pytest.raises(InvalidStatus),
            connect(url, origin=Origin('https://app.example.com')),
        ):
            pass
        with pytest.raises(InvalidStatus), connect(f'{server.ws_url}/rooms/staff'):
            pass
        assert 403 == httpx.get(f'{server.url}/rooms/staff', timeout=20).status_code
        with connect(url) as client:
            for n, sent in enumerate(
                (
                    {'connect': {}},
                    {'subscribe': {'channel': 'rooms:staff'}},
                    {'subscribe': {'channel': 'rooms:lobby'}},
                ),
                start=1,
            ):
                client.send(json.dumps({'id': n, **sent}))
                assert n == json.loads(client.recv(timeout=20))['id']
            for number in '12':
                command(server, 'publish', 'rooms:lobby', number)
            found = {
                line: command(server, *line.split()[1:])
                for line in COMMANDS
                if line.startswith('falcon-channels ')
            }
        wait_until(lambda: 'connection_closed' in server.log(), 'the close is logged')
        (tmp_path / 'app.log').write_text(server.log())
    searches = [line for line in COMMANDS if line.startswith('grep ')]
    assert 4 == len(searches)
    results = []
    for line in searches:
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, capture_output=True, check=True
        )
        results.append([json.loads(record) for record in done.stdout.splitlines()])
    sdk, plain, connections, commands = results
    assert {403, 101} >= {record['status'] for record in sdk}
    assert [403, 403] == [record['status'] for record in plain]
    assert [403] == [record['code'] for record in connections]
    # A plain WebSocket and an event stream get a status, and an SDK gets a code.
    assert [403, 403, 103] == [record['code'] for record in commands]
    assert ['ann'] == [r['user'] for r in commands if 'user' in r]
    assert 4 == len(found)
    printed = [*found.values()]
    assert 2 == json.loads(printed[0])['data']
    assert printed[1].startswith('delivered: ')
    state = json.loads(printed[3])['state']
    assert 'live' == state['channels']['rooms:lobby']['state']


def test_names_of_the_page_exist() -> None:
    """Each metric, alert and event that the page names exists."""
    metrics = (ROOT / 'docs/metrics.md').read_text()
    alerts = (ROOT / 'deploy/monitoring/alerts.yaml').read_text()
    for name in set(re.findall(r'falcon_channels_\w+', TEXT)):
        assert re.sub(r'_(sum|count)$', '', name) in metrics
    for name in set(re.findall(r'`(Channels[A-Z]\w+)`', TEXT)):
        assert f'alert: {name}\n' in alerts
    events = set(re.findall(r'"event":"(\w+)"', TEXT))
    events |= {'publications_lost', 'reader_slow', 'link_lost', 'connection_closed'}
    assert set() == events - set(EVENTS)
    assert all(f'`{name}`' in TEXT or f'"{name}"' in TEXT for name in events)


@pytest.mark.parametrize('page', ['index', 'start', 'operations'])
def test_first_pages_link_to_the_page(page: str) -> None:
    """An operator with a problem finds the page from the pages that are read first."""
    assert '](first_look.md)' in (ROOT / f'docs/{page}.md').read_text()
