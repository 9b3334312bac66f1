"""A server that is stopped and started again under load.

Publishers repeat publications that were not acknowledged, with the same idempotency
key. Listeners reconnect with their position. No publication may be lost or doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import centrifuge
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.lean_client import LeanClient
from support.processes import ServerProcess
from support.sdk_tasks import finish_tasks
from support.stop_app import KEY

LISTENERS = 120
SDK_CLIENTS = 6
PUBLISHERS = 4
#: Number of stops, and of publications between two stops.
STOPS = 3
PART = 200

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]


class Listener(LeanClient):
    """A client that reconnects with its position."""

    def __init__(self, port: int) -> None:
        super().__init__(port, '/rooms/load')
        self.heard: list[tuple[int, Any]] = []
        self.since = ''
        self.subscribed = False
        self.codes: list[int | None] = []
        self.wrong: list[Any] = []

    async def run(self) -> None:
        while True:
            try:
                await self.connect()
            except OSError:
                await asyncio.sleep(0.05)
                continue
            await self.lost.wait()
            self.subscribed = False
            if self.status == 101:
                self.codes.append(self.close_code)

    def on_text(self, text: str) -> None:
        message = json.loads(text)
        begin = message.get('subscribed')
        if begin is None:
            self.heard.append((message['offset'], message['data']))
            self.since = f'{message["offset"]}:{message["epoch"]}'
        else:
            if self.since and not begin['recovered']:
                self.wrong.append(begin)
            self.since = self.since or f'{begin["offset"]}:{begin["epoch"]}'
            self.subscribed = True
        self.path = f'/rooms/load?since={self.since}'


class SdkListener(centrifuge.SubscriptionEventHandler):
    """The publications that a client of the official SDK receives."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Any]] = []
        self.recovered: list[bool] = []

    async def on_subscribed(self, ctx: Any) -> None:
        if ctx.was_recovering:
            self.recovered.append(ctx.recovered)

    async def on_publication(self, ctx: Any) -> None:
        self.heard.append((ctx.pub.offset, ctx.pub.data))


async def publish(
    url: str, name: int, acknowledged: list[Any], enough: asyncio.Event
) -> None:
    """Publish one message after the other; repeat those without acknowledgement.

    NOTE: a fixed number of messages could be over before the last stop.
    """
    async with httpx.AsyncClient(timeout=20, trust_env=False) as http:
        for number in itertools.count():
            if enough.is_set():
                return
            body = {
                'channel': 'rooms:load',
                'data': [name, number],
                'idempotency_key': f'{name}-{number}',
            }
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await http.post(
                        f'{url}/api/publish', json=body, headers={'X-API-Key': KEY}
                    )
                    if answer.status_code == 200 and 'result' in answer.json():
                        break
                await asyncio.sleep(0.05)
            offset = answer.json()['result']['offset']
            acknowledged.append((offset, body['data']))


async def run(
    server: ServerProcess, status: int
) -> tuple[list[Any], list[Any], list[Any]]:
    """Stop the server and start it again, three times, under load."""
    listeners = [Listener(server.port) for _ in range(LISTENERS)]
    running = [asyncio.create_task(listener.run()) for listener in listeners]
    url = f'{server.ws_url}/connection/websocket'
    sdk = [SdkListener() for _ in range(SDK_CLIENTS)]
    clients = []
    for events in sdk:
        client = centrifuge.Client(
            url, proxy=None, min_reconnect_delay=0.1, max_reconnect_delay=0.5
        )
        subscription = client.new_subscription('rooms:load', events=events)
        await client.connect()
        await subscription.subscribe()
        await subscription.ready()
        clients.append(client)

    acknowledged: list[Any] = []
    enough = asyncio.Event()

    async def part_is_published() -> None:
        """Wait until all listeners are back, and more was published."""
        total = len(acknowledged) + PART
        while len(acknowledged) < total or not all(
            listener.subscribed for listener in listeners
        ):
            await asyncio.sleep(0.005)

    async with asyncio.timeout(180), asyncio.TaskGroup() as group:
        for name in range(PUBLISHERS):
            group.create_task(publish(server.url, name, acknowledged, enough))
        for _ in range(STOPS):
            await part_is_published()
            assert status == await asyncio.to_thread(server.stop, 60)
            await asyncio.to_thread(server.start)
        await part_is_published()
        enough.set()
    async with asyncio.timeout(60):
        while any(len(one.heard) < len(acknowledged) for one in [*listeners, *sdk]):
            await asyncio.sleep(0.02)

    for client in clients:
        await client.disconnect()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for listener in listeners:
        listener.cut()
    await finish_tasks()
    return acknowledged, listeners, sdk


@pytest.mark.parametrize('workers', [1, 2])
def test_restarts_under_load_lose_no_acknowledged_publication(
    asgi_server: AsgiServer, workers: int, tmp_path: Path
) -> None:
    """Clients that recover get each publication exactly once, in order."""
    command = asgi_server.command('support.stop_app:app', '--workers', str(workers))
    env = {'PYTHONPATH': 'tests', 'BROKER': f'sqlite:///{tmp_path}/channels.db'}
    status = asgi_server.stop_status if workers == 1 else 0
    with ServerProcess(command, env=env) as server:
        acknowledged, listeners, sdk = asyncio.run(run(server, status))
        if asgi_server.stop_is_quiet:
            assert 'Traceback' not in server.log()
    published = sorted(acknowledged)
    assert list(range(1, len(published) + 1)) == [offset for offset, _ in published]
    for name in range(PUBLISHERS):
        numbers = [data[1] for _, data in published if data[0] == name]
        assert list(range(len(numbers))) == numbers
    assert [] == [wrong for one in listeners for wrong in one.wrong]
    assert [True] == sorted({recovered for one in sdk for recovered in one.recovered})
    for one in [*listeners, *sdk]:
        assert published == one.heard
    # NOTE: A client that reconnects at once may reach another worker, which stops, too.
    assert STOPS <= min(len(one.codes) for one in listeners)
    codes = {code for one in listeners for code in one.codes}
    assert {asgi_server.stop_codes[1]} == codes
