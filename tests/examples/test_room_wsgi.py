"""The room example on WSGI, served by gunicorn with two workers."""

from __future__ import annotations

import json
from pathlib import Path
import sys

import httpx
import pytest
from support.processes import ServerProcess
from websockets.sync.client import connect


@pytest.mark.server
@pytest.mark.parametrize(
    'arguments',
    [
        ['-k', 'gevent', '--workers', '2'],
        ['-k', 'gthread', '--threads', '50', '--workers', '2'],
    ],
)
def test_room_is_shared_by_all_workers(arguments: list[str], tmp_path: Path) -> None:
    """All workers share the messages, the history and the presence of a room."""
    gunicorn = str(Path(sys.executable).with_name('gunicorn'))
    command = [gunicorn, '-b', '127.0.0.1:{port}', '--no-control-socket', *arguments]
    env = {'ROOM_BROKER': f'sqlite:///{tmp_path}/room.db'}
    with ServerProcess([*command, 'examples.room_wsgi:app'], env=env) as server:
        url, ws_url = f'{server.url}/rooms/den', f'{server.ws_url}/rooms/den'
        with (
            connect(f'{ws_url}?name=ann', open_timeout=30) as ann,
            connect(f'{ws_url}?name=bob', open_timeout=30) as bob,
        ):
            assert all('subscribed' in json.loads(ws.recv(30)) for ws in (ann, bob))
            ann.send('"hello"')
            assert ['hello'] * 2 == [
                json.loads(ws.recv(30))['data'] for ws in (ann, bob)
            ]
            posted = httpx.post(url, json={'by': 'curl'}, timeout=30)
            assert (201, 2) == (posted.status_code, posted.json()['offset'])
            assert {'by': 'curl'} == json.loads(bob.recv(30))['data']
            page = httpx.get(url, timeout=30).json()
            assert [{'by': 'curl'}, 'hello'] == [
                item['data'] for item in page['publications']
            ]
            assert {'ann', 'bob'} == set(page['users'])
