"""Listeners that poll under load, and wait for notifications otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Iterator
from contextlib import asynccontextmanager
from contextlib import AsyncExitStack
from itertools import count
import random
from typing import Any

import psycopg
import pytest
from support.audience import Audience
from support.audience import open_channels
from support.postgres_server import PostgresServer

from falcon_channels import ChannelOptions
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.postgres import listener
from falcon_channels.brokers.postgres import migrate
from falcon_channels.brokers.postgres.snapshot import Snapshot
from falcon_channels.brokers.urls import open_broker
from falcon_channels.channels import Channels
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder
from falcon_channels.testing.recorder import eventually

pytestmark = pytest.mark.xdist_group('postgres polling')

ITEM = Publication(data=b'1')
LOG = LogSettings(size=20_000, ttl_s=600.0, meta_ttl_s=600.0)
NAMES = ('one', 'two', 'three')
_numbers = count()


@pytest.fixture(scope='module')
def server() -> Iterator[PostgresServer]:
    server = PostgresServer('fsync=off')
    yield server
    server.stop()


class Database:
    """A new schema, in which SQL can publish to any name.

    Attributes:
        url: The URL for brokers.
        schema: Name of the schema.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.schema = f'poll{next(_numbers)}'
        self.url = f'{server.url}?timeout_s=10&probe_s=0.3&schema={self.schema}'
        migrate(self.url)

    async def prepare(self) -> None:
        """Store the route."""
        channels = Channels(self.url)
        channels.add_route(
            '{name}',
            object(),
            ChannelOptions(history_size=LOG.size, history_ttl_s=LOG.ttl_s),
        )
        await channels.start()
        await channels.close()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """Open a connection in autocommit mode."""
        async with await psycopg.AsyncConnection.connect(
            self._server.url, autocommit=True
        ) as connection:
            yield connection

    async def publish(self, connection: Any, name: str, value: str = '1') -> int:
        """Publish with SQL, and return the offset."""
        cursor = await connection.execute(
            f'SELECT "offset" FROM {self.schema}.publish(%s, %s::text)', (name, value)
        )
        ((offset,),) = await cursor.fetchall()
        return int(offset)

    async def locks(self, connection: Any) -> int:
        """Return how many locks the listeners share; each that waits has 32."""
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND granted "
            f"AND classid = hashtext('{self.schema}.poll')::bigint::bit(32)::bigint"
        )
        ((locks,),) = await cursor.fetchall()
        return int(locks)

    async def publish_until_polled(self, connection: Any, name: str) -> None:
        """Publish over several connections until no listener waits."""

        async def publish_many(other: Any) -> None:
            for _ in range(10):
                await self.publish(other, name)

        async with AsyncExitStack() as stack:
            others = [
                await stack.enter_async_context(self.connected()) for _ in range(4)
            ]

            async def polled() -> bool:
                await asyncio.gather(*map(publish_many, others))
                return not await self.locks(connection)

            await eventually(polled, 'all listeners poll')


@pytest.fixture
async def database(server: PostgresServer) -> Database:
    """A new schema."""
    database = Database(server)
    await database.prepare()
    return database


@asynccontextmanager
async def opened(database: Database) -> AsyncIterator[tuple[Broker, Recorder]]:
    """Open a broker that is subscribed to all names."""
    broker, recorder = open_broker(database.url), Recorder()
    await broker.start(recorder)
    for name in NAMES:
        await broker.subscribe(name, LOG)
    try:
        yield broker, recorder
    finally:
        await broker.close()


async def publish_in_bursts(
    database: Database, seed: int, published: dict[str, int]
) -> None:
    """Publish in bursts with pauses of random lengths, also in long transactions."""
    dice = random.Random(seed)
    async with database.connected() as connection:
        for _ in range(12):
            for _ in range(dice.randrange(60)):
                name = dice.choice(NAMES)
                ending = dice.random()
                if ending < 0.9:
                    offset = await database.publish(connection, name)
                    published[name] = max(published[name], offset)
                    continue
                async with connection.transaction(force_rollback=ending < 0.93):
                    offset = await database.publish(connection, name)
                    await asyncio.sleep(dice.random() * 0.03)
                if ending >= 0.93:
                    published[name] = max(published[name], offset)
            await asyncio.sleep(dice.random() * 0.3)


