"""One channel of a process by itself: no broker, no hub's tasks, no network."""

from __future__ import annotations

from typing import Any

from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState as State
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.testing import SimulatedClient

KIB = 1024


def item(offset: int, size: int = 1) -> Publication:
    return Publication(data=b'%d' % (offset % 10) * size, offset=offset)


def opened(**options: Any) -> tuple[LocalChannel, Subscription]:
    """Return a channel at the beginning of the log ``x``, and its one subscriber."""
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
    local_channel = LocalChannel('a:1', match.route.options, 10 * KIB, 10 * KIB)
    local_channel.open(Position(0, 'x'))
    subscription = Subscription(client.connection, 'a:1', match.route, match.params)
    return local_channel, subscription


@on_fake_clock
async def test_who_is_ahead_is_passed_as_soon_as_it_is_reached() -> None:
    """Who recovered further than the channel gets what everybody gets from there on."""
    local_channel, subscription = opened(history_size=10)
    local_channel.add(subscription, 2)
    assert State.AHEAD is subscription.state
    for offset, state in ((1, State.AHEAD), (2, State.LIVE), (3, State.LIVE)):
        assert not local_channel.take(item(offset), 'x')
        local_channel.pass_ahead()
        assert state is subscription.state


@on_fake_clock
async def test_what_waits_is_bounded_and_the_newest() -> None:
    """Half of a backlog waits for a slow reader, in order, and the oldest go."""
    local_channel, subscription = opened(slow_reader='drop_oldest')
    local_channel.add(subscription)
    local_channel.lag(subscription)
    dropped = 0
    for offset in range(1, 21):
        dropped += local_channel.add_pending(subscription, [item(offset, KIB)])
        assert subscription.pending_bytes <= 5 * KIB
    assert 15 == dropped
    items, _ = local_channel.catch_up(subscription)
    assert [item(offset, KIB) for offset in range(16, 21)] == items
    assert State.LIVE is subscription.state
    assert 0 == subscription.pending_bytes


@on_fake_clock
async def test_what_waits_keeps_its_epoch() -> None:
    """What waited while the log was lost is of the old log, also when it is read."""
    local_channel, subscription = opened(
        history_size=1, recovery='latest', slow_reader='latest'
    )
    local_channel.open(Position(6, 'x'))
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
async def test_what_waits_is_of_one_epoch() -> None:
    """The first publication of another log replaces what waits of the one before."""
    local_channel, subscription = opened(
        history_size=1, recovery='latest', slow_reader='latest'
    )
    local_channel.add(subscription)
    local_channel.lag(subscription)
    assert 0 == local_channel.add_pending(subscription, [item(7)])
    local_channel.repair(HistoryPage([], Position(0, 'y')))
    local_channel.repair(HistoryPage([item(1)], Position(1, 'y')))
    assert 1 == local_channel.add_pending(subscription, local_channel.batch)
    assert ([item(1)], 'y') == local_channel.catch_up(subscription)
