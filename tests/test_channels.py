"""The facade: publish, history, revoke, disconnect, and its own beginning and end."""

from __future__ import annotations

import asyncio
from typing import Any

import falcon
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import CapabilityError
from falcon_channels import ChannelNameError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import NodeOptions
from falcon_channels import OptionsError
from falcon_channels import PayloadError
from falcon_channels import Position
from falcon_channels import PositionError
from falcon_channels import UnknownChannelError
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import Unsubscribed


def made(**options: Any) -> Channels:
    channels = Channels(
        options=NodeOptions(drain_batch=3, drain_interval_s=1.0, linger_s=1.0)
    )
    options = {'history_size': 100, **options}
    channels.add_route('rooms:{room}', None, ChannelOptions(**options))
    return channels


@on_fake_clock
async def test_publish_returns_positions() -> None:
    """Positions count from 1, each channel by itself, and names are case-sensitive."""
    channels = made()
    for offset in (1, 2, 3):
        result = await channels.publish('rooms:a', {'n': offset})
        assert (offset, False) == (result.position.offset, result.duplicate)
    assert 1 == (await channels.publish('rooms:A', 'other')).position.offset
    page = await channels.history('rooms:a')
    assert [1, 2, 3] == [p.value()['n'] for p in page.publications]
    assert 3 == page.position.offset
    await channels.close()


@on_fake_clock
async def test_the_same_key_publishes_once() -> None:
    """The same idempotency key gives the first position, and only for its time."""
    channels = made(idempotency_ttl_s=60.0)
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


@on_fake_clock
async def test_broadcast_checks_all_before_the_first() -> None:
    """A name that is wrong publishes nothing anywhere."""
    channels = made()
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
def test_what_is_no_json_is_refused(data: Any) -> None:
    """Data that JSON has not is refused with an error of ours."""

    @on_fake_clock
    async def scenario() -> None:
        channels = made()
        with pytest.raises(PayloadError):
            await channels.publish('rooms:a', data)
        await channels.close()

    scenario()


@pytest.mark.parametrize('name', ['', 'a\nb', 'x' * 300, 7, None, ' rooms:a'])
def test_wrong_names_are_refused_everywhere(name: Any) -> None:
    """Each call refuses what is no channel name."""

    @on_fake_clock
    async def scenario() -> None:
        channels = made(presence=True)
        for call in (
            channels.publish(name, 1),
            channels.history(name),
            channels.presence(name),
            channels.remove_history(name),
            channels.revoke_user('ann', name),
            channels.subscribe(name).__aenter__(),
        ):
            with pytest.raises(ChannelNameError):
                await call
        await channels.close()

    scenario()


@on_fake_clock
async def test_positions_are_read_alone() -> None:
    """A position is that of the history's page, and nothing without history."""
    channels = made()
    channels.add_route('plain', None)
    before = await channels.position('rooms:a')
    assert 0 == before.offset
    await channels.publish('rooms:a', 1)
    await channels.publish('rooms:a', 2)
    position = await channels.position('rooms:a')
    assert (2, before.epoch) == position
    assert position == (await channels.history('rooms:a')).position
    async with channels.subscribe('rooms:a', since=before) as subscription:
        assert 1 == (await anext(subscription)).value()
    assert Position(0, '') == await channels.position('plain')
    with pytest.raises(UnknownChannelError):
        await channels.position('nothing')
    await channels.close()


@on_fake_clock
async def test_history_pages() -> None:
    """History is read from a position in both directions, and knows its log."""
    channels = made(history_size=5)
    for number in range(1, 9):
        await channels.publish('rooms:a', number)
    page = await channels.history('rooms:a', limit=2)
    epoch = page.position.epoch
    assert ([4, 5], 8) == ([p.offset for p in page.publications], page.position.offset)

    async def offsets(**asked: Any) -> list[int]:
        read = await channels.history('rooms:a', **asked)
        return [p.offset for p in read.publications]

    assert [7, 8] == await offsets(since=Position(6, epoch))
    assert [8, 7] == await offsets(reverse=True, limit=2)
    assert [5, 4] == await offsets(reverse=True, since=Position(6, epoch))
    assert [] == await offsets(limit=0)
    with pytest.raises(PositionError, match='another log'):
        await offsets(since=Position(6, 'other'))
    await channels.remove_history('rooms:a')
    assert [] == await offsets()
    assert 9 == (await channels.publish('rooms:a', 9)).position.offset
    media = (await channels.history('rooms:a')).to_media()
    assert (9, epoch) == (media['offset'], media['epoch'])
    assert 9 == media['publications'][0]['data']
    await channels.close()