async def test_publications_at_the_ends_of_polling_arrive_once_and_in_order(
    database: Database,
) -> None:
    """While listeners begin and stop to poll, each announces everything once.

    Recorders repair nothing. A lost wake-up would therefore be a missing publication.
    """
    published = dict.fromkeys(NAMES, 0)
    states = set()
    async with (
        opened(database) as (_, first),
        opened(database) as (_, second),
        database.connected() as admin,
    ):
        tasks = [
            asyncio.create_task(publish_in_bursts(database, seed, published))
            for seed in range(6)
        ]
        late: list[list[int]] = []
        while not all(task.done() for task in tasks):
            states.add(await database.locks(admin))
            async with opened(database) as (_, recorder):
                count = len(recorder.publications)
                await asyncio.wait(tasks, timeout=0.2)
                states.add(await database.locks(admin))
                late += [recorder.offsets_of(name) for name in NAMES]
                assert count <= len(recorder.publications)
        await asyncio.gather(*tasks)
        for recorder in (first, second):
            await recorder.until(
                lambda recorder=recorder: all(
                    published[name] in recorder.offsets_of(name) for name in NAMES
                ),
                'the last publications',
            )
        # Nothing more arrives after a publication that is awaited.
        for name in NAMES:
            published[name] = await database.publish(admin, name)
        for recorder in (first, second):
            await recorder.until(
                lambda recorder=recorder: all(
                    published[name] in recorder.offsets_of(name) for name in NAMES
                ),
                'the last publications',
            )
            for name in NAMES:
                expected = list(range(1, published[name] + 1))
                assert expected == recorder.offsets_of(name)
    for offsets in late:
        if offsets:
            assert list(range(offsets[0], offsets[-1] + 1)) == offsets
    assert min(states) == 0
    assert max(states) >= 64


def slow_down_polls(monkeypatch: pytest.MonkeyPatch, poll_s: float) -> None:
    """Let the query of each poll take this time, after it has its snapshot."""
    query = listener._POLL_QUERY
    slow = query.replace('(VALUES (1))', f'(SELECT 1 FROM pg_sleep({poll_s}))')
    assert slow != query
    monkeypatch.setattr(listener, '_POLL_QUERY', slow)


class OrderRecorder(Recorder):
    """Also stores the offsets and signals of one channel in one list."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[int | bytes] = []

    def on_publication(
        self, channel: str, publication: Publication, epoch: str
    ) -> None:
        super().on_publication(channel, publication, epoch)
        if channel == 'one':
            self.order.append(publication.offset)

    def on_signal(self, channel: str, signal: bytes) -> None:
        super().on_signal(channel, signal)
        self.order.append(signal)


@pytest.mark.parametrize('poll_s', [0, 0.05])
async def test_signal_while_listeners_poll_follows_earlier_publications(
    database: Database, monkeypatch: pytest.MonkeyPatch, poll_s: float
) -> None:
    """A signal is a notification, and a publication is polled. Their order stays.

    While a slow poll runs, both a publication and the next signal are committed. The
    poll then finds only the signal.
    """
    slow_down_polls(monkeypatch, poll_s)
    recorder = OrderRecorder()
    broker = open_broker(database.url)
    await broker.start(recorder)
    await broker.subscribe('one', LOG)
    expected: list[int | bytes] = []
    states = set()
    async with database.connected() as admin:
        for _ in range(4):
            await database.publish_until_polled(admin, 'two')
            for _ in range(20):
                result = await broker.publish('one', ITEM, LOG)
                signal = b'after %d' % result.position.offset
                await broker.signal('one', signal)
                expected += [result.position.offset, signal]
                # NOTE: on a slow machine, the listener may wait again before the end.
                states.add(await database.locks(admin))
        await recorder.until(
            lambda: len(recorder.order) >= len(expected), 'all of them'
        )
    await broker.close()
    assert expected == recorder.order
    assert 0 in states


async def test_message_of_a_transaction_changes_no_order_of_offsets(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot of a message can be older than earlier offsets of a channel."""
    slow_down_polls(monkeypatch, 0.05)
    states = set()
    async with (
        opened(database) as (broker, recorder),
        database.connected() as admin,
        database.connected() as other,
    ):
        await database.publish_until_polled(admin, 'two')
        for _ in range(10):
            async with other.transaction():
                await broker.publish(
                    'three', ITEM, LOG, skip_history=True, connection=other
                )
                await database.publish(admin, 'one')
                await broker.publish('one', ITEM, LOG, connection=other)
            states.add(await database.locks(admin))
        await recorder.until(lambda: len(recorder.of('one')) >= 20, 'all publications')
    assert list(range(1, 21)) == recorder.offsets_of('one')
    assert [0] * 10 == recorder.offsets_of('three')
    assert 0 in states


