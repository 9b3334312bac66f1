"""`LocalSubscription`: code of the application iterates over publications."""

from __future__ import annotations

import asyncio

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import UnknownChannelError
from falcon_channels import UnsubscribedError


def make_channels() -> Channels:
    channels = Channels()
    channels.add_route('log', None, ChannelOptions(history_size=100))
    channels.add_route(
        'small',
        None,
        ChannelOptions(max_publication_bytes=100, max_backlog_bytes=1000),
    )
    channels.add_route(
        'state',
        None,
        ChannelOptions(history_size=1, recovery='latest', slow_reader='latest'),
    )
    return channels


@on_fake_clock
async def test_subscription_yields_later_publications_in_order() -> None:
    """The iterator yields the publications after the subscription, in order."""
    channels = make_channels()
    await channels.publish('log', 'before')
    async with channels.subscribe('log') as subscription:
        assert (1, None) == (subscription.position.offset, subscription.recovered)
        for number in range(10):
            await channels.publish('log', number)
        values = [(await anext(subscription)).value() for _ in range(10)]
        assert list(range(10)) == values
    assert [] == channels.connections()
    await channels.close()


@on_fake_clock
async def test_subscription_with_a_position_yields_missed_publications_first() -> None:
    """With a position, the iterator yields what was missed, and then what follows."""
    channels = make_channels()
    first = await channels.publish('log', 1)
    await channels.publish('log', 2)
    async with channels.subscribe('log', first.position) as subscription:
        assert True is subscription.recovered
        await channels.publish('log', 3)
        assert [2, 3] == [(await anext(subscription)).value() for _ in range(2)]
    old = first.position._replace(epoch='other')
    async with channels.subscribe('log', old) as subscription:
        assert False is subscription.recovered
    await channels.close()


@on_fake_clock
async def test_too_slow_subscription_raises_after_the_buffered_publications() -> None:
    """A slow iterator yields the buffered publications and then raises code 3008."""
    channels = make_channels()
    async with channels.subscribe('small') as subscription:
        for number in range(100):
            await channels.publish('small', [number, 'x' * 50])
            await asyncio.sleep(0.01)
        received = []

        async def collect() -> None:
            async for publication in subscription:
                received.append(publication.value()[0])

        with pytest.raises(UnsubscribedError) as ended:
            await collect()
        assert 3008 == ended.value.code
        assert list(range(len(received))) == received
    await channels.close()


@on_fake_clock
async def test_slow_subscription_to_a_latest_channel_yields_the_latest() -> None:
    """With `slow_reader='latest'`, a slow iterator yields the latest publication."""
    channels = make_channels()
    await channels.publish('state', 'old')
    async with channels.subscribe('state') as subscription:
        for number in range(100):
            await channels.publish('state', number)
            await asyncio.sleep(0.01)
        assert [0, 99] == [(await anext(subscription)).value() for _ in range(2)]
    await channels.close()


@on_fake_clock
async def test_waiting_subscription_raises_when_the_channels_close() -> None:
    """`Channels.close` wakes a waiting iterator, which raises with code 3001."""
    channels = make_channels()

    async def wait() -> int:
        async with channels.subscribe('log') as subscription:
            with pytest.raises(UnsubscribedError) as ended:
                await anext(subscription)
            return ended.value.code

    waiting = asyncio.get_running_loop().create_task(wait())
    await asyncio.sleep(1)
    await channels.close()
    assert 3001 == await waiting


@on_fake_clock
async def test_unknown_channel_or_missing_async_with_raises() -> None:
    """An unknown channel, and iteration without "async with", say what to do."""
    channels = make_channels()
    with pytest.raises(UnknownChannelError, match='add_route'):
        async with channels.subscribe('nowhere'):
            raise AssertionError('entered')
    with pytest.raises(RuntimeError, match='async with'):
        await anext(channels.subscribe('log'))
    assert [] == channels.connections()
    await channels.close()


@on_fake_clock
async def test_reader_of_a_subscription_whose_block_has_ended_raises() -> None:
    """A task that waits for a publication gets the error, and so do later calls."""
    channels = make_channels()
    async with channels.subscribe('log') as subscription:
        waiting = asyncio.create_task(anext(subscription))
        await asyncio.sleep(1)
    with pytest.raises(RuntimeError, match='has ended'):
        await asyncio.wait_for(waiting, 30)
    async with subscription:
        await channels.publish('log', 'never read')
        await asyncio.sleep(1)
    with pytest.raises(RuntimeError, match='has ended'):
        await asyncio.wait_for(anext(subscription), 30)
    await channels.close()


@on_fake_clock
async def test_subscription_that_is_entered_again_within_its_block_raises() -> None:
    """A subscription has one block at a time. A second one would stay subscribed."""
    channels = make_channels()
    async with channels.subscribe('log') as subscription:
        with pytest.raises(RuntimeError, match='one block at a time'):
            await subscription.__aenter__()
        await channels.publish('log', 1)
        assert 1 == (await anext(subscription)).value()
    assert [] == channels.connections()
    await channels.close()
