"""Deltas with the official Python SDK, against a server of this project."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from centrifuge import Client
from centrifuge import codecs
from centrifuge import DeltaType
from centrifuge import SubscriptionEventHandler
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.proxy import Proxy

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


class _Events(SubscriptionEventHandler):
    """Records publications, and whether the client recovered."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.recovered: list[tuple[bool, bool]] = []
        self.subscribing = asyncio.Event()

    async def on_subscribing(self, ctx: Any) -> None:
        self.subscribing.set()

    async def on_subscribed(self, ctx: Any) -> None:
        self.recovered.append((ctx.was_recovering, ctx.recovered))

    async def on_publication(self, ctx: Any) -> None:
        self.received.put_nowait(ctx.pub.data)


def states(count: int) -> list[Any]:
    """Return states of which each differs from the one before in a few places."""
    chance = random.Random(count)
    state = [{'id': number, 'text': f'Größe {number} €'} for number in range(60)]
    found = []
    for number in range(count):
        state[chance.randrange(60)]['text'] = f'😀 {number}'
        if number % 5 == 4:
            chance.shuffle(state)
        found.append(json.loads(json.dumps(state)))
    return found


@pytest.mark.parametrize('use_protobuf', [False, True])
def test_python_sdk_restores_live_and_recovered_states(
    asgi_server: AsgiServer, use_protobuf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An SDK with delta restores all states, also those it missed while it was cut."""
    num_deltas = 0
    apply_delta = codecs.apply_delta

    def counted(*args: Any) -> Any:
        nonlocal num_deltas
        num_deltas += 1
        return apply_delta(*args)

    monkeypatch.setattr(codecs, 'apply_delta', counted)

    async def scenario(server: ServerProcess) -> None:
        proxy = Proxy(server.port)
        await proxy.mend()
        client = Client(
            f'ws://127.0.0.1:{proxy.port}/connection/websocket',
            use_protobuf=use_protobuf,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.1,
        )
        events = _Events()
        subscription = client.new_subscription(
            'rooms:states', events, delta=DeltaType.FOSSIL
        )
        await client.connect()
        await subscription.subscribe()
        await subscription.ready()
        wanted = states(24)
        async with httpx.AsyncClient() as http:

            async def publish(state: Any) -> None:
                url = f'http://127.0.0.1:{server.port}/rooms/states'
                (await http.post(url, json=state)).raise_for_status()

            for number, state in enumerate(wanted):
                if number in (8, 16):
                    events.subscribing.clear()
                    await proxy.cut()
                    await events.subscribing.wait()
                await publish(state)
                if number in (11, 16):
                    await proxy.mend()
                if number in (7, 15, 23):
                    for expected in wanted[number - 7 : number + 1]:
                        found = await asyncio.wait_for(events.received.get(), 20)
                        assert expected == (
                            json.loads(found) if use_protobuf else found
                        )
        assert [(False, False), (True, True), (True, True)] == events.recovered
        await client.disconnect()
        await proxy.cut()

    command = asgi_server.command('tests.conformance.js_app:app')
    with ServerProcess(command) as server:
        asyncio.run(scenario(server))
    # Whole: the first of each connection, and those in another order.
    assert 24 - 3 - 5 <= num_deltas <= 24 - 3
