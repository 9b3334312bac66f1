"""Joins and leaves are sent to the clients that asked for them, and to no others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import InvalidValueError
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk


class Room:
    """Gives each subscriber what the test wants."""

    def __init__(self) -> None:
        self.join_leave: Any = None
        self.subscriptions: list[Any] = []

    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        self.subscriptions.append(subscription)
        if self.join_leave is not None:
            subscription.join_leave = self.join_leave


class Clients:
    """Subscribes each client to a channel on the server's side."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = connection.data['user']
        for channel in connection.data.get('channels', ()):
            connection.add_channel(channel)


def make_channels(room: Any = None, **options: Any) -> Channels:
    channels = Channels()
    options = {'join_leave': 'connection', **options}
    channels.add_route(
        'room', room, ChannelOptions(subscribers='anybody', history_size=5, **options)
    )
    return channels


def enter(channels: Channels, user: str, *server_side: str) -> SimulatedSdk:
    data = {'user': user, 'channels': server_side}
    return SimulatedSdk(channels, Clients(), data=data)


def kinds(client: SimulatedSdk) -> list[str]:
    """Return the kinds of all received pushes, with their users or data."""
    found = []
    for push in client.pushes:
        for kind in ('join', 'leave'):
            if kind in push:
                found.append(f'{kind} {push[kind]["info"]["user"]}')
        if 'pub' in push:
            found.append(f'pub {push["pub"]["data"]}')
    return found


@on_fake_clock
async def test_client_that_asked_for_nothing_receives_publications_only() -> None:
    """A join or leave reaches only clients that sent `join_leave`."""
    async with (
        make_channels() as channels,
        enter(channels, 'ann') as ann,
        enter(channels, 'bob') as bob,
    ):
        await ann.subscribe('room', join_leave=True)
        await bob.subscribe('room')
        await asyncio.sleep(0.1)
        await channels.publish('room', 1)
        await bob.command('unsubscribe', channel='room')
        await asyncio.sleep(0.1)
        assert ['join ann', 'join bob', 'pub 1', 'leave bob'] == kinds(ann)
        assert ['pub 1'] == kinds(bob)


@on_fake_clock
async def test_batch_of_publications_and_joins_is_complete_for_each_client() -> None:
    """In one event-loop iteration, a join takes no publication from other clients."""
    async with (
        make_channels() as channels,
        enter(channels, 'ann') as ann,
        enter(channels, 'bob') as bob,
        SimulatedClient(channels, user='eve') as eve,
    ):
        await ann.subscribe('room', join_leave=True)
        await bob.subscribe('room')
        await eve.subscribe('room')
        await asyncio.sleep(0.1)
        ann.pushes.clear()
        await channels.publish('room', 1)
        eve.unsubscribe('room')
        await channels.publish('room', 2)
        await asyncio.sleep(0.1)
        assert {'pub 1', 'leave eve', 'pub 2'} == set(kinds(ann))
        assert ['pub 1', 'pub 2'] == kinds(bob)


@on_fake_clock
async def test_joins_do_not_fill_the_backlog_of_a_client_without_them() -> None:
    """A slow client that receives no joins keeps its publications instead."""
    async with (
        make_channels(
            slow_reader='drop_oldest',
            recovery='off',
            max_publication_bytes=1000,
            max_backlog_bytes=2000,
        ) as channels,
        enter(channels, 'bob') as bob,
    ):
        await bob.subscribe('room')
        bob.connection.transport.stop_reading()
        for number in range(3):
            await channels.publish('room', 'x' * 500 + str(number))
            await asyncio.sleep(0.1)
        for _ in range(50):
            async with SimulatedClient(channels, user='eve') as eve:
                await eve.subscribe('room')
        bob.connection.transport.read_again()
        await asyncio.sleep(0.1)
        assert ['0', '1', '2'] == [kind[-1] for kind in kinds(bob)]


