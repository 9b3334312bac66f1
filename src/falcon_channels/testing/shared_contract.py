"""The contract of brokers that several processes share, or that survive, as tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.publication import Position
from falcon_channels.testing.contract import BrokerContract
from falcon_channels.testing.contract import LOG
from falcon_channels.testing.contract import NO_LOG
from falcon_channels.testing.contract import numbers
from falcon_channels.testing.contract import publication
from falcon_channels.testing.presence_contract import entry
from falcon_channels.testing.presence_contract import info
from falcon_channels.testing.recorder import eventually
from falcon_channels.testing.recorder import Recorder


@pytest.mark.asyncio
class SharedBrokerContract(BrokerContract):
    """What every broker with `Capabilities.shared` promises.

    Two brokers on one store stand for two processes.
    """

    async def open_second(self) -> Broker:
        """Return another broker, not started, on the store of `open_broker`."""
        raise NotImplementedError

    @asynccontextmanager
    async def pair(
        self,
    ) -> AsyncIterator[tuple[Broker, Recorder, Broker, Recorder]]:
        """Open two brokers on one store."""
        one = await self.open_broker()
        async with self.opened(one) as seen_by_one:
            two = await self.open_second()
            async with self.opened(two) as seen_by_two:
                yield one, seen_by_one, two, seen_by_two

    async def test_the_capability_is_declared(self) -> None:
        """Promise 17: the broker says that it can be shared."""
        broker = await self.open_broker()
        assert broker.capabilities.shared
        await broker.close()

    async def test_two_processes_see_one_order(self) -> None:
        """Promise 1: whoever publishes where, all see the same, in offset order."""
        async with self.pair() as (one, seen_by_one, two, seen_by_two):
            for channel in ('a', 'b'):
                await one.subscribe(channel, LOG)
                await two.subscribe(channel, LOG)

            async def publish(broker: Broker, channel: str, mark: bytes) -> None:
                for n in range(40):
                    item = publication(n)
                    item = type(item)(data=b'"%s%d"' % (mark, n))
                    await broker.publish(channel, item, LOG)

            await asyncio.gather(
                *(publish(one, c, b'1-%d' % n) for c in 'ab' for n in range(2)),
                *(publish(two, c, b'2-%d' % n) for c in 'ab' for n in range(2)),
            )
            for seen in (seen_by_one, seen_by_two):
                await seen.until(
                    lambda seen=seen: len(seen.publications) >= 320,  # type: ignore[misc]
                    '320 announcements',
                )
                for channel in ('a', 'b'):
                    assert list(range(1, 161)) == seen.offsets_of(channel)
            for channel in ('a', 'b'):
                assert seen_by_one.of(channel) == seen_by_two.of(channel)
                page = await two.history(channel, LOG)
                assert seen_by_one.of(channel) == page.publications

    async def test_a_key_holds_across_processes(self) -> None:
        """Promise 7: calls in two processes race with one key, and one stores."""
        async with self.pair() as (one, _, two, _):
            results = await asyncio.gather(
                *(
                    broker.publish('news', publication(n), LOG, idempotency_key='k')
                    for n in range(5)
                    for broker in (one, two)
                )
            )
            assert 9 == sum(result.duplicate for result in results)
            assert {(1, False), (1, True)} == {
                (result.position.offset, result.duplicate) for result in results
            }
            assert [1] == numbers(await two.history('news', LOG))

    async def test_only_subscribers_are_announced_to(self) -> None:
        """Promises 10 and 11: each process hears the channels that it subscribed."""
        async with self.pair() as (one, seen_by_one, two, seen_by_two):
            await one.subscribe('one', LOG)
            await two.subscribe('two', LOG)
            await one.subscribe('both', NO_LOG)
            await two.subscribe('both', NO_LOG)
            for channel in ('one', 'two'):
                await one.publish(channel, publication(1), LOG)
                await two.publish(channel, publication(2), LOG)
            await one.publish('both', publication(3), NO_LOG)
            await two.signal('both', b's')
            for seen, mine, other in (
                (seen_by_one, 'one', 'two'),
                (seen_by_two, 'two', 'one'),
            ):
                await seen.until(
                    lambda seen=seen: len(seen.publications) == 3 and seen.signals,  # type: ignore[misc]
                    'three publications and a signal',
                )
                assert [b'1', b'2'] == seen.data_of(mine)
                assert [] == seen.of(other)
                assert [b'3'] == seen.data_of('both')
                assert [('both', b's')] == seen.signals
            await two.unsubscribe('both')
            await one.publish('both', publication(4), NO_LOG)
            await two.publish('two', publication(5), LOG)
            await seen_by_one.until(
                lambda: seen_by_one.data_of('both') == [b'3', b'4'], 'still subscribed'
            )
            await seen_by_two.until(lambda: b'5' in seen_by_two.data_of('two'), 'five')
            assert [b'3'] == seen_by_two.data_of('both')

    async def test_nothing_falls_between_across_processes(self) -> None:
        """Promise 10: what one publishes while the other subscribes is not lost."""
        async with self.pair() as (one, _, two, seen):
            half = asyncio.Event()

            async def publish() -> None:
                for n in range(60):
                    await one.publish('news', publication(n), LOG)
                    if n == 20:
                        half.set()

            async def subscribe() -> Position:
                await half.wait()
                return await two.subscribe('news', LOG)

            _, position = await asyncio.gather(publish(), subscribe())
            await one.publish('news', publication(60), LOG)
            await seen.until(lambda: 61 in seen.offsets_of('news'), 'the last one')
            after = [n for n in seen.offsets_of('news') if n > position.offset]
            assert list(range(position.offset + 1, 62)) == after

    async def test_control_messages_reach_all(self) -> None:
        """Every process gets the control messages of every process."""
        async with self.pair() as (one, seen_by_one, two, seen_by_two):
            large = b'x' * 100_000
            await one.control(b'1')
            await one.control(large)
            await two.control(b'2')
            for seen in (seen_by_one, seen_by_two):
                await seen.until(
                    lambda seen=seen: len(seen.controls) == 3,  # type: ignore[misc]
                    'three control messages',
                )
                assert {b'1', b'2', large} == set(seen.controls)
                assert seen.controls.index(b'1') < seen.controls.index(large)

    async def test_presence_is_one(self) -> None:
        """First, last and expiry are decided once for all processes."""
        async with self.pair() as (one, _, two, _):
            told = await asyncio.gather(
                *(
                    broker.add_presence([entry(f'{mark}{n}')], 60)
                    for n in range(5)
                    for mark, broker in (('x', one), ('y', two))
                )
            )
            assert 1 == sum(first for (first,) in told)
            assert 10 == len(await two.presence('room'))
            changes = await asyncio.gather(
                *(
                    broker.remove_presence('room', f'{mark}{n}')
                    for n in range(5)
                    for mark, broker in (('y', one), ('x', two))
                )
            )
            assert 1 == sum(change.last for change in changes if change is not None)
            assert 10 == sum(change is not None for change in changes)

            await one.add_presence([entry(str(n), str(n)) for n in range(10)], 0.1)

            async def hidden() -> bool:
                return not await two.presence('room')

            await eventually(hidden, 'all expire')
            parts = await asyncio.gather(
                one.expire_presence(100), two.expire_presence(100)
            )
            told_clients = [change.info for part in parts for change in part]
            assert {info(str(n), str(n)) for n in range(10)} == set(told_clients)
            assert 10 == len(told_clients)

    async def test_a_revocation_holds_everywhere(self) -> None:
        """What one process revokes the other refuses."""
        async with self.pair() as (one, _, two, _):
            await one.revoke('room', 'ann', 60)
            assert await two.is_revoked('room', 'ann')
            await two.revoke('room', 'ann', 0)
            assert not await one.is_revoked('room', 'ann')

    async def test_one_process_ends_and_the_other_goes_on(self) -> None:
        """Promise 16: closing one broker takes nothing from the other."""
        one = await self.open_broker()
        async with self.opened(one) as seen:
            await one.subscribe('news', LOG)
            two = await self.open_second()
            async with self.opened(two):
                await two.subscribe('news', LOG)
                await two.publish('news', publication(1), LOG)
            await one.publish('news', publication(2), LOG)
            await seen.until(lambda: seen.offsets_of('news') == [1, 2], 'both')


@pytest.mark.asyncio
class DurableBrokerContract(BrokerContract):
    """What every broker with `Capabilities.durable` promises."""

    async def reopen(self) -> Broker:
        """Return a broker, not started, on the store of the last `open_broker`.

        All brokers of that store are closed.
        """
        raise NotImplementedError

    async def test_everything_survives_a_restart(self) -> None:
        """Promises 5 and 7: positions, logs, keys and revocations go on."""
        broker = await self.open_broker()
        assert broker.capabilities.durable
        short = StreamSettings(size=2)
        async with self.opened(broker):
            for n in range(5):
                last = await broker.publish(
                    'news', publication(n), LOG, idempotency_key=str(n)
                )
                await broker.publish('short', publication(n), short)
            before = await broker.history('news', LOG)
            await broker.revoke('room', 'ann', 600)
        broker = await self.reopen()
        async with self.opened(broker) as seen:
            assert before == await broker.history('news', LOG)
            assert last.position == await broker.subscribe('news', LOG)
            again = await broker.publish(
                'news', publication(0), LOG, idempotency_key='4'
            )
            assert (last.position, True) == again
            result = await broker.publish('news', publication(5), LOG)
            assert Position(6, last.position.epoch) == result.position
            await seen.until(lambda: seen.offsets_of('news') == [6], 'the new one')
            assert [4, 5] == numbers(await broker.history('short', short))
            assert await broker.is_revoked('room', 'ann')
