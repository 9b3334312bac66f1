"""Test the app and the browser code of the page with recipes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
import functools
import importlib.util
import json
from pathlib import Path
import re
import sqlite3
import subprocess
from types import ModuleType
from typing import Any

import falcon
from falcon import testing
import httpx
import pytest
from support.asgi_servers import SERVE
from support.processes import free_port
from support.processes import ROOT
from support.processes import ServerProcess
from support.processes import wait_until

from falcon_channels import BrokerUnavailableError
from falcon_channels import Position
from falcon_channels.testing import DisconnectedError
from falcon_channels.testing import SimulatedSdk

TEXT = (ROOT / 'docs/recipes.md').read_text()
BLOCKS = dict(re.findall(r'<!-- (\w+\.\w+) -->\n```\w+\n(.*?)```', TEXT, re.DOTALL))
NODE_MODULES = ROOT / 'tests/conformance/js/node_modules'
DRIVER = """
import WebSocket from 'ws';
import { follow } from './follow.mjs';
// Node's package ends the process after an error without a listener; browsers do not.
globalThis.WebSocket = class extends WebSocket {
  constructor(url) {
    super(url);
    this.onerror = () => {};
  }
};
globalThis.location = { href: process.argv[2] };
follow('/orders/7', (state) => console.log(state));
"""


#: The app of the page, with an address that ends the channel of the order.
ENDING_APP = """
from app import app
from app import channels


class End:
    async def on_post(self, req, resp):
        await channels.finish('orders:7')


app.add_route('/end', End())
"""

API_APP = """
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels

channels = Channels()
channels.add_route('orders:{order_id}', object(), ChannelOptions(history_size=10))
app = falcon.asgi.App()
channels.add_api(app, keys=['key-of-the-tests'])
"""


def load(name: str, path: Path) -> ModuleType:
    """Write a file of the page, and import it."""
    path.write_text(BLOCKS[name])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The app of the page, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    module = load('app.py', tmp_path / 'shop.py')
    yield module
    module.database.close()


def change(state: str, change_id: str) -> dict[str, str]:
    return {'state': state, 'id': change_id}


async def test_change_between_position_and_state_is_not_missed(
    shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change between the two reads is in the state, and is received again."""
    async with testing.ASGIConductor(shop.app) as conductor:
        await conductor.simulate_put('/orders/7', json=change('paid', 'a'))
        reader = shop.channels.node.reader
        read_position = reader.position_to_follow

        async def position(channel: str) -> Position:
            found: Position = await read_position(channel)
            await conductor.simulate_put('/orders/7', json=change('packed', 'b'))
            return found

        monkeypatch.setattr(reader, 'position_to_follow', position)
        loaded = (await conductor.simulate_get('/orders/7')).json
        assert ('packed', 1) == (loaded['state'], loaded['offset'])
        since = f'since={loaded["offset"]}:{loaded["epoch"]}'
        async with conductor.simulate_ws('/orders/7', query_string=since) as ws:
            assert (await ws.receive_json())['subscribed']['recovered']
            assert 'packed' == (await ws.receive_json())['data']


