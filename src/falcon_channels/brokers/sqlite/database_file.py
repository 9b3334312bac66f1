"""The database file: its tables, its version, and its error messages."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
import secrets
import sqlite3
import time

from falcon_channels.brokers.sqlite.clock import DatabaseClock
from falcon_channels.errors import BrokerUnavailableError

#: ``FaCh`` in the header of the file: it is a database of falcon-channels.
APPLICATION_ID = 0x46614368
#: Version of the tables below. A release that changes them increments it.
FORMAT_VERSION = 3
#: Size in bytes above which the write-ahead log is made smaller.
WAL_LIMIT_BYTES = 67_108_864

# head: one row. `last_id` is the id of the newest row of `items`. `DatabaseClock`
#   describes the columns `clock_ms`, `wall_ms`, `boot` and `shift_ms`. All other times
#   in the file are times of that clock. The epoch of the next new log consists of
#   `base` and `generation`.
# channels: the logs. `top` is the offset of the newest publication. The publications in
#   the log have offsets above `low`. `end` is the error with which the channel has
#   ended, empty for success. `version` and `version_epoch` are those of the newest
#   publication that had a version.
# items: everything that is announced, in the order of its ids. Only a sweep makes gaps
#   in these. A publication of a log refers to its channel by `channel`, everything else
#   by `name`.
_TABLES = """
CREATE TABLE head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    last_id INTEGER NOT NULL,
    clock_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    boot TEXT NOT NULL,
    shift_ms INTEGER NOT NULL,
    base TEXT NOT NULL,
    generation INTEGER NOT NULL
);
CREATE TABLE channels (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name BLOB NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    top INTEGER NOT NULL,
    low INTEGER NOT NULL,
    size INTEGER NOT NULL,
    forget_ms INTEGER,
    "end" TEXT,
    version INTEGER,
    version_epoch TEXT
);
CREATE INDEX channels_forget ON channels (forget_ms) WHERE forget_ms IS NOT NULL;
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    channel INTEGER,
    name BLOB,
    offset INTEGER,
    stored_ms INTEGER NOT NULL,
    until_ms INTEGER,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX items_log ON items (channel, offset) WHERE channel IS NOT NULL;
CREATE INDEX items_until ON items (until_ms) WHERE until_ms IS NOT NULL;
CREATE TABLE keys (
    channel BLOB NOT NULL,
    key BLOB NOT NULL,
    offset INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (channel, key)
) WITHOUT ROWID;
CREATE INDEX keys_until ON keys (until_ms);
CREATE TABLE presence (
    channel BLOB NOT NULL,
    client BLOB NOT NULL,
    user BLOB NOT NULL,
    info BLOB NOT NULL,
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (channel, client)
) WITHOUT ROWID;
CREATE INDEX presence_user ON presence (channel, user);
CREATE INDEX presence_until ON presence (until_ms);
CREATE TABLE revocations (
    channel BLOB NOT NULL,
    user BLOB NOT NULL,
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (channel, user)
) WITHOUT ROWID;
CREATE INDEX revocations_until ON revocations (until_ms);
"""

_ADVICE = {
    sqlite3.SQLITE_FULL: 'the disk is full',
    sqlite3.SQLITE_BUSY: 'another process holds its lock',
    sqlite3.SQLITE_LOCKED: 'another process holds its lock',
    sqlite3.SQLITE_CORRUPT: 'the file is damaged; restore it, or move it away',
    sqlite3.SQLITE_NOTADB: 'the file is damaged, or is not a SQLite database',
    sqlite3.SQLITE_IOERR: 'it cannot be read or written (disk full or failing?)',
    sqlite3.SQLITE_READONLY: 'the file cannot be written',
    sqlite3.SQLITE_CANTOPEN: 'the file cannot be opened',
    sqlite3.SQLITE_PERM: 'the file cannot be opened',
}


def unavailable(path: Path, error: sqlite3.Error) -> BrokerUnavailableError:
    """Convert an error of SQLite to one whose message says what to do."""
    # NOTE: the low byte is the primary error code; the other bytes give details.
    code = getattr(error, 'sqlite_errorcode', 0) & 0xFF
    advice = _ADVICE.get(code)
    if code == sqlite3.SQLITE_CANTOPEN:
        advice = _explain_closed_file(path)
    reason = str(error) if advice is None else f'{advice} ({error})'
    return BrokerUnavailableError(f'{path}: {reason}')


def _explain_closed_file(path: Path) -> str:
    """Return the reason why a file cannot be opened, and what to do."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return f'the folder {folder} does not exist: create it'
    if path.is_dir():
        return 'it is a folder: give the path of a file'
    return (
        'the user of this process may not open the file: run all processes as the user '
        'who created it, in a folder that this user may write to'
    )


def connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    """Open a connection for one thread.

    Args:
        path: Path of the file. A missing file is created with mode 0600.
        timeout_s: Seconds for which a statement waits for the lock of another process.

    Raises:
        sqlite3.Error: The file cannot be opened.
    """
    # SECURITY: other users of this host must not read the publications. SQLite gives
    #   the files beside the database (-wal, -shm) the mode of the database itself.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
    try:
        # NOTE: with FULL, an acknowledged publication survives a power failure. With
        #   less, offsets that clients have seen would be assigned a second time.
        connection.execute('PRAGMA synchronous = FULL')
        connection.execute(f'PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}')
        # PERF: a checkpoint writes each changed page once, and the writer waits for it.
        #   Publications to many channels change the same pages again and again. With
        #   SQLite's default of 1000 pages, the writer waited 15 times a second, and
        #   event streams were later (benchmarks/event_streams.py).
        connection.execute('PRAGMA wal_autocheckpoint = 4000')
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(path: Path, connection: sqlite3.Connection, timeout_s: float) -> None:
    """Create the tables in an empty database, and check the version of others.

    A database of another application or version is not changed.

    Args:
        path: Path of the file, for messages.
        connection: A connection to the file.
        timeout_s: Seconds to wait for other processes.

    Raises:
        BrokerUnavailableError: The database belongs to another application or has
            another version. The message says what to do.
        sqlite3.Error: The database cannot be read or written.
    """
    # NOTE: one transaction sees one state. Otherwise, another process could create the
    #   tables between two reads.
    connection.execute('BEGIN')
    try:
        has_tables = _check_version(path, connection)
    finally:
        roll_back(connection)
    _use_wal(path, connection, timeout_s)
    if has_tables:
        return
    connection.execute('BEGIN IMMEDIATE')
    try:
        # NOTE: another process may have created the tables meanwhile.
        if not _check_version(path, connection):
            for statement in _TABLES.split(';'):
                connection.execute(statement)
            connection.execute(
                'INSERT INTO head VALUES (1, 0, ?, ?, ?, ?, ?, 0)',
                (*DatabaseClock.start(), secrets.token_urlsafe(6)),
            )
            connection.execute(f'PRAGMA application_id = {APPLICATION_ID}')
            connection.execute(f'PRAGMA user_version = {FORMAT_VERSION}')
        connection.execute('COMMIT')
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction of a connection, unless an error has ended it.

    SQLite itself ends it after an error of the disk. Another attempt would fail, and
    its error would hide the first one.
    """
    if connection.in_transaction:
        connection.execute('ROLLBACK')


def _use_wal(path: Path, connection: sqlite3.Connection, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            (mode,) = connection.execute('PRAGMA journal_mode = WAL').fetchone()
            break
        except sqlite3.OperationalError as ex:
            # NOTE: SQLite does not wait for a lock here. When several processes start
            #   at the same time, this code must try again.
            busy = ex.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)
    if mode != 'wal':
        raise BrokerUnavailableError(
            f'{path} cannot use a write-ahead log: put the file on a local disk'
        )


def _check_version(path: Path, connection: sqlite3.Connection) -> bool:
    """Return whether the tables exist; raise an error if they are not usable."""
    (application,) = connection.execute('PRAGMA application_id').fetchone()
    (version,) = connection.execute('PRAGMA user_version').fetchone()
    if application == APPLICATION_ID:
        if version == FORMAT_VERSION:
            return True
        raise BrokerUnavailableError(
            f'{path} has format version {version}, and this release of '
            f'falcon-channels supports version {FORMAT_VERSION}: use the release that '
            'wrote it, or another file'
        )
    (tables,) = connection.execute('SELECT count(*) FROM sqlite_master').fetchone()
    if tables or application or version:
        raise BrokerUnavailableError(
            f'{path} is a database of another application: use another file'
        )
    return False
