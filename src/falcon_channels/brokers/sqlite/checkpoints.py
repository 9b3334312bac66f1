"""Keeps the write-ahead log small while other connections read without a pause.

After a commit, SQLite copies the write-ahead log into the database. It begins the file
again only if it has copied all of it and no connection reads from it at that moment.
Under steady reads this moment may never come, and the file would grow without limit.
"""

from __future__ import annotations

import os
from pathlib import Path
import sqlite3
import time

from falcon_channels.brokers.sqlite.database_file import WAL_LIMIT_BYTES

#: Seconds between two looks at the size of the file.
_CHECK_S = 1.0
#: Milliseconds for which a checkpoint waits for readers, and writers for it.
_WAIT_MS = 500
#: Longest pause after checkpoints that have failed, in seconds. A frozen process can
#: read for hours, and every attempt delays the publications.
_MAX_PAUSE_S = 60.0


class Checkpoints:
    """Empties the write-ahead log when it is too large; used in the writer's thread.

    Args:
        path: Path of the database file.
        timeout_s: Seconds for which other statements wait for a lock.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        # NOTE: SQLite puts the log beside the file to which a symbolic link points.
        self._log = Path(os.path.realpath(path) + '-wal')
        self._timeout_ms = int(timeout_s * 1000)
        self._pause_s = _CHECK_S
        self._next_s = 0.0

    def run(self, connection: sqlite3.Connection) -> None:
        """Empty the write-ahead log if it is due; call it outside a transaction."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        if self._is_small() or self._empty(connection):
            self._pause_s = _CHECK_S
        else:
            self._pause_s = min(self._pause_s * 2, _MAX_PAUSE_S)
        self._next_s = time.monotonic() + self._pause_s

    def _is_small(self) -> bool:
        try:
            return self._log.stat().st_size <= WAL_LIMIT_BYTES
        except OSError:
            return True

    def _empty(self, connection: sqlite3.Connection) -> bool:
        """Empty the write-ahead log; return whether no reader has prevented it."""
        try:
            connection.execute(f'PRAGMA busy_timeout = {_WAIT_MS}')
            try:
                # NOTE: this waits for the readers, while no new frame is written. New
                #   readers meanwhile read from the database itself.
                (busy, *_) = connection.execute(
                    'PRAGMA wal_checkpoint(TRUNCATE)'
                ).fetchone()
            finally:
                connection.execute(f'PRAGMA busy_timeout = {self._timeout_ms}')
        except sqlite3.Error:
            # NOTE: the cause, such as a full disk, also fails the next transaction. Its
            #   callers get the error.
            return False
        return not busy
