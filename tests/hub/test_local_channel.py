"""A local channel by itself: no broker, no tasks of the hub, no network."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState as State
from falcon_channels.hub.local_channel import ChannelState
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.hub.local_channel import SubscriptionTotals
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.testing import SimulatedClient

KIB = 1024


def item(offset: int, size: int = 1) -> Publication:
    return Publication(data=b'%d' % (offset % 10) * size, offset=offset)


def open_channel(**options: Any) -> tuple[LocalChannel, Subscription]:
    """Return a channel at the start of the log ``x``, and a JOINING subscription."""
    channels = Channels()
    channels.add_route(
        'a:{name}',
        None,
        ChannelOptions(
            **{'max_publication_bytes': KIB, 'max_backlog_bytes': 10 * KIB, **options}
        ),
    )
    match = channels.node.router.match('a:1')
    assert match is not None
    client = SimulatedClient(channels)
    local_channel = LocalChannel(
        'a:1', match.route.options, 10 * KIB, 10 * KIB, SubscriptionTotals()
    )
    local_channel.open(HistoryPage([], Position(0, 'x')))
    subscription = Subscription(client.connection, 'a:1', match.route, match.params)
    return local_channel, subscription


@on_fake_clock
async def test_ahead_subscription_becomes_live_when_the_channel_reaches_it() -> None:
    """An AHEAD subscription is LIVE once the channel has reached its offset."""
    local_channel, subscription = open_channel(history_size=10)
    local_channel.add(subscription, 2)
    assert State.AHEAD is subscription.state
    for offset, state in ((1, State.AHEAD), (2, State.LIVE), (3, State.LIVE)):
        assert not local_channel.take(item(offset), 'x')
        local_channel.pass_ahead()
        assert state is subscription.state


@on_fake_clock
async def test_pending_items_above_the_limit_drop_the_oldest() -> None:
    """Half of the backlog limit is pending for a slow client, in order."""
    local_channel, subscription = open_channel(slow_reader='drop_oldest')
    local_channel.add(subscription)
    local_channel.lag(subscription)
    dropped = 0
    for offset in range(1, 21):
        dropped += local_channel.add_pending(subscription, [item(offset, KIB)])
        assert subscription.pending_bytes <= 5 * KIB
    assert 16 == dropped
    items, _ = local_channel.catch_up(subscription)
    assert [item(offset, KIB) for offset in range(17, 21)] == items
    assert State.LIVE is subscription.state
    assert 0 == subscription.pending_bytes


@on_fake_clock
async def test_pending_items_keep_their_epoch_when_the_log_is_lost() -> None:
    """Items that were pending when the log was lost keep the epoch of the old log."""
    local_channel, subscription = open_channel(
        history_size=1, recovery='latest', slow_reader='latest'
    )
    local_channel.open(HistoryPage([], Position(6, 'x')))
    local_channel.add(subscription)
    local_channel.lag(subscription)
    local_channel.take(item(7), 'x')
    local_channel.add_pending(subscription, local_channel.batch)
    local_channel.batch.clear()
    assert not local_channel.repair(HistoryPage([], Position(0, 'y')))
    assert local_channel.repair(HistoryPage([], Position(0, 'y')))
    assert Position(0, 'y') == local_channel.position
    assert ([item(7)], 'x') == local_channel.catch_up(subscription)


@on_fake_clock
async def test_slow_subscription_keeps_the_offset_before_it_became_slow() -> None:
    """Items that wait are not delivered. In another log, nothing was delivered."""
    local_channel, subscription = open_channel(
        history_size=1, recovery='latest', slow_reader='latest'
    )
    local_channel.open(HistoryPage([], Position(6, 'x')))
    local_channel.add(subscription)
    local_channel.take(item(7), 'x')
    local_channel.lag(subscription)
    assert 6 == subscription.delivered_offset_in('x')
    local_channel.add_pending(subscription, local_channel.take_batch())
    assert 6 == subscription.delivered_offset_in('x')
    assert 0 == subscription.delivered_offset_in('y')
    local_channel.repair(HistoryPage([], Position(0, 'y')))
    local_channel.repair(HistoryPage([item(1)], Position(1, 'y')))
    local_channel.add_pending(subscription, local_channel.take_batch())
    assert 0 == subscription.delivered_offset_in('y')


@on_fake_clock
async def test_publication_of_another_log_replaces_pending_items() -> None:
    """The first publication of another log replaces the pending ones of the old log."""
    local_channel, subscription = open_channel(
        history_size=1, recovery='latest', slow_reader='latest'
    )
    local_channel.add(subscription)
    local_channel.lag(subscription)
    assert 0 == local_channel.add_pending(subscription, [item(7)])
    local_channel.repair(HistoryPage([], Position(0, 'y')))
    local_channel.repair(HistoryPage([item(1)], Position(1, 'y')))
    assert 1 == local_channel.add_pending(subscription, local_channel.batch)
    assert ([item(1)], 'y') == local_channel.catch_up(subscription)


@on_fake_clock
async def test_publication_without_log_does_not_hide_a_new_log_before_it() -> None:
    """A repair drops no publication of a new log, whatever was announced after it."""
    local_channel, _ = open_channel(history_size=10)
    assert local_channel.take(item(2), 'x')
    local_channel.take(item(1), 'y')
    local_channel.take(item(0), '')
    first = local_channel.repair(HistoryPage([item(1), item(2)], Position(2, 'x')))
    assert (False, ChannelState.REPAIRING) == (first, local_channel.state)
    second = local_channel.repair(HistoryPage([item(1)], Position(1, 'y')))
    # NOTE: the caller tells the subscribers, who have another log.
    assert (None, Position(1, 'y')) == (second, local_channel.position)
    assert [item(0)] == local_channel.take_batch()


@on_fake_clock
async def test_gap_among_buffered_publications_drops_none_without_log() -> None:
    """A second gap during a repair drops no publication that no log contains."""
    local_channel, _ = open_channel(history_size=10)
    assert local_channel.take(item(2), 'x')
    local_channel.take(item(4), 'x')
    local_channel.take(item(0), '')
    page = HistoryPage([item(1), item(2)], Position(2, 'x'))
    assert not local_channel.repair(page)
    assert [item(1), item(2)] == local_channel.take_batch()
    assert local_channel.repair(HistoryPage([item(3), item(4)], Position(4, 'x')))
    assert [item(3), item(4), item(0)] == local_channel.take_batch()


@pytest.mark.parametrize('wait', ['pending', 'buffered', 'joining'])
@on_fake_clock
async def test_publications_that_wait_are_counted_with_their_tags(wait: str) -> None:
    """All limits of waiting publications count tags, and publications without data."""
    local_channel, subscription = open_channel(
        history_size=10, recovery='off', slow_reader='drop_oldest'
    )
    if wait == 'pending':
        local_channel.add(subscription)
        local_channel.lag(subscription)
    elif wait == 'buffered':
        local_channel.start_repair()
    else:
        local_channel.start_buffering(subscription)
    for number in range(1000):
        tags = {'a': 'x' * KIB} if number % 2 else None
        publication = Publication(data=b'', binary=True, tags=tags)
        if wait == 'pending':
            local_channel.add_pending(subscription, [publication])
        else:
            local_channel.take(publication, '')
    if wait == 'pending':
        assert len(subscription.pending or ()) < 12
    elif wait == 'buffered':
        assert local_channel.buffered_bytes > 10 * KIB
    else:
        assert subscription.buffered is None
