"""The broker contract as a test suite for any implementation.

Subclass `BrokerContract` in a test module and implement how to open the broker::

    from falcon_channels.testing.contract import BrokerContract

    class TestMyBroker(BrokerContract):
        async def open_broker(self) -> Broker:
            return MyBroker(...)

If the broker has these capabilities, subclass these suites as well:

* `presence`: `falcon_channels.testing.presence_contract.PresenceContract`
* `shared`: `falcon_channels.testing.shared_contract.SharedBrokerContract`
* `durable`: `falcon_channels.testing.shared_contract.DurableBrokerContract`

The suites need pytest and pytest-asyncio. For readable failures, add
``pytest.register_assert_rewrite('falcon_channels.testing')`` to your ``conftest.py``.

The numbers in the docstrings are those of the promises in
`falcon_channels.brokers.base`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import sys

import pytest

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import MAX_VERSION
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import NO_POSITION
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.testing.recorder import eventually
from falcon_channels.testing.recorder import PATIENCE_S
from falcon_channels.testing.recorder import Recorder

__all__ = ['BrokerContract']

LOG = LogSettings(size=1000)
NO_LOG = LogSettings()
#: A trace context (W3C traceparent).
_TRACE = f'00-{"a" * 32}-{"b" * 16}-01'

#: Names that have a special meaning in quotations, patterns, keys, paths or statements.
NASTY_NAMES = (
    'a:b',
    'a:*',
    'a',
    'A',
    'a ',
    'a*',
    'a?',
    '[a-z]',
    '*',
    '>',
    '#',
    '{a}',
    '{a}b',
    '}{',
    '{}',
    '%',
    '_',
    "'; drop table log; --",
    '"quoted"',
    '`back`',
    'back\\slash',
    '../../etc/passwd',
    '/',
    '.',
    'two words',
    'tab\tnew\r\nline',
    '\x01\x7f',
    'é',
    'e\u0301',
    '😀🏳️‍🌈',
    'x' * 255,
    '€' * 85,
    'x' * 254 + 'y',
)


def publication(number: int) -> Publication:
    """Return a publication whose payload is a number."""
    return Publication(data=b'%d' % number)


def last_publication(error: str = '', data: bytes = b'') -> Publication:
    """Return a publication that ends its channel."""
    return Publication(data=data, end=ChannelEnd(error))


def numbers(page: HistoryPage) -> list[int]:
    """Return the offsets of the publications of a page."""
    return [item.offset for item in page.publications]


@pytest.mark.asyncio
class BrokerContract:
    """The promises of every broker."""

    async def open_broker(self) -> Broker:
        """Return a broker that is not started, on an empty store of this test only."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, broker: Broker) -> AsyncIterator[Recorder]:
        """Start a broker, yield a recorder of its announcements, and close the broker.

        The test fails if the broker reports a lost link.
        """
        recorder = Recorder()
        try:
            await broker.start(recorder)
            yield recorder
            assert [] == recorder.links
        finally:
            await broker.close()

    # --- order, offsets and positions ------------------------------------------------

    async def test_offsets_of_a_channel_count_from_one(self) -> None:
        """Promise 2: the offsets of a channel are 1, 2, 3 ... in one epoch."""
        broker = await self.open_broker()
        async with self.opened(broker):
            results = [
                await broker.publish('news', publication(n), LOG) for n in range(1, 6)
            ]
            assert [1, 2, 3, 4, 5] == [result.position.offset for result in results]
            assert 1 == len({result.position.epoch for result in results})
            assert '' != results[0].position.epoch
            other = await broker.publish('other', publication(1), LOG)
            assert 1 == other.position.offset

    async def test_concurrent_publishes_are_announced_in_offset_order(self) -> None:
        """Promises 1 and 3: each publication is announced once, in offset order."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            await broker.subscribe('news', LOG)
            stored: dict[int, bytes] = {}

            async def publish(publisher: int) -> None:
                for n in range(25):
                    item = Publication(data=b'"%d-%d"' % (publisher, n))
                    result = await broker.publish('news', item, LOG)
                    stored[result.position.offset] = item.data

            await asyncio.gather(*(publish(n) for n in range(8)))
            await recorder.until(
                lambda: len(recorder.publications) >= 200, '200 announcements'
            )
            assert list(range(1, 201)) == recorder.offsets_of('news')
            assert [stored[n] for n in range(1, 201)] == recorder.data_of('news')
            page = await broker.history('news', LOG)
            assert recorder.of('news') == page.publications
            assert {page.position.epoch} == {e for _, _, e in recorder.publications}

    async def test_channel_without_log_announces_with_offset_zero(self) -> None:
        """Promise 2: without a log, publications have offset 0 and no epoch."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            page = await broker.subscribe('live', NO_LOG)
            assert HistoryPage([], NO_POSITION) == page
            for n in range(20):
                result = await broker.publish('live', publication(n), NO_LOG)
                assert PublishResult(NO_POSITION) == result
            await recorder.until(lambda: len(recorder.publications) == 20, 'all 20')
            assert [b'%d' % n for n in range(20)] == recorder.data_of('live')
            assert {('live', '')} == {(c, e) for c, _, e in recorder.publications}
            assert [0] * 20 == recorder.offsets_of('live')
            assert HistoryPage([], NO_POSITION) == await broker.history('live', NO_LOG)

    async def test_publish_without_log_leaves_the_log_of_the_channel(self) -> None:
        """Promise 2: a publish that skips the log is announced."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            await broker.subscribe('news', LOG)
            await broker.publish('news', publication(1), LOG)
            for n in (2, 3):
                result = await broker.publish(
                    'news',
                    publication(n),
                    LOG,
                    idempotency_key='k',
                    skip_history=True,
                )
                assert PublishResult(NO_POSITION, duplicate=n == 3) == result
            last = await broker.publish('news', publication(4), LOG)
            await recorder.until(lambda: len(recorder.publications) == 3, 'all three')
            assert [b'1', b'2', b'4'] == recorder.data_of('news')
            assert [1, 0, 2] == recorder.offsets_of('news')
            page = await broker.history('news', LOG)
            assert ([1, 2], last.position) == (numbers(page), page.position)

    async def test_all_fields_of_a_publication_are_announced_and_stored(self) -> None:
        """Payload, tags, publisher and time are announced and stored unchanged."""
        broker = await self.open_broker()
        info = ClientInfo(
            user='û\'"%',
            client='c-1',
            conn_info=b'{"name":"\xc3\xa9"}',
            chan_info=b'[1]',
        )
        items = [
            Publication(data=b'{"text":"\xe2\x82\xac"}', time_ms=1234567890123),
            Publication(data=bytes(range(256)), binary=True, time_ms=1),
            Publication(data=b'1', time_ms=2, tags={'a': "b'", '': '€'}, info=info),
            Publication(data=b'"%s"' % (b'x' * 60000), time_ms=3),
            Publication(data=b'', binary=True, time_ms=4, offset=77),
            Publication(data=b'2', time_ms=5, delta=False, trace=_TRACE),
        ]
        async with self.opened(broker) as recorder:
            for channel, settings in (('log', LOG), ('live', NO_LOG)):
                await broker.subscribe(channel, settings)
                for item in items:
                    await broker.publish(channel, item, settings)
            await recorder.until(
                lambda: len(recorder.publications) == 12, 'all announcements'
            )
            stored = (await broker.history('log', LOG)).publications
            for seen in (recorder.of('log'), recorder.of('live'), stored):
                assert [_facts(item) for item in items] == [_facts(p) for p in seen]
            assert [1, 2, 3, 4, 5, 6] == [item.offset for item in stored]

    async def test_publication_without_time_gets_the_time_of_the_broker(self) -> None:
        """A publication without a time gets the Unix time in milliseconds."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.publish('news', publication(1), LOG)
            (stored,) = (await broker.history('news', LOG)).publications
            assert 1_600_000_000_000 < stored.time_ms < 10_000_000_000_000

    # --- subscriptions ---------------------------------------------------------------

    async def test_publications_after_the_subscribed_position_are_announced(
        self,
    ) -> None:
        """Promise 10: no publication after the position of a subscribe is missed."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            positions: dict[str, Position] = {}
            channels = [f'news:{n}' for n in range(10)]
            reached = {channel: asyncio.Event() for channel in channels}

            async def publish(channel: str) -> None:
                for n in range(20):
                    await broker.publish(channel, publication(n), LOG)
                    if n == 5:
                        reached[channel].set()

            async def subscribe(channel: str) -> None:
                await reached[channel].wait()
                page = await broker.subscribe(channel, LOG)
                positions[channel] = page.position

            await asyncio.gather(*map(publish, channels), *map(subscribe, channels))
            for channel in channels:
                after = list(range(positions[channel].offset + 1, 21))
                await recorder.until(
                    lambda channel=channel, after=after: (  # type: ignore[misc]
                        not after or recorder.offsets_of(channel)[-1:] == after[-1:]
                    ),
                    f'the last announcement of {channel}',
                )
                seen = recorder.offsets_of(channel)
                assert after == [n for n in seen if n > positions[channel].offset]
                assert seen == sorted(set(seen))

    async def test_subscribe_returns_the_position_of_the_log(self) -> None:
        """Promise 10: `subscribe`, `publish` and `history` return the same position."""
        broker = await self.open_broker()
        async with self.opened(broker):
            empty = (await broker.subscribe('empty', LOG)).position
            assert 0 == empty.offset
            first = await broker.publish('empty', publication(1), LOG)
            assert Position(1, empty.epoch) == first.position
            last = await broker.publish('news', publication(1), LOG)
            page = await broker.subscribe('news', LOG)
            assert HistoryPage([], last.position) == page
            page = await broker.history('news', LOG, limit=0)
            assert HistoryPage([], last.position) == page

    async def test_unsubscribed_channel_is_not_announced(self) -> None:
        """Promise 11: after `unsubscribe`, nothing is announced until `subscribe`."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            for channel in ('gone', 'stays'):
                await broker.subscribe(channel, LOG)
            publishing = asyncio.gather(
                *(broker.publish('gone', publication(n), LOG) for n in range(20))
            )
            await broker.unsubscribe('gone')
            seen = len(recorder.of('gone'))
            await publishing
            await broker.signal('gone', b'signal')
            await broker.publish('never', publication(0), LOG)
            await broker.publish('stays', publication(0), LOG)
            await recorder.until(lambda: recorder.of('stays'), 'the other channel')
            assert seen == len(recorder.of('gone'))
            assert [] == recorder.of('never')
            assert [] == recorder.signals

            page = await broker.subscribe('gone', LOG)
            assert 20 == page.position.offset
            await broker.publish('gone', publication(20), LOG)
            await recorder.until(lambda: recorder.offsets_of('gone')[-1:] == [21], '21')

    async def test_channel_can_be_subscribed_right_after_unsubscribe(self) -> None:
        """Promises 11 and 13: a late confirmation does not look like a lost link."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            for number in range(1, 11):
                await broker.subscribe('news', LOG)
                await broker.publish('news', publication(number), LOG)
                await recorder.until(
                    lambda n=number: recorder.offsets_of('news')[-1:] == [n],  # type: ignore[misc]
                    'the announcement',
                )
                await broker.unsubscribe('news')
            assert list(range(1, 11)) == recorder.offsets_of('news')

    async def test_signal_is_announced_and_not_stored(self) -> None:
        """A signal is announced to subscribed processes and is not in the log."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            await broker.subscribe('news', LOG)
            await broker.subscribe('live', NO_LOG)
            for n in range(5):
                await broker.signal('news', b'\x00\xff%d' % n)
            await broker.signal('live', b'')
            await recorder.until(lambda: len(recorder.signals) == 6, 'six signals')
            assert [b'\x00\xff%d' % n for n in range(5)] == [
                signal for channel, signal in recorder.signals if channel == 'news'
            ]
            assert ('live', b'') in recorder.signals
            page = await broker.history('news', LOG)
            assert ([], 0) == (page.publications, page.position.offset)

    async def test_control_messages_reach_the_sending_process_in_order(self) -> None:
        """A process receives its own control messages, in order."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            messages = [b'\x00\xff%d' % n for n in range(10)]
            messages.append(b'x' * 100_000)
            for message in messages:
                await broker.control(message)
            await recorder.until(lambda: len(recorder.controls) == 11, 'all of them')
            assert messages == recorder.controls

    # --- idempotency and cancellation ------------------------------------------------

    @pytest.mark.parametrize('settings', [LOG, NO_LOG], ids=['log', 'no log'])
    async def test_repeated_idempotency_key_returns_the_first_position(
        self, settings: LogSettings
    ) -> None:
        """Promise 7: the same key again returns the first position, stores nothing."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            await broker.subscribe('news', settings)
            key = 'k\'"*{}:€'
            results = [
                await broker.publish(
                    'news', publication(n), settings, idempotency_key=key
                )
                for n in range(3)
            ]
            assert [False, True, True] == [result.duplicate for result in results]
            assert 1 == len({result.position for result in results})
            again = await broker.publish(
                'news', publication(9), settings, idempotency_key=key + 'x'
            )
            assert not again.duplicate
            await recorder.until(lambda: len(recorder.publications) >= 2, 'both')
            assert [b'0', b'9'] == recorder.data_of('news')

    async def test_idempotency_key_is_separate_for_each_channel(self) -> None:
        """Promise 7: the same key on another channel is another key."""
        broker = await self.open_broker()
        async with self.opened(broker):
            for channel, key in (('a', 'b:c'), ('a:b', 'c'), ('a', 'b'), ('b', 'a')):
                result = await broker.publish(
                    channel, publication(0), LOG, idempotency_key=key
                )
                assert not result.duplicate

    async def test_concurrent_calls_with_one_key_store_one_publication(self) -> None:
        """Promise 7: ten concurrent calls with one key store one publication."""
        broker = await self.open_broker()
        async with self.opened(broker):
            results = await asyncio.gather(
                *(
                    broker.publish('news', publication(n), LOG, idempotency_key='one')
                    for n in range(10)
                )
            )
            assert 9 == sum(result.duplicate for result in results)
            assert {1} == {result.position.offset for result in results}
            assert [1] == numbers(await broker.history('news', LOG))

    async def test_idempotency_key_expires_after_its_time(self) -> None:
        """Promise 15: a key can be used again after `idempotency_ttl_s`."""
        broker = await self.open_broker()
        async with self.opened(broker):
            settings = LogSettings(size=10, idempotency_ttl_s=0.3)
            first = await broker.publish(
                'news', publication(0), settings, idempotency_key='k'
            )

            async def published_again() -> bool:
                result = await broker.publish(
                    'news', publication(1), settings, idempotency_key='k'
                )
                return not result.duplicate

            await eventually(published_again, 'the key is forgotten')
            page = await broker.history('news', settings)
            assert Position(2, first.position.epoch) == page.position

    async def test_cancelled_publish_is_stored_completely_or_not_at_all(self) -> None:
        """Promise 9: cancelled publishes leave no gap and do not affect others."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            await broker.subscribe('news', LOG)
            tasks = [
                asyncio.create_task(broker.publish('news', publication(n), LOG))
                for n in range(60)
            ]
            for number, task in enumerate(tasks):
                if number % 3 == 0:
                    task.cancel()
                await asyncio.sleep(0)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            last = await broker.publish('news', publication(99), LOG)
            top = last.position.offset
            await recorder.until(
                lambda: recorder.offsets_of('news')[-1:] == [top], 'the last one'
            )
            assert list(range(1, top + 1)) == recorder.offsets_of('news')
            page = await broker.history('news', LOG)
            assert recorder.of('news') == page.publications
            returned = {
                o[0].offset for o in outcomes if not isinstance(o, BaseException)
            }
            assert returned <= set(range(1, top))

    # --- history ---------------------------------------------------------------------

    async def test_history_returns_the_requested_part_of_the_log(self) -> None:
        """`history` obeys `since`, `limit` and `reverse`, and returns the position."""
        broker = await self.open_broker()
        settings = LogSettings(size=6)
        async with self.opened(broker):
            for n in range(10):
                last = await broker.publish('news', publication(n), settings)
            stored = list(range(5, 11))
            for since in (None, 0, 3, 4, 5, 7, 9, 10, 11, 2**63, 2**64 - 1):
                for limit in (None, 0, 1, 3, 6, 100):
                    for reverse in (False, True):
                        expected = [
                            offset
                            for offset in (reversed(stored) if reverse else stored)
                            if since is None
                            or (offset < since if reverse else offset > since)
                        ][:limit]
                        page = await broker.history(
                            'news', settings, since=since, limit=limit, reverse=reverse
                        )
                        assert (expected, last.position) == (
                            numbers(page),
                            page.position,
                        ), f'{since=} {limit=} {reverse=}'

    async def test_history_of_an_unused_channel_is_empty_with_an_epoch(self) -> None:
        """A log that does not exist has the epoch of its first publication."""
        broker = await self.open_broker()
        async with self.opened(broker):
            page = await broker.history('nobody', LOG)
            assert ([], 0) == (page.publications, page.position.offset)
            result = await broker.publish('nobody', publication(0), LOG)
            assert Position(1, page.position.epoch) == result.position

    async def test_log_stores_at_most_size_publications(self) -> None:
        """Promise 15: the log contains the newest `size` publications."""
        broker = await self.open_broker()
        async with self.opened(broker):
            for n in range(9):
                await broker.publish('news', publication(n), LogSettings(size=5))
            page = await broker.history('news', LogSettings(size=5))
            assert [5, 6, 7, 8, 9] == numbers(page)
            await broker.publish('news', publication(9), LogSettings(size=2))
            page = await broker.history('news', LogSettings(size=2))
            assert ([9, 10], 10) == (numbers(page), page.position.offset)

    async def test_old_publications_leave_the_log_and_the_offset_stays(self) -> None:
        """Promise 15: publications leave the log after `ttl_s`; the offset stays."""
        broker = await self.open_broker()
        settings = LogSettings(size=5, ttl_s=0.4)
        async with self.opened(broker):
            first = await broker.publish('news', publication(0), settings)

            async def gone() -> bool:
                page = await broker.history('news', settings)
                assert first.position == page.position
                return not page.publications

            await eventually(gone, 'the publication has left the log')
            second = await broker.publish('news', publication(1), settings)
            assert Position(2, first.position.epoch) == second.position
            assert [2] == numbers(await broker.history('news', settings))

    async def test_log_after_a_removed_one_has_a_new_epoch(self) -> None:
        """Promise 4: after a log was removed, the next one has a new epoch."""
        broker = await self.open_broker()
        settings = LogSettings(size=5, ttl_s=0.3, meta_ttl_s=0.3)
        async with self.opened(broker):
            epochs = []
            for _ in range(2):
                first = await broker.publish('news', publication(0), settings)
                assert 1 == first.position.offset
                epochs.append(first.position.epoch)

                async def forgotten() -> bool:
                    await broker.publish('other', publication(0), settings)
                    page = await broker.history('news', settings, limit=1)
                    return page.position.offset == 0

                await eventually(forgotten, 'the log is forgotten')
                page = await broker.history('news', settings)
                assert page.position.epoch not in epochs
            assert 2 == len(set(epochs))

    async def test_remove_history_keeps_offset_and_epoch(self) -> None:
        """After `remove_history`, offsets continue in the same epoch."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            await broker.subscribe('news', LOG)
            await broker.remove_history('never there')
            for n in range(3):
                last = await broker.publish('news', publication(n), LOG)
            await broker.publish('other', publication(0), LOG)
            await broker.remove_history('news')
            assert HistoryPage([], last.position) == await broker.history('news', LOG)
            result = await broker.publish('news', publication(3), LOG)
            assert Position(4, last.position.epoch) == result.position
            assert [4] == numbers(await broker.history('news', LOG))
            assert [1] == numbers(await broker.history('other', LOG))
            await recorder.until(
                lambda: recorder.offsets_of('news') == [1, 2, 3, 4], 'all announced'
            )

    # --- the end of a channel ---------------------------------------------------------

    async def test_last_publication_is_stored_and_announced_with_the_end(self) -> None:
        """Promise 18: a last publication is stored like others, and ends the log."""
        broker = await self.open_broker()
        errors = ('', "it's \x00 '€'", '7:\n')
        async with self.opened(broker) as recorder:
            for number, error in enumerate(errors):
                name = f'news:{number}'
                assert (await broker.subscribe(name, LOG)).end is None
                await broker.publish(name, publication(1), LOG)
                assert (await broker.history(name, LOG)).end is None
                last = await broker.publish(name, last_publication(error, b'2'), LOG)
                assert 2 == last.position.offset
                for page in (
                    await broker.history(name, LOG),
                    await broker.history(name, LOG, limit=0),
                    await broker.history(name, LOG, reverse=True, limit=1),
                    await broker.history(name, LOG, since=2),
                ):
                    assert (last.position, ChannelEnd(error)) == page[1:]
                await recorder.until(
                    lambda name=name: len(recorder.of(name)) == 2,  # type: ignore[misc]
                    'both',
                )
                stored = (await broker.history(name, LOG)).publications
                assert recorder.of(name) == stored
                assert [None, ChannelEnd(error)] == [item.end for item in stored]
                await broker.unsubscribe(name)
                page = await broker.subscribe(name, LOG)
                assert HistoryPage([], last.position, ChannelEnd(error)) == page

    async def test_publish_after_the_end_raises_and_stores_nothing(self) -> None:
        """Promise 18: a channel that has ended accepts no publication and no end."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            await broker.subscribe('news', LOG)
            last = await broker.publish('news', last_publication(), LOG)
            for item in (publication(1), last_publication('again')):
                for key in (None, 'k'):
                    for version in (None, Version(1)):
                        with pytest.raises(ChannelFinishedError) as raised:
                            await broker.publish(
                                'news',
                                item,
                                LOG,
                                idempotency_key=key,
                                version=version,
                            )
                        assert 'news' == raised.value.channel
            for key in (None, 'k'):
                with pytest.raises(ChannelFinishedError):
                    await broker.publish(
                        'news',
                        publication(1),
                        LOG,
                        idempotency_key=key,
                        skip_history=True,
                    )
            page = await broker.history('news', LOG)
            assert ([1], last.position) == (numbers(page), page.position)
            assert ChannelEnd() == page.end
            await broker.publish('other', publication(1), LOG)
            await broker.signal('news', b'signal')
            await recorder.until(lambda: recorder.signals, 'the signal')
            assert [1] == recorder.offsets_of('news')
            await broker.remove_history('news')
            await broker.publish('news', publication(2), LOG, skip_history=True)
            await recorder.until(lambda: recorder.of('news')[1:], 'the publication')
            assert [1, 0] == recorder.offsets_of('news')

    async def test_nothing_is_published_after_the_end_of_concurrent_calls(self) -> None:
        """Promise 18: of concurrent calls, the end gets the highest offset."""
        broker = await self.open_broker()
        async with self.opened(broker):
            items = [publication(n) for n in range(40)]
            items[20:20] = [last_publication('a'), last_publication('b')]
            results = await asyncio.gather(
                *(broker.publish('news', item, LOG) for item in items),
                return_exceptions=True,
            )
            page = await broker.history('news', LOG)
            top = page.position.offset
            assert list(range(1, top + 1)) == numbers(page)
            assert [page.end] == [i.end for i in page.publications if i.end is not None]
            assert page.end == page.publications[-1].end
            accepted = [r for r in results if isinstance(r, PublishResult)]
            assert page.publications[-1].offset == len(accepted)
            refused = [r for r in results if not isinstance(r, PublishResult)]
            assert {ChannelFinishedError} == {type(error) for error in refused}

    async def test_known_idempotency_key_after_the_end_is_a_duplicate(self) -> None:
        """Promise 18: calls that are repeated after the end succeed again."""
        broker = await self.open_broker()
        async with self.opened(broker):
            first = await broker.publish(
                'news', publication(1), LOG, idempotency_key='first'
            )
            last = await broker.publish(
                'news', last_publication(), LOG, idempotency_key='last'
            )
            for _ in range(2):
                for item, key, result in (
                    (publication(1), 'first', first),
                    (last_publication(), 'last', last),
                ):
                    again = await broker.publish('news', item, LOG, idempotency_key=key)
                    assert PublishResult(result.position, duplicate=True) == again
            with pytest.raises(ChannelFinishedError):
                await broker.publish(
                    'news', last_publication(), LOG, idempotency_key='other'
                )

    async def test_removed_history_opens_the_channel_again(self) -> None:
        """Promise 18: `remove_history` removes the end; the offsets continue."""
        broker = await self.open_broker()
        async with self.opened(broker):
            for _ in range(2):
                last = await broker.publish('news', last_publication('x'), LOG)
                await broker.remove_history('news')
                assert HistoryPage([], last.position) == await broker.history(
                    'news', LOG
                )
            assert (await broker.subscribe('news', LOG)).end is None
            result = await broker.publish('news', publication(3), LOG)
            assert Position(3, last.position.epoch) == result.position
            page = await broker.history('news', LOG)
            assert ([3], None) == (numbers(page), page.end)

    async def test_end_stays_when_publications_have_left_the_log(self) -> None:
        """Promise 18: the end lasts longer than the publications."""
        broker = await self.open_broker()
        settings = LogSettings(size=5, ttl_s=0.3)
        async with self.opened(broker):
            last = await broker.publish('news', last_publication('x'), settings)

            async def gone() -> bool:
                return not (await broker.history('news', settings)).publications

            await eventually(gone, 'the publication has left the log')
            page = await broker.history('news', settings)
            assert HistoryPage([], last.position, ChannelEnd('x')) == page
            with pytest.raises(ChannelFinishedError):
                await broker.publish('news', publication(1), settings)

    async def test_log_after_a_removed_one_is_open_and_has_no_version(self) -> None:
        """Promises 18 and 19: a new log has no end and no version."""
        broker = await self.open_broker()
        settings = LogSettings(size=5, ttl_s=0.3, meta_ttl_s=0.3)
        async with self.opened(broker):
            await broker.publish(
                'news', last_publication(), settings, version=Version(9)
            )

            async def forgotten() -> bool:
                await broker.publish('other', publication(0), settings)
                page = await broker.history('news', settings, limit=1)
                return page.position.offset == 0

            await eventually(forgotten, 'the log is forgotten')
            assert (await broker.history('news', settings)).end is None
            result = await broker.publish(
                'news', publication(1), settings, version=Version(1)
            )
            assert (1, False) == (result.position.offset, result.skipped)

    # --- versions ---------------------------------------------------------------------

    async def test_version_that_is_not_higher_is_skipped(self) -> None:
        """Promise 19: an old or equal version stores and announces nothing."""
        broker = await self.open_broker()
        # NOTE: these numbers differ from each other only in their last digits.
        versions = [0, 0, 1, 9, 10, 9, 10, 11, 2**53, 2**53 + 1, 2**53, MAX_VERSION - 1]
        versions += [MAX_VERSION, MAX_VERSION, MAX_VERSION - 1, 99]
        async with self.opened(broker) as recorder:
            await broker.subscribe('news', LOG)
            stored: list[int] = []
            for number in versions:
                item = Publication(data=b'%d' % number)
                result = await broker.publish(
                    'news', item, LOG, version=Version(number)
                )
                if number > max(stored, default=-1):
                    stored.append(number)
                    assert not result.skipped
                else:
                    assert result.skipped
                assert not result.duplicate
                assert len(stored) == result.position.offset
            await broker.signal('news', b'signal')
            await recorder.until(lambda: recorder.signals, 'the signal')
            assert [b'%d' % number for number in stored] == recorder.data_of('news')
            assert (
                recorder.of('news') == (await broker.history('news', LOG)).publications
            )

    async def test_version_of_another_epoch_replaces_the_stored_one(self) -> None:
        """Promise 19: epochs are not compared; an empty one matches every epoch."""
        broker = await self.open_broker()
        async with self.opened(broker):
            for version, skipped in (
                (Version(5, 'a'), False),
                (Version(5, 'a'), True),
                (Version(1, "b'€\x00"), False),
                (Version(1, "b'€\x00"), True),
                (Version(1), True),
                (Version(2), False),
                (Version(2, 'a'), False),
                (Version(2, 'a'), True),
            ):
                result = await broker.publish(
                    'news', publication(1), LOG, version=version
                )
                assert skipped == result.skipped, version
            # NOTE: a publication without a version changes no version.
            await broker.publish('news', publication(1), LOG)
            result = await broker.publish(
                'news', publication(1), LOG, version=Version(2, 'a')
            )
            assert (True, 5) == (result.skipped, result.position.offset)
            other = await broker.publish(
                'other', publication(1), LOG, version=Version(1, 'a')
            )
            assert not other.skipped

    async def test_version_stays_after_remove_history(self) -> None:
        """Promise 19: a late writer is skipped even if the log was emptied."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.publish('news', publication(5), LOG, version=Version(5))
            await broker.remove_history('news')
            result = await broker.publish(
                'news', publication(4), LOG, version=Version(4)
            )
            assert result.skipped
            assert [] == (await broker.history('news', LOG)).publications

    async def test_concurrent_versions_are_stored_in_rising_order(self) -> None:
        """Promise 19: no publication has a lower version than one before it."""
        broker = await self.open_broker()
        async with self.opened(broker):
            versions = [n * 7 % 41 for n in range(41)]
            results = await asyncio.gather(
                *(
                    broker.publish('news', publication(n), LOG, version=Version(n))
                    for n in versions
                )
            )
            page = await broker.history('news', LOG)
            stored = [int(item.data) for item in page.publications]
            assert sorted(set(stored)) == stored
            assert 40 == stored[-1]
            assert len(stored) == sum(not result.skipped for result in results)

    async def test_skipped_publication_does_not_use_its_idempotency_key(self) -> None:
        """Promises 7 and 19: a key belongs to a publication that was stored."""
        broker = await self.open_broker()
        async with self.opened(broker):
            first = await broker.publish(
                'news', publication(1), LOG, version=Version(5), idempotency_key='a'
            )
            again = await broker.publish(
                'news', publication(1), LOG, version=Version(5), idempotency_key='a'
            )
            assert PublishResult(first.position, duplicate=True) == again
            for _ in range(2):
                skipped = await broker.publish(
                    'news', publication(1), LOG, version=Version(4), idempotency_key='b'
                )
                assert PublishResult(first.position, skipped=True) == skipped
            stored = await broker.publish(
                'news', publication(2), LOG, version=Version(6), idempotency_key='b'
            )
            assert PublishResult(Position(2, first.position.epoch)) == stored

    async def test_very_large_settings_are_accepted_and_publications_announced(
        self,
    ) -> None:
        """Promise 1: no setting makes a publication stored but not announced."""
        large_s = 1e300
        log = LogSettings(
            size=sys.maxsize,
            ttl_s=large_s,
            meta_ttl_s=large_s,
            idempotency_ttl_s=large_s,
        )
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            await broker.subscribe('news', log)
            for n in (1, 2):
                key = f'key {n}'
                await broker.publish('news', publication(n), log, idempotency_key=key)
            await recorder.until(lambda: len(recorder.publications) == 2, 'both')
            page = await broker.history('news', log, since=0, limit=sys.maxsize)
            assert [1, 2] == [item.offset for item in page.publications]
            await broker.revoke('news', 'bob', large_s)
            assert await broker.is_revoked('news', 'bob')
            if broker.capabilities.presence:
                entry = PresenceEntry('news', ClientInfo(user='bob', client='c1'))
                await broker.add_presence([entry], large_s)
                assert {'c1'} == (await broker.presence('news')).keys()

    # --- names and close --------------------------------------------------------------

    async def test_channel_names_with_special_characters_stay_separate(self) -> None:
        """Promise 14: no two names are mixed up, and none has a special meaning."""
        broker = await self.open_broker()
        async with self.opened(broker) as recorder:
            for name in NASTY_NAMES:
                await broker.subscribe(name, LOG)
            for number, name in enumerate(NASTY_NAMES):
                item = publication(number)
                result = await broker.publish(name, item, LOG, idempotency_key=name)
                assert (1, False) == (result.position.offset, result.duplicate), name
                await broker.signal(name, b'%d' % number)
            await recorder.until(
                lambda: (
                    len(recorder.publications) >= len(NASTY_NAMES)
                    and len(recorder.signals) >= len(NASTY_NAMES)
                ),
                'an announcement and a signal for each name',
            )
            for number, name in enumerate(NASTY_NAMES):
                mine = [b'%d' % number]
                page = await broker.history(name, LOG)
                assert mine == [item.data for item in page.publications], name
                assert mine == recorder.data_of(name), name
                assert mine == [s for c, s in recorder.signals if c == name], name
                await broker.remove_history(name)
                assert [] == (await broker.history(name, LOG)).publications, name
                await broker.unsubscribe(name)

    async def test_close_during_publishes_ends_them_and_may_be_repeated(self) -> None:
        """Promise 16: `close` ends pending calls within seconds; twice is allowed."""
        broker = await self.open_broker()
        recorder = Recorder()
        await broker.start(recorder)
        await broker.subscribe('news', LOG)
        publishing = [
            asyncio.create_task(broker.publish('news', publication(n), LOG))
            for n in range(50)
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await broker.close()
            seen = len(recorder.publications)
            await broker.close()
            outcomes = await asyncio.gather(*publishing, return_exceptions=True)
        errors = [o for o in outcomes if isinstance(o, BaseException)]
        assert [] == [e for e in errors if not isinstance(e, BrokerUnavailableError)]
        assert seen == len(recorder.publications)
        assert 'lost' not in recorder.links

    async def test_close_before_start_is_allowed(self) -> None:
        """Promise 16: a broker that was never started can be closed."""
        broker = await self.open_broker()
        await broker.close()


def _facts(item: Publication) -> tuple[object, ...]:
    return (
        *(item.data, item.binary, item.time_ms, item.tags, item.info),
        *(item.end, item.delta, item.trace),
    )
