"""Server-side subscriptions."""

from __future__ import annotations

import asyncio

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import UnknownChannelError
from falcon_channels import UnsubscribedError


def made() -> Channels:
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
async def test_iterates_over_what_is_published() -> None:
    """Code of the application gets what follows its subscription, in order."""
    channels = made()
    await channels.publish('log', 'before')
    async with channels.subscribe('log') as subscription:
        assert (1, None) == (subscription.position.offset, subscription.recovered)
        for number in range(10):
            await channels.publish('log', number)
        got = [(await anext(subscription)).value() for _ in range(10)]
        assert list(range(10)) == got
    assert [] == channels.connections()
    await channels.close()


@on_fake_clock
async def test_recovers_from_a_position() -> None:
    """With a position it gets what was missed, and then what follows."""
    channels = made()
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
async def test_whoever_is_too_slow_is_told() -> None:
    """An iterator that lags gets what it kept, and then an error with the code."""
    channels = made()
    async with channels.subscribe('small') as subscription:
        for number in range(100):
            await channels.publish('small', [number, 'x' * 50])
            await asyncio.sleep(0.01)
        got = []

        async def collect() -> None:
            async for publication in subscription:
                got.append(publication.value()[0])

        with pytest.raises(UnsubscribedError) as ended:
            await collect()
        assert 3008 == ended.value.code
        assert list(range(len(got))) == got
    await channels.close()


@on_fake_clock
async def test_a_state_is_the_newest() -> None:
    """A channel that carries a state gives a slow iterator the newest."""
    channels = made()
    await channels.publish('state', 'old')
    async with channels.subscribe('state') as subscription:
        for number in range(100):
            await channels.publish('state', number)
            await asyncio.sleep(0.01)
        assert [0, 99] == [(await anext(subscription)).value() for _ in range(2)]
    await channels.close()


@on_fake_clock
async def test_ends_with_the_channels() -> None:
    """Closing wakes whoever waits, with a code that says so."""
    channels = made()

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
async def test_wrong_use_is_refused() -> None:
    """An unknown channel and an iteration without entering say what to do."""
    channels = made()
    with pytest.raises(UnknownChannelError, match='add_route'):
        async with channels.subscribe('nowhere'):
            raise AssertionError('entered')
    with pytest.raises(RuntimeError, match='async with'):
        await anext(channels.subscribe('log'))
    assert [] == channels.connections()
    await channels.close()
