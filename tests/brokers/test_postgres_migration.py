"""The migration of PostgreSQL: an upgrade keeps all data and misses nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Iterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
import subprocess
from typing import Any

import psycopg
import pytest
from support.postgres_server import PostgresServer
from support.postgres_server import program

from falcon_channels import BrokerUnavailableError
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.postgres import migrate
from falcon_channels.brokers.postgres.migration import VERSION
from falcon_channels.brokers.urls import open_broker
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder

pytestmark = pytest.mark.xdist_group('postgres')

#: The tables and functions of version 1.
VERSION_1 = (Path(__file__).parent / 'postgres_version_1.sql').read_text()


@pytest.fixture(scope='module')
def server() -> Iterator[PostgresServer]:
    server = PostgresServer('fsync=off')
    yield server
    server.stop()


@asynccontextmanager
async def connected(server: PostgresServer) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(
        server.url, autocommit=True
    ) as connection:
        yield connection


def create_version_1(schema: str) -> str:
    """Return the statements that create a schema of version 1."""
    return VERSION_1.replace('{schema}', schema).replace('{version}', '1')


def dump(server: PostgresServer, schema: str) -> list[str]:
    """Return the statements that create a schema, without its name."""
    words = (program('pg_dump'), '--schema-only', f'--schema={schema}', server.url)
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    # NOTE: pg_dump writes a random key in commands for psql, which begin so.
    lines = (line for line in text.splitlines() if not line.startswith('\\'))
    return [line.replace(schema, 'SCHEMA') for line in lines]


async def test_migrate_upgrades_tables_of_version_1(server: PostgresServer) -> None:
    """The upgrade keeps logs, epochs and keys; processes refuse the old tables."""
    schema = 'old'
    url = f'{server.url}?schema={schema}'
    log = LogSettings(size=100)
    async with connected(server) as connection:
        await connection.execute(create_version_1(schema))
        body = Publication(data=b'"old"')
        await connection.execute(
            f"SELECT {schema}.publish('n', 100, '', 'news', 100, NULL, NULL, 600000, "
            "ARRAY['\\x91c405226f6c6422'::bytea], ARRAY['key'::bytea])"
        )
        cursor = await connection.execute(f'SELECT epoch FROM {schema}.channels')
        ((epoch,),) = await cursor.fetchall()
        with pytest.raises(
            BrokerUnavailableError, match='run "falcon-channels migrate'
        ):
            await open_broker(url).start(Recorder())
        assert f"updated schema 'old' from version 1 to {VERSION}" == migrate(url)
        assert f"schema 'old' already has version {VERSION}" in migrate(url)
        broker = open_broker(f'{url}&trusted=yes')
        await broker.start(Recorder())
        try:
            again = await broker.publish('news', body, log, idempotency_key='key')
            assert (1, epoch, True) == (*again.position, again.duplicate)
            assert (2, epoch) == (await broker.publish('news', body, log)).position
            page = await broker.history('news', log)
            assert [b'"old"', b'"old"'] == [item.data for item in page.publications]
        finally:
            await broker.close()


async def test_upgraded_schema_equals_a_new_one(server: PostgresServer) -> None:
    """An upgrade leads to the same tables, indexes and functions as an installation."""
    async with connected(server) as connection:
        await connection.execute(create_version_1('upgraded'))
    assert 'from version 1' in migrate(f'{server.url}?schema=upgraded')
    assert 'created' in migrate(f'{server.url}?schema=installed')
    installed = dump(server, 'installed')
    assert 'CREATE TABLE SCHEMA.routes (' in installed
    assert installed == dump(server, 'upgraded')


async def test_upgrade_from_version_2_keeps_the_routes_for_seven_days(
    server: PostgresServer,
) -> None:
    """SQL can publish after the upgrade, before a process has stored its routes."""
    folder = resources.files('falcon_channels.brokers.postgres') / 'sql'
    async with connected(server) as connection:
        for version in (1, 2):
            script = (folder / f'version_{version}.sql').read_text()
            await connection.execute(script.replace('{schema}', 'second'))
        await connection.execute(
            "INSERT INTO second.routes VALUES ('news', 'news', '^news$', '0', 10, -1, "
            '-1, 1000, 100, 0)'
        )
        assert 'from version 2' in migrate(f'{server.url}?schema=second')
        await connection.execute('SELECT second.sweep()')
        cursor = await connection.execute("SELECT * FROM second.publish('news', '1')")
        assert 1 == (await cursor.fetchone())[0]


@pytest.mark.parametrize(
    'statement',
    [
        'SELECT pg_advisory_xact_lock(1180779368)',
        'LOCK TABLE {schema}.channels IN ACCESS SHARE MODE',
    ],
)
async def test_migrate_does_not_wait_for_a_lock_without_end(
    server: PostgresServer, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that cannot migrate says why, and does not stop the others.

    The locks are those of another process that migrates, and of a backup.
    """
    for name in ('_MIGRATIONS_WAIT_S', '_TABLE_WAIT_S'):
        monkeypatch.setattr(f'falcon_channels.brokers.postgres.migration.{name}', 0.2)
    schema = 'locked'
    async with connected(server) as connection:
        await connection.execute(create_version_1(schema))
        async with connection.transaction():
            await connection.execute(statement.replace('{schema}', schema))
            broker = open_broker(f'{server.url}?schema={schema}&migrate=yes')
            with pytest.raises(BrokerUnavailableError, match='is locked by another'):
                await broker.start(Recorder())
        await connection.execute(f'DROP SCHEMA {schema} CASCADE')
