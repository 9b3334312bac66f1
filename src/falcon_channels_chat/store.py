"""The database of the chat: rooms, messages, read marks and images.

It is one SQLite file, used by one thread. Channels deliver new messages to the members
who are connected. The database keeps all messages for members who connect later.
Several processes of one host can share the file. For several hosts, implement the
methods of `Store` with the database that you use.
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

#: An uploaded image that no message uses is deleted after this time.
_UNUSED_IMAGE_MS = 24 * 60 * 60 * 1000
#: Unread messages are counted up to this number.
MAX_UNREAD = 100
#: The largest id. JavaScript represents integers exactly up to this number.
MAX_ID = 2**53 - 1


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it is stored and as clients receive it.

    Attributes:
        id: Unique number. It grows with every message and defines their order.
        key: Id chosen by the sender. A retry with the same key adds no message.
        user: Id of the sender.
        name: Name of the sender at the time of sending.
        image: Id of an image, or ``None``.
        version: 1 for a new message; it grows with every change.
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
    """A room in the list of one person.

    Attributes:
        name: Name of the room.
        last: Id of the newest message; 0 if there is none.
        unread: Number of unread messages, at most `MAX_UNREAD`.
    """

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
    # SECURITY: another account of this host could read the secret of the sessions in
    #   this file. Only the owner gets access to it.
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
    """The database of one chat.

    Args:
        path: The SQLite file. If it does not exist, it is created, readable by its
            owner only.

    Raises:
        OptionsError: The file cannot be opened; the message contains the reason.
    """

    def __init__(self, path: str) -> None:
        try:
            self._db = _open(path)
        except (OSError, sqlite3.Error) as ex:
            reason = ex.strerror if isinstance(ex, OSError) else ex
            raise OptionsError(f'the database {path} cannot be used: {reason}') from ex
        self._thread = ThreadPoolExecutor(1, 'chat-store')

    async def _run(self, work: Callable[[], T]) -> T:
        """Run a function in a transaction on the thread of the store."""

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
        """Run a function that only reads, on the thread of the store."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def process_shutdown(self, scope: object, event: object) -> None:
        """Called when the application stops (Falcon middleware); close the file."""
        await self._read(self._db.close)
        self._thread.shutdown()

    def secret(self) -> str:
        """Return the secret of this chat; create it at the first call."""
        self._db.execute(
            'INSERT INTO secrets VALUES (1, ?) ON CONFLICT DO NOTHING',
            [secrets.token_urlsafe(32)],
        )
        row = self._db.execute('SELECT secret FROM secrets').fetchone()
        return str(row[0])

    # --- rooms -----------------------------------------------------------------------

    def add_room_nowait(self, name: str) -> None:
        """Add a room unless it exists. For use before the chat starts to serve."""
        self._db.execute(
            'INSERT INTO rooms VALUES (?, ?) ON CONFLICT DO NOTHING', [name, _now_ms()]
        )

    async def add_room(self, name: str, max_rooms: int) -> bool:
        """Add a room unless it exists.

        Returns:
            ``False`` if there are already `max_rooms` rooms.
        """

        def work() -> bool:
            if self._has_room(name):
                return True
            (count,) = self._db.execute('SELECT count(*) FROM rooms').fetchone()
            if count >= max_rooms:
                return False
            self.add_room_nowait(name)
            return True

        return await self._run(work)

    async def has_room(self, name: str) -> bool:
        """Return whether a room exists."""
        return await self._read(lambda: self._has_room(name))

    def _has_room(self, name: str) -> bool:
        query = self._db.execute('SELECT 1 FROM rooms WHERE name = ?', [name])
        return query.fetchone() is not None

    async def rooms(self, user: str, since_ms: int) -> list[RoomSummary]:
        """Return all rooms, sorted by name, with the unread messages of a person.

        Args:
            user: Id of the person.
            since_ms: Unix time in milliseconds at which the session of the person
                began. Older messages do not count as unread.
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
        """Store the last message that a person has read.

        Returns:
            Whether this message is newer than the one stored before.
        """
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
        """Return the newest messages of a room, oldest first.

        Args:
            room: Name of the room.
            limit: Maximum number of messages.
            before: Only messages with a smaller id are returned; default: no limit.
        """
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
        """Add a message unless the sender has used the key before.

        Returns:
            The message, and whether it is new. The message is ``None`` if the image
            does not exist, belongs to another person, or is used by a message.
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
        """Delete the text and the image of a message; keep the entry itself."""
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
        """Store an image. It is deleted after a day unless a message uses it.

        Args:
            user: Id of the person who uploaded the image.
            image: The image.
            max_bytes: Maximum size of all images together in bytes.

        Returns:
            The id of the image, or ``None`` if there is no space for it.
        """
        image_id = secrets.token_urlsafe(16)
        now_ms = _now_ms()

        def work() -> str | None:
            self._db.execute(
                'DELETE FROM images WHERE message IS NULL AND made_ms < ?',
                [now_ms - _UNUSED_IMAGE_MS],
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
