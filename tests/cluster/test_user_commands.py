"""What an application asks of users' connections: subscribe, refresh, disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Connection
from falcon_channels import NodeOptions
from falcon_channels import Position
from falcon_channels import Subscription
from falcon_channels import UnknownChannelError
from falcon_channels.hub.hub import Joined
from falcon_channels.protocol import plain_codec as raw_codec
from falcon_channels.transports.asgi import MESSAGES
from falcon_channels.transports.encoders import get_encoder


class Notes:
    """A transport that keeps what it is given."""

    framing = MESSAGES
    backlog_bytes = 0

    def __init__(self) -> None:
        self.end: tuple[int, str] | None = None

    def write(self, blob: Any) -> int:
        return 0

    def close(self, code: int, reason: str) -> None:
        self.end = (code, reason)

    def abort(self) -> None:
        self.end = (1006, '')

    def pause_reading(self) -> None:
        """There is nobody to read from."""

    def resume_reading(self) -> None:
        """There is nobody to read from."""


class Client(Connection):
    """A connection that can be subscribed from here."""

    __slots__ = ('ended', 'joined', 'session')

    takes_subscriptions = True

    def __init__(self, channels: Channels, user: str, session: str = '') -> None:
        super().__init__(channels.hub, Notes(), get_encoder(raw_codec.MEDIA, MESSAGES))
        self.user = user
        self.session = session
        self.joined: list[tuple[Subscription, Joined]] = []
        self.ended: list[tuple[str, int]] = []
        channels.hub.add(self)

    def on_subscribed(self, subscription: Subscription, joined: Joined) -> None:
        self.joined.append((subscription, joined))

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        self.ended.append((subscription.channel, code))


async def settle(condition: Callable[[], object]) -> None:
    """Let the loop turn until something is true."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def begin(**options: Any) -> Channels:
    channels = Channels(options=NodeOptions(**options))
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(history_size=10, presence=True)
    )
    await channels.start()
    return channels


async def test_user_is_subscribed_on_all_connections() -> None:
    """Each connection of the user is subscribed and told; others are not."""
    channels = await begin()
    ann, ann2, bob = (Client(channels, user) for user in ('ann', 'ann', 'bob'))
    await channels.subscribe_user('ann', 'rooms:a', info={'i': 1}, data=[2])
    await settle(lambda: ann.joined and ann2.joined)
    subscription, joined = ann.joined[0]
    assert ('rooms:a', {'i': 1}, [2]) == (
        subscription.channel,
        subscription.info,
        subscription.reply,
    )
    assert (0, [], None) == (joined.position.offset, [], joined.recovered)
    await settle(lambda: subscription.present)
    there = await channels.presence('rooms:a')
    assert {ann.id, ann2.id} == there.keys()
    assert b'{"i":1}' == there[ann.id].chan_info
    assert [] == bob.joined
    await channels.close()


@pytest.mark.parametrize('which', ['client', 'session'])
async def test_one_connection_can_be_meant(which: str) -> None:
    """A connection id or a session picks one connection of the user."""
    channels = await begin()
    first, second = Client(channels, 'ann', 's1'), Client(channels, 'ann', 's2')
    only = {'client': second.id} if which == 'client' else {'session': 's2'}
    await channels.subscribe_user('ann', 'rooms:a', **only)
    await settle(lambda: second.joined)
    await channels.subscribe_user('ann', 'rooms:b')
    await settle(lambda: first.joined and len(second.joined) == 2)
    assert ['rooms:b'] == list(first.subscriptions)
    await channels.unsubscribe_user('ann', 'rooms:b', **only)
    await settle(lambda: second.ended)
    assert ([], [('rooms:b', 2000)]) == (first.ended, second.ended)
    await channels.disconnect_user('ann', **only)
    await settle(lambda: second.closed)
    assert not first.closed
    await channels.close()


async def test_missed_publications_come_with_the_subscription() -> None:
    """With a position, what was published after it comes first."""
    channels = await begin()
    for n in range(3):
        position = (await channels.publish('rooms:a', n)).position
    ann = Client(channels, 'ann')
    await channels.subscribe_user('ann', 'rooms:a', since=Position(1, position.epoch))
    await settle(lambda: ann.joined)
    _, joined = ann.joined[0]
    assert ([1, 2], True) == (
        [item.value() for item in joined.publications],
        joined.recovered,
    )
    await channels.close()


async def test_nobody_is_subscribed_twice_or_beyond_the_limit() -> None:
    """A connection that is subscribed, or has as many channels as it may, stays so."""
    channels = await begin(max_channels_per_connection=2)
    ann = Client(channels, 'ann')
    for channel in ('rooms:a', 'rooms:a', 'rooms:b', 'rooms:c'):
        await channels.subscribe_user('ann', channel)
    await settle(lambda: len(ann.joined) == 2)
    await channels.disconnect_user('ann')
    await settle(lambda: ann.closed)
    assert ['rooms:a', 'rooms:b'] == [s.channel for s, _ in ann.joined]
    await channels.close()


async def test_revoked_users_are_not_subscribed() -> None:
    """A revocation holds against the application's own subscribing, too."""
    channels = await begin()
    await channels.revoke_user('ann', 'rooms:a')
    ann = Client(channels, 'ann')
    await channels.subscribe_user('ann', 'rooms:a')
    await settle(lambda: ann.ended)
    assert {} == ann.subscriptions
    await channels.close()


async def test_unknown_channels_are_refused_where_they_are_named() -> None:
    """Subscribing a user to a channel without a route raises at once."""
    channels = await begin()
    with pytest.raises(UnknownChannelError):
        await channels.subscribe_user('ann', 'nowhere')
    await channels.close()


async def test_refresh_changes_info_and_expires() -> None:
    """A refresh sets the connection's facts; an expired one closes it with 3005."""
    channels = await begin()
    ann = Client(channels, 'ann')
    await channels.refresh_user('ann', info={'vip': True})
    await settle(lambda: ann.info)
    assert ({'vip': True}, False) == (ann.info, ann.closed)
    await channels.refresh_user('ann', expired=True)
    await settle(lambda: ann.closed)
    assert (3005, 'connection expired') == ann.transport.end
    await channels.close()