@pytest.mark.parametrize('stored', [True, False])
async def test_request_repeated_after_a_broker_failure_publishes_once(
    shop: ModuleType, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """If a publish failed, the repeated change is stored and published only once."""
    async with testing.ASGIConductor(shop.app) as conductor:
        publish = shop.channels.publish

        async def fail(*args: Any, **fields: Any) -> None:
            if stored:
                await publish(*args, **fields)
            raise BrokerUnavailableError('the link is lost')

        with monkeypatch.context() as patch:
            patch.setattr(shop.channels, 'publish', fail)
            failed = await conductor.simulate_put('/orders/7', json=change('paid', 'a'))
        assert (503, '5') == (failed.status_code, failed.headers['Retry-After'])
        assert 'paid' == (await conductor.simulate_get('/orders/7')).json['state']
        for _ in range(2):
            done = await conductor.simulate_put('/orders/7', json=change('paid', 'a'))
            assert 204 == done.status_code
        page = await shop.channels.history('orders:7')
        assert ['paid'] == [item.value() for item in page.publications]


@pytest.mark.server
@contextlib.contextmanager
def serving_the_shop(folder: Path, port: int) -> Iterator[str]:
    """Serve the app of the page, and yield the address of an order."""
    (folder / 'app.py').write_text(BLOCKS['app.py'])
    (folder / 'ending.py').write_text(ENDING_APP)
    with ServerProcess(SERVE.command('ending:app'), port=port, cwd=folder) as process:
        yield f'{process.url}/orders/7'


def put(url: str, state: str) -> None:
    """Change the state of an order."""
    assert 204 == httpx.put(url, json=change(state, state)).status_code


async def test_python_code_follows_an_order_over_a_restart(tmp_path: Path) -> None:
    """A client receives what was published while it was away, and nothing twice."""
    follow = load('follow.py', tmp_path / 'follow.py').follow
    port = free_port()
    with serving_the_shop(tmp_path, port) as url:
        state = httpx.get(url).json()
        since = f'{state["offset"]}:{state["epoch"]}'
        states = follow(url.replace('http', 'ws'), since)
        await asyncio.to_thread(put, url, 'paid')
        assert 'paid' == await anext(states)
    with serving_the_shop(tmp_path, port) as url:
        await asyncio.to_thread(put, url, 'packed')
        assert 'packed' == await anext(states)
    for path in tmp_path.glob('channels.db*'):
        if path.is_file():
            path.unlink()
    with serving_the_shop(tmp_path, port):
        with pytest.raises(LookupError):
            await anext(states)


async def test_python_code_ends_with_the_channel(tmp_path: Path) -> None:
    """A client does not return to a channel that has ended."""
    follow = load('follow.py', tmp_path / 'follow.py').follow
    with serving_the_shop(tmp_path, free_port()) as url:
        states = follow(url.replace('http', 'ws'), '0:')
        await asyncio.to_thread(put, url, 'paid')
        assert 'paid' == await anext(states)
        end = url.replace('orders/7', 'end')
        assert 200 == (await asyncio.to_thread(httpx.post, end)).status_code
        assert [] == [state async for state in states]


def test_browser_code_follows_an_order_over_restarts(tmp_path: Path) -> None:
    """A client continues from its position, or loads the state if it is lost.

    It does not return to a channel that has ended: then, nothing is left to do, and the
    program of Node ends.
    """
    (tmp_path / 'follow.mjs').write_text(BLOCKS['follow.js'])
    (tmp_path / 'driver.mjs').write_text(DRIVER)
    (tmp_path / 'node_modules').symlink_to(NODE_MODULES)
    port = free_port()
    server = functools.partial(serving_the_shop, tmp_path, port)
    output = tmp_path / 'output'
    with output.open('wb') as file:
        driver = subprocess.Popen(
            ['node', 'driver.mjs', f'http://127.0.0.1:{port}/'],
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:

        def shows(*states: str) -> None:
            wait_until(
                lambda: [*states] == output.read_text().split(),
                f'the page shows {states}',
            )

        with server() as url:
            shows('new')
            put(url, 'paid')
            shows('new', 'paid')
        with server() as url:
            put(url, 'packed')
            shows('new', 'paid', 'packed')
        for path in tmp_path.glob('channels.db*'):
            if path.is_file():
                path.unlink()
        with server() as url:
            shows('new', 'paid', 'packed', 'packed')
            put(url, 'sent')
            shows('new', 'paid', 'packed', 'packed', 'sent')
            end = url.replace('orders/7', 'end')
            assert 200 == httpx.post(end).status_code
            assert 0 == driver.wait(30)
    finally:
        driver.kill()
        driver.wait()


def test_every_code_block_has_a_name_and_is_run() -> None:
    """The page has no code block that is not run by a test."""
    names = ['app.py', 'follow.js', 'follow.py', 'insert.sql', 'notify.py', 'outbox.py']
    assert [*names, 'outbox.sql'] == sorted(BLOCKS)
    assert TEXT.count('```') == 2 * len(BLOCKS)


def test_outbox_publishes_each_committed_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is published once, also if it is not deleted; a refused one stays.

    Rows that can never be published do not stop the rows after them.
    """
    (tmp_path / 'api.py').write_text(API_APP)
    outbox: dict[str, Any] = {'__name__': 'outbox'}
    exec(BLOCKS['outbox.py'], outbox)
    database = sqlite3.connect(tmp_path / 'shop.db')
    database.executescript(BLOCKS['outbox.sql'])

    def insert(channel: str, state: str, key: str) -> None:
        database.execute(
            'INSERT INTO outbox (channel, data, idempotency_key) VALUES (?, ?, ?)',
            [channel, json.dumps({'state': state}), key],
        )

    database.execute('CREATE TABLE orders (id INTEGER, state TEXT)')
    database.executescript(BLOCKS['insert.sql'])
    [[key]] = database.execute('SELECT idempotency_key FROM outbox').fetchall()
    insert('nowhere', 'paid', 'b')
    insert('orders:7', 'x' * 1_100_000, 'large')
    database.execute(
        'INSERT INTO outbox (channel, data, idempotency_key) VALUES (?, ?, ?)',
        ['orders:7', '{"state":', 'invalid'],
    )
    database.commit()
    insert('orders:7', 'cancelled', 'c')
    database.rollback()
    with ServerProcess(SERVE.command('api:app'), cwd=tmp_path) as server:
        monkeypatch.setenv('FALCON_CHANNELS_API_URL', f'{server.url}/api')
        monkeypatch.setenv('FALCON_CHANNELS_API_KEY', 'key-of-the-tests')
        # The program ended before it deleted the row.
        assert outbox['publish']('orders:7', '{"state": "paid"}', key) is None
        assert 4 == outbox['publish_rows'](database)
        insert('orders:7', 'packed', 'd')
        assert 1 == outbox['publish_rows'](database)
        found = httpx.post(
            f'{server.url}/api/history',
            json={'channel': 'orders:7', 'limit': 10},
            headers={'X-API-Key': 'key-of-the-tests'},
        ).json()['result']['publications']
    states = [publication['data']['state'] for publication in found]
    assert ['paid', 'packed'] == states
    rows = database.execute('SELECT channel, error FROM outbox').fetchall()
    [unknown, large, invalid] = rows
    assert ('nowhere', 'unknown channel') == unknown
    assert ('orders:7', 'the data is too large') == large
    assert invalid[1].startswith('the data is not JSON: ')
    database.close()


class Login:
    """Middleware that takes the user from a header."""

    async def process_request(self, req: Any, resp: Any) -> None:
        req.context.user = req.get_header('X-User', default='')

    async def process_request_ws(self, req: Any, ws: Any) -> None:
        await self.process_request(req, None)


async def test_notice_reaches_all_pages_of_its_user_only(tmp_path: Path) -> None:
    """Each connection of a user receives the notice; another user does not."""
    module = load('notify.py', tmp_path / 'notify.py')
    module.app.add_middleware(Login())
    channels, clients = module.channels, module.Clients()

    def request(user: str) -> Any:
        req = testing.create_asgi_req()
        req.context.user = user
        return req

    async with testing.ASGIConductor(module.app) as conductor:
        with pytest.raises(DisconnectedError, match='3500: log in first'):
            async with SimulatedSdk(channels, clients):
                pass
        async with (
            SimulatedSdk(channels, clients, req=request('ann')) as one,
            SimulatedSdk(channels, clients, req=request('ann')) as two,
            SimulatedSdk(channels, clients, req=request('bob')) as bob,
        ):
            for user in ('ann', 'bob'):
                await conductor.simulate_post(f'/users/{user}/notices', json=user)
            for client, user in ((one, 'ann'), (two, 'ann'), (bob, 'bob')):
                push = await client.receive()
                assert (f'users:{user}', user) == (push['channel'], push['pub']['data'])
            path = '/users/ann/notices'
            stranger = {'X-User': 'bob'}
            refused = await conductor.simulate_get(path, headers=stranger)
            assert 403 == refused.status_code
            with pytest.raises(falcon.WebSocketDisconnected):
                async with conductor.simulate_ws(path, headers=stranger):
                    pass
            async with conductor.simulate_ws(path, headers={'X-User': 'ann'}) as page:
                await page.receive_json()  # {"subscribed": ...}
                await conductor.simulate_post(path, json='again')
                assert 'again' == (await page.receive_json())['data']
            missed = {'X-User': 'ann', 'Accept': 'application/json'}
            poll = await conductor.simulate_get(f'{path}?since=1', headers=missed)
            assert 'again' in poll.text
