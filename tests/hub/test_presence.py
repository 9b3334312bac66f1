"""Presence: who is there, by connection and by user, and word of it."""

from __future__ import annotations

import asyncio
from collections import deque
import logging
import random
from typing import Any

import pytest
from simulation.storm import Store
from simulation.storm import StormyBroker
from support.fake_clock import on_fake_clock

from falcon_channels import BrokerUnavailableError
from falcon_channels import CapabilityError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient


def made(**options: Any) -> Channels:
    channels = Channels()
    channels.add_route('room:{name}', None, ChannelOptions(**options))
    return channels


def signals(client: SimulatedClient) -> list[tuple[str, str]]:
    return [
        (event.item.kind, event.item.info.user)
        for event in client.events
        if isinstance(event, Received)
    ]


async def enter(channels: Channels, user: str) -> SimulatedClient:
    client = SimulatedClient(channels, user=user, info={'name': user})
    await client.__aenter__()
    await client.subscribe('room:1')
    await asyncio.sleep(0.1)
    return client


@on_fake_clock
async def test_connections_and_users_are_counted_apart() -> None:
    """Two tabs of one user are two connections and one user."""
    channels = made(presence=True)
    first = await enter(channels, 'ann')
    await enter(channels, 'ann')
    await enter(channels, 'bob')
    stats = await channels.presence_stats('room:1')
    assert (3, 2) == stats
    there = await channels.presence('room:1')
    info = there[first.connection.id]
    assert ('ann', b'{"name":"ann"}') == (info.user, info.conn_info)
    first.disconnect()
    await asyncio.sleep(0.1)
    assert (2, 2) == await channels.presence_stats('room:1')
    await channels.close()


@on_fake_clock
async def test_each_connection_is_announced() -> None:
    """With `connection`, every tab joins and leaves, and sees itself join."""
    channels = made(join_leave='connection')
    watcher = await enter(channels, 'watcher')
    first = await enter(channels, 'ann')
    second = await enter(channels, 'ann')
    first.disconnect()
    await asyncio.sleep(0.1)
    second.unsubscribe('room:1')
    await asyncio.sleep(0.1)
    assert [
        ('join', 'watcher'),
        ('join', 'ann'),
        ('join', 'ann'),
        ('leave', 'ann'),
        ('leave', 'ann'),
    ] == signals(watcher)
    with pytest.raises(CapabilityError, match='no presence'):
        await channels.presence('room:1')
    await channels.close()


@on_fake_clock
async def test_a_user_is_announced_once() -> None:
    """With `user`, the first tab joins and the last one leaves."""
    channels = made(presence=True, join_leave='user')
    watcher = await enter(channels, 'watcher')
    first = await enter(channels, 'ann')
    second = await enter(channels, 'ann')
    first.disconnect()
    await asyncio.sleep(0.1)
    third = await enter(channels, 'ann')
    second.disconnect()
    await asyncio.sleep(0.1)
    assert [('join', 'watcher'), ('join', 'ann')] == signals(watcher)
    third.disconnect()
    await asyncio.sleep(0.1)
    assert ('leave', 'ann') == signals(watcher)[-1]
    assert 3 == len(signals(watcher))
    await channels.close()


@on_fake_clock
async def test_who_is_back_within_the_grace_was_never_away() -> None:
    """A reconnect within the grace makes no noise; a longer absence is told."""
    channels = made(presence=True, join_leave='user', leave_grace_s=5.0)
    watcher = await enter(channels, 'watcher')
    client = await enter(channels, 'ann')
    client.disconnect()
    await asyncio.sleep(4.0)
    client = await enter(channels, 'ann')
    await asyncio.sleep(20.0)
    assert [('join', 'watcher'), ('join', 'ann')] == signals(watcher)
    client.disconnect()
    await asyncio.sleep(6.0)
    assert ('leave', 'ann') == signals(watcher)[-1]
    client = await enter(channels, 'ann')
    # NOTE: who leaves on purpose leaves at once.
    client.unsubscribe('room:1')
    await asyncio.sleep(0.1)
    assert [('join', 'ann'), ('leave', 'ann')] == signals(watcher)[-2:]
    await channels.close()


@on_fake_clock
async def test_entries_of_a_dead_process_expire() -> None:
    """Entries that nobody refreshes disappear, and the others are told."""
    channels = made(presence=True, join_leave='user', presence_ttl_s=30.0)
    watcher = await enter(channels, 'watcher')
    await enter(channels, 'ann')
    await asyncio.sleep(300.0)
    assert (2, 2) == await channels.presence_stats('room:1')
    for kept in channels._presence._entered.values():
        # NOTE: what a process that was killed does: nothing.
        for subscription in [s for s in kept if s.user == 'ann']:
            del kept[subscription]
    await asyncio.sleep(40.0)
    assert (1, 1) == await channels.presence_stats('room:1')
    assert ('leave', 'ann') == signals(watcher)[-1]
    await channels.close()


@on_fake_clock
async def test_short_lives_are_refreshed_beside_long_ones() -> None:
    """Each lifetime has its own pace, whichever channel was there first."""
    channels = made(presence=True, presence_ttl_s=600.0)
    channels.add_route('brief', None, ChannelOptions(presence=True, presence_ttl_s=3.0))
    client = await enter(channels, 'ann')
    await asyncio.sleep(1.0)
    await client.subscribe('brief')
    for _ in range(50):
        await asyncio.sleep(1.0)
        assert 1 == len(await channels.presence('brief'))
    await channels.close()


