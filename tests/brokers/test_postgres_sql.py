"""Publishing from SQL: the rules of other publishers, and the rights of users."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
import pytest
from support.postgres_server import PostgresServer

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.brokers.postgres import migrate
from falcon_channels.routing import ChannelRouter
from falcon_channels.testing.recorder import eventually

pytestmark = pytest.mark.xdist_group('postgres')

LOG = ChannelOptions(history_size=100)
_numbers = count()


@pytest.fixture(scope='module')
def server() -> Iterator[PostgresServer]:
    server = PostgresServer('fsync=off')
    yield server
    server.stop()


@pytest.fixture
def schema(server: PostgresServer) -> str:
    """The name of a new schema."""
    schema = f'sql{next(_numbers)}'
    migrate(f'{server.url}?schema={schema}')
    return schema


@asynccontextmanager
async def opened(
    server: PostgresServer, schema: str, **routes: ChannelOptions
) -> AsyncIterator[Channels]:
    """Open channels with the routes ``orders:{order}``, ``plain`` and more."""
    channels = Channels(f'{server.url}?schema={schema}&timeout_s=10')
    channels.add_route('orders:{order}', object(), LOG)
    channels.add_route('plain', object())
    for name, options in routes.items():
        channels.add_route(name, object(), options)
    await channels.start()
    try:
        yield channels
    finally:
        await channels.close()


@pytest.fixture(scope='module')
def prepared(server: PostgresServer) -> str:
    """The name of a schema that has the routes, although no process runs."""
    migrate(f'{server.url}?schema=prepared')

    async def start_once() -> None:
        async with opened(server, 'prepared'):
            pass

    asyncio.run(start_once())
    return 'prepared'


@asynccontextmanager
async def connected(server: PostgresServer) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(
        server.url, autocommit=True
    ) as connection:
        yield connection


async def publish(connection: Any, schema: str, *values: Any, **more: Any) -> Any:
    """Call the SQL function, and return its row."""
    words = ['%s'] * len(values) + [f'{name} => %({name})s' for name in more]
    if more:
        words[: len(values)] = [f'%({n})s' for n in range(len(values))]
    parameters: Any = values
    if more:
        parameters = {**{str(n): value for n, value in enumerate(values)}, **more}
    query = f'SELECT * FROM {schema}.publish({", ".join(words)})'
    cursor = await connection.execute(query, parameters)
    return await cursor.fetchone()


# --- delivery -------------------------------------------------------------------------


async def test_publication_from_sql_is_delivered_like_others(
    server: PostgresServer, schema: str
) -> None:
    """SQL and `Channels` publish to one log; text, json and jsonb are accepted."""
    async with (
        opened(server, schema) as channels,
        connected(server) as connection,
        channels.subscribe('orders:7') as subscription,
    ):
        await connection.execute(
            f"""SELECT {schema}.publish('orders:7', '{{"state": "paid"}}')"""
        )
        await channels.publish('orders:7', 'python')
        await connection.execute(
            f"SELECT {schema}.publish('orders:7', json_build_object('n', 1))"
        )
        tags = {'kind': 'ä' * 200, **{f'tag {n}': '' for n in range(20)}}
        offset, epoch, duplicate, skipped = await publish(
            connection,
            schema,
            'orders:7',
            Jsonb({'n': 2}),
            tags=Jsonb(tags),
            delta=False,
        )
        found = [await anext(subscription) for _ in range(4)]
        page = await channels.history('orders:7')
        assert found == page.publications
        assert [{'state': 'paid'}, 'python', {'n': 1}, {'n': 2}] == [
            publication.value() for publication in found
        ]
        assert [1, 2, 3, 4] == [publication.offset for publication in found]
        assert [None, None, None, tags] == [publication.tags for publication in found]
        assert [True, True, True, False] == [publication.delta for publication in found]
        assert (4, page.position.epoch, False, False) == (
            offset,
            epoch,
            duplicate,
            skipped,
        )
        assert abs(found[0].time_ms - found[1].time_ms) < 60_000


async def test_publication_from_sql_without_a_log_is_delivered(
    server: PostgresServer, schema: str
) -> None:
    """A channel without history gets publications of any size, with offset 0."""
    async with (
        opened(server, schema) as channels,
        connected(server) as connection,
        channels.subscribe('plain') as subscription,
    ):
        for value in ('short', 'x' * 60_000):
            assert (0, '', False, False) == await publish(
                connection, schema, 'plain', Jsonb(value)
            )
            publication = await anext(subscription)
            assert (0, value) == (publication.offset, publication.value())


async def test_payload_of_any_size_arrives_unchanged(
    server: PostgresServer, schema: str
) -> None:
    """Payloads around the limits of MessagePack and notifications arrive unchanged."""
    large = ChannelOptions(history_size=10, max_publication_bytes=100_000)
    async with (
        opened(server, schema, large=large) as channels,
        connected(server) as connection,
        channels.subscribe('large') as subscription,
    ):
        for size in (1, 30, 31, 32, 253, 254, 300, 5_900, 65_000, 70_000):
            text = '"' + 'x' * size + '"'
            await publish(connection, schema, 'large', text)
            assert text.encode() == (await anext(subscription)).data


async def test_concurrent_publishes_from_sql_and_processes_have_one_order(
    server: PostgresServer, schema: str
) -> None:
    """Programs with SQL and processes publish at once: no gaps, and no duplicates."""
    async with opened(server, schema) as channels, opened(server, schema) as other:

        async def run_sql(number: int) -> None:
            async with connected(server) as connection:
                for n in range(20):
                    await publish(connection, schema, 'orders:1', f'"{number} {n}"')

        async def run_process(channels: Channels, number: int) -> None:
            for n in range(20):
                await channels.publish('orders:1', f'{number} {n}')

        async with channels.subscribe('orders:1') as subscription:
            await asyncio.gather(
                *(run_sql(number) for number in range(4)),
                *(run_process(channels, number) for number in (4, 5, 6)),
                *(run_process(other, number) for number in (7, 8, 9)),
            )
            found = [await anext(subscription) for _ in range(200)]
    assert list(range(1, 201)) == [publication.offset for publication in found]
    values = [str(publication.value()) for publication in found]
    for number in range(10):
        own = [value for value in values if value.startswith(f'{number} ')]
        assert [f'{number} {n}' for n in range(20)] == own


async def test_key_version_and_end_hold_for_sql_and_processes(
    server: PostgresServer, schema: str
) -> None:
    """Keys, versions and ends of processes are respected in SQL, and vice versa."""
    async with opened(server, schema) as channels, connected(server) as connection:
        first = await channels.publish('orders:1', 1, idempotency_key='a')
        assert (*first.position, True, False) == await publish(
            connection, schema, 'orders:1', '1', idempotency_key='a'
        )
        second = await publish(
            connection, schema, 'orders:1', '2', idempotency_key='b', version=5
        )
        assert (2, False, False) == (second[0], second[2], second[3])
        again = await channels.publish('orders:1', 2, idempotency_key='b')
        assert (2, True) == (again.position.offset, again.duplicate)
        assert (await channels.publish('orders:1', 3, version=5)).skipped
        row = await publish(connection, schema, 'orders:1', '3', version=4)
        assert (2, False, True) == (row[0], row[2], row[3])
        row = await publish(
            connection, schema, 'orders:1', '3', version=4, version_epoch='new'
        )
        assert (3, False, False) == (row[0], row[2], row[3])
        await channels.finish('orders:1')
        with pytest.raises(
            psycopg.errors.ObjectNotInPrerequisiteState, match="'orders:1' is finished"
        ):
            await publish(connection, schema, 'orders:1', '4')
        # A repeated publish gets its result, also after the end.
        row = await publish(connection, schema, 'orders:1', '2', idempotency_key='b')
        assert (2, True, False) == (row[0], row[2], row[3])
        await channels.remove_history('orders:1')
        assert (5, False) == (await publish(connection, schema, 'orders:1', '5'))[::2]


async def test_each_argument_from_sql_holds_for_a_channel_in_use(
    server: PostgresServer, schema: str
) -> None:
    """SQL has published to the channel without arguments before."""
    async with opened(server, schema) as channels, connected(server) as connection:

        async def run(**more: Any) -> tuple[int, bool, bool]:
            row = await publish(connection, schema, 'orders:1', '1', **more)
            return row[0], row[2], row[3]

        for offset in (1, 2):
            assert (offset, False, False) == await run()
        assert (3, False, False) == await run(tags=Jsonb({'a': 'b'}))
        assert (4, False, False) == await run(delta=False)
        assert (5, False, False) == await run(idempotency_key='a')
        assert (5, True, False) == await run(idempotency_key='a')
        assert (6, False, False) == await run(version=1)
        assert (6, False, True) == await run(version=1)
        page = await channels.history('orders:1')
        assert [None, {'a': 'b'}, None] == [
            item.tags for item in page.publications[1:4]
        ]
        assert [True, True, False] == [item.delta for item in page.publications[1:4]]


async def test_end_of_a_channel_holds_for_the_next_publish_from_sql(
    server: PostgresServer, schema: str
) -> None:
    """SQL has published to the channel before its end, and can do so again later."""
    async with opened(server, schema) as channels, connected(server) as connection:
        for offset in (1, 2):
            assert offset == (await publish(connection, schema, 'orders:1', '1'))[0]
        await channels.finish('orders:1')
        with pytest.raises(
            psycopg.errors.ObjectNotInPrerequisiteState, match="'orders:1' is finished"
        ):
            await publish(connection, schema, 'orders:1', '1')
        await channels.remove_history('orders:1')
        for offset in (4, 5):
            assert offset == (await publish(connection, schema, 'orders:1', '1'))[0]


async def test_publishes_from_sql_expire_like_others(
    server: PostgresServer, schema: str
) -> None:
    """Each publish stores when its publication expires, and extends the log's time."""
    short = ChannelOptions(history_size=10, history_ttl_s=60, meta_ttl_s=600)
    async with opened(server, schema, short=short), connected(server) as connection:
        epochs = set()
        for offset in (1, 2, 3):
            row = await publish(connection, schema, 'short', '1')
            epochs.add(row[1])
            cursor = await connection.execute(
                f'SELECT c.forget_ms - i.stored_ms, i.until_ms - i.stored_ms '
                f'FROM {schema}.channels AS c, {schema}.items AS i '
                'WHERE i.channel = c.id AND i."offset" = %s',
                (offset,),
            )
            log_ms, item_ms = await cursor.fetchone()
            assert 60_000 == item_ms
            assert abs(log_ms - 600_000) < 10_000
            await connection.execute(
                f'UPDATE {schema}.channels SET forget_ms = %s', (2**60,)
            )
        assert 1 == len(epochs)
        # The log has expired, but no sweep has removed it.
        await connection.execute(f'UPDATE {schema}.channels SET forget_ms = 1')
        row = await publish(connection, schema, 'short', '1')
        assert 1 == row[0]
        assert row[1] not in epochs


