"""The events of one process: each is told when it happens, and to every listener."""

from __future__ import annotations

import ast
import asyncio
import logging
from pathlib import Path
import re
from typing import Any

import falcon
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import InvalidValueError
from falcon_channels import NodeOptions
from falcon_channels import Subscription
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.events import Event
from falcon_channels.events import EVENTS
from falcon_channels.events import Events
from falcon_channels.events import LEVELS
from falcon_channels.origin import refused_connection
from falcon_channels.testing import CommandError
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


class Told(list[Event]):
    """Stores the events that a listener is told, and waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.append(event)
        self._changed.set()

    async def until(self, name: str) -> None:
        """Wait until an event of this name was told."""
        async with asyncio.timeout(60):
            while not of(self, name):
                self._changed.clear()
                await self._changed.wait()


def make_channels(**options: Any) -> tuple[Channels, Told]:
    channels = Channels(options=NodeOptions(allowed_origins=['*']))
    channels.add_route('room', Room(), ChannelOptions(history_size=10, **options))
    told = Told()
    channels.listen(told)
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
        await told.until('responder_failed')
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
        await told.until('connection_closed')
        assert sdk.end == (3503, 'go away')
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
            with pytest.raises(CommandError, match='103'):
                await sdk.subscribe('room')
    refused = of(told, 'command_refused')
    assert [('room', 103, False), ('room', 103, True)] == [
        (event.channel, event.code, event.facts['repeated']) for event in refused
    ]
    assert {'subscribe'} == {event.facts['command'] for event in refused}


@on_fake_clock
async def test_each_command_about_a_user_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A command is told with its user, channel and code, and without payloads.

    The session of a connection is not told. A command with a mistake is not told.
    """
    caplog.set_level(logging.INFO, 'falcon_channels')
    channels, told = make_channels()
    async with channels:
        await channels.subscribe_user('ann', 'room', data='secret', info='secret')
        await channels.unsubscribe_user('ann', 'room', session='secret')
        await channels.refresh_user('ann', client='c1', info='secret')
        await channels.disconnect_user('ann', code=3503, reason='bye', exclude=['c2'])
        await channels.revoke_user('ann', 'room', ttl_s=60)
        await channels.restore_user('ann', 'room')
        with pytest.raises(InvalidValueError):
            await channels.disconnect_user('ann', code=1)
    commands = of(told, 'application_command')
    assert [
        ('subscribe', 'room', '', 0, ''),
        ('unsubscribe', 'room', '', 2000, 'unsubscribed'),
        ('refresh', '', 'c1', 0, ''),
        ('disconnect', '', '', 3503, 'bye'),
        ('revoke', 'room', '', 2000, 'unsubscribed'),
        ('restore', 'room', '', 0, ''),
    ] == [
        (e.facts['command'], e.channel, e.connection, e.code, e.reason)
        for e in commands
    ]
    assert {'ann'} == {event.user for event in commands}
    assert (1, 60) == (commands[3].facts['num_excluded'], commands[4].facts['ttl_s'])
    assert [False, True] == [e.facts['one_session'] for e in commands[:2]]
    assert commands == of(
        [record.event for record in logged(caplog)],  # type: ignore[attr-defined]
        'application_command',
    )
    assert 'secret' not in caplog.text


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
    assert refused.facts['path'].startswith('/')  # type: ignore[union-attr]
    assert 'limit of 1' in refused.reason


def test_long_path_of_a_refused_connection_is_cut() -> None:
    """A client that chooses a long path does not fill the log."""
    event = refused_connection('/' + 'x' * 9_999, 403, 'no')
    assert '/' + 'x' * 254 == event.facts['path']


