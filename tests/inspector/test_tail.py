"""The live tail of a channel."""

from __future__ import annotations

import time
from typing import Any

from falcon.asgi import SSEvent
import msgspec
import pytest
from support.linked_broker import start_node

from falcon_channels.inspector import resource
from falcon_channels.inspector import tail
from falcon_channels.inspector.tail import Tails
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
    tails = Tails(channels.node)
    events = aiter(tails.follow('rooms:a', time.time() + 60))
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
        async for event in Tails(channels.node).follow('no', time.time() + 60)
    ]
    name, data = event
    assert 'end' == name
    assert 'no route matches' in data['reason']
    await channels.close()


async def test_tail_ends_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that expires ends its tails, and a quiet tail sends pings."""
    monkeypatch.setattr(tail, '_PING_S', 0.01)
    channels, _ = await start_node([])
    found = [
        event
        async for event in Tails(channels.node).follow('rooms:a', time.time() + 0.1)
    ]
    assert None in found
    assert 'end' == read(found[-1])[0]
    await channels.close()


async def test_number_of_tails_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tail is a subscriber, so a process has a limited number of them."""
    monkeypatch.setattr(tail, 'MAX_TAILS', 0)
    monkeypatch.setattr(resource, 'MAX_TAILS', 0)
    async with two_inspected() as (one, _):
        result = await one.post('tail', {'channel': 'rooms:a'})
        assert 503 == result.status_code
        assert 'has 0 live tails' in result.json['description']
        assert 400 == (await one.post('tail', {'channel': 1})).status_code
