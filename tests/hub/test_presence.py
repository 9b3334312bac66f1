"""Presence: entries by connection and by user, and their announcements."""

from __future__ import annotations

import asyncio
from collections import deque
import logging
import random
from typing import Any

import pytest
from simulation.faulty_broker import FaultyBroker
from simulation.faulty_broker import Store
from support.fake_clock import on_fake_clock

from falcon_channels import BrokerUnavailableError
from falcon_channels import CapabilityError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient


def make_channels(**options: Any) -> Channels:
    channels = Channels()
    channels.add_route(
        'room:{name}', None, ChannelOptions(subscribers='anybody', **options)
    )
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
async def test_presence_stats_count_connections_and_users() -> None:
    """Two tabs of one user count as two connections and one user."""
    channels = make_channels(presence=True)
    first = await enter(channels, 'ann')
    await enter(channels, 'ann')
    await enter(channels, 'bob')
    stats = await channels.presence_stats('room:1')
    assert (3, 2) == stats
    entries = await channels.presence('room:1')
    info = entries[first.connection.id]
    assert ('ann', b'{"name":"ann"}') == (info.user, info.conn_info)
    first.disconnect()
    await asyncio.sleep(0.1)
    assert (2, 2) == await channels.presence_stats('room:1')
    await channels.close()


@on_fake_clock
async def test_join_leave_connection_announces_each_connection() -> None:
    """With `connection`, every tab is announced, and also sees its own join."""
    channels = make_channels(join_leave='connection')
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
async def test_join_leave_user_announces_first_join_and_last_leave() -> None:
    """With `user`, only the first join and the last leave of a user are announced."""
    channels = make_channels(presence=True, join_leave='user')
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
async def test_reconnect_within_the_grace_period_announces_nothing() -> None:
    """A reconnect within the grace period is not announced; a longer absence is."""
    channels = make_channels(presence=True, join_leave='user', leave_grace_s=5.0)
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
    # NOTE: a client that unsubscribes has no grace period.
    client.unsubscribe('room:1')
    await asyncio.sleep(0.1)
    assert [('join', 'ann'), ('leave', 'ann')] == signals(watcher)[-2:]
    await channels.close()


@on_fake_clock
async def test_entries_of_a_dead_process_expire_and_are_announced() -> None:
    """Entries that are not refreshed expire, and their leaves are announced."""
    channels = make_channels(presence=True, join_leave='user', presence_ttl_s=30.0)
    watcher = await enter(channels, 'watcher')
    await enter(channels, 'ann')
    await asyncio.sleep(300.0)
    assert (2, 2) == await channels.presence_stats('room:1')
    for entered in channels.node._presence._entered.values():
        # NOTE: a killed process refreshes nothing.
        for subscription in [s for s in entered if s.user == 'ann']:
            del entered[subscription]
    await asyncio.sleep(40.0)
    assert (1, 1) == await channels.presence_stats('room:1')
    assert ('leave', 'ann') == signals(watcher)[-1]
    await channels.close()


@on_fake_clock
async def test_entries_with_different_lifetimes_are_all_refreshed() -> None:
    """Each lifetime has its own refresh interval, whichever channel was first."""
    channels = make_channels(presence=True, presence_ttl_s=600.0)
    channels.add_route(
        'brief',
        None,
        ChannelOptions(subscribers='anybody', presence=True, presence_ttl_s=3.0),
    )
    client = await enter(channels, 'ann')
    await asyncio.sleep(1.0)
    await client.subscribe('brief')
    for _ in range(50):
        await asyncio.sleep(1.0)
        assert 1 == len(await channels.presence('brief'))
    await channels.close()


