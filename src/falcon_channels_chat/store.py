"""What the chat keeps: rooms, messages, who read how far, images.

One SQLite file and one thread. The channels carry what is new to those who are here;
this is where it is read again, by those who come later. Several processes of one host
may share the file; for many hosts, write these methods for the database that you have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import os
import secrets
import sqlite3
import time
from typing import TypeVar

import msgspec

from falcon_channels import OptionsError

T = TypeVar('T')

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rooms (
    name TEXT PRIMARY KEY,
    made_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    room TEXT NOT NULL REFERENCES rooms,
    key TEXT NOT NULL,
    user TEXT NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    image TEXT,
    sent_ms INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    edited INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0,
    UNIQUE (user, key)
);
CREATE INDEX IF NOT EXISTS messages_of_room ON messages (room, id);
CREATE TABLE IF NOT EXISTS reads (
    user TEXT NOT NULL,
    room TEXT NOT NULL REFERENCES rooms,
    message INTEGER NOT NULL,
    PRIMARY KEY (user, room)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (
    id TEXT PRIMARY KEY,
    user TEXT NOT NULL,
    type TEXT NOT NULL,
    data BLOB NOT NULL,
    made_ms INTEGER NOT NULL,
    message INTEGER
);
CREATE TABLE IF NOT EXISTS secrets (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    secret TEXT NOT NULL
);
"""

