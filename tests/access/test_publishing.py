"""Publishing by the application: positions, idempotency keys, broadcast, payloads."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import BrokerUnavailableError
from falcon_channels import CapabilityError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import InvalidValueError
from falcon_channels import PayloadError
from falcon_channels import UnknownChannelError
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.portal import Portal
from falcon_channels.testing import SimulatedClient


def make_channels(**options: Any) -> Channels:
    channels = Channels()
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(**{'history_size': 100, **options})
    )
    return channels


@on_fake_clock
async def test_publish_returns_positions_that_count_from_one() -> None:
    """Each channel counts its own positions from 1, and names are case-sensitive."""
    channels = make_channels()
    for offset in (1, 2, 3):
        result = await channels.publish('rooms:a', {'n': offset})
        assert (offset, False) == (result.position.offset, result.duplicate)
    assert 1 == (await channels.publish('rooms:A', 'other')).position.offset
    page = await channels.history('rooms:a')
    assert [1, 2, 3] == [p.value()['n'] for p in page.publications]
    assert 3 == page.position.offset
    await channels.close()


@on_fake_clock
async def test_publish_with_a_used_idempotency_key_stores_nothing() -> None:
    """A used key returns the first position until `idempotency_ttl_s` has passed."""
    channels = make_channels(idempotency_ttl_s=60.0)
    first = await channels.publish('rooms:a', 1, idempotency_key='k')
    again = await channels.publish('rooms:a', 2, idempotency_key='k')
    assert (first.position, True) == (again.position, again.duplicate)
    other = await channels.publish('rooms:b', 2, idempotency_key='k')
    assert not other.duplicate
    await asyncio.sleep(61)
    late = await channels.publish('rooms:a', 3, idempotency_key='k')
    assert (2, False) == (late.position.offset, late.duplicate)
    for key in ('', 'k' * 256):
        with pytest.raises(ValueError, match='1 to 255 bytes'):
            await channels.publish('rooms:a', 1, idempotency_key=key)
    await channels.close()


class MeetingBroker(MemoryBroker):
    """A memory broker whose publishes wait until three of them are pending."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = asyncio.Barrier(3)

    async def publish(self, channel: str, *args: Any, **options: Any) -> PublishResult:
        await self.barrier.wait()
        if channel == 'rooms:b':
            raise BrokerUnavailableError('the store is full')
        return await super().publish(channel, *args, **options)


async def test_broadcast_publishes_to_all_channels_at_once_despite_an_error() -> None:
    """The broker gets all channels together; an error in one stops no other."""
    channels = Channels(MeetingBroker())
    channels.add_route('rooms:{room}', None, ChannelOptions(history_size=100))
    async with asyncio.timeout(5):
        with pytest.raises(BrokerUnavailableError, match='the store is full'):
            await channels.broadcast(['rooms:a', 'rooms:b', 'rooms:c'], 1)
    for channel in ('rooms:a', 'rooms:c'):
        assert 1 == (await channels.position(channel)).offset
    await channels.close()


@on_fake_clock
async def test_broadcast_with_an_unknown_channel_publishes_nothing() -> None:
    """A broadcast checks all channels before it publishes to the first one."""
    channels = make_channels()
    with pytest.raises(UnknownChannelError):
        await channels.broadcast(['rooms:a', 'wrong'], 1)
    assert [] == (await channels.history('rooms:a')).publications
    results = await channels.broadcast(['rooms:a', 'rooms:b'], 1, tags={'t': 'v'})
    assert [1, 1] == [result.position.offset for result in results]
    (publication,) = (await channels.history('rooms:b')).publications
    assert {'t': 'v'} == publication.tags
    await channels.close()


@pytest.mark.parametrize(
    'data', [object(), {1, object()}, float, '\ud800', {'a': {'b': object()}}]
)
def test_publish_with_data_that_json_cannot_encode_raises(data: Any) -> None:
    """Data that JSON cannot encode is refused with `PayloadError`."""

    @on_fake_clock
    async def scenario() -> None:
        channels = make_channels()
        with pytest.raises(PayloadError):
            await channels.publish('rooms:a', data)
        await channels.close()

    scenario()