async def test_route_added_after_the_start_reaches_the_database(
    server: PostgresServer, schema: str
) -> None:
    """A route that is added later, or changed in a new process, holds in SQL."""
    async with opened(server, schema) as channels, connected(server) as connection:
        channels.add_route('late', object(), LOG)

        async def published() -> bool:
            return await is_known(connection, schema, 'late')

        await eventually(published, 'the route is known')
    small = ChannelOptions(max_publication_bytes=2)
    async with opened(server, schema, late=small), connected(server) as connection:
        with pytest.raises(psycopg.errors.ProgramLimitExceeded, match='3 bytes'):
            await publish(connection, schema, 'late', '123')


async def is_known(connection: Any, schema: str, channel: str) -> bool:
    """Return whether SQL can publish to a channel."""
    try:
        await publish(connection, schema, channel, '1')
    except psycopg.errors.UndefinedObject:
        return False
    return True


async def age_routes(connection: Any, schema: str, days: int) -> None:
    """Let days pass for the routes, and remove what has expired."""
    await connection.execute(
        f'UPDATE {schema}.routes SET until_ms = until_ms - %s', (days * 86_400_000,)
    )
    await connection.execute(f'SELECT {schema}.sweep()')


async def test_route_that_no_process_renews_for_seven_days_is_removed(
    server: PostgresServer, schema: str
) -> None:
    """A route of an earlier release is refused; those that are in use stay."""
    async with connected(server) as connection:
        async with opened(server, schema, removed=LOG):
            await age_routes(connection, schema, 6)
        # No process runs: a route is not removed at once.
        assert await is_known(connection, schema, 'removed')
        async with opened(server, schema):
            await age_routes(connection, schema, 2)
            assert not await is_known(connection, schema, 'removed')
            assert await is_known(connection, schema, 'orders:1')