@on_fake_clock
async def test_revoke_holds_after_a_resubscribe() -> None:
    """Who lost the right is put out, stays out, and comes back when it is restored."""
    channels = made()
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
async def test_unsubscribe_and_disconnect() -> None:
    """A user's subscriptions and connections are ended, except excluded ones."""
    channels = made()
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


@on_fake_clock
async def test_drains_in_batches() -> None:
    """Connections are closed three at a time, and no new ones are taken."""
    channels = made()
    clients = [SimulatedClient(channels) for _ in range(10)]
    for client in clients:
        await client.__aenter__()
        await client.subscribe('rooms:a')
    loop = asyncio.get_running_loop()
    draining = loop.create_task(channels.drain())
    again = loop.create_task(channels.drain())
    await asyncio.sleep(0.1)
    assert 3 == sum(client.end is not None for client in clients)
    assert 'draining' == channels.status
    with pytest.raises(falcon.HTTPServiceUnavailable):
        await SimulatedClient(channels).__aenter__()
    await channels.publish('rooms:a', 'still works')
    start_s = loop.time()
    await draining
    assert 1.4 < loop.time() - start_s < 4.6
    assert again.done()
    assert {(3001, 'shutdown')} == {client.end for client in clients}
    await channels.drain()
    await channels.close()
    await channels.close()
    assert 'closed' == channels.status
    with pytest.raises(ClosedError):
        await channels.publish('rooms:a', 1)
    assert {asyncio.current_task()} == asyncio.all_tasks()


@on_fake_clock
async def test_closing_waits_for_draining() -> None:
    """A close during a drain lets it end, and the responders that it woke."""
    told = []

    class Room:
        async def on_unsubscribe(self, req: Any, subscription: Any, room: str) -> None:
            await asyncio.sleep(2.0)
            told.append(room)

    channels = Channels(options=NodeOptions(drain_batch=1, drain_interval_s=1.0))
    channels.add_route('rooms:{room}', Room())
    for number in range(5):
        client = SimulatedClient(channels)
        await client.__aenter__()
        await client.subscribe(f'rooms:{number}')
    draining = asyncio.get_running_loop().create_task(channels.drain())
    await asyncio.sleep(0.1)
    await channels.close()
    assert draining.done()
    assert 5 == len(told)
    assert [] == channels.connections()


@on_fake_clock
async def test_starts_by_itself_and_as_middleware() -> None:
    """It starts with the first call, or with the application, once."""
    channels = made()
    assert 'new' == channels.status
    await asyncio.gather(*(channels.publish('rooms:a', n) for n in range(5)))
    assert 'ok' == channels.status
    await channels.process_startup({}, {})
    await channels.process_shutdown({}, {})
    assert 'closed' == channels.status
    unused = made()
    await unused.close()
    assert 'closed' == unused.status
    hurried = made()
    starting = asyncio.get_running_loop().create_task(hurried.publish('rooms:a', 1))
    await asyncio.sleep(0)
    await hurried.close()
    await asyncio.wait([starting])
    assert isinstance(starting.exception(), ClosedError)
    assert 'closed' == hurried.status
    assert {asyncio.current_task()} == asyncio.all_tasks()


@on_fake_clock
async def test_past_channels_are_forgotten() -> None:
    """Channels that nobody subscribes to any more leave nothing behind."""
    channels = made(history_size=0)
    async with SimulatedClient(channels) as client:
        for number in range(500):
            await client.subscribe(f'rooms:{number}')
            client.unsubscribe(f'rooms:{number}')
        assert 500 == len(channels.node.hub._channels)
        await asyncio.sleep(5)
        assert {} == channels.node.hub._channels
        assert set() == channels.node.broker._subscribed  # type: ignore[attr-defined]
    await channels.close()


def test_what_makes_no_sense_is_refused_when_given() -> None:
    """URLs, capabilities and presence that is off are refused with a reason."""
    with pytest.raises(OptionsError, match='no broker for a URL with scheme'):
        Channels('carrier-pigeon://user:secret@host')

    @on_fake_clock
    async def scenario() -> None:
        channels = made()
        with pytest.raises(CapabilityError, match='presence=True'):
            await channels.presence('rooms:a')
        with pytest.raises(CapabilityError, match='transaction'):
            await channels.publish('rooms:a', 1, connection=object())
        await channels.close()

    scenario()
