"""`get_state` of the official Python SDK, against a server of this project."""

from __future__ import annotations

import asyncio
import json
from typing import Any
import urllib.request

from centrifuge import Client
from centrifuge import StreamPosition
from centrifuge import SubscriptionEventHandler
import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.sdk_tasks import finish_tasks

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


class _Events(SubscriptionEventHandler):
    """Records what a subscription reports, and wakes the test."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.recovered: asyncio.Queue[bool] = asyncio.Queue()
        self.published = asyncio.Event()

    async def on_subscribed(self, ctx: Any) -> None:
        self.recovered.put_nowait(ctx.recovered)

    async def on_publication(self, ctx: Any) -> None:
        data = ctx.pub.data
        self.received.append(json.loads(data) if isinstance(data, bytes) else data)
        self.published.set()


def _request(server: ServerProcess, method: str, path: str, data: Any = None) -> Any:
    request = urllib.request.Request(
        f'http://127.0.0.1:{server.port}{path}',
        None if data is None else json.dumps(data).encode(),
        {'Content-Type': 'application/json'},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        body = response.read()
    return json.loads(body) if body else None


@pytest.mark.parametrize('use_protobuf', [False, True])
def test_python_sdk_follows_a_state_without_a_gap(
    asgi_server: AsgiServer, use_protobuf: bool
) -> None:
    """The SDK loads a state once, recovers short absences, and loads it again after
    error 112 and code 2502."""

    async def scenario(server: ServerProcess) -> None:
        async def send(method: str, path: str, data: Any = None) -> Any:
            return await asyncio.to_thread(_request, server, method, path, data)

        loaded: list[Any] = []

        async def get_state(channel: str) -> StreamPosition:
            found = await send('GET', '/states/python')
            loaded.append(found['state'])
            return StreamPosition(offset=found['offset'], epoch=found['epoch'])

        await send('PUT', '/states/python', 'a')
        client = Client(
            f'ws://127.0.0.1:{server.port}/connection/websocket',
            use_protobuf=use_protobuf,
            data=b'{"user":"ann"}' if use_protobuf else {'user': 'ann'},
        )
        events = _Events()
        subscription = client.new_subscription(
            'states:python',
            events=events,
            get_state=get_state,
            min_resubscribe_delay=0.02,
        )

        async def subscribed() -> bool:
            return await asyncio.wait_for(events.recovered.get(), 20)

        await client.connect()
        await subscription.subscribe()
        assert await subscribed()
        await send('PUT', '/states/python', 'b')
        await asyncio.wait_for(events.published.wait(), 20)
        await client.disconnect()
        await send('PUT', '/states/python', 'c')
        await client.connect()
        assert await subscribed()
        assert ['a'] == loaded
        await client.disconnect()
        for state in 'defg':
            await send('PUT', '/states/python', state)
        await client.connect()
        assert await subscribed()
        assert (['a', 'g'], ['b', 'c']) == (loaded, events.received)
        await send('PUT', '/states/python?quiet=true', 'restored')
        await send('POST', '/users/ann/invalidate?channel=states:python')
        assert await subscribed()
        assert (['a', 'g', 'restored'], ['b', 'c']) == (loaded, events.received)
        await client.disconnect()
        await finish_tasks()

    with ServerProcess(asgi_server.command('tests.conformance.js_app:app')) as server:
        asyncio.run(scenario(server))