#: An image that no message has shown for so long is thrown away.
_ORPHAN_MS = 24 * 60 * 60 * 1000
#: A badge counts no further.
MAX_UNREAD = 100
#: No id is larger, so that scripts of browsers count them without loss.
MAX_ID = 2**53 - 1


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it is stored, sent and shown.

    Attributes:
        id: Grows with every message; messages are shown in this order.
        key: The sender's own id for it; sent again, it is the same message.
        user: Id of the sender.
        name: What the sender was called.
        image: Id of an image, or ``None``.
        version: Grows with every change of this message.
    """

    id: int
    room: str
    key: str
    user: str
    name: str
    text: str
    image: str | None
    sent_ms: int
    version: int
    edited: bool
    deleted: bool


class RoomSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A room in the list of one person; `unread` counts to `MAX_UNREAD`."""

    name: str
    last: int
    unread: int


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image and its media type."""

    type: str
    data: bytes


_COLUMNS = ', '.join(Message.__struct_fields__)


def _message(row: tuple[object, ...]) -> Message:
    fields = dict(zip(Message.__struct_fields__, row, strict=True))
    return msgspec.convert(fields, Message, strict=False)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _open(path: str) -> sqlite3.Connection:
    # SECURITY: the file holds the secret of the sessions.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=10
    )
    try:
        database.execute('PRAGMA journal_mode = WAL')
        database.execute('PRAGMA synchronous = NORMAL')
        database.execute('PRAGMA foreign_keys = ON')
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


class Store:
    """The tables of one chat.

    Args:
        path: The file; made if it is not there, readable by its owner only.

    Raises:
        OptionsError: The file cannot be used.
    """

    def __init__(self, path: str) -> None:
        try:
            self._db = _open(path)
        except (OSError, sqlite3.Error) as ex:
            reason = ex.strerror if isinstance(ex, OSError) else ex
            raise OptionsError(f'the database {path} cannot be used: {reason}') from ex
        self._thread = ThreadPoolExecutor(1, 'chat-store')

    async def _run(self, work: Callable[[], T]) -> T:
        """Do some work on the store's thread, all of it or nothing."""

        def transaction() -> T:
            self._db.execute('BEGIN IMMEDIATE')
            try:
                result = work()
            except BaseException:
                self._db.execute('ROLLBACK')
                raise
            self._db.execute('COMMIT')
            return result

        return await asyncio.get_running_loop().run_in_executor(
            self._thread, transaction
        )

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def process_shutdown(self, scope: object, event: object) -> None:
        """Close with the application (Falcon middleware)."""
        await self._read(self._db.close)
        self._thread.shutdown()

    def secret(self) -> str:
        """Return the secret of this chat, made when it is first asked for."""
        self._db.execute(
            'INSERT INTO secrets VALUES (1, ?) ON CONFLICT DO NOTHING',
            [secrets.token_urlsafe(32)],
        )
        row = self._db.execute('SELECT secret FROM secrets').fetchone()
        return str(row[0])

    # --- rooms -----------------------------------------------------------------------

    def add_room_now(self, name: str) -> None:
        """Make a room while the chat starts."""
        self._db.execute(
            'INSERT INTO rooms VALUES (?, ?) ON CONFLICT DO NOTHING', [name, _now_ms()]
        )

    async def add_room(self, name: str, max_rooms: int) -> bool:
        """Make a room unless it is there; return ``False`` if there are too many."""

        def work() -> bool:
            if self._has_room(name):
                return True
            (count,) = self._db.execute('SELECT count(*) FROM rooms').fetchone()
            if count >= max_rooms:
                return False
            self.add_room_now(name)
            return True

        return await self._run(work)

    async def has_room(self, name: str) -> bool:
        """Return whether there is such a room."""
        return await self._read(lambda: self._has_room(name))

    def _has_room(self, name: str) -> bool:
        query = self._db.execute('SELECT 1 FROM rooms WHERE name = ?', [name])
        return query.fetchone() is not None

    async def rooms(self, user: str, since_ms: int) -> list[RoomSummary]:
        """Return all rooms, by name, with what somebody has not read.

        Args:
            user: Who.
            since_ms: When somebody came to the chat: nothing older counts as unread.
        """
        query = """
            SELECT name,
                coalesce((SELECT max(id) FROM messages WHERE room = name), 0),
                (SELECT count(*) FROM (
                    SELECT 1 FROM messages
                    WHERE room = rooms.name AND user <> ? AND deleted = 0
                    AND sent_ms > ? AND id > coalesce((
                        SELECT message FROM reads
                        WHERE user = ? AND room = rooms.name
                    ), 0) LIMIT ?))
            FROM rooms ORDER BY name
        """
        values = [user, since_ms, user, MAX_UNREAD]
        rows = await self._read(lambda: self._db.execute(query, values).fetchall())
        return [RoomSummary(name=row[0], last=row[1], unread=row[2]) for row in rows]

    async def mark_read(self, user: str, room: str, message: int) -> bool:
        """Note how far somebody has read; return whether that is further."""
        query = """
            INSERT INTO reads VALUES (?, ?, ?)
            ON CONFLICT DO UPDATE SET message = excluded.message
            WHERE excluded.message > message
        """
        return await self._run(
            lambda: self._db.execute(query, [user, room, message]).rowcount == 1
        )

    # --- messages --------------------------------------------------------------------

    async def messages(
        self, room: str, limit: int, before: int | None = None
    ) -> list[Message]:
        """Return the newest messages of a room, or those before one; oldest first."""
        query = f"""
            SELECT {_COLUMNS} FROM messages WHERE room = ? AND id < ?
            ORDER BY id DESC LIMIT ?
        """
        values = [room, MAX_ID if before is None else before, limit]
        rows = await self._read(lambda: self._db.execute(query, values).fetchall())
        return [_message(row) for row in reversed(rows)]

    async def message(self, room: str, message_id: int) -> Message | None:
        """Return one message, or ``None``."""
        return await self._read(lambda: self._message(room, message_id))

    def _message(self, room: str, message_id: int) -> Message | None:
        row = self._db.execute(
            f'SELECT {_COLUMNS} FROM messages WHERE id = ? AND room = ?',
            [message_id, room],
        ).fetchone()
        return None if row is None else _message(row)

    async def add_message(
        self, *, room: str, key: str, user: str, name: str, text: str, image: str | None
    ) -> tuple[Message | None, bool]:
        """Add a message unless its sender's key was used already.

        Returns:
            The message, and whether it is new; ``None`` where the image is not the
            sender's to show.
        """
        insert = """
            INSERT INTO messages (room, key, user, name, text, image, sent_ms)
            VALUES (?, ?, ?, ?, ?, ?, ?)
        """

        def work() -> tuple[Message | None, bool]:
            row = self._db.execute(
                f'SELECT {_COLUMNS} FROM messages WHERE user = ? AND key = ?',
                [user, key],
            ).fetchone()
            if row is not None:
                return _message(row), False
            values = [room, key, user, name, text, image, _now_ms()]
            message_id = self._db.execute(insert, values).lastrowid
            assert message_id is not None
            if image is not None:
                claim = self._db.execute(
                    'UPDATE images SET message = ? '
                    'WHERE id = ? AND user = ? AND message IS NULL',
                    [message_id, image, user],
                )
                if claim.rowcount == 0:
                    self._db.execute('DELETE FROM messages WHERE id = ?', [message_id])
                    return None, False
            return self._message(room, message_id), True

        return await self._run(work)

    async def edit_message(self, message_id: int, text: str) -> None:
        """Change the text of a message that is not deleted."""
        query = """
            UPDATE messages SET text = ?, edited = 1, version = version + 1
            WHERE id = ? AND deleted = 0 AND text <> ?
        """
        await self._run(lambda: self._db.execute(query, [text, message_id, text]))

    async def delete_message(self, message_id: int) -> None:
        """Forget what a message said and showed; that it was there stays."""
        query = """
            UPDATE messages
            SET text = '', image = NULL, deleted = 1, version = version + 1
            WHERE id = ? AND deleted = 0
        """

        def work() -> None:
            self._db.execute(query, [message_id])
            self._db.execute('DELETE FROM images WHERE message = ?', [message_id])

        await self._run(work)

    # --- images ----------------------------------------------------------------------

    async def add_image(self, user: str, image: Image, max_bytes: int) -> str | None:
        """Keep an image until a message shows it; ``None``: no room for it."""
        image_id = secrets.token_urlsafe(16)
        now_ms = _now_ms()

        def work() -> str | None:
            self._db.execute(
                'DELETE FROM images WHERE message IS NULL AND made_ms < ?',
                [now_ms - _ORPHAN_MS],
            )
            (used_bytes,) = self._db.execute(
                'SELECT coalesce(sum(length(data)), 0) FROM images'
            ).fetchone()
            if used_bytes + len(image.data) > max_bytes:
                return None
            self._db.execute(
                'INSERT INTO images VALUES (?, ?, ?, ?, ?, NULL)',
                [image_id, user, image.type, image.data, now_ms],
            )
            return image_id

        return await self._run(work)

    async def image(self, image_id: str) -> Image | None:
        """Return an image, or ``None``."""
        query = 'SELECT type, data FROM images WHERE id = ?'
        row = await self._read(lambda: self._db.execute(query, [image_id]).fetchone())
        return None if row is None else Image(type=row[0], data=row[1])