async def test_running_processes_renew_their_routes_and_not_the_settings(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two releases run at once: the routes of both stay, with the newer settings."""
    small = ChannelOptions(max_publication_bytes=2)
    with monkeypatch.context() as patch:
        patch.setattr('falcon_channels.brokers.postgres.stored_routes._RENEWAL_S', 0.05)
        async with (
            opened(server, schema, removed=LOG, changed=LOG),
            opened(server, schema, added=LOG, changed=small),
            connected(server) as connection,
        ):
            await age_routes(connection, schema, 6)

            async def renewed() -> bool:
                cursor = await connection.execute(
                    f'SELECT min(until_ms) - {schema}.now_ms() FROM {schema}.routes'
                )
                ((left_ms,),) = await cursor.fetchall()
                return bool(left_ms > 6 * 86_400_000)

            await eventually(renewed, 'all routes are renewed')
            await age_routes(connection, schema, 2)
            for channel in ('removed', 'added', 'orders:1'):
                assert await is_known(connection, schema, channel)
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match='bytes of 2'):
                await publish(connection, schema, 'changed', '123')


async def test_new_route_applies_to_a_channel_that_sql_has_published_to(
    server: PostgresServer, schema: str
) -> None:
    """A route that now matches first replaces the earlier one, until it expires."""
    small = ChannelOptions(history_size=100, max_publication_bytes=2)
    async with connected(server) as connection:
        async with opened(server, schema):
            for n in (1, 2):
                assert n == (await publish(connection, schema, 'orders:1', '123'))[0]
        async with opened(server, schema, **{'orders:1': small}):
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match='bytes of 2'):
                await publish(connection, schema, 'orders:1', '123')
            for n in (3, 4):
                assert n == (await publish(connection, schema, 'orders:1', '12'))[0]
        async with opened(server, schema):
            await connection.execute(
                f"UPDATE {schema}.routes SET until_ms = 0 WHERE template = 'orders:1'"
            )
            await connection.execute(f'SELECT {schema}.sweep()')
            assert 5 == (await publish(connection, schema, 'orders:1', '123'))[0]


async def test_publish_from_sql_begins_an_epoch_after_a_fail_over(
    server: PostgresServer, schema: str
) -> None:
    """Each log of the earlier server gets a new epoch; the offsets continue.

    It does not matter if a process has already stored the identity of the new server.
    """
    async with opened(server, schema), connected(server) as connection:
        epochs: dict[str, list[str]] = {'orders:1': [], 'orders:2': []}
        for offset in (1, 2, 3, 4, 5):
            if offset == 3:
                for table in ('channels', 'settings'):
                    await connection.execute(f"UPDATE {schema}.{table} SET run = 'old'")
                await connection.execute(f'UPDATE {schema}.settings SET started = NULL')
            for channel, found in epochs.items():
                row = await publish(connection, schema, channel, '1')
                assert offset == row[0]
                found.append(row[1])
                await connection.execute(f'SELECT {schema}.store_run_id()')
    for before, same, after, *more in epochs.values():
        assert before == same != after
        assert [after, after] == more


async def test_publish_from_sql_begins_an_epoch_if_the_server_is_no_longer_trusted(
    server: PostgresServer, schema: str
) -> None:
    """A log without the identity of its server gets a new epoch."""
    async with opened(server, schema):
        pass
    channels = Channels(f'{server.url}?schema={schema}&trusted=yes')
    channels.add_route('orders:{order}', object(), LOG)
    await channels.start()
    await channels.close()
    async with connected(server) as connection:
        epochs = [(await publish(connection, schema, 'orders:1', '1'))[1]]
        epochs += [(await publish(connection, schema, 'orders:1', '1'))[1]]
        async with opened(server, schema):
            for _ in range(2):
                row = await publish(connection, schema, 'orders:1', '1')
                epochs.append(row[1])
    assert epochs[0] == epochs[1] != epochs[2] == epochs[3]


async def test_publishes_from_sql_remove_old_publications(
    server: PostgresServer, schema: str
) -> None:
    """Of the publications beyond the size of the log, those of the last 10 s stay."""
    small = ChannelOptions(history_size=20)
    async with (
        opened(server, schema, small=small) as channels,
        connected(server) as connection,
    ):

        async def publish_up_to(last: int) -> list[int]:
            while (await publish(connection, schema, 'small', '1'))[0] < last:
                pass
            cursor = await connection.execute(
                f'SELECT "offset" FROM {schema}.items ORDER BY "offset"'
            )
            return [offset for (offset,) in await cursor.fetchall()]

        assert [*range(1, 61)] == await publish_up_to(60)
        await connection.execute(
            f'UPDATE {schema}.items SET stored_ms = stored_ms - 11000 '
            'WHERE "offset" <= 30'
        )
        assert [*range(31, 65)] == await publish_up_to(64)
        page = await channels.history('small')
        assert [*range(45, 65)] == [item.offset for item in page.publications]


# --- limits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('values', 'more', 'message'),
    [
        (('unknown', '1'), {}, "no route matches channel 'unknown'"),
        (('', '1'), {}, 'must have 1 to 255 bytes'),
        (('orders:' + 'x' * 249, '1'), {}, 'must have 1 to 255 bytes'),
        (('/orders:1', '1'), {}, 'no slash at its start'),
        (('orders:1 ', '1'), {}, 'no white space at its ends'),
        (('orders:\n1', '1'), {}, 'no control characters'),
        (('orders:e\u0301', '1'), {}, 'normal form C'),
        (('orders:1', None), {}, 'data is NULL'),
        (('orders:1', '{no'), {}, 'invalid input syntax for type json'),
        (('orders:1', '[' * 33 + ']' * 33), {}, 'nests deeper than 32 levels'),
        (('orders:1', '[1, -1e999]'), {}, 'outside the range of a double'),
        (('orders:1', '1' * 400), {}, 'outside the range of a double'),
        (('orders:1', '"\\ud800"'), {}, 'type json'),
        (
            ('orders:1', f'"{"x" * 65_536}"'),
            {},
            'publication of 65538 bytes exceeds max_publication_bytes of 65536',
        ),
        (
            ('orders:1', f'"{"x" * 65_530}"'),
            {'tags': Jsonb({'ab': 'é', 'c': 'd'})},
            'publication of 65538 bytes exceeds max_publication_bytes of 65536',
        ),
        (('orders:1', '1'), {'tags': Jsonb([])}, 'tags must be a JSON object'),
        (('orders:1', '1'), {'tags': Jsonb({'a': 1})}, 'tags must be a JSON object'),
        (('orders:1', '1'), {'idempotency_key': ''}, 'must have 1 to 255 bytes'),
        (('orders:1', '1'), {'idempotency_key': 'x' * 256}, 'must have 1 to 255'),
        (('orders:1', '1'), {'version': -1}, 'version must be 0 or higher'),
        (('orders:1', '1'), {'version_epoch': 'a'}, 'needs a version beside it'),
        (('plain', '1'), {'version': 1}, 'a version needs a log'),
    ],
)
async def test_invalid_publication_from_sql_is_refused(
    server: PostgresServer,
    prepared: str,
    values: tuple[Any, ...],
    more: dict[str, Any],
    message: str,
) -> None:
    """The database refuses what `Channels.publish` refuses, and says why."""
    async with connected(server) as connection:
        with pytest.raises(psycopg.Error, match=message):
            await publish(connection, prepared, *values, **more)
        cursor = await connection.execute(
            f'SELECT count(*) FROM {prepared}.channels WHERE name = %s',
            (values[0].encode(),),
        )
        assert (0,) == await cursor.fetchone()


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (None, 'data is NULL'),
        ('{no', 'invalid input syntax for type json'),
        ('[' * 33 + ']' * 33, 'nests deeper than 32 levels'),
        ('[1, -1e999]', 'outside the range of a double'),
        ('1' * 400, 'outside the range of a double'),
        ('9' * 210 + 'e99', 'outside the range of a double'),
        ('[{"a":' * 17 + '1' + '}]' * 17, 'nests deeper than 32 levels'),
        ('"\\ud800"', 'type json'),
        (f'"{"x" * 65_536}"', 'of 65538 bytes exceeds max_publication_bytes of 65536'),
        ('[' * 65_537, 'of 65537 bytes exceeds max_publication_bytes of 65536'),
    ],
)
async def test_invalid_data_from_sql_uses_no_offset_of_a_channel_in_use(
    server: PostgresServer, schema: str, data: str | None, message: str
) -> None:
    """The limits also hold for a channel that SQL has published to before."""
    async with opened(server, schema), connected(server) as connection:
        for offset in (1, 2, 3):
            row = await publish(connection, schema, 'orders:1', '"valid"')
            assert offset == row[0]
            with pytest.raises(psycopg.Error, match=message):
                await publish(connection, schema, 'orders:1', data)
        cursor = await connection.execute(f'SELECT count(*) FROM {schema}.items')
        assert (3,) == await cursor.fetchone()


async def test_largest_number_without_a_long_exponent_is_published_from_sql(
    server: PostgresServer, schema: str
) -> None:
    """A number inside the range of a double is accepted, in every notation."""
    async with opened(server, schema), connected(server) as connection:
        for offset, data in enumerate(('1' * 210 + 'e99', '1' * 309, '1e308', '[]'), 1):
            row = await publish(connection, schema, 'orders:1', data)
            assert offset == row[0]


async def test_publish_reads_only_the_row_of_its_channel(
    server: PostgresServer, schema: str
) -> None:
    """The cost of a publish does not grow with the number of channels.

    PostgreSQL prefers to read all rows if it knows that a table is short.
    """
    async with opened(server, schema) as channels, connected(server) as connection:
        for number in range(30):
            await publish(connection, schema, f'orders:{number}', '1')
        await connection.execute(f'VACUUM ANALYZE {schema}.channels')
        async with connection.transaction():
            row = await publish(connection, schema, 'orders:7', '2')
            await channels.publish('orders:8', '2', connection=connection)
            cursor = await connection.execute(
                'SELECT pg_stat_get_xact_numscans(%s::regclass)',
                (f'{schema}.channels',),
            )
            assert (2, (0,)) == (row[0], await cursor.fetchone())


@pytest.mark.parametrize('name', ['text', 'json', 'jsonb'])
async def test_limits_hold_for_each_type_of_data_from_sql(
    server: PostgresServer, schema: str, name: str
) -> None:
    """Text, json and jsonb are published, and checked, in the same way."""
    small = ChannelOptions(history_size=10, max_publication_bytes=1000)
    async with opened(server, schema, small=small) as channels:
        async with connected(server) as connection:
            query = f'SELECT * FROM {schema}.publish(%s, %s::text::{name})'
            for offset in (1, 2):
                cursor = await connection.execute(query, ('small', f'[{offset}, "é"]'))
                assert offset == (await cursor.fetchone())[0]
                for data in ('[' * 33 + ']' * 33, '1e400', '"' + 'é' * 500 + '"'):
                    with pytest.raises(psycopg.Error, match=r'32 levels|double|1002'):
                        await connection.execute(query, ('small', data))
        page = await channels.history('small')
        assert [[1, 'é'], [2, 'é']] == [item.value() for item in page.publications]


@pytest.mark.parametrize(
    ('data', 'unusual'),
    [
        ('{"id": "5f0b1e400-e29b-41d4-a716-446655440000"}', False),
        ('["e123", "1.5x e400", 1.5e30, 2E-400]', False),
        ('1e999', True),
        ('[1,-2.5E+309]', True),
        ('{"a":1e0999}', True),
        ('[\n1e400]', True),
    ],
)
async def test_only_large_numbers_need_the_slow_check(
    server: PostgresServer, schema: str, data: str, unusual: bool
) -> None:
    """Text that only looks like a number with an exponent is published as fast."""
    query = f'SELECT {schema}.may_break_limits(%s)'
    async with opened(server, schema), connected(server) as connection:
        cursor = await connection.execute(query, (data,))
        assert await cursor.fetchone() == (unusual,)


async def test_unusual_json_from_sql_arrives_unchanged(
    server: PostgresServer, schema: str
) -> None:
    """JSON at the limits, and in unusual spelling, is published as it is."""
    texts = [
        '[' * 32 + ']' * 32,
        '"' + '[' * 40 + '"',
        '{"a": [' + '1, ' * 200 + '1]}',
        '[1e300, -1.5E+308, 1e-999]',
        '["00e1e400-e29b", "e123", "1.5e400"]',
        '"\\ud83d\\ude00 \u2028"',
        ' null ',
        '{"a": 1, "a": 2}',
    ]
    async with opened(server, schema) as channels, connected(server) as connection:
        for text in texts:
            await publish(connection, schema, 'orders:1', text)
        page = await channels.history('orders:1')
        assert texts == [item.data.decode() for item in page.publications]


async def test_database_finds_the_same_route_as_the_router(
    server: PostgresServer, schema: str
) -> None:
    """For each name, SQL uses the options of the route that the router finds."""
    templates = [
        '{name}',
        'users:{user:int}',
        'users:{user}:{part}',
        'files/{path:path}',
        'a/{b}/c',
        'a/{b}/{c}',
        'a/x/{c:uuid}',
        'odd.*+(){name}[|]^$?',
        'größe:{x}:{y}',
        'all',
    ]
    names = [
        *(
            'all',
            'x',
            'users:7',
            'users:07',
            'users:-7',
            'users:x',
            'users:',
            'users:a:b',
        ),
        *('files/1', 'files/1/2', 'files', 'a/1/c', 'a/1/d', 'a/x/c', 'a/1', 'a/1/2/3'),
        *('a/x/7b1b0d3c-8d25-4b44-a0f4-0d4b6d5a7f00', 'odd.*+()n[|]^$?', 'oddn[|]^$?'),
        *('größe:1:2', 'größe:1', 'ALL', 'a\\b', '%', "'", '{name}'),
    ]
    router = ChannelRouter()
    channels = Channels(f'{server.url}?schema={schema}')
    for number, template in enumerate(templates, 1):
        options = ChannelOptions(history_size=number)
        router.add(template, object(), options)
        channels.add_route(template, object(), options)
    await channels.start()
    await channels.close()
    async with connected(server) as connection:
        for name in names:
            match = router.match(name)
            cursor = await connection.execute(
                f'SELECT template FROM {schema}.routes '
                'WHERE starts_with(%s, prefix) AND %s ~ pattern ORDER BY rank LIMIT 1',
                (name, name),
            )
            row = await cursor.fetchone()
            expected = None if match is None else (match.route.template,)
            assert (name, expected) == (name, row)


# --- transactions and triggers --------------------------------------------------------


async def test_rolled_back_publication_from_sql_leaves_no_trace(
    server: PostgresServer, schema: str
) -> None:
    """A rolled-back transaction or savepoint delivers nothing, and leaves no gap."""
    async with (
        opened(server, schema) as channels,
        connected(server) as connection,
        channels.subscribe('orders:1') as subscription,
    ):
        for n in range(10):
            async with connection.transaction(force_rollback=True):
                for key in ('a', 'b'):
                    row = await publish(
                        connection,
                        schema,
                        'orders:1',
                        '"undone"',
                        idempotency_key=f'{key} {n}',
                    )
                    assert not row[2]
            async with connection.transaction():
                async with connection.transaction(force_rollback=True):
                    await publish(connection, schema, 'orders:1', '"undone"')
                row = await publish(
                    connection, schema, 'orders:1', str(n), idempotency_key=f'a {n}'
                )
                assert (n + 1, False) == (row[0], row[2])
        found = [await anext(subscription) for _ in range(10)]
        assert [(n + 1, n) for n in range(10)] == [
            (publication.offset, publication.value()) for publication in found
        ]


async def test_trigger_that_fails_publishes_nothing(
    server: PostgresServer, schema: str
) -> None:
    """If a trigger cannot publish a row, the whole statement changes nothing."""
    async with (
        opened(server, schema) as channels,
        connected(server) as connection,
        channels.subscribe('orders:1') as subscription,
    ):
        await connection.execute(f'CREATE TABLE {schema}.bills (number int, note text)')
        await connection.execute(
            f"""
            CREATE FUNCTION {schema}.publish_bill() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN
                PERFORM {schema}.publish('orders:' || NEW.number, to_jsonb(NEW));
                RETURN NULL;
            END $$
            """
        )
        await connection.execute(
            f'CREATE TRIGGER publish AFTER INSERT OR UPDATE ON {schema}.bills '
            f'FOR EACH ROW EXECUTE FUNCTION {schema}.publish_bill()'
        )
        insert = f'INSERT INTO {schema}.bills VALUES (1, %s), (1, %s), (1, %s)'
        with pytest.raises(psycopg.errors.ProgramLimitExceeded, match='exceeds'):
            await connection.execute(insert, ('a', 'x' * 70_000, 'b'))
        await connection.execute(insert, ('a', 'b', 'c'))
        found = [await anext(subscription) for _ in range(3)]
        cursor = await connection.execute(f'SELECT note FROM {schema}.bills')
        assert [('a',), ('b',), ('c',)] == await cursor.fetchall()
    assert [(1, 'a'), (2, 'b'), (3, 'c')] == [
        (publication.offset, publication.value()['note']) for publication in found
    ]


async def test_publish_from_sql_waits_as_long_as_its_caller_allows(
    server: PostgresServer, schema: str
) -> None:
    """The `lock_timeout` of the caller limits the wait for a locked channel."""
    async with (
        opened(server, schema),
        connected(server) as holder,
        connected(server) as connection,
    ):
        async with holder.transaction():
            await publish(holder, schema, 'orders:1', '1')
            await connection.execute("SET lock_timeout = '50ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await publish(connection, schema, 'orders:1', '2')
            assert 1 == (await publish(connection, schema, 'orders:2', '2'))[0]
        cursor = await connection.execute('SHOW lock_timeout')
        assert ('50ms',) == await cursor.fetchone()


# --- rights ---------------------------------------------------------------------------


async def test_user_of_the_schema_can_publish_but_not_read(
    server: PostgresServer, schema: str
) -> None:
    """USAGE of the schema lets a user publish. The user can read nothing."""
    user = f'{schema}_shop'
    async with (
        opened(server, schema) as channels,
        connected(server) as admin,
        channels.subscribe('orders:1') as subscription,
    ):
        await admin.execute(f'CREATE ROLE {user} LOGIN')
        async with await psycopg.AsyncConnection.connect(
            server.url, user=user, autocommit=True
        ) as shop:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await publish(shop, schema, 'orders:1', '1')
            await admin.execute(f'GRANT USAGE ON SCHEMA {schema} TO {user}')
            await publish(shop, schema, 'orders:1', '1', idempotency_key='a')
            assert 1 == (await anext(subscription)).value()
            cursor = await admin.execute(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'S') "
                'AND relnamespace = %s::regnamespace',
                (schema,),
            )
            tables = [name for (name,) in await cursor.fetchall()]
            assert 'items' in tables
            for query in (
                *(f'SELECT * FROM {schema}.{table}' for table in tables),
                f'SELECT {schema}.notification_name()',
                f"SELECT * FROM {schema}.history('', 'x', 9, 9, 9, 0, 9, false)",
                f"SELECT {schema}.set_routes(true, '[]')",
                f"SELECT {schema}.renew_routes('[]')",
                f"SELECT {schema}.send('c', '', 'x')",
                f"SELECT {schema}.publish_batch(1, false, '', '{{}}', '')",
                f"SELECT {schema}.publish_any('orders:1', '1', NULL, '', 1, '', true)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await shop.execute(query)
            # Any user may listen to any name, but cannot find out the name.
            for name in (f'falcon:{schema}', 'falcon'):
                await shop.execute(f'LISTEN "{name}"')
            await publish(shop, schema, 'orders:1', '2')
            assert 2 == (await anext(subscription)).value()
            assert [] == [
                notification async for notification in shop.notifies(timeout=0.2)
            ]
            cursor = await shop.execute(
                "SELECT query FROM pg_stat_activity WHERE query LIKE '%LISTEN%'"
                ' AND pid <> pg_backend_pid()'
            )
            assert [] == await cursor.fetchall()


async def test_objects_of_the_caller_are_not_used_with_the_owners_rights(
    server: PostgresServer, schema: str
) -> None:
    """A function in the caller's search path does not replace one of PostgreSQL."""
    user = f'{schema}_evil'
    async with opened(server, schema), connected(server) as admin:
        await admin.execute(f'CREATE ROLE {user} LOGIN')
        await admin.execute(f'CREATE SCHEMA {user} AUTHORIZATION {user}')
        await admin.execute(f'GRANT USAGE ON SCHEMA {schema} TO {user}')
        async with await psycopg.AsyncConnection.connect(
            server.url, user=user, autocommit=True
        ) as evil:
            for function in (
                'octet_length(bytea) RETURNS integer',
                'convert_to(text, name) RETURNS bytea',
                'current_setting(text) RETURNS text',
                'encode(bytea, text) RETURNS text',
                'pg_notify(text, text) RETURNS void',
            ):
                await evil.execute(
                    f'CREATE FUNCTION {user}.{function} LANGUAGE plpgsql AS '
                    "$$ BEGIN RAISE 'as %', current_user; END $$"
                )
            await evil.execute(f'SET search_path = {user}, pg_catalog')
            with pytest.raises(psycopg.errors.RaiseException, match=f'as {user}'):
                await evil.execute("SELECT octet_length('x'::bytea)")
            row = await publish(evil, schema, 'orders:1', '1', idempotency_key='a')
            assert 1 == row[0]


async def test_objects_in_public_are_not_used_by_the_processes(
    server: PostgresServer, schema: str
) -> None:
    """A role that may create objects in ``public`` gets no rights of the processes.

    PostgreSQL would prefer an operator with the exact types to its own.
    """
    user = f'{schema}_evil'
    async with connected(server) as admin:
        await admin.execute(f'CREATE ROLE {user} LOGIN')
        await admin.execute(f'GRANT CREATE ON SCHEMA public TO {user}')
        async with await psycopg.AsyncConnection.connect(
            server.url, user=user, autocommit=True
        ) as evil:
            await evil.execute(
                'CREATE FUNCTION public.evil(xid8, xid8) RETURNS text LANGUAGE plpgsql '
                "AS $$ BEGIN RAISE 'as %', current_user; END $$"
            )
            await evil.execute(
                'CREATE OPERATOR public.|| '
                '(LEFTARG = xid8, RIGHTARG = xid8, FUNCTION = public.evil)'
            )
            with pytest.raises(psycopg.errors.RaiseException, match=f'as {user}'):
                await evil.execute("SELECT '#' || pg_current_xact_id()")
            try:
                migrate(f'{server.url}?schema={schema}')
                async with (
                    opened(server, schema) as channels,
                    channels.subscribe('orders:1') as subscription,
                ):
                    await channels.publish('orders:1', 1)
                    assert 1 == (await anext(subscription)).value()
            finally:
                await evil.execute('DROP FUNCTION public.evil CASCADE')
