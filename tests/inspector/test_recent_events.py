"""The memory of refusals and closes is bounded, whatever clients do."""

from __future__ import annotations

import tracemalloc

from falcon_channels.events import Event
from falcon_channels.inspector.recent_events import CLOSES
from falcon_channels.inspector.recent_events import COUNTED
from falcon_channels.inspector.recent_events import OTHER_REASONS
from falcon_channels.inspector.recent_events import RecentEvents
from falcon_channels.inspector.recent_events import REFUSALS


def test_reasons_that_clients_choose_are_counted_together_after_200() -> None:
    """A client that is refused with ever new texts cannot fill the memory."""
    events = RecentEvents()
    for number in range(1000):
        events.on_event(Event('command_refused', code=103, reason=f'no {number}'))
    counts = events.counts(REFUSALS)
    assert 201 == len(counts)
    assert (OTHER_REASONS, 800) == (counts[0].reason, counts[0].count)
    assert 1000 == events.num_refused
    latest = events.latest(REFUSALS, None, 10_000)
    assert 500 == len(latest)
    assert 'no 999' == latest[0].reason


def test_long_texts_are_cut_in_answers() -> None:
    """A user, channel or reason takes at most 255 characters of an answer."""
    events = RecentEvents()
    text = 'x' * 10_000
    events.on_event(
        Event(
            'command_refused',
            user=text,
            channel=text,
            reason=text,
            facts={'command': text},
        )
    )
    (event,) = events.latest(REFUSALS, None, 1)
    for shown in (event.user, event.channel, event.reason, event.detail):
        assert 'x' * 255 == shown


def test_many_closes_do_not_replace_the_refusals() -> None:
    """Refusals and closes have places of their own, and usual ends need none."""
    events = RecentEvents()
    events.on_event(Event('command_refused', user='eve', code=103))
    for _ in range(1000):
        events.on_event(Event('connection_opened', user='ann'))
        events.on_event(Event('subscription_ended', user='ann'))
        events.on_event(Event('connection_closed', user='ann', code=1000))
        events.on_event(Event('publications_dropped', user='ann'))
    assert ['eve'] == [event.user for event in events.latest(REFUSALS, None, 10)]
    assert {'connection_closed'} == {
        event.name for event in events.latest(CLOSES, None, 1000)
    }
    assert [1000] == [item.count for item in events.counts(COUNTED)]
    assert (1000, 1000) == (events.num_opened, events.num_closed)


def test_events_of_a_user_are_found_among_others() -> None:
    """The latest events of one user are found, newest first."""
    events = RecentEvents()
    for number in range(3):
        events.on_event(Event('command_refused', user='eve', code=number))
        events.on_event(Event('command_refused', user='ann', code=9))
    assert [2, 1] == [event.code for event in events.latest(REFUSALS, 'eve', 2)]


def test_long_texts_take_little_memory() -> None:
    """A client that chooses long user ids and reasons cannot fill the memory."""
    events = RecentEvents()
    tracemalloc.start()
    try:
        for number in range(600):
            text = f'{number}' + 'x' * 10_000
            for name in ('command_refused', 'connection_closed'):
                events.on_event(Event(name, user=text, reason=text, code=number))
        size_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size_bytes < 2_000_000
