"""The schema in the database: making it, and asking for its version."""

from __future__ import annotations

from importlib import resources
from typing import Any

import psycopg

from falcon_channels.brokers.postgres.connections import Connection
from falcon_channels.brokers.postgres.connections import read_url
from falcon_channels.brokers.postgres.connections import SCHEMA
from falcon_channels.brokers.postgres.connections import unavailable
from falcon_channels.errors import BrokerUnavailableError

#: Of the tables and functions. A release that changes them counts it up.
VERSION = 1

#: Of the advisory lock under which only one process migrates.
_LOCK = 0x46614368

_ASK = (
    "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s"
)


def migrate(url: str) -> str:
    """Make the tables and functions, or bring them to this release's version.

    Args:
        url: As for `PostgresBroker.from_url`; its user may create a schema.

    Returns:
        What was done, in a sentence.

    Raises:
        BrokerUnavailableError: The database cannot be reached, or refuses, or has a
            version that this release does not know.
        OptionsError: The URL makes no sense.
    """
    libpq_url, options = read_url(url)
    return make_schema(libpq_url, options.get('schema', SCHEMA))


def make_schema(libpq_url: str, schema: str) -> str:
    """Do what `migrate` does, given a URL of libpq and the name of the schema."""
    try:
        with psycopg.connect(libpq_url, connect_timeout=10) as connection:
            connection.execute('SELECT pg_advisory_xact_lock(%s)', (_LOCK,))
            rows = connection.execute(_ASK, (schema,)).fetchall()
            found = _version(schema, rows)
            if found is None:
                connection.execute(_script('tables', schema))
            elif found > VERSION:
                raise _unknown(schema, found)
            connection.execute(_script('functions', schema))
    except psycopg.Error as ex:
        raise unavailable(ex) from None
    if found is None:
        return f'made schema {schema!r}, version {VERSION}'
    return f'schema {schema!r} has version {VERSION} already; its functions are renewed'


async def check_version(connection: Connection, schema: str) -> None:
    """Make sure that the tables and functions are those of this release.

    Raises:
        BrokerUnavailableError: They are not; the message says what to do.
    """
    cursor = await connection.execute(_ASK, (schema,))
    found = _version(schema, await cursor.fetchall())
    if found is None:
        raise BrokerUnavailableError(
            f'the database has no schema {schema!r}: run "falcon-channels migrate URL" '
            'with the URL of your Channels, or add migrate=yes to it'
        )
    if found != VERSION:
        raise _unknown(schema, found)


def _version(schema: str, rows: list[tuple[Any, ...]]) -> int | None:
    if not rows:
        return None
    owner, _, version = (rows[0][0] or '').partition(' ')
    if owner != 'falcon-channels' or not version.isdecimal():
        raise BrokerUnavailableError(
            f'the schema {schema!r} is of another application: give the URL a '
            '"schema" of its own'
        )
    return int(version)


def _unknown(schema: str, found: int) -> BrokerUnavailableError:
    return BrokerUnavailableError(
        f'schema {schema!r} has version {found}, and this release of falcon-channels '
        f'knows version {VERSION}: use the release that made it, or another schema'
    )


def _script(name: str, schema: str) -> bytes:
    folder = resources.files('falcon_channels.brokers.postgres') / 'sql'
    text = (folder / f'{name}.sql').read_text(encoding='utf-8')
    text = text.replace('{schema}', schema)
    return text.replace('{version}', str(VERSION)).encode()
