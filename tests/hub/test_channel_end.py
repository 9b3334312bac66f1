"""The end of a channel, as its subscribers receive it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelEnd
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import filters
from falcon_channels import NodeOptions
from falcon_channels import Position
from falcon_channels import UnsubscribedError
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.hub.connection import Joined
from falcon_channels.publication import Publication
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import Subscribed
from falcon_channels.testing import Unsubscribed

FINISHED = Unsubscribed('answers', 2400, 'channel finished')


class DeafBroker(MemoryBroker):
    """A memory broker that loses announcements while `deaf` is set."""

    deaf = False

    async def publish(self, channel: str, *args: Any, **options: Any) -> Any:
        receiver = self._receiver
        if self.deaf:
            self._receiver = None
        try:
            return await super().publish(channel, *args, **options)
        finally:
            self._receiver = receiver


def make_channels(broker: MemoryBroker | None = None, **options: Any) -> Channels:
    channels = Channels(broker, NodeOptions(position_check_s=10.0))
    channels.add_route(
        'answers',
        None,
        ChannelOptions(**{'history_size': 100, 'subscribers': 'anybody', **options}),
    )
    return channels


@contextlib.asynccontextmanager
async def subscribed(channels: Channels, **options: Any) -> Any:
    async with channels, SimulatedClient(channels) as client:
        await client.subscribe('answers', **options)
        yield client


def values(client: SimulatedClient) -> list[Any]:
    """Return what a client has received: values, and the ends of subscriptions."""
    received: list[Any] = []
    for event in client.events:
        if isinstance(event, Subscribed):
            received += [item.value() for item in event.joined.publications]
        elif isinstance(event, Received) and isinstance(event.item, Publication):
            received.append(event.item.value())
        elif isinstance(event, Unsubscribed):
            received.append(event)
    return received


async def late(channels: Channels, since: Position | None) -> tuple[Joined, list[Any]]:
    """Subscribe a new client; return its start and what it has received."""
    async with SimulatedClient(channels) as client:
        joined = await client.subscribe('answers', since)
        await asyncio.sleep(1)
        assert {} == client.connection.subscriptions
        return joined, values(client)


@on_fake_clock
async def test_subscriber_receives_all_publications_and_then_the_end() -> None:
    """The end follows the publications, also those of the same iteration."""
    channels = make_channels()
    async with subscribed(channels) as client:
        await channels.publish('answers', 'a')
        await channels.publish('answers', 'b')
        await channels.finish('answers', 'c')
        await asyncio.sleep(1)
        assert ['a', 'b', 'c', FINISHED] == values(client)
        assert {} == client.connection.subscriptions
        assert client.end is None


@on_fake_clock
async def test_end_without_data_is_no_publication_for_subscribers() -> None:
    """A last publication without data is not sent; its error is the reason."""
    channels = make_channels()
    async with subscribed(channels) as client:
        await channels.publish('answers', 'a')
        await channels.finish('answers', error='the model is overloaded')
        await asyncio.sleep(1)
        end = Unsubscribed('answers', 2401, 'the model is overloaded')
        assert ['a', end] == values(client)


@on_fake_clock
async def test_late_subscriber_receives_what_it_asks_for_and_then_the_end() -> None:
    """Each kind of subscription to a finished channel ends at once."""
    async with make_channels() as channels:
        first = (await channels.publish('answers', 'a')).position
        await channels.publish('answers', 'b')
        end = (await channels.finish('answers')).position
        for since, recovered, expected in (
            (None, None, []),
            (Position(0, ''), True, ['a', 'b']),
            (first, True, ['b']),
            (first._replace(offset=2), True, []),
            (end, True, []),
            (Position(1, 'another'), False, []),
        ):
            joined, received = await late(channels, since)
            assert (recovered, end) == (joined.recovered, joined.position)
            assert [*expected, FINISHED] == received, since


@on_fake_clock
async def test_client_of_a_finished_channel_is_not_in_presence() -> None:
    """Nobody sees a client join whose subscription ends at once."""
    async with make_channels(presence=True, join_leave='connection') as channels:
        await channels.finish('answers')
        await late(channels, None)
        assert {} == await channels.presence('answers')


@on_fake_clock
async def test_removed_history_opens_the_channel_for_subscribers() -> None:
    """A process that knows the end asks the broker before it ends a subscription."""
    async with make_channels() as channels:
        for since in (None, Position(0, ''), Position(1, 'another')):
            await channels.finish('answers')
            await late(channels, None)
            await channels.remove_history('answers')
            async with SimulatedClient(channels) as client:
                await client.subscribe('answers', since)
                await channels.publish('answers', 'again')
                await asyncio.sleep(1)
                assert ['again'] == values(client)
                await channels.finish('answers')
                await asyncio.sleep(1)
                assert ['again', FINISHED] == values(client)
                await channels.remove_history('answers')


@pytest.mark.parametrize('policy', ['drop_oldest', 'latest'])
def test_slow_reader_receives_its_pending_publications_before_the_end(
    policy: str,
) -> None:
    """The last publications wait for a slow reader, also after the end."""

    @on_fake_clock
    async def scenario() -> None:
        channels = make_channels(
            recovery='latest',
            slow_reader=policy,
            max_backlog_bytes=2000,
            max_publication_bytes=500,
        )
        async with subscribed(channels) as client:
            client.stop_reading()
            for number in range(30):
                await channels.publish('answers', f'{number}'.ljust(100))
                await asyncio.sleep(0.01)
            await channels.finish('answers')
            await asyncio.sleep(1)
            client.read_again()
            await asyncio.sleep(1)
            received = values(client)
            assert ['29'.ljust(100), FINISHED] == received[-2:]
            assert client.end is None

    scenario()


@on_fake_clock
async def test_filtered_subscriber_receives_the_end() -> None:
    """A filter selects publications. The end is for all subscribers."""

    class Regions:
        async def on_subscribe(self, req: Any, subscription: Any) -> None:
            subscription.filter = filters.eq('region', 'north')

    channels = Channels()
    channels.add_route('answers', Regions(), ChannelOptions(history_size=10))
    async with subscribed(channels) as client:
        await channels.publish('answers', 'a', tags={'region': 'north'})
        await channels.finish('answers', 'hidden', tags={'region': 'south'})
        await asyncio.sleep(1)
        assert ['a', FINISHED] == values(client)
        _, received = await late(channels, Position(0, ''))
        assert ['a', FINISHED] == received


@on_fake_clock
async def test_latest_state_before_an_end_without_data_is_recovered() -> None:
    """With ``recovery='latest'``, the state is not replaced by an empty end."""
    async with make_channels(recovery='latest') as channels:
        await channels.publish('answers', 'old')
        state = (await channels.publish('answers', 'state')).position
        await channels.finish('answers')
        joined, received = await late(channels, Position(0, ''))
        assert (True, state.offset + 1) == (joined.recovered, joined.position.offset)
        assert ['state', FINISHED] == received
    async with make_channels(recovery='latest') as channels:
        await channels.finish('answers', 'state')
        _, received = await late(channels, Position(0, ''))
        assert ['state', FINISHED] == received


@pytest.mark.parametrize('recovery', ['stream', 'latest'])
def test_process_that_missed_the_end_learns_it_from_the_log(recovery: str) -> None:
    """The position check, and the repair after a lost link, find the end."""

    @on_fake_clock
    async def scenario() -> None:
        for restores in (False, True):
            broker = DeafBroker()
            channels = make_channels(broker, recovery=recovery)
            async with subscribed(channels) as client:
                broker.deaf = True
                await channels.publish('answers', 'a')
                await channels.finish('answers')
                broker.deaf = False
                await asyncio.sleep(1)
                assert [] == values(client)
                if restores:
                    channels.node.hub.receiver.on_link_restored()
                    await asyncio.sleep(1)
                else:
                    await asyncio.sleep(15)
                assert ['a', FINISHED] == values(client)

    scenario()


@on_fake_clock
async def test_local_subscription_ends_after_the_last_publication() -> None:
    """A loop over a channel ends with the channel, and raises its error."""
    async with make_channels() as channels:
        await channels.publish('answers', 'a')
        async with channels.subscribe('answers', since=Position(0, '')) as subscription:
            assert subscription.end is None
            await channels.finish('answers', 'b')
            received = [item.value() async for item in subscription]
            assert (['a', 'b'], ChannelEnd()) == (received, subscription.end)
        await channels.remove_history('answers')
        async with channels.subscribe('answers') as subscription:
            await channels.publish('answers', 'c')
            await channels.finish('answers', error='too long')
            assert 'c' == (await anext(subscription)).value()
            assert ChannelEnd('too long') == subscription.end
            for _ in range(2):
                with pytest.raises(UnsubscribedError, match='2401: too long'):
                    await anext(subscription)
        async with channels.subscribe('answers', since=Position(0, '')) as subscription:
            assert ChannelEnd('too long') == subscription.end


@on_fake_clock
async def test_end_of_one_channel_leaves_other_subscriptions() -> None:
    """A client with several channels continues with the others."""
    channels = make_channels()
    channels.add_route('news', None, ChannelOptions(subscribers='anybody'))
    async with subscribed(channels) as client:
        await client.subscribe('news')
        await channels.finish('answers')
        await channels.publish('news', 'n')
        await asyncio.sleep(1)
        assert [FINISHED, 'n'] == values(client) or ['n', FINISHED] == values(client)
        assert ['news'] == list(client.connection.subscriptions)


@on_fake_clock
async def test_failure_at_the_end_reaches_one_subscriber_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If telling one client the end fails, its connection ends; the others learn it."""
    channels = make_channels()
    async with (
        channels,
        SimulatedClient(channels) as one,
        SimulatedClient(channels) as two,
    ):
        for client in (one, two):
            await client.subscribe('answers')

        kind = type(one.connection)
        finish = kind.on_finished

        def fail_for_one(connection: Any, *args: Any) -> None:
            if connection is one.connection:
                raise RuntimeError('broken')
            finish(connection, *args)

        monkeypatch.setattr(kind, 'on_finished', fail_for_one)
        await channels.finish('answers')
        await asyncio.sleep(1)
        assert FINISHED in two.events
        assert one.end is not None
        assert 1 == channels.node.hub.counters.task_errors
