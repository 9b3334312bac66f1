"""`UserCommands`: subscribe, unsubscribe, refresh, disconnect and revoke users."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import falcon
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Connection
from falcon_channels import InvalidValueError
from falcon_channels import NodeOptions
from falcon_channels import Position
from falcon_channels import Subscription
from falcon_channels import UnknownChannelError
from falcon_channels.hub.connection import Joined
from falcon_channels.protocol import plain_codec
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import Unsubscribed
from falcon_channels.transports.asgi import MESSAGES
from falcon_channels.transports.encoders import get_encoder


class RecordingTransport:
    """A transport that records its close code and reason."""

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
        """Do nothing: there is no client to read from."""

    def resume_reading(self) -> None:
        """Do nothing: there is no client to read from."""


class Client(Connection):
    """A connection that the application can subscribe; it records what happens."""

    __slots__ = ('ended', 'joined', 'session')

    takes_subscriptions = True

    def __init__(self, channels: Channels, user: str, session: str = '') -> None:
        super().__init__(
            channels.node.hub,
            RecordingTransport(),
            get_encoder(plain_codec.MEDIA, MESSAGES),
        )
        self.user = user
        self.session = session
        self.joined: list[tuple[Subscription, Joined]] = []
        self.ended: list[tuple[str, int]] = []
        channels.node.hub.add(self)

    def on_subscribed(self, subscription: Subscription, joined: Joined) -> None:
        self.joined.append((subscription, joined))

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        self.ended.append((subscription.channel, code))


async def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def start_channels(**options: Any) -> Channels:
    channels = Channels(options=NodeOptions(**options))
    channels.add_route(
        'rooms:{room}',
        None,
        ChannelOptions(subscribers='anybody', history_size=10, presence=True),
    )
    await channels.start()
    return channels


async def test_subscribe_user_subscribes_all_connections_of_the_user() -> None:
    """Each connection of the user is subscribed and told so. Other users are not."""
    channels = await start_channels()
    ann, ann2, bob = (Client(channels, user) for user in ('ann', 'ann', 'bob'))
    await channels.subscribe_user('ann', 'rooms:a', info={'i': 1}, data=[2])
    await wait_for(lambda: ann.joined and ann2.joined)
    subscription, joined = ann.joined[0]
    assert ('rooms:a', {'i': 1}, [2]) == (
        subscription.channel,
        subscription.info,
        subscription.reply,
    )
    assert (0, [], None) == (joined.position.offset, [], joined.recovered)
    await wait_for(lambda: subscription.present)
    present = await channels.presence('rooms:a')
    assert {ann.id, ann2.id} == present.keys()
    assert b'{"i":1}' == present[ann.id].chan_info
    assert [] == bob.joined
    await channels.close()


@pytest.mark.parametrize('field', ['client', 'session'])
async def test_command_with_a_client_or_session_changes_that_connection_only(
    field: str,
) -> None:
    """A connection id or a session id selects one connection of the user."""
    channels = await start_channels()
    first, second = Client(channels, 'ann', 's1'), Client(channels, 'ann', 's2')
    only = {'client': second.id} if field == 'client' else {'session': 's2'}
    await channels.subscribe_user('ann', 'rooms:a', **only)
    await wait_for(lambda: second.joined)
    await channels.subscribe_user('ann', 'rooms:b')
    await wait_for(lambda: first.joined and len(second.joined) == 2)
    assert ['rooms:b'] == list(first.subscriptions)
    await channels.unsubscribe_user('ann', 'rooms:b', **only)
    await wait_for(lambda: second.ended)
    assert ([], [('rooms:b', 2000)]) == (first.ended, second.ended)
    await channels.disconnect_user('ann', **only)
    await wait_for(lambda: second.closed)
    assert not first.closed
    await channels.close()


async def test_command_that_fails_for_one_connection_is_applied_to_the_others() -> None:
    """The connection is aborted, because the command may take a right away."""

    class Broken(Client):
        __slots__ = ()

        def disconnect(self, code: int, reason: str) -> None:
            raise RuntimeError('broken')

    channels = await start_channels()
    broken, ann = Broken(channels, 'ann'), Client(channels, 'ann')
    await channels.disconnect_user('ann', code=4000)
    await wait_for(lambda: ann.closed)
    assert isinstance(broken.transport, RecordingTransport)
    assert (1006, '') == broken.transport.end
    assert 1 == channels.node.hub.counters.task_errors
    channels.node.hub.remove(broken)
    await channels.close()


async def test_subscribe_user_with_a_position_recovers_missed_publications() -> None:
    """With `since`, the publications after that position come with the subscription."""
    channels = await start_channels()
    for n in range(3):
        position = (await channels.publish('rooms:a', n)).position
    ann = Client(channels, 'ann')
    await channels.subscribe_user('ann', 'rooms:a', since=Position(1, position.epoch))
    await wait_for(lambda: ann.joined)
    _, joined = ann.joined[0]
    assert ([1, 2], True) == (
        [item.value() for item in joined.publications],
        joined.recovered,
    )
    await channels.close()


async def test_subscribe_user_skips_duplicates_and_channels_above_the_limit() -> None:
    """A connection is subscribed once to a channel, and to at most
    `max_channels_per_connection`.
    """
    channels = await start_channels(max_channels_per_connection=2)
    ann = Client(channels, 'ann')
    for channel in ('rooms:a', 'rooms:a', 'rooms:b', 'rooms:c'):
        await channels.subscribe_user('ann', channel)
    await wait_for(lambda: len(ann.joined) == 2)
    await channels.disconnect_user('ann')
    await wait_for(lambda: ann.closed)
    assert ['rooms:a', 'rooms:b'] == [s.channel for s, _ in ann.joined]
    await channels.close()


async def test_subscribe_user_with_a_revoked_user_ends_the_subscription() -> None:
    """A revocation also holds if the application subscribes the user."""
    channels = await start_channels()
    await channels.revoke_user('ann', 'rooms:a')
    ann = Client(channels, 'ann')
    await channels.subscribe_user('ann', 'rooms:a')
    await wait_for(lambda: ann.ended)
    assert {} == ann.subscriptions
    await channels.close()


async def test_subscribe_user_to_an_unknown_channel_raises() -> None:
    """A channel without a route raises in the call of the application."""
    channels = await start_channels()
    with pytest.raises(UnknownChannelError):
        await channels.subscribe_user('ann', 'nowhere')
    await channels.close()


async def test_integer_that_no_message_can_carry_raises() -> None:
    """The caller gets an error of the library, and the next command is sent."""
    channels = await start_channels()
    ann = Client(channels, 'ann')
    for values in ({'info': 2**64}, {'data': [2**70]}):
        with pytest.raises(InvalidValueError, match='64 bits'):
            await channels.subscribe_user('ann', 'rooms:a', **values)
    with pytest.raises(InvalidValueError, match='64 bits'):
        await channels.refresh_user('ann', info=-(2**63) - 1)
    await channels.subscribe_user('ann', 'rooms:a', info=2**64 - 1)
    await wait_for(lambda: ann.joined)
    await channels.close()


async def test_refresh_user_changes_info_or_closes_with_3005() -> None:
    """A refresh sets the public facts of a connection; an expired one closes it."""
    channels = await start_channels()
    ann = Client(channels, 'ann')
    await channels.refresh_user('ann', info={'vip': True})
    await wait_for(lambda: ann.info)
    assert ({'vip': True}, False) == (ann.info, ann.closed)
    await channels.refresh_user('ann', expired=True)
    await wait_for(lambda: ann.closed)
    assert (3005, 'connection expired') == ann.transport.end
    await channels.close()


@on_fake_clock
async def test_revoked_user_cannot_subscribe_until_it_is_restored_or_expires() -> None:
    """A revocation ends the subscription and refuses all connections of the user.

    The user can subscribe again after `restore_user`, or when `ttl_s` has passed.
    """
    channels = Channels(options=NodeOptions(linger_s=1.0))
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(subscribers='anybody', history_size=100)
    )
    async with SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe('rooms:a')
        await channels.revoke_user('ann', 'rooms:a', ttl_s=100.0)
        await channels.publish('rooms:a', 'secret')
        await asyncio.sleep(1)
        assert Unsubscribed('rooms:a', 2000, 'unsubscribed') == ann.events[-1]
        with pytest.raises(falcon.HTTPForbidden):
            await ann.subscribe('rooms:a')
        async with SimulatedClient(channels, user='ann') as tab:
            with pytest.raises(falcon.HTTPForbidden):
                await tab.subscribe('rooms:a')
        await channels.restore_user('ann', 'rooms:a')
        await ann.subscribe('rooms:a')
        await channels.revoke_user('ann', 'rooms:a', ttl_s=100.0)
        await asyncio.sleep(101)
        await ann.subscribe('rooms:a')
    await channels.close()


@on_fake_clock
async def test_unsubscribe_and_disconnect_skip_other_users_and_excluded_clients() -> (
    None
):
    """`unsubscribe_user` and `disconnect_user` change only the selected connections."""
    channels = Channels(options=NodeOptions(linger_s=1.0))
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(subscribers='anybody', history_size=100)
    )
    async with (
        SimulatedClient(channels, user='ann') as first,
        SimulatedClient(channels, user='ann') as second,
        SimulatedClient(channels, user='bob') as other,
    ):
        for client in (first, second, other):
            await client.subscribe('rooms:a')
            await client.subscribe('rooms:b')
        await channels.unsubscribe_user('ann', 'rooms:a', client=first.connection.id)
        await asyncio.sleep(1)
        assert ['rooms:b'] == list(first.connection.subscriptions)
        assert ['rooms:a', 'rooms:b'] == list(second.connection.subscriptions)
        await channels.unsubscribe_user('ann', '', code=2500)
        await asyncio.sleep(1)
        assert {} == second.connection.subscriptions
        assert 2500 == second.events[-1].code
        await channels.disconnect_user('ann', exclude=[second.connection.id])
        await asyncio.sleep(1)
        assert (3503, 'force disconnect') == first.end
        assert None is second.end
        assert [second.connection] == channels.connections('ann')
        assert 2 == len(channels.connections())
        assert 2 == len(other.connection.subscriptions)
    assert [] == channels.connections()
    await channels.close()
