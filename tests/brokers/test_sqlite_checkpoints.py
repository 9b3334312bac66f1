"""The size of the write-ahead log of SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
from pathlib import Path
import sqlite3
import threading

import pytest

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.sqlite import checkpoints
from falcon_channels.brokers.sqlite import SqliteBroker
from falcon_channels.brokers.sqlite.checkpoints import Checkpoints
from falcon_channels.brokers.sqlite.database_file import WAL_LIMIT_BYTES
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder
from falcon_channels.testing.recorder import eventually

LOG = LogSettings(size=10)
LARGE = Publication(data=b'"' + b'x' * 1_000_000 + b'"')


def begin_read(connection: sqlite3.Connection) -> None:
    connection.execute('BEGIN')
    connection.execute('SELECT last_id FROM head').fetchone()


@contextlib.contextmanager
def overlapping_reads(path: Path) -> Iterator[None]:
    """Read with two connections, so that one of them is always reading."""
    ended = threading.Event()

    def read() -> None:
        first, second = sqlite3.connect(path), sqlite3.connect(path)
        begin_read(first)
        while not ended.wait(0.02):
            begin_read(second)
            first.execute('ROLLBACK')
            first, second = second, first
        first.close()
        second.close()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


async def test_write_ahead_log_under_steady_reads_does_not_grow(
    tmp_path: Path,
) -> None:
    """The write-ahead log is emptied although one connection is always reading."""
    path = tmp_path / 'chat.db'
    log = tmp_path / 'chat.db-wal'
    broker = SqliteBroker(path, timeout_s=30.0)
    await broker.start(Recorder())
    largest_bytes = 0
    with overlapping_reads(path):
        while largest_bytes <= WAL_LIMIT_BYTES:
            await asyncio.gather(
                *[broker.publish('news', LARGE, LOG) for _ in range(10)]
            )
            largest_bytes = max(largest_bytes, log.stat().st_size)

        async def emptied() -> bool:
            return log.stat().st_size < WAL_LIMIT_BYTES

        await eventually(emptied, 'the write-ahead log is emptied')
    await broker.close()


class Clock:
    """The module `time`, with a clock that a test moves."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_checkpoint_with_a_reader_that_never_ends_is_tried_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each failed checkpoint, the next pause is twice as long, up to a minute."""
    clock = Clock()
    monkeypatch.setattr(checkpoints, 'time', clock)
    monkeypatch.setattr(checkpoints, 'WAL_LIMIT_BYTES', 0)
    path = tmp_path / 'chat.db'
    connection = sqlite3.connect(path, isolation_level=None, timeout=4.0)
    connection.execute('PRAGMA journal_mode = WAL')
    connection.execute('CREATE TABLE head (last_id)')
    reader = sqlite3.connect(path, isolation_level=None)
    begin_read(reader)
    connection.execute('INSERT INTO head VALUES (1)')
    found = Checkpoints(path, 4.0)
    log = tmp_path / 'chat.db-wal'
    times = []
    monkeypatch.setattr(checkpoints, '_WAIT_MS', 10)
    for _ in range(200):
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        found.run(connection)
        if any('wal_checkpoint' in statement for statement in statements):
            times.append(clock.now_s)
        clock.now_s += 1.0
    assert [0.0, 2.0, 6.0, 14.0, 30.0, 62.0, 122.0, 182.0] == times
    assert (4000,) == connection.execute('PRAGMA busy_timeout').fetchone()
    reader.execute('ROLLBACK')
    clock.now_s += 60.0
    found.run(connection)
    assert 0 == log.stat().st_size
    connection.close()
    reader.close()
