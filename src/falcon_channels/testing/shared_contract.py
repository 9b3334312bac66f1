"""The contracts of shared and of durable brokers, as test suites."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.testing.contract import BrokerContract
from falcon_channels.testing.contract import last_publication
from falcon_channels.testing.contract import LOG
from falcon_channels.testing.contract import NO_LOG
from falcon_channels.testing.contract import numbers
from falcon_channels.testing.contract import publication
from falcon_channels.testing.presence_contract import entry
from falcon_channels.testing.presence_contract import info
from falcon_channels.testing.recorder import eventually
from falcon_channels.testing.recorder import Recorder

__all__ = ['DurableBrokerContract', 'SharedBrokerContract']


@pytest.mark.asyncio
class SharedBrokerContract(BrokerContract):
    """The promises of every broker with `Capabilities.shared`.

    Two brokers on one store represent two processes.
    """

    async def open_second(self) -> Broker:
        """Return a second broker that is not started, on the store of `open_broker`."""
        raise NotImplementedError

    @asynccontextmanager
    async def pair(
        self,
    ) -> AsyncIterator[tuple[Broker, Recorder, Broker, Recorder]]:
        """Start two brokers on one store; yield each with its recorder."""
        one = await self.open_broker()
        async with self.opened(one) as recorder_one:
            two = await self.open_second()
            async with self.opened(two) as recorder_two:
                yield one, recorder_one, two, recorder_two

    async def test_shared_broker_declares_its_capability(self) -> None:
        """Promise 17: the broker has the capability `shared`."""
        broker = await self.open_broker()
        assert broker.capabilities.shared
        await broker.close()

    async def test_publishes_of_two_processes_have_one_order(self) -> None:
        """Promise 1: both processes get all publications in offset order."""
        async with self.pair() as (one, recorder_one, two, recorder_two):
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
            for seen in (recorder_one, recorder_two):
                await seen.until(
                    lambda seen=seen: len(seen.publications) >= 320,  # type: ignore[misc]
                    '320 announcements',
                )
                for channel in ('a', 'b'):
                    assert list(range(1, 161)) == seen.offsets_of(channel)
            for channel in ('a', 'b'):
                assert recorder_one.of(channel) == recorder_two.of(channel)
                page = await two.history(channel, LOG)
                assert recorder_one.of(channel) == page.publications

    async def test_concurrent_calls_with_one_key_in_two_processes_store_once(
        self,
    ) -> None:
        """Promise 7: calls with one key in two processes store one publication."""
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

    async def test_publication_is_announced_to_subscribed_processes_only(self) -> None:
        """Promises 10 and 11: a process gets only channels to which it subscribed."""
        async with self.pair() as (one, recorder_one, two, recorder_two):
            await one.subscribe('one', LOG)
            await two.subscribe('two', LOG)
            await one.subscribe('both', NO_LOG)
            await two.subscribe('both', NO_LOG)
            for channel in ('one', 'two'):
                await one.publish(channel, publication(1), LOG)
                await two.publish(channel, publication(2), LOG)
            await one.publish('both', publication(3), NO_LOG)
            await two.signal('both', b's')
            for seen, own, other in (
                (recorder_one, 'one', 'two'),
                (recorder_two, 'two', 'one'),
            ):
                await seen.until(
                    lambda seen=seen: len(seen.publications) == 3 and seen.signals,  # type: ignore[misc]
                    'three publications and a signal',
                )
                assert [b'1', b'2'] == seen.data_of(own)
                assert [] == seen.of(other)
                assert [b'3'] == seen.data_of('both')
                assert [('both', b's')] == seen.signals
            await two.unsubscribe('both')
            await one.publish('both', publication(4), NO_LOG)
            await two.publish('two', publication(5), LOG)
            await recorder_one.until(
                lambda: recorder_one.data_of('both') == [b'3', b'4'], 'still subscribed'
            )
            await recorder_two.until(
                lambda: b'5' in recorder_two.data_of('two'), 'five'
            )
            assert [b'3'] == recorder_two.data_of('both')

    async def test_publications_of_another_process_after_the_position_are_announced(
        self,
    ) -> None:
        """Promise 10: no publication of another process is missed."""
        async with self.pair() as (one, _, two, seen):
            half = asyncio.Event()

            async def publish() -> None:
                for n in range(60):
                    await one.publish('news', publication(n), LOG)
                    if n == 20:
                        half.set()

            async def subscribe() -> Position:
                await half.wait()
                return (await two.subscribe('news', LOG)).position

            _, position = await asyncio.gather(publish(), subscribe())
            await one.publish('news', publication(60), LOG)
            await seen.until(lambda: 61 in seen.offsets_of('news'), 'the last one')
            after = [n for n in seen.offsets_of('news') if n > position.offset]
            assert list(range(position.offset + 1, 62)) == after

    async def test_control_messages_reach_all_processes(self) -> None:
        """Every process gets the control messages of every process."""
        async with self.pair() as (one, recorder_one, two, recorder_two):
            large = b'x' * 100_000
            await one.control(b'1')
            await one.control(large)
            await two.control(b'2')
            for seen in (recorder_one, recorder_two):
                await seen.until(
                    lambda seen=seen: len(seen.controls) == 3,  # type: ignore[misc]
                    'three control messages',
                )
                assert {b'1', b'2', large} == set(seen.controls)
                assert seen.controls.index(b'1') < seen.controls.index(large)

    async def test_presence_of_two_processes_is_combined(self) -> None:
        """First, last and expiry of entries are decided once for all processes."""
        async with self.pair() as (one, _, two, _):
            results = await asyncio.gather(
                *(
                    broker.add_presence([entry(f'{mark}{n}')], 60)
                    for n in range(5)
                    for mark, broker in (('x', one), ('y', two))
                )
            )
            assert 1 == sum(added.first for (added,) in results)
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

            async def all_hidden() -> bool:
                return not await two.presence('room')

            await eventually(all_hidden, 'all expire')
            parts = await asyncio.gather(
                one.expire_presence(100), two.expire_presence(100)
            )
            infos = [change.info for part in parts for change in part]
            assert {info(str(n), str(n)) for n in range(10)} == set(infos)
            assert 10 == len(infos)

    async def test_end_and_version_hold_in_all_processes(self) -> None:
        """Promises 18 and 19: the end and the version belong to the store."""
        async with self.pair() as (one, _, two, recorder_two):
            await two.subscribe('news', LOG)
            await one.publish('news', publication(5), LOG, version=Version(5))
            result = await two.publish('news', publication(4), LOG, version=Version(4))
            assert result.skipped
            await one.publish('news', last_publication('x'), LOG)
            with pytest.raises(ChannelFinishedError):
                await two.publish('news', publication(6), LOG)
            assert ChannelEnd('x') == (await two.history('news', LOG)).end
            await recorder_two.until(
                lambda: recorder_two.offsets_of('news') == [1, 2], 'the end'
            )
            assert ChannelEnd('x') == recorder_two.of('news')[-1].end
            await two.remove_history('news')
            result = await one.publish('news', publication(6), LOG)
            assert 3 == result.position.offset

    async def test_concurrent_ends_of_two_processes_end_the_channel_once(self) -> None:
        """Promise 18: of concurrent calls, one ends the channel."""
        async with self.pair() as (one, _, two, _):
            outcomes = await asyncio.gather(
                *(
                    broker.publish('news', last_publication(str(n)), LOG)
                    for n in range(5)
                    for broker in (one, two)
                ),
                return_exceptions=True,
            )
            assert 9 == sum(isinstance(o, ChannelFinishedError) for o in outcomes)
            page = await two.history('news', LOG)
            assert [1] == numbers(page)
            assert page.end == page.publications[0].end

    async def test_revocation_holds_in_all_processes(self) -> None:
        """A revocation of one process holds in the other process."""
        async with self.pair() as (one, _, two, _):
            await one.revoke('room', 'ann', 60)
            assert await two.is_revoked('room', 'ann')
            await two.revoke('room', 'ann', 0)
            assert not await one.is_revoked('room', 'ann')

    async def test_closed_process_does_not_affect_the_other(self) -> None:
        """Promise 16: closing one broker does not affect the other."""
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
    """The promises of every broker with `Capabilities.durable`."""

    async def reopen(self) -> Broker:
        """Return a broker that is not started, on the store of the last `open_broker`.

        The test has closed all other brokers of that store.
        """
        raise NotImplementedError

    async def test_store_survives_a_restart(self) -> None:
        """Promises 5 and 7: positions, logs, keys and revocations survive."""
        broker = await self.open_broker()
        assert broker.capabilities.durable
        short = LogSettings(size=2)
        async with self.opened(broker):
            for n in range(5):
                last = await broker.publish(
                    'news', publication(n), LOG, idempotency_key=str(n)
                )
                await broker.publish('short', publication(n), short)
            before = await broker.history('news', LOG)
            await broker.publish(
                'ended', last_publication('x'), LOG, version=Version(5, 'e')
            )
            await broker.revoke('room', 'ann', 600)
        broker = await self.reopen()
        async with self.opened(broker) as seen:
            assert before == await broker.history('news', LOG)
            page = await broker.subscribe('news', LOG)
            assert HistoryPage([], last.position) == page
            again = await broker.publish(
                'news', publication(0), LOG, idempotency_key='4'
            )
            assert PublishResult(last.position, duplicate=True) == again
            result = await broker.publish('news', publication(5), LOG)
            assert Position(6, last.position.epoch) == result.position
            await seen.until(lambda: seen.offsets_of('news') == [6], 'the new one')
            assert [4, 5] == numbers(await broker.history('short', short))
            assert ChannelEnd('x') == (await broker.subscribe('ended', LOG)).end
            await broker.remove_history('ended')
            result = await broker.publish(
                'ended', publication(1), LOG, version=Version(5, 'e')
            )
            assert result.skipped
            assert await broker.is_revoked('room', 'ann')
