"""The queries of the readers; each function sees one state of the database."""

from __future__ import annotations

import sqlite3
from typing import Any

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.encoding import decode_info
from falcon_channels.brokers.encoding import decode_publication
from falcon_channels.brokers.milliseconds import to_ms
from falcon_channels.brokers.sqlite.clock import DatabaseClock
from falcon_channels.brokers.sqlite.transaction import as_end
from falcon_channels.brokers.sqlite.transaction import lifetime_ms
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position

#: Maximum number of rows that a follower reads at once.
_MAX_ITEMS = 1000
#: Size in bytes after which it stops earlier.
_MAX_BYTES = 4_194_304


def position(
    connection: sqlite3.Connection, name: str, settings: LogSettings
) -> tuple[HistoryPage | None, bool]:
    """Return an empty page of a log, and whether more than half of its life is over.

    ``None`` means that the log does not exist. A log that has a subscriber and is old
    must be renewed at once. It could be removed before its usual renewal.
    """
    row = connection.execute(
        'SELECT c.top, c.epoch, c."end", c.forget_ms, '
        'h.clock_ms, h.wall_ms, h.boot, h.shift_ms '
        'FROM channels AS c, head AS h WHERE c.name = ?',
        (name.encode(),),
    ).fetchone()
    if row is None:
        return None, False
    top, epoch, error, forget_ms, *clock = row
    is_old = False
    if forget_ms is not None:
        left_ms = forget_ms - DatabaseClock(*clock).advance().clock_ms
        life_ms = lifetime_ms(settings, top)
        is_old = life_ms is None or left_ms < life_ms / 2
    return HistoryPage([], Position(top, epoch), as_end(error)), is_old


def history(
    connection: sqlite3.Connection,
    name: str,
    settings: LogSettings,
    since: int | None,
    limit: int | None,
    reverse: bool,
) -> HistoryPage:
    """Read a log; see `Broker.history`."""
    row = connection.execute(
        'SELECT id, top, low, epoch, "end" FROM channels WHERE name = ?',
        (name.encode(),),
    ).fetchone()
    if row is None:
        base, generation = connection.execute(
            'SELECT base, generation FROM head'
        ).fetchone()
        return HistoryPage([], Position(0, f'{base}-{generation}'))
    channel_id, top, low, epoch, error = row
    above = max(low, top - settings.size)
    below = top + 1
    if since is not None:
        if reverse:
            below = min(below, since)
        else:
            above = max(above, since)
    if limit == 0 or above + 1 >= below:
        return HistoryPage([], Position(top, epoch), as_end(error))
    after_ms = -1
    if settings.ttl_s is not None:
        after_ms = _now_ms(connection) - to_ms(settings.ttl_s)
    direction = 'DESC' if reverse else 'ASC'
    found = connection.execute(
        'SELECT offset, body FROM items WHERE channel = ? AND offset > ? '
        f'AND offset < ? AND stored_ms > ? ORDER BY offset {direction} LIMIT ?',
        (channel_id, above, below, after_ms, -1 if limit is None else limit),
    ).fetchall()
    publications = [decode_publication(body, offset) for offset, body in found]
    return HistoryPage(publications, Position(top, epoch), as_end(error))


def presence(connection: sqlite3.Connection, name: str) -> dict[str, ClientInfo]:
    """Return the presence entries of a channel that have not expired."""
    found = connection.execute(
        'SELECT client, info FROM presence WHERE channel = ? AND until_ms > ?',
        (name.encode(), _now_ms(connection)),
    ).fetchall()
    return {client.decode(): decode_info(info) for client, info in found}


def has_user(connection: sqlite3.Connection, name: str, user: str) -> bool:
    """Return whether a user has a presence entry in a channel, expired or not."""
    found = connection.execute(
        'SELECT 1 FROM presence WHERE channel = ? AND user = ? LIMIT 1',
        (name.encode(), user.encode()),
    ).fetchone()
    return found is not None


def is_revoked(connection: sqlite3.Connection, name: str, user: str) -> bool:
    """Return whether a user is revoked in a channel."""
    found = connection.execute(
        'SELECT 1 FROM revocations WHERE channel = ? AND user = ? AND until_ms > ?',
        (name.encode(), user.encode(), _now_ms(connection)),
    ).fetchone()
    return found is not None


def last_id(connection: sqlite3.Connection) -> int:
    """Return the id of the newest item."""
    (newest,) = connection.execute('SELECT last_id FROM head').fetchone()
    return int(newest)


def items_after(
    connection: sqlite3.Connection, seen_id: int
) -> tuple[int, list[tuple[Any, ...]], bool]:
    """Return the items that were added after an id.

    Args:
        connection: The connection of a reader.
        seen_id: Id of the newest item that the caller has seen.

    Returns:
        The id of the newest item; a limited number of rows in the order of their ids,
        ``(id, kind, name, offset, epoch, body)``; and whether there may be more rows.
        The name is ``None`` if the log was removed meanwhile.
    """
    newest = last_id(connection)
    if newest <= seen_id:
        return newest, [], False
    cursor = connection.execute(
        'SELECT i.id, i.kind, coalesce(i.name, c.name), i.offset, c.epoch, i.body '
        'FROM items AS i LEFT JOIN channels AS c ON c.id = i.channel '
        'WHERE i.id > ? ORDER BY i.id LIMIT ?',
        (seen_id, _MAX_ITEMS),
    )
    found = []
    size_bytes = 0
    for row in cursor:
        found.append(row)
        # NOTE: the largest publications would otherwise take a gigabyte.
        size_bytes += len(row[-1])
        if size_bytes >= _MAX_BYTES:
            cursor.close()
            return newest, found, True
    return newest, found, len(found) == _MAX_ITEMS


def _now_ms(connection: sqlite3.Connection) -> int:
    return DatabaseClock.load(connection).advance().clock_ms