async def test_notification_with_a_wrong_id_is_not_delayed_for_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role of the database can send a notification of a future transaction.

    While the listeners poll, no snapshot ever sees this transaction.
    """
    slow_down_polls(monkeypatch, 0.05)
    async with (
        opened(database) as (broker, recorder),
        database.connected() as admin,
        database.connected() as other,
    ):
        await database.publish_until_polled(admin, 'two')
        # While this transaction is open, the listeners go on to poll.
        async with other.transaction():
            await database.publish(other, 'one')
            await admin.execute(
                f'SELECT pg_notify({database.schema}.notification_name(), %s)',
                (f'#999999999999 1:1:|s{b"one".hex()} 1  1 aGVsbG8=',),
            )
            await broker.signal('one', b'second')
            await recorder.until(lambda: len(recorder.signals) == 2, 'both signals')
            assert 32 > await database.locks(admin)
    assert {('one', b'hello'), ('one', b'second')} == {*recorder.signals}


async def test_killed_listener_misses_nothing_and_others_neither(
    server: PostgresServer, database: Database
) -> None:
    """A listener that is ended while it polls reads what it has missed."""
    published = dict.fromkeys(NAMES, 0)
    async with (
        open_channels(database.url) as channels,
        opened(database) as (_, recorder),
        Audience(channels, 'one', 5) as audience,
        database.connected() as admin,
    ):
        tasks = [
            asyncio.create_task(publish_in_bursts(database, seed, published))
            for seed in range(4)
        ]
        restored = 0
        while not all(task.done() for task in tasks):
            before = recorder.links.count('restored')
            await admin.execute(
                'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
                "WHERE query LIKE '%%pg_snapshot_xmax%%' AND strpos(query, %s) > 0 "
                'AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1',
                (f'{database.schema}.items',),
            )
            await asyncio.wait(tasks, timeout=0.3)
            restored += recorder.links.count('restored') - before
        await asyncio.gather(*tasks)
        await recorder.until(
            lambda: len(recorder.links) % 2 == 0, 'the link of the recorder is back'
        )
        await audience.until(lambda: channels.status == 'ok', 'the link is back')
        await database.publish(admin, 'one', '"last"')
        await audience.until_heard('last')
        page = await channels.history('one', limit=None)
        audience.check_all_heard([item.value() for item in page.publications])
        assert 0 == channels.node.hub.counters.insufficient_state
    assert restored > 0


async def test_listener_waits_again_when_an_open_transaction_ends(
    database: Database,
) -> None:
    """An open transaction delays no other publication, and is announced itself."""
    async with (
        opened(database) as (_, recorder),
        database.connected() as admin,
        database.connected() as holder,
    ):
        await database.publish_until_polled(admin, 'one')
        async with holder.transaction():
            await database.publish(holder, 'two', '"held"')

            for number in range(5):
                top = await database.publish(admin, 'three', str(number))
                await recorder.until(
                    lambda top=top: top in recorder.offsets_of('three'), 'the others'
                )

            async def stops() -> bool:
                return await database.locks(admin) == 31

            # The holder did not notify, so the listener must not wait yet.
            await eventually(stops, 'the listener has all locks but one')
            top = await database.publish(admin, 'three')
            await recorder.until(
                lambda: top in recorder.offsets_of('three'), 'the last of the others'
            )
            assert [] == recorder.of('two')
        await recorder.until(lambda: recorder.of('two'), 'the held publication')
        assert [b'"held"'] == recorder.data_of('two')

        async def waits() -> bool:
            return await database.locks(admin) == 32

        await eventually(waits, 'the listener waits for notifications')
        await database.publish(admin, 'two', '2')
        await recorder.until(lambda: len(recorder.of('two')) == 2, 'the next one')
        assert [1, 2] == recorder.offsets_of('two')


async def test_publications_of_any_number_and_size_are_polled(
    database: Database,
) -> None:
    """A poll reads large transactions in parts, and long publications one by one."""
    long = b'"%s"' % (b'x' * 60_000)
    async with (
        opened(database) as (broker, recorder),
        database.connected() as admin,
    ):
        await database.publish_until_polled(admin, 'one')
        await admin.execute(
            f"SELECT count({database.schema}.publish('two', to_jsonb(n))) "
            'FROM generate_series(1, 2000) AS n'
        )
        await broker.publish('three', Publication(data=long), LOG)
        await recorder.until(
            lambda: len(recorder.of('two')) == 2000 and recorder.of('three'),
            'all publications',
        )
        assert [b'%d' % n for n in range(1, 2001)] == recorder.data_of('two')
        assert list(range(1, 2001)) == recorder.offsets_of('two')
        assert [long] == recorder.data_of('three')


async def test_removed_publication_is_announced_to_a_listener_that_polls(
    database: Database,
) -> None:
    """A publication is announced, even if the log is removed at once."""
    async with (
        opened(database) as (broker, recorder),
        database.connected() as admin,
    ):
        await database.publish_until_polled(admin, 'one')
        for number in range(20):
            await database.publish(admin, 'two', str(number))
            await broker.remove_history('two')
            assert [] == (await broker.history('two', LOG)).publications
        await recorder.until(lambda: len(recorder.of('two')) == 20, 'all of them')
        assert list(range(1, 21)) == recorder.offsets_of('two')


async def test_poll_searches_an_index_and_reads_no_whole_table(
    database: Database,
) -> None:
    """The cost of a poll does not depend on the size of the tables."""
    query = (
        'SELECT coalesce(sum(idx_scan), 0), coalesce(sum(seq_scan), 0) '
        "FROM pg_stat_user_tables WHERE relname = 'items' AND schemaname = %s"
    )
    async with opened(database), database.connected() as admin:
        await admin.execute(f'ANALYZE {database.schema}.items')

        async def polled() -> bool:
            await database.publish_until_polled(admin, 'one')
            cursor = await admin.execute(query, (database.schema,))
            ((searches, scans),) = await cursor.fetchall()
            assert scans < 10  # `migrate` reads the empty table for its indexes
            return searches > 100

        await eventually(polled, 'the statistics are up to date')


async def test_single_publisher_is_announced_by_notifications(
    database: Database,
) -> None:
    """One connection that publishes as fast as it can does not make listeners poll."""
    async with opened(database) as (_, recorder), database.connected() as admin:
        for _ in range(200):
            top = await database.publish(admin, 'one')
            assert 32 == await database.locks(admin)
        await recorder.until(lambda: len(recorder.of('one')) == top, 'all of them')
        assert list(range(1, 201)) == recorder.offsets_of('one')


async def test_publisher_without_any_listener_sends_no_notification(
    database: Database,
) -> None:
    """If no process runs, or all poll, a publish needs no notification."""
    async with database.connected() as admin, database.connected() as other:
        cursor = await admin.execute(f'SELECT notify FROM {database.schema}.settings')
        ((name,),) = await cursor.fetchall()
        await other.execute(f'LISTEN "{name}"')
        await database.publish(admin, 'one')
        found = [item async for item in other.notifies(timeout=0.1)]
        assert [] == found
        async with opened(database):
            await database.publish(admin, 'one')
            payload = ''
            while not payload.startswith('#'):
                async for item in other.notifies(timeout=5, stop_after=1):
                    payload = item.payload
        assert payload.startswith('#')


def test_snapshot_sees_ended_transactions_only() -> None:
    """A snapshot sees ids below its end, except those that were running."""
    snapshot = Snapshot.parse('10:15:10,13')
    seen = [xid for xid in range(8, 18) if snapshot.sees(xid)]
    assert [8, 9, 11, 12, 14] == seen
    assert Snapshot(7, frozenset()) == Snapshot.parse('7:7:')