@on_fake_clock
async def test_publish_in_a_transaction_without_such_a_broker_raises() -> None:
    """A broker without transactions refuses `connection`, and the message says so."""
    channels = make_channels()
    with pytest.raises(CapabilityError, match='transaction'):
        await channels.publish('rooms:a', 1, connection=object())
    await channels.close()


class Average:
    """A responder that publishes a number which JSON cannot hold."""

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        """Allow everybody."""

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        if room == 'sets':
            publication.data = math.nan
        elif room == 'changes':
            publication.data['average'] = math.nan


#: Each way of publishing a value, with the error that the caller gets.
WAYS: dict[str, tuple[type[Exception], Any]] = {
    'publish': (
        PayloadError,
        lambda channels, client, data: channels.publish('rooms:a', data),
    ),
    'publish-in-transaction': (
        PayloadError,
        lambda channels, client, data: channels.publish(
            'rooms:a', data, connection=object()
        ),
    ),
    'broadcast': (
        PayloadError,
        lambda channels, client, data: channels.broadcast(['rooms:a'], data),
    ),
    'client': (
        PayloadError,
        lambda channels, client, data: client.publish('rooms:a', data),
    ),
    'on_publish-sets': (
        RuntimeError,
        lambda channels, client, data: client.publish('average:sets', {}),
    ),
    'on_publish-changes': (
        InvalidValueError,
        lambda channels, client, data: client.publish('average:changes', {}),
    ),
}


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(
    'data', [math.nan, -math.inf, [None, math.inf], {'a': {'b': math.nan}}]
)
def test_nan_and_infinity_are_refused_by_every_way_of_publishing(
    way: str, data: Any
) -> None:
    """NaN and infinity raise, because JSON has only null for them."""

    @on_fake_clock
    async def scenario() -> None:
        channels = Channels()
        options = ChannelOptions(publishers='anybody', history_size=5)
        channels.add_route('rooms:{room}', Average(), options)
        channels.add_route('average:{room}', Average(), options)
        error, call = WAYS[way]
        async with SimulatedClient(channels, user='ann') as client:
            with pytest.raises(error, match='Out of range float'):
                await call(channels, client, data)
            for name in ('rooms:a', 'average:sets', 'average:changes'):
                assert [] == (await channels.history(name)).publications
        await channels.close()

    scenario()


def test_portal_refuses_nan_and_infinity() -> None:
    """Synchronous code gets the same error as asynchronous code."""
    with Portal(make_channels()) as portal:
        for data in (math.nan, [math.inf]):
            with pytest.raises(PayloadError, match='Out of range float'):
                portal.publish('rooms:a', data)
            with pytest.raises(PayloadError, match='Out of range float'):
                portal.broadcast(['rooms:a'], data)


@pytest.mark.parametrize('data', [b'\xff', b'', b'{', bytearray(b'\x00'), b'NaN'])
def test_publish_bytes_that_are_not_json_raises(data: bytes) -> None:
    """A channel carries JSON, and the error says how to change that."""

    @on_fake_clock
    async def scenario() -> None:
        channels = make_channels()
        channels.add_route('files:{name}', None, ChannelOptions(binary=True))
        with pytest.raises(PayloadError) as caught:
            await channels.publish('rooms:a', data)
        assert (
            f"channel 'rooms:a' carries JSON, and these {len(data)} bytes are not "
            'JSON: publish a JSON value, or add the route with '
            'ChannelOptions(binary=True)'
        ) == str(caught.value)
        with pytest.raises(PayloadError):
            await channels.broadcast(['files:a', 'rooms:a'], data)
        assert [] == (await channels.history('rooms:a')).publications
        await channels.close()

    scenario()


@on_fake_clock
async def test_publish_bytes_that_are_json_stores_json() -> None:
    """Bytes are the JSON text of a value, and stay bytes where binary is allowed."""
    channels = make_channels()
    channels.add_route(
        'files:{name}', None, ChannelOptions(binary=True, history_size=9)
    )
    await channels.broadcast(['rooms:a', 'files:a', 'rooms:b'], b'{"a": 1}')
    values = [
        (publication.binary, publication.value())
        for name in ('rooms:a', 'files:a', 'rooms:b')
        for publication in (await channels.history(name)).publications
    ]
    assert [(False, {'a': 1}), (True, b'{"a": 1}'), (False, {'a': 1})] == values
    await channels.close()
