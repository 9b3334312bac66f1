"""The PostgreSQL broker: the application's transactions, migration, URLs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Iterator
import contextlib
from contextlib import asynccontextmanager
import gc
from itertools import count
import logging
import socket

import psycopg
from psycopg.rows import dict_row
import pytest
from support.audience import open_channels
from support.audience import send_controls
from support.postgres_server import PostgresServer
from support.processes import free_port

from falcon_channels import BrokerUnavailableError
from falcon_channels import CapabilityError
from falcon_channels import Channels
from falcon_channels import OptionsError
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.brokers.postgres import migrate
from falcon_channels.brokers.postgres.connections import Server
from falcon_channels.brokers.urls import open_broker
from falcon_channels.cli import main
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder
from falcon_channels.testing.recorder import eventually

pytestmark = pytest.mark.xdist_group('postgres')

LOG = StreamSettings(size=100, ttl_s=60.0, meta_ttl_s=600.0)
ITEM = Publication(data=b'1')
_numbers = count()


@pytest.fixture(scope='module')
def server() -> Iterator[PostgresServer]:
    server = PostgresServer('fsync=off')
    yield server
    server.stop()


@pytest.fixture
def url(server: PostgresServer) -> str:
    """A URL with a schema of its own."""
    url = f'{server.url}?timeout_s=2&schema=broker{next(_numbers)}'
    migrate(url)
    return url


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Broker, Recorder]]:
    """Open a broker that is subscribed to ``news`` and ``other``."""
    broker, seen = open_broker(url), Recorder()
    await broker.start(seen)
    for channel in ('news', 'other'):
        await broker.subscribe(channel, LOG)
    try:
        yield broker, seen
    finally:
        await broker.close()


async def test_what_is_committed_is_delivered(server: PostgresServer, url: str) -> None:
    """A publication in the application's transaction is delivered when it commits."""
    async with (
        open_channels(url) as channels,
        await psycopg.AsyncConnection.connect(
            server.url, row_factory=dict_row
        ) as connection,
        channels.subscribe('news') as subscription,
    ):
        await connection.execute('CREATE TABLE orders (number integer)')
        await connection.commit()
        async with connection.transaction():
            await connection.execute('INSERT INTO orders VALUES (7)')
            result = await channels.publish('news', {'n': 7}, connection=connection)
            assert 1 == result.position.offset
            # Nobody else sees it yet.
            assert [] == (await channels.history('news')).publications
        publication = await anext(subscription)
        assert (1, {'n': 7}) == (publication.offset, publication.value())
        await connection.execute('DROP TABLE orders')
        await connection.commit()


async def test_what_is_rolled_back_is_never_delivered(
    server: PostgresServer, url: str
) -> None:
    """A publication of a transaction that is rolled back leaves no trace and no gap."""
    async with (
        opened(url) as (broker, seen),
        await psycopg.AsyncConnection.connect(server.url) as connection,
    ):
        for ending in (connection.rollback, connection.commit):
            for n in range(3):
                result = await broker.publish(
                    'news',
                    Publication(data=b'%d' % n),
                    LOG,
                    idempotency_key=str(n),
                    connection=connection,
                )
                assert (n + 1, False) == (result.position.offset, result.duplicate)
            assert [] == seen.of('news')
            await ending()
        await broker.publish('news', Publication(data=b'"last"'), LOG)
        await seen.until(lambda: len(seen.of('news')) == 4, 'four')
        assert [1, 2, 3, 4] == seen.offsets_of('news')
        assert [b'0', b'1', b'2', b'"last"'] == seen.data_of('news')


async def test_transactions_that_race_make_one_order(
    server: PostgresServer, url: str
) -> None:
    """Ten transactions publish at once, half are rolled back: offsets have no gaps."""
    async with opened(url) as (broker, seen):

        async def transact(number: int) -> None:
            async with await psycopg.AsyncConnection.connect(server.url) as connection:
                for n in range(5):
                    item = Publication(data=b'"%d-%d"' % (number, n))
                    await broker.publish('news', item, LOG, connection=connection)
                    await broker.publish('other', item, LOG, connection=connection)
                if number % 2:
                    await connection.rollback()

        plain = [broker.publish('news', ITEM, LOG) for _ in range(20)]
        await asyncio.gather(*map(transact, range(10)), *plain)
        await seen.until(lambda: len(seen.publications) == 70, 'seventy')
        assert list(range(1, 46)) == seen.offsets_of('news')
        assert list(range(1, 26)) == seen.offsets_of('other')
        page = await broker.history('news', LOG)
        assert page.publications == seen.of('news')


