"""The live tail of a channel."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

from falcon import testing
from falcon.asgi import SSEvent
import msgspec
import pytest
from support.linked_broker import start_node

from falcon_channels.inspector import live_tail
from falcon_channels.inspector.live_tail import LiveTails
from falcon_channels.inspector.live_tail import MAX_LIVE_TAILS
from inspector.pages import two_inspected


def read(event: SSEvent | None) -> tuple[str | None, Any]:
    """Return the name and the data of an event."""
    assert event is not None
    assert event.data is not None
    return event.event, msgspec.json.decode(event.data)


async def test_tail_has_the_publications_from_now_on_and_the_end() -> None:
    """The events are the position, each publication, and why the tail has ended."""
    channels, _ = await start_node([])
    await channels.publish('rooms:a', 'before')
    tails = LiveTails(channels.node)
    events = await tails.open('rooms:a', time.time() + 60)
    assert ('begin', 1) == (lambda n, d: (n, d['offset']))(*read(await anext(events)))
    await channels.publish('rooms:a', '<b>')
    name, data = read(await anext(events))
    assert ('publication', 2, '"<b>"') == (name, data['offset'], data['text'])
    await channels.finish('rooms:a')
    rest = [read(event) async for event in events]
    assert ('end', {'reason': 'the channel or the session has ended'}) == rest[-1]
    assert 0 == len(channels.connections())
    await channels.close()


async def test_tail_of_an_unknown_channel_says_so() -> None:
    """An error is an event, because the status was sent before."""
    channels, _ = await start_node([])
    (event,) = [
        read(event)
        async for event in await LiveTails(channels.node).open('no', time.time() + 60)
    ]
    name, data = event
    assert 'end' == name
    assert 'no route matches' in data['reason']
    await channels.close()


async def test_tail_ends_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that expires ends its tails, and a quiet tail sends pings."""
    monkeypatch.setattr(live_tail, '_PING_S', 0.01)
    channels, _ = await start_node([])
    events = await LiveTails(channels.node).open('rooms:a', time.time() + 0.1)
    found = [event async for event in events]
    assert None in found
    assert 'end' == read(found[-1])[0]
    await channels.close()


async def test_number_of_live_tails_is_limited_also_if_they_are_opened_at_once() -> (
    None
):
    """Each tail is a subscriber, so a process has a limited number of them.

    A tail takes its place before its response begins. Requests that arrive together
    therefore do not exceed the limit.
    """
    statuses: list[int] = []
    body = b'{"channel": "rooms:a"}'

    async with two_inspected() as (one, _):

        async def open_tail() -> None:
            """Send a request, and stop to read when the response begins."""
            scope = testing.create_scope(
                path='/_channels/api/tail',
                method='POST',
                headers={
                    'Content-Type': 'application/json',
                    'Content-Length': str(len(body)),
                    'Cookie': f'falcon_channels_inspector={one.token}',
                },
            )
            requests = [{'type': 'http.request', 'body': body, 'more_body': False}]

            async def receive() -> dict[str, Any]:
                return requests.pop() if requests else await asyncio.Future()

            async def send(event: dict[str, Any]) -> None:
                if event['type'] == 'http.response.start':
                    statuses.append(event['status'])
                    await asyncio.Future()

            await one.conductor.app(scope, receive, send)

        tasks = [asyncio.ensure_future(open_tail()) for _ in range(MAX_LIVE_TAILS + 3)]
        while len(statuses) < len(tasks):
            await asyncio.sleep(0)
        assert (MAX_LIVE_TAILS, 3) == (statuses.count(200), statuses.count(503))
        result = await one.post('tail', {'channel': 'rooms:a'})
        assert 503 == result.status_code
        assert 'has 20 live tails' in result.json['description']
        assert 400 == (await one.post('tail', {'channel': 1})).status_code
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_place_of_a_tail_that_nobody_reads_is_released() -> None:
    """If the client leaves before its response begins, another one can open a tail."""
    channels, _ = await start_node([])
    tails = LiveTails(channels.node)
    for _ in range(3 * MAX_LIVE_TAILS):
        assert not tails.is_full
        events = await tails.open('rooms:a', time.time() + 60)
        del events
        gc.collect()
        await asyncio.sleep(0)
    opened = [
        await tails.open('rooms:a', time.time() + 60) for _ in range(MAX_LIVE_TAILS)
    ]
    assert tails.is_full
    opened.clear()
    await channels.close()