@on_fake_clock
async def test_disconnect_while_entering_leaves_no_entry() -> None:
    """A client that disconnects while its entry is added leaves no entry."""
    channels = make_channels(presence=True, join_leave='user')
    watcher = await enter(channels, 'watcher')
    for iterations in range(12):
        client = SimulatedClient(channels, user='ann')
        await client.__aenter__()
        task = asyncio.get_running_loop().create_task(client.subscribe('room:1'))
        for _ in range(iterations):
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
async def test_unexpected_error_of_one_removal_does_not_keep_other_entries() -> None:
    """Entries that are removed at the same time are removed after the error."""

    class FailingBroker(MemoryBroker):
        failures = 1

        async def remove_presence(self, *args: Any) -> Any:
            if self.failures:
                self.failures -= 1
                raise RuntimeError('broken')
            return await super().remove_presence(*args)

    channels = Channels(FailingBroker())
    channels.add_route(
        'room:{name}', None, ChannelOptions(subscribers='anybody', presence=True)
    )
    first, second = await enter(channels, 'ann'), await enter(channels, 'bob')
    first.disconnect()
    second.disconnect()
    await asyncio.sleep(5)
    assert {first.connection.id} == (await channels.presence('room:1')).keys()
    await channels.close()


@on_fake_clock
async def test_client_that_enters_while_the_channels_close_is_not_cancelled() -> None:
    """The closing hub cancels its own task, and not the task of the client."""
    entering = asyncio.Event()

    class SlowBroker(MemoryBroker):
        async def add_presence(self, *args: Any) -> Any:
            entering.set()
            await asyncio.Event().wait()

    channels = Channels(SlowBroker())
    channels.add_route(
        'room:{name}', None, ChannelOptions(subscribers='anybody', presence=True)
    )
    async with SimulatedClient(channels) as client:
        subscribing = asyncio.create_task(client.subscribe('room:1'))
        await entering.wait()
        await channels.close()
        await asyncio.wait([subscribing], timeout=30)
        assert subscribing.done()
        assert not subscribing.cancelled()


@on_fake_clock
async def test_keeper_holds_nothing_after_all_clients_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """200 clients that join and leave leave no entry, timer or log line behind."""
    caplog.set_level(logging.WARNING)
    channels = make_channels(presence=True, join_leave='user', leave_grace_s=1.0)
    for number in range(200):
        client = await enter(channels, f'user{number % 7}')
        client.disconnect()
    await asyncio.sleep(30.0)
    keeper = channels.node._presence
    assert {} == keeper._graces
    assert {} == keeper._user_locks
    assert [{}] == list(keeper._entered.values())
    assert (0, 0) == await channels.presence_stats('room:1')
    assert [] == caplog.records
    await channels.close()
    assert {asyncio.current_task()} == asyncio.all_tasks()