async def written() -> None:
    """Wait until all that was published is written.

    NOTE: the fake clock advances only when nothing else is left to do.
    """
    await asyncio.sleep(1)


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
            await written()
        client.read_again()
        await told.until('reader_caught_up')
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
    told = Told()
    channels.listen(told)
    async with channels, SimulatedClient(channels) as client:
        await client.subscribe('room')
        receiver, broker._receiver = broker._receiver, None
        assert receiver is not None
        receiver.on_link_lost()
        for number in range(3):
            await channels.publish('room', number)
        broker._receiver = receiver
        receiver.on_link_restored()
        await told.until('publications_lost')
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


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records of events."""
    return [record for record in caplog.records if hasattr(record, 'event')]


@on_fake_clock
async def test_each_event_of_a_client_has_one_log_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has the same events as a listener, in the same order, each once."""
    caplog.set_level(logging.DEBUG, 'falcon_channels')
    channels, told = make_channels(
        recovery='off', slow_reader='latest', max_backlog_bytes=200_000
    )
    async with channels:
        async with SimulatedClient(channels, user='ann') as client:
            await client.subscribe('room')
            client.stop_reading()
            for number in range(8):
                await channels.publish('room', f'{number}' * 20_000)
                await written()
            client.read_again()
            await told.until('reader_caught_up')
        await told.until('responder_failed')
        async with SimulatedSdk(channels) as sdk:
            sdk.connection.user = 'mallory'
            for _ in range(2):
                with pytest.raises(CommandError, match='103'):
                    await sdk.subscribe('room')
    records = logged(caplog)
    assert told == [record.event for record in records]  # type: ignore[attr-defined]
    # NOTE: these are logged in words, and the others by `Events.tell`.
    in_words = {'command_refused', 'reader_slow', 'responder_failed'}
    assert in_words | {'connection_identified', 'publications_dropped'} < set(
        names(told)
    )
    for record, event in zip(records, told, strict=True):
        if event.name in in_words:
            assert 'falcon_channels' == record.name
        else:
            assert 'falcon_channels.events' == record.name
            assert LEVELS[event.name] == record.levelno
            assert record.getMessage().startswith(event.name)
    repeated = [
        r for r, e in zip(records, told, strict=True) if e.facts.get('repeated')
    ]
    assert [logging.DEBUG] == [record.levelno for record in repeated]


def test_unwanted_events_of_a_client_are_not_built(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a listener, an event whose level is not logged is not wanted."""
    caplog.set_level(logging.INFO, 'falcon_channels')
    events = Events()
    assert events.wants('connection_opened')
    assert not events.wants('subscription_started')
    stop = events.listen(lambda event: None)
    assert events.wants('subscription_started')
    stop()
    caplog.set_level(logging.WARNING, 'falcon_channels')
    assert not events.wants('connection_opened')


@on_fake_clock
async def test_burst_of_losses_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Listeners get each loss. The log has one of each kind, with the number."""
    caplog.set_level(logging.INFO, 'falcon_channels')
    channels, told = make_channels()
    async with channels:
        for _ in range(3):
            channels.node.hub.receiver.on_link_lost()
            channels.node.hub.receiver.on_link_restored()
        await asyncio.sleep(60)
    assert 3 == len(of(told, 'link_lost')) == len(of(told, 'link_restored'))
    events = [record.event for record in logged(caplog)]  # type: ignore[attr-defined]
    assert 1 == len(of(events, 'link_lost'))
    [restored] = of(events, 'link_restored')
    assert 3 == restored.facts['num_losses']


@on_fake_clock
async def test_refused_connections_are_logged_with_their_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The limit of connections is a warning once a minute, and each is an event."""
    caplog.set_level(logging.DEBUG, 'falcon_channels')
    channels = Channels(options=NodeOptions(max_connections=1))
    async with channels, SimulatedClient(channels):
        for _ in range(3):
            with pytest.raises(falcon.HTTPServiceUnavailable):
                async with SimulatedClient(channels):
                    pass
    refused = [
        (record.levelno, record.event.code)  # type: ignore[attr-defined]
        for record in logged(caplog)
        if record.event.name == 'connection_refused'  # type: ignore[attr-defined]
    ]
    assert [(logging.WARNING, 503), (logging.DEBUG, 503), (logging.DEBUG, 503)] == (
        refused
    )


def test_line_of_an_event_quotes_and_cuts_text_of_clients() -> None:
    """An event in the text log is one line, for any text of the client."""
    event = Event('connection_closed', user='a\nb', reason='x' * 9_999, code=3000)
    line = str(event)
    assert line.startswith("connection_closed user='a\\nb' code=3000 reason='xxx")
    assert line.isprintable()
    assert len(line) < 600


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
    rows = re.findall(r'^\| `(\w+)` \| ([A-Z, ]+) \|', page, re.MULTILINE)
    assert set(EVENTS) == told_in_source()
    assert list(EVENTS) == [name for name, _ in rows]
    documented = {name: level for name, level in rows if name in LEVELS}
    assert documented == {n: logging.getLevelName(v) for n, v in LEVELS.items()}