async def test_a_long_transaction_holds_up_its_channel_only(
    server: PostgresServer, url: str
) -> None:
    """Publishes behind an open transaction fail in time; other channels go on."""
    async with (
        opened(url) as (broker, seen),
        await psycopg.AsyncConnection.connect(server.url) as connection,
    ):
        await broker.publish('news', ITEM, LOG, connection=connection)
        waiting = [
            asyncio.create_task(broker.publish('news', ITEM, LOG, idempotency_key='k'))
            for _ in range(10)
        ]
        for _ in range(5):
            await broker.publish('other', ITEM, LOG)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {BrokerUnavailableError} == {type(outcome) for outcome in outcomes}
        async with await psycopg.AsyncConnection.connect(server.url) as another:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await broker.publish('news', ITEM, LOG, connection=another)
        await connection.commit()
        result = await broker.publish('news', ITEM, LOG, idempotency_key='k')
        assert 2 == result.position.offset
        await seen.until(lambda: seen.offsets_of('news') == [1, 2], 'both')


async def test_only_connections_of_psycopg_are_taken(
    server: PostgresServer, url: str
) -> None:
    """What is no asynchronous connection of psycopg is refused by name."""
    async with opened(url) as (broker, _):
        with psycopg.connect(server.url) as connection:
            with pytest.raises(
                CapabilityError, match='AsyncConnection, not Connection'
            ):
                await broker.publish('news', ITEM, LOG, connection=connection)


async def test_memory_takes_no_connection() -> None:
    """A broker that has no transactions says so."""
    channels = Channels()
    channels.add_route('news', object())
    with pytest.raises(CapabilityError, match='within a transaction'):
        await channels.publish('news', 1, connection=object())
    await channels.close()


def test_migrate_makes_and_renews(server: PostgresServer) -> None:
    """The first migration makes the schema, the second has little to do."""
    url = f'{server.url}?schema=fresh'
    assert "created schema 'fresh', version 1" == migrate(url)
    assert "schema 'fresh' already has version 1; its functions are updated" == (
        migrate(url)
    )