@on_fake_clock
async def test_force_join_leave_sends_joins_to_all() -> None:
    """With `force_join_leave`, a client need not ask."""
    async with (
        make_channels(force_join_leave=True) as channels,
        enter(channels, 'ann') as ann,
    ):
        await ann.subscribe('room')
        await asyncio.sleep(0.1)
        assert ['join ann'] == kinds(ann)


@on_fake_clock
async def test_route_without_joins_sends_none_to_a_client_that_asked() -> None:
    """A client cannot get joins that the route does not announce."""
    async with (
        make_channels(join_leave='off') as channels,
        enter(channels, 'ann') as ann,
    ):
        await ann.subscribe('room', join_leave=True)
        await asyncio.sleep(0.1)
        assert [] == kinds(ann)


@on_fake_clock
async def test_channel_without_joins_is_encoded_once_for_all() -> None:
    """Clients that asked for joins share the encoding, if the channel has none."""
    async with (
        make_channels(join_leave='off') as channels,
        enter(channels, 'ann') as ann,
        enter(channels, 'bob') as bob,
    ):
        await ann.subscribe('room', join_leave=True)
        await bob.subscribe('room')
        before = channels.node.hub.counters.encodings
        await channels.publish('room', 1)
        await asyncio.sleep(0.1)
        assert ['pub 1'] == kinds(ann) == kinds(bob)
        assert before + 1 == channels.node.hub.counters.encodings


@pytest.mark.parametrize('asked', [False, True])
@pytest.mark.parametrize('decided', [False, True])
@on_fake_clock
async def test_on_subscribe_decides_about_joins(asked: bool, decided: bool) -> None:
    """The value that `on_subscribe` sets replaces the request of the client."""
    room = Room()
    room.join_leave = decided
    async with make_channels(room) as channels, enter(channels, 'ann') as ann:
        await ann.subscribe('room', join_leave=asked)
        await asyncio.sleep(0.1)
        assert (['join ann'] if decided else []) == kinds(ann)
        with pytest.raises(InvalidValueError, match='by on_subscribe only'):
            room.subscriptions[0].join_leave = not decided
        with pytest.raises(InvalidValueError, match='must be True or False'):
            room.subscriptions[0].join_leave = 1


@on_fake_clock
async def test_server_side_subscription_receives_joins() -> None:
    """The application asks for a client that cannot: its subscriptions have joins."""
    async with make_channels() as channels, enter(channels, 'ann', 'room') as ann:
        async with enter(channels, 'bob') as bob:
            await channels.subscribe_user('bob', 'room')
            await asyncio.sleep(0.1)
            assert ['join ann', 'join bob'] == kinds(ann)
            assert ['join bob'] == kinds(bob)


@pytest.mark.parametrize(
    ('options', 'asked', 'answer'),
    [
        ({}, {}, (True, True)),
        ({}, {'positioned': True}, (True, True)),
        ({}, {'recoverable': True}, (True, True)),
        ({'recovery': 'off'}, {}, (True, False)),
        ({'recovery': 'off'}, {'recoverable': True}, (True, False)),
        ({'recovery': 'latest'}, {'positioned': True}, (True, True)),
        ({'history_size': 0}, {'positioned': True}, (False, False)),
        ({'history_size': 0}, {'recoverable': True}, (False, False)),
    ],
)
@on_fake_clock
async def test_positions_and_recovery_are_granted_where_the_route_has_them(
    options: Any, asked: Any, answer: tuple[bool, bool]
) -> None:
    """A route with history gives positions and recovery to each client."""
    channels = Channels()
    channels.add_route(
        'room',
        None,
        ChannelOptions(subscribers='anybody', **{'history_size': 5, **options}),
    )
    async with channels, enter(channels, 'ann') as ann:
        result = await ann.subscribe('room', **asked)
        granted = result.get('positioned', False), result.get('recoverable', False)
        assert answer == granted
        assert answer[0] == ('epoch' in result)