class SlowSignalBroker(FaultyBroker):
    """The link of one process to the shared broker, whose signals can be delayed."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, random.Random(1), calm=True, exact=True)
        self.gates: deque[asyncio.Event] = deque()
        self.failures = 0

    async def signal(self, channel: str, signal: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailableError('on purpose')
        if self.gates:
            await self.gates.popleft().wait()
        await super().signal(channel, signal)


@on_fake_clock
async def test_leave_overtaken_by_a_join_is_corrected() -> None:
    """If a user leaves, returns and leaves again, the last announcement is right."""
    store = Store(asyncio.get_running_loop())
    await store.start()
    brokers = [SlowSignalBroker(store), SlowSignalBroker(store)]
    processes = [Channels(broker) for broker in brokers]
    for channels in processes:
        options = ChannelOptions(
            subscribers='anybody', presence=True, join_leave='user'
        )
        channels.add_route('room:{name}', None, options)
    watcher = await enter(processes[1], 'watcher')
    first = await enter(processes[0], 'ann')
    leave, rejoin = asyncio.Event(), asyncio.Event()
    brokers[0].gates.extend([leave, rejoin])
    first.unsubscribe('room:1')
    await asyncio.sleep(1)
    second = await enter(processes[1], 'ann')
    announced = ['join', 'join']
    assert announced == [kind for kind, user in signals(watcher) if user == 'ann']
    leave.set()
    await asyncio.sleep(1)
    # NOTE: the first process is about to announce that ann is present. She leaves now.
    second.unsubscribe('room:1')
    await asyncio.sleep(1)
    announced += ['leave', 'leave']
    assert announced == [kind for kind, user in signals(watcher) if user == 'ann']
    rejoin.set()
    await asyncio.sleep(1)
    announced += ['join', 'leave']
    assert announced == [kind for kind, user in signals(watcher) if user == 'ann']
    for channels in processes:
        await channels.close()


@pytest.mark.parametrize('join_leave', ['connection', 'user'])
@on_fake_clock
async def test_entries_that_expired_by_mistake_are_announced_again(
    join_leave: str,
) -> None:
    """A process that was cut off for long announces its users again."""
    store = Store(asyncio.get_running_loop())
    await store.start()
    brokers = [SlowSignalBroker(store), SlowSignalBroker(store)]
    processes = [Channels(broker) for broker in brokers]
    for channels in processes:
        options = ChannelOptions(
            subscribers='anybody',
            presence=True,
            join_leave=join_leave,
            presence_ttl_s=30.0,
        )
        channels.add_route('room:{name}', None, options)
    watcher = await enter(processes[1], 'watcher')
    await enter(processes[0], 'ann')
    brokers[0].link_up = False
    processes[0].node.hub.receiver.on_link_lost()
    await asyncio.sleep(100)
    announced = [('join', 'watcher'), ('join', 'ann'), ('leave', 'ann')]
    assert announced == signals(watcher)
    brokers[0].link_up = True
    processes[0].node.hub.receiver.on_link_restored()
    await asyncio.sleep(300)
    assert [*announced, ('join', 'ann')] == signals(watcher)
    for channels in processes:
        await channels.close()


@pytest.mark.parametrize('join_leave', ['connection', 'user'])
@on_fake_clock
async def test_outage_of_all_processes_announces_nothing(join_leave: str) -> None:
    """The first process to return waits until the others have refreshed."""
    store = Store(asyncio.get_running_loop())
    await store.start()
    brokers = [SlowSignalBroker(store), SlowSignalBroker(store)]
    processes = [Channels(broker) for broker in brokers]
    for channels in processes:
        options = ChannelOptions(
            subscribers='anybody',
            presence=True,
            join_leave=join_leave,
            presence_ttl_s=30.0,
        )
        channels.add_route('room:{name}', None, options)
    watcher = await enter(processes[1], 'watcher')
    await enter(processes[0], 'ann')
    for broker, channels in zip(brokers, processes, strict=True):
        broker.link_up = False
        channels.node.hub.receiver.on_link_lost()
    await asyncio.sleep(100)
    for broker, channels in reversed(list(zip(brokers, processes, strict=True))):
        broker.link_up = True
        channels.node.hub.receiver.on_link_restored()
        await asyncio.sleep(6)
    await asyncio.sleep(300)
    assert [('join', 'watcher'), ('join', 'ann')] == signals(watcher)
    assert 2 == len(await processes[1].presence('room:1'))
    for channels in processes:
        await channels.close()


@pytest.mark.parametrize('join_leave', ['connection', 'user'])
@on_fake_clock
async def test_join_that_could_not_be_announced_is_announced_later(
    join_leave: str,
) -> None:
    """A join or leave whose announcement failed is announced until that succeeds."""
    store = Store(asyncio.get_running_loop())
    await store.start()
    broker = SlowSignalBroker(store)
    channels = Channels(broker)
    options = ChannelOptions(
        subscribers='anybody', presence=True, join_leave=join_leave, presence_ttl_s=30.0
    )
    channels.add_route('room:{name}', None, options)
    watcher = await enter(channels, 'watcher')
    broker.failures = 3
    ann = await enter(channels, 'ann')
    bob = await enter(channels, 'bob')
    bob.disconnect()
    await asyncio.sleep(300)
    announced = {('join', 'watcher'), ('leave', 'bob'), ('join', 'ann')}
    assert announced == set(signals(watcher))
    assert 3 == len(signals(watcher))
    broker.failures = 1
    ann.disconnect()
    await asyncio.sleep(60)
    assert ('leave', 'ann') == signals(watcher)[-1]
    assert 4 == len(signals(watcher))
    await channels.close()