@on_fake_clock
async def test_no_ghost_after_a_disconnect_while_subscribing() -> None:
    """A client that goes while it is being entered leaves nothing behind."""
    channels = made(presence=True, join_leave='user')
    watcher = await enter(channels, 'watcher')
    for turns in range(12):
        client = SimulatedClient(channels, user='ann')
        await client.__aenter__()
        task = asyncio.get_running_loop().create_task(client.subscribe('room:1'))
        for _ in range(turns):
            await asyncio.sleep(0)
        client.disconnect()
        await asyncio.wait([task])
        task.exception()
        await asyncio.sleep(10.0)
        assert (1, 1) == await channels.presence_stats('room:1')
    counts = signals(watcher)
    assert counts.count(('join', 'ann')) == counts.count(('leave', 'ann'))
    assert [watcher.connection] == channels.connections()
    await channels.close()


@on_fake_clock
async def test_nothing_is_left_when_all_have_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A thousand who come and go leave no entry, no timer and no log line."""
    caplog.set_level(logging.WARNING)
    channels = made(presence=True, join_leave='user', leave_grace_s=1.0)
    for number in range(200):
        client = await enter(channels, f'user{number % 7}')
        client.disconnect()
    await asyncio.sleep(30.0)
    keeper = channels._presence
    assert {} == keeper._graces
    assert {} == keeper._user_locks
    assert [{}] == list(keeper._entered.values())
    assert (0, 0) == await channels.presence_stats('room:1')
    assert [] == caplog.records
    await channels.close()
    assert {asyncio.current_task()} == asyncio.all_tasks()


class SlowToTell(StormyBroker):
    """A process's link to a shared broker, whose signals wait for their gates."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, random.Random(1), calm=True, exact=True)
        self.gates: deque[asyncio.Event] = deque()
        self.failures = 0

    async def signal(self, channel: str, signal: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailableError('not told')
        if self.gates:
            await self.gates.popleft().wait()
        await super().signal(channel, signal)


@on_fake_clock
async def test_the_last_word_between_processes_is_right() -> None:
    """Who comes back elsewhere, and leaves again, is there and away for all."""
    store = Store(asyncio.get_running_loop())
    await store.start()
    brokers = [SlowToTell(store), SlowToTell(store)]
    processes = [Channels(broker) for broker in brokers]
    for channels in processes:
        options = ChannelOptions(presence=True, join_leave='user')
        channels.add_route('room:{name}', None, options)
    watcher = await enter(processes[1], 'watcher')
    first = await enter(processes[0], 'ann')
    leave, rejoin = asyncio.Event(), asyncio.Event()
    brokers[0].gates.extend([leave, rejoin])
    first.unsubscribe('room:1')
    await asyncio.sleep(1)
    second = await enter(processes[1], 'ann')
    told = ['join', 'join']
    assert told == [kind for kind, user in signals(watcher) if user == 'ann']
    leave.set()
    await asyncio.sleep(1)
    # NOTE: the first process is about to say that ann is there, who now leaves.
    second.unsubscribe('room:1')
    await asyncio.sleep(1)
    told += ['leave', 'leave']
    assert told == [kind for kind, user in signals(watcher) if user == 'ann']
    rejoin.set()
    await asyncio.sleep(1)
    told += ['join', 'leave']
    assert told == [kind for kind, user in signals(watcher) if user == 'ann']
    for channels in processes:
        await channels.close()


@pytest.mark.parametrize('join_leave', ['connection', 'user'])
@on_fake_clock
async def test_who_was_held_to_be_dead_is_back(join_leave: str) -> None:
    """A process that was cut off for long says again who is there."""
    store = Store(asyncio.get_running_loop())
    await store.start()
    brokers = [SlowToTell(store), SlowToTell(store)]
    processes = [Channels(broker) for broker in brokers]
    for channels in processes:
        options = ChannelOptions(
            presence=True, join_leave=join_leave, presence_ttl_s=30.0
        )
        channels.add_route('room:{name}', None, options)
    watcher = await enter(processes[1], 'watcher')
    await enter(processes[0], 'ann')
    brokers[0].link_up = False
    processes[0].hub.on_link_lost()
    await asyncio.sleep(100)
    told = [('join', 'watcher'), ('join', 'ann'), ('leave', 'ann')]
    assert told == signals(watcher)
    brokers[0].link_up = True
    processes[0].hub.on_link_restored()
    await asyncio.sleep(300)
    assert [*told, ('join', 'ann')] == signals(watcher)
    for channels in processes:
        await channels.close()


@pytest.mark.parametrize('join_leave', ['connection', 'user'])
@on_fake_clock
async def test_what_could_not_be_told_is_told_later(join_leave: str) -> None:
    """Who was entered while nothing could be told is told of until that succeeds."""
    store = Store(asyncio.get_running_loop())
    await store.start()
    broker = SlowToTell(store)
    channels = Channels(broker)
    options = ChannelOptions(presence=True, join_leave=join_leave, presence_ttl_s=30.0)
    channels.add_route('room:{name}', None, options)
    watcher = await enter(channels, 'watcher')
    broker.failures = 3
    ann = await enter(channels, 'ann')
    bob = await enter(channels, 'bob')
    bob.disconnect()
    await asyncio.sleep(300)
    told = {('join', 'watcher'), ('leave', 'bob'), ('join', 'ann')}
    assert told == set(signals(watcher))
    assert 3 == len(signals(watcher))
    broker.failures = 1
    ann.disconnect()
    await asyncio.sleep(60)
    assert ('leave', 'ann') == signals(watcher)[-1]
    assert 4 == len(signals(watcher))
    await channels.close()
