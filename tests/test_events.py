"""The events of one process: each is told when it happens, and to every listener."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
import re
from typing import Any

import falcon
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels import Subscription
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.events import Event
from falcon_channels.events import EVENTS
from falcon_channels.events import Events
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk

ROOT = Path(__file__).parents[1]


class Room:
    """Refuses mallory, and fails when a client leaves."""

    async def on_subscribe(self, req: Any, subscription: Subscription) -> None:
        if subscription.user == 'mallory':
            raise falcon.HTTPForbidden(description='not you')

    async def on_unsubscribe(self, req: Any, subscription: Subscription) -> None:
        raise RuntimeError('broken')


def make_channels(**options: Any) -> tuple[Channels, list[Event]]:
    channels = Channels(options=NodeOptions(allowed_origins=['*']))
    channels.add_route('room', Room(), ChannelOptions(history_size=10, **options))
    told: list[Event] = []
    channels.listen(told.append)
    return channels, told


def names(told: list[Event]) -> list[str]:
    return [event.name for event in told]


def of(told: list[Event], name: str) -> list[Event]:
    return [event for event in told if event.name == name]


@on_fake_clock
async def test_client_that_subscribes_and_leaves_is_told_as_five_events() -> None:
    """The life of a client is told in order, with its user, channel and position."""
    channels, told = make_channels()
    async with channels:
        await channels.publish('room', 1)
        async with SimulatedClient(channels, user='ann') as client:
            await client.subscribe('room')
            connection = client.connection.id
        await asyncio.sleep(0)
    assert [
        'node_started',
        'connection_opened',
        'subscription_started',
        'subscription_ended',
        'connection_closed',
        'responder_failed',
        'node_draining',
        'node_closed',
    ] == names(told)
    [started] = of(told, 'subscription_started')
    assert ('ann', 'room', 'room') == (started.user, started.channel, started.route)
    assert 1 == started.facts['offset']
    assert started.facts['recovered'] is None
    assert {connection} == {event.connection for event in told[1:6]}


@on_fake_clock
async def test_sdk_client_is_told_with_its_user_and_close_code() -> None:
    """The user of an SDK client is told when it connects, and a close has its code."""

    class Clients:
        async def on_connect(self, req: Any, connection: Any) -> None:
            connection.user = 'bob'

    channels, told = make_channels()
    async with channels, SimulatedSdk(channels, Clients()) as sdk:
        await channels.disconnect_user('bob', code=3503, reason='go away')
        while sdk.end is None:
            await asyncio.sleep(0)
    [identified] = of(told, 'connection_identified')
    assert ('bob', '') == (identified.user, identified.facts['before'])
    [closed] = of(told, 'connection_closed')
    assert ('bob', 3503, 'go away') == (closed.user, closed.code, closed.reason)
    assert not closed.facts['by_client']


@on_fake_clock
async def test_refused_subscribe_is_told_with_its_reason() -> None:
    """A refusal is told each time; repeated ones are marked."""

    class Clients:
        async def on_connect(self, req: Any, connection: Any) -> None:
            connection.user = 'mallory'

    channels, told = make_channels()
    async with channels, SimulatedSdk(channels, Clients()) as sdk:
        for _ in range(2):
            with pytest.raises(Exception, match='103'):
                await sdk.subscribe('room')
    refused = of(told, 'command_refused')
    assert [('room', 103, False), ('room', 103, True)] == [
        (event.channel, event.code, event.facts['repeated']) for event in refused
    ]
    assert {'subscribe'} == {event.facts['command'] for event in refused}


@on_fake_clock
async def test_full_process_tells_refused_connections() -> None:
    """A connection beyond the limit is told with the HTTP status."""
    channels = Channels(options=NodeOptions(max_connections=1))
    told: list[Event] = []
    channels.listen(told.append)
    async with channels, SimulatedClient(channels):
        with pytest.raises(falcon.HTTPServiceUnavailable):
            async with SimulatedClient(channels):
                pass
    [refused] = of(told, 'connection_refused')
    assert 503 == refused.code
    assert 'limit of 1' in refused.reason


@on_fake_clock
async def test_slow_reader_is_told_with_dropped_and_caught_up() -> None:
    """A slow reader is told once, and then what was dropped and what it read."""
    channels, told = make_channels(
        recovery='off', slow_reader='latest', max_backlog_bytes=200_000
    )
    async with channels, SimulatedClient(channels, user='ann') as client:
        await client.subscribe('room')
        client.stop_reading()
        for number in range(8):
            await channels.publish('room', f'{number}' * 20_000)
            await asyncio.sleep(0)
        client.read_again()
        while not of(told, 'reader_caught_up'):
            await asyncio.sleep(0)
    [slow] = of(told, 'reader_slow')
    assert ('ann', 'room', 'latest') == (slow.user, slow.channel, slow.facts['policy'])
    assert 6 == sum(
        event.facts['dropped'] for event in of(told, 'publications_dropped')
    )  # type: ignore[misc]


@on_fake_clock
async def test_lost_link_and_lost_publications_are_told() -> None:
    """A lost link, its end, and publications that cannot be read are told."""
    broker = MemoryBroker()
    channels = Channels(broker)
    channels.add_route(
        'room', None, ChannelOptions(history_size=1, subscribers='anybody')
    )
    told: list[Event] = []
    channels.listen(told.append)
    async with channels, SimulatedClient(channels) as client:
        await client.subscribe('room')
        receiver, broker._receiver = broker._receiver, None
        assert receiver is not None
        receiver.on_link_lost()
        for number in range(3):
            await channels.publish('room', number)
        broker._receiver = receiver
        receiver.on_link_restored()
        while not of(told, 'publications_lost'):
            await asyncio.sleep(0)
    assert names(told).index('link_lost') < names(told).index('link_restored')
    [lost] = of(told, 'publications_lost')
    assert ('room', 1) == (lost.channel, lost.facts['num_subscriptions'])


def test_failing_listener_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error of one listener is logged, and the next listener is called."""
    events = Events()
    told: list[str] = []

    def fail(event: Event) -> None:
        raise RuntimeError('broken')

    events.listen(fail)
    stop = events.listen(lambda event: told.append(event.name))
    events.tell(Event('link_lost'))
    assert ['link_lost'] == told
    assert 'broken' in caplog.text
    stop()
    stop()
    events.tell(Event('link_restored'))
    assert ['link_lost'] == told


def test_events_are_wanted_while_somebody_listens() -> None:
    """`wanted` follows the listeners."""
    events = Events()
    assert not events.wanted
    stop = events.listen(lambda event: None)
    assert events.wanted
    stop()
    assert not events.wanted


def test_listeners_stay_when_the_channels_start_again() -> None:
    """A listener is called after `close` and a new start, too."""
    channels, told = make_channels()

    async def run() -> None:
        async with channels:
            pass

    asyncio.run(run())
    asyncio.run(run())
    assert 2 == len(of(told, 'node_started'))


def told_in_source() -> set[str]:
    """Return the constants that are passed to `Event` or to a function that tells."""
    found = set()
    for path in (ROOT / 'src' / 'falcon_channels').rglob('*.py'):
        if path.name != 'events.py':
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and node.value in EVENTS:
                    found.add(node.value)
    return found


def test_each_event_is_told_and_documented() -> None:
    """The names of events, the source that tells them and the page are the same."""
    page = (ROOT / 'docs' / 'events.md').read_text()
    assert set(EVENTS) == told_in_source()
    assert list(EVENTS) == re.findall(r'^\| `(\w+)` \|', page, re.MULTILINE)
