"""Tag filters of the official Python SDK, against a server of this project."""

from __future__ import annotations

import asyncio
import json
from typing import Any
import urllib.request

from centrifuge import Client
from centrifuge import SubscriptionEventHandler
from centrifuge.filter import Filter
from centrifuge.filter import FilterNode
import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.sdk_tasks import finish_tasks

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


class _Events(SubscriptionEventHandler):
    """Records the offsets of publications."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.subscribed = asyncio.Event()
        self.code: int | None = None
        self.unsubscribed = asyncio.Event()
        self.last = asyncio.Event()

    async def on_subscribed(self, ctx: Any) -> None:
        self.subscribed.set()

    async def on_unsubscribed(self, ctx: Any) -> None:
        self.code = ctx.code
        self.unsubscribed.set()

    async def on_publication(self, ctx: Any) -> None:
        self.offsets.append(ctx.pub.offset)
        if ctx.pub.tags.get('last'):
            self.last.set()


def _publish(server: ServerProcess, room: str, query: str) -> None:
    request = urllib.request.Request(
        f'http://127.0.0.1:{server.port}/rooms/{room}?{query}',
        json.dumps(query).encode(),
        {'Content-Type': 'application/json'},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        assert 200 == response.status


#: Filters of the SDK, and the offsets that match; the last publication always does.
CASES: list[tuple[FilterNode, list[int]]] = [
    (Filter.eq('region', 'north'), [1, 3, 5]),
    (Filter.neq('region', 'north'), [2, 4, 5]),
    (Filter.is_in('region', ['south', 'west']), [2, 5]),
    (Filter.not_in('region', ['south', 'north']), [4, 5]),
    (Filter.exists('price'), [1, 2, 5]),
    (Filter.not_exists('price'), [3, 4, 5]),
    (Filter.starts_with('region', 'no'), [1, 3, 5]),
    (Filter.ends_with('region', 'th'), [1, 2, 3, 5]),
    (Filter.contains('region', 'out'), [2, 5]),
    (Filter.gt('price', '9.5'), [2, 5]),
    (Filter.gte('price', '9.5'), [1, 2, 5]),
    (Filter.lt('price', '10'), [1, 5]),
    (Filter.lte('price', '10'), [1, 2, 5]),
    (Filter.negate(Filter.eq('region', 'north')), [2, 4, 5]),
    (
        Filter.all(Filter.eq('region', 'north'), Filter.exists('price')),
        [1, 5],
    ),
]


@pytest.mark.parametrize('use_protobuf', [False, True])
def test_python_sdk_receives_what_its_filter_selects(
    asgi_server: AsgiServer, use_protobuf: bool
) -> None:
    """Each comparison and operation of the SDK selects what its name says."""

    async def scenario(server: ServerProcess) -> None:
        address = f'ws://127.0.0.1:{server.port}/connection/websocket'
        client = Client(address, use_protobuf=use_protobuf)
        await client.connect()
        all_events = []
        for tags_filter, _ in CASES:
            events = _Events()
            all_events.append(events)
            # NOTE: a client has one subscription per channel.
            room = f'rooms:sdk{len(all_events)}'
            subscription = client.new_subscription(
                room,
                events=events,
                tags_filter=Filter.any(tags_filter, Filter.exists('last')),
            )
            await subscription.subscribe()
            await asyncio.wait_for(events.subscribed.wait(), 20)
        for number, events in enumerate(all_events, 1):
            for query in (
                'region=north&price=9.5',
                'region=south&price=10',
                'region=north',
                'x=1',
                'last=1',
            ):
                await asyncio.to_thread(_publish, server, f'sdk{number}', query)
            await asyncio.wait_for(events.last.wait(), 20)
        expected = [offsets for _, offsets in CASES]
        assert expected == [events.offsets for events in all_events]
        await client.disconnect()
        await finish_tasks()

    with ServerProcess(asgi_server.command('tests.conformance.js_app:app')) as server:
        asyncio.run(scenario(server))