def test_the_command_migrates(
    server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """falcon-channels migrate says what it did, or why it could not."""
    assert 0 == main(['migrate', f'{server.url}?schema=by_command'])
    assert "created schema 'by_command', version 1\n" == capsys.readouterr().out
    assert 1 == main(['migrate', f'{server.url}?schema=a;b'])
    assert "schema is 'a;b', and must be a word" in capsys.readouterr().err


def test_the_command_reads_the_environment(
    server: PostgresServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a URL the command takes that of the environment."""
    monkeypatch.delenv('DATABASE_URL', raising=False)
    assert 2 == main(['migrate'])
    monkeypatch.setenv('DATABASE_URL', f'{server.url}?schema=by_environment')
    assert 0 == main(['migrate'])
    assert "created schema 'by_environment'" in capsys.readouterr().out


async def test_a_schema_that_is_not_there_or_not_ours(server: PostgresServer) -> None:
    """What is missing, foreign or newer is refused, and the message says what to do."""
    with psycopg.connect(server.url) as connection:
        connection.execute('CREATE SCHEMA theirs')
        connection.execute('CREATE SCHEMA newer')
        connection.execute("COMMENT ON SCHEMA newer IS 'falcon-channels 99'")
    for schema, message in (
        ('missing', 'run "falcon-channels migrate'),
        ('theirs', 'another application'),
        ('newer', 'version 99, and this release of falcon-channels supports version 1'),
    ):
        url = f'{server.url}?schema={schema}'
        broker = open_broker(url)
        with pytest.raises(BrokerUnavailableError, match=message):
            await broker.start(Recorder())
        await broker.close()
        if schema != 'missing':
            with pytest.raises(BrokerUnavailableError, match=message):
                migrate(url)


async def test_a_server_that_is_not_there_is_named_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody listens: starting fails in time, and the password stays secret."""
    caplog.set_level(logging.DEBUG)
    port = free_port()
    url = f'postgresql://ann:s3cret@127.0.0.1:{port}/db?timeout_s=2'
    broker = open_broker(url)
    with pytest.raises(BrokerUnavailableError, match=str(port)) as caught:
        await broker.start(Recorder())
    with pytest.raises(BrokerUnavailableError, match=str(port)) as migrating:
        migrate(url)
    with pytest.raises(BrokerUnavailableError, match='not open'):
        await broker.publish('news', ITEM, LOG)
    await broker.close()
    assert 's3cret' not in f'{caught.value} {migrating.value} {caplog.text}'


@pytest.mark.parametrize('before', ['', 'postgres@'])
async def test_a_socket_in_the_file_system(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """A URL without a host reaches the server by the socket in a folder."""
    monkeypatch.setenv('PGUSER', 'postgres')
    url = f'postgresql://{before}/postgres?host={server.folder}&port={server.port}'
    broker = open_broker(f'{url}&schema=by_socket&migrate=yes')
    await broker.start(Recorder())
    assert (await broker.publish('news', ITEM, LOG)).position.offset >= 1
    await broker.close()


async def test_a_server_that_does_not_answer_is_named() -> None:
    """Somebody listens and says nothing: starting fails in time and says where."""
    with socket.socket() as mute:
        mute.bind(('127.0.0.1', 0))
        mute.listen()
        port = mute.getsockname()[1]
        broker = open_broker(f'postgresql://a:s3cret@127.0.0.1:{port}/db?timeout_s=0.3')
        with pytest.raises(BrokerUnavailableError) as caught:
            await broker.start(Recorder())
        await broker.close()
    assert f'no connection to PostgreSQL at 127.0.0.1:{port} within 0.3 s' == str(
        caught.value
    )


async def test_a_server_without_password_is_warned_about(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning names a server beyond loopback that wants no password, once."""
    words = 'PostgreSQL server at 0.0.0.0 is used without a password'
    beyond = server.url.replace('127.0.0.1', '0.0.0.0')
    with_password = beyond.replace('postgres@', 'postgres:s3cret@')
    for url, warnings in ((server.url, 0), (with_password, 0), (beyond, 1)):
        broker = open_broker(f'{url}?schema=warned&migrate=yes')
        await broker.start(Recorder())
        await broker.publish('news', ITEM, LOG)
        await broker.close()
        assert warnings == caplog.text.count(words)
    assert 's3cret' not in caplog.text


async def test_control_messages_of_a_lost_link_arrive(
    server: PostgresServer, url: str
) -> None:
    """Control messages arrive once and in order, though links end all the while."""
    async with opened(url) as (one, _), opened(f'{url}&probe_s=0.2') as (_, seen):
        sending = asyncio.create_task(send_controls(one))
        for _ in range(4):
            async with await psycopg.AsyncConnection.connect(server.url) as admin:
                await admin.execute(
                    'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
                    "WHERE query LIKE 'LISTEN%'"
                )
            await seen.until(lambda: 'restored' in seen.links, 'the link is back')
            seen.links.clear()
        sending.cancel()
        (sent,) = await asyncio.gather(sending)
        await seen.until(lambda: sent <= len(seen.controls), 'the last')
        assert [b'%d' % n for n in range(sent)] == seen.controls[:sent]
        assert len(seen.controls) <= sent + 1


async def test_what_has_expired_is_removed(server: PostgresServer, url: str) -> None:
    """Rows beyond their time are removed by the sweep."""
    schema = url.partition('schema=')[2]
    short = StreamSettings(size=100, ttl_s=0.1, meta_ttl_s=0.1, idempotency_ttl_s=0.1)
    async with (
        opened(url) as (broker, _),
        await psycopg.AsyncConnection.connect(server.url, autocommit=True) as admin,
    ):
        for n in range(5):
            await broker.publish('aged', ITEM, short, idempotency_key=str(n))
        await broker.revoke('aged', 'ann', 0.1)
        await admin.execute(
            f"UPDATE {schema}.channels SET forget_ms = 1 WHERE name = 'aged'"
        )

        async def swept() -> bool:
            await admin.execute(f'SELECT {schema}.sweep()')
            cursor = await admin.execute(
                f'SELECT (SELECT count(*) FROM {schema}.items) '
                f'+ (SELECT count(*) FROM {schema}.keys) '
                f'+ (SELECT count(*) FROM {schema}.revocations) '
                f"+ (SELECT count(*) FROM {schema}.channels WHERE name = 'aged')"
            )
            return await cursor.fetchone() == (0,)

        await eventually(swept, 'everything has gone')


@pytest.mark.parametrize(
    'url',
    [
        'postgresql://localhost?schema=',
        'postgresql://localhost?schema=a;b',
        'postgresql://localhost?schema=Quoted',
        'postgresql://localhost?timeout=1',
        'postgresql://localhost?pool_size=1',
        'postgresql://localhost?trusted=1',
    ],
)
def test_urls_that_make_no_sense_are_refused(url: str) -> None:
    """Unknown and impossible options are errors."""
    with pytest.raises(OptionsError):
        open_broker(url)


async def test_a_connection_whose_caller_gave_up_is_closed(
    server: PostgresServer,
) -> None:
    """Who is cancelled while a connection is being opened leaves none behind."""
    ways_in = Server(f'{server.url}?application_name=given-up', 5.0)
    opened = 0
    for number in range(40):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(number / 2500):
                connection = await ways_in.connect()
                await connection.close()
                opened += 1
    assert opened < 40
    # NOTE: psycopg warns of a connection that was forgotten, and fails the test.
    gc.collect()
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'given-up'"
    async with await psycopg.AsyncConnection.connect(
        server.url, autocommit=True
    ) as connection:

        async def none_left() -> bool:
            row = await (await connection.execute(count)).fetchone()
            return row == (0,)

        await eventually(none_left, 'all connections are closed')
