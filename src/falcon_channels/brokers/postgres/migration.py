"""Creates the schema in the database, and checks its version."""

from __future__ import annotations

from importlib import resources
from typing import Any

import psycopg

from falcon_channels.brokers.milliseconds import to_ms
from falcon_channels.brokers.postgres.connections import Connection
from falcon_channels.brokers.postgres.connections import read_url
from falcon_channels.brokers.postgres.connections import SCHEMA
from falcon_channels.brokers.postgres.connections import SEARCH_PATH
from falcon_channels.brokers.postgres.connections import unavailable
from falcon_channels.errors import BrokerUnavailableError

#: Version of the tables. A release that changes them increments it, and adds the file
#: ``sql/version_{VERSION}.sql``, which changes the tables of the version before.
VERSION = 5

#: Number of the advisory lock that lets only one process migrate at a time.
_LOCK = 0x46614368
#: Seconds for which a process waits for others that migrate, and for a table that
#: another transaction has locked. The second time is short, because all processes that
#: use the table wait behind this one.
_MIGRATIONS_WAIT_S = 60
_TABLE_WAIT_S = 5

_COMMENT_QUERY = (
    "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s"
)


def migrate(url: str) -> str:
    """Create the tables and functions, or update them.

    Args:
        url: A URL as for `PostgresBroker.from_url`. Its user must be allowed to create
            a schema.

    Returns:
        A sentence that says what was done.

    Raises:
        BrokerUnavailableError: The database cannot be reached, has refused a statement,
            or has a version that this release does not know.
        OptionsError: An option in the URL is unknown or out of range.
    """
    libpq_url, options = read_url(url)
    return create_schema(libpq_url, options.get('schema', SCHEMA))


def create_schema(libpq_url: str, schema: str) -> str:
    """Create or update a schema; see `migrate`."""
    try:
        with psycopg.connect(libpq_url, connect_timeout=10) as connection:
            connection.execute(
                "SELECT pg_catalog.set_config('search_path', %s, true)", (SEARCH_PATH,)
            )
            _limit_waiting(connection, _MIGRATIONS_WAIT_S)
            connection.execute('SELECT pg_advisory_xact_lock(%s)', (_LOCK,))
            _limit_waiting(connection, _TABLE_WAIT_S)
            rows = connection.execute(_COMMENT_QUERY, (schema,)).fetchall()
            found = _version(schema, rows)
            if found is not None and found > VERSION:
                raise _unknown(schema, found)
            for version in range((found or 0) + 1, VERSION + 1):
                connection.execute(_script(f'version_{version}', schema))
            connection.execute(_script('functions', schema))
            connection.execute(_script('publish', schema))
    except psycopg.errors.LockNotAvailable:
        raise BrokerUnavailableError(
            f'schema {schema!r} is locked by another process that migrates it, or by '
            'another transaction, such as a backup: try again when it has ended'
        ) from None
    except psycopg.Error as ex:
        raise unavailable(ex) from None
    if found is None:
        return f'created schema {schema!r}, version {VERSION}'
    if found != VERSION:
        return f'updated schema {schema!r} from version {found} to {VERSION}'
    return f'schema {schema!r} already has version {VERSION}; its functions are updated'


def _limit_waiting(connection: psycopg.Connection[Any], wait_s: float) -> None:
    """Limit the time for which each statement waits for a lock."""
    connection.execute(
        "SELECT pg_catalog.set_config('lock_timeout', %s, true)",
        (str(to_ms(wait_s)),),
    )


async def check_version(connection: Connection, schema: str) -> None:
    """Check that the schema has the version of this release.

    Raises:
        BrokerUnavailableError: The schema is missing or has another version. The
            message says what to do.
    """
    cursor = await connection.execute(_COMMENT_QUERY, (schema,))
    found = _version(schema, await cursor.fetchall())
    if found is None:
        raise BrokerUnavailableError(
            f'the database has no schema {schema!r}: run "falcon-channels migrate URL" '
            'with the URL of your Channels, or add migrate=yes to it'
        )
    if found > VERSION:
        raise _unknown(schema, found)
    if found != VERSION:
        raise BrokerUnavailableError(
            f'schema {schema!r} has version {found}, and this release of '
            f'falcon-channels needs version {VERSION}: run "falcon-channels migrate '
            'URL" with the URL of your Channels, or add migrate=yes to it'
        )


def _version(schema: str, rows: list[tuple[Any, ...]]) -> int | None:
    if not rows:
        return None
    owner, _, version = (rows[0][0] or '').partition(' ')
    if owner != 'falcon-channels' or not version.isdecimal():
        raise BrokerUnavailableError(
            f'the schema {schema!r} belongs to another application: add a "schema" '
            'option with another name to the URL'
        )
    return int(version)


def _unknown(schema: str, found: int) -> BrokerUnavailableError:
    return BrokerUnavailableError(
        f'schema {schema!r} has version {found}, and this release of falcon-channels '
        f'supports version {VERSION}: use the release that created it, or another '
        'schema'
    )


def _script(name: str, schema: str) -> bytes:
    folder = resources.files('falcon_channels.brokers.postgres') / 'sql'
    text = (folder / f'{name}.sql').read_text(encoding='utf-8')
    return text.replace('{schema}', schema).encode()
