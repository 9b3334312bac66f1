"""What one transaction of the writer does; all in the writer's thread.

The rows of `items` get consecutive ids, given out under the database's write lock. So
whoever reads ids above the last that it has seen gets everything in order, and a
missing id shows that it slept longer than `GRACE_MS`.
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools
import sqlite3
from typing import Any
from typing import NamedTuple

from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.brokers.encoding import decode_info
from falcon_channels.brokers.encoding import encode_info
from falcon_channels.brokers.encoding import encode_publication
from falcon_channels.publication import NO_POSITION
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

#: Kinds of items.
LOGGED, LIVE, SIGNAL, CONTROL = range(4)

#: For how long an item that no log holds stays, so that slow processes can read it.
GRACE_MS = 10_000
#: After how long a log that never had a publication is forgotten.
EMPTY_MS = 86_400_000
#: Rows that one sweep removes at most, of each sort.
_SWEEP = 2000
_CHANNELS = 200

_BIGGEST = 2**63 - 1


class Event(NamedTuple):
    """Something to announce.

    Attributes:
        kind: `LOGGED`, `LIVE`, `SIGNAL` or `CONTROL`.
        channel: Where; ``''`` for control messages.
        item: A publication, or bytes.
        epoch: Of the publication.
    """

    kind: int
    channel: str
    item: Any
    epoch: str = ''


class _Channel:
    """The row of a channel."""

    __slots__ = ('changed', 'epoch', 'forget_ms', 'id', 'low', 'size', 'top')

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.id, self.epoch, self.top, self.low, self.size, self.forget_ms = row
        self.changed = False


_INSERT = 'INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)'
_CHANNEL = 'SELECT id, epoch, top, low, size, forget_ms FROM channels WHERE name = ?'


def ms(seconds: float) -> int:
    """Return seconds as milliseconds."""
    return int(seconds * 1000)


class Transaction:
    """A transaction under way.

    Args:
        connection: It has begun.
        now_ms: Unix time.
        overfull: Ids of channels to trim in a sweep.

    Attributes:
        first_id: The id of the first item of this transaction.
        last_id: The id of its last item; below `first_id` where there is none.
        events: What to announce, in the order of the ids.
        overfull: Ids of channels that hold more than their size.
        trimmed: Ids of channels that no longer do.
    """

    def __init__(
        self, connection: sqlite3.Connection, now_ms: int, overfull: dict[int, None]
    ) -> None:
        self._connection = connection
        head = connection.execute(
            'SELECT last_id, clock_ms, base, generation FROM head'
        ).fetchone()
        self.last_id, clock_ms, self._base, self._generation = head
        self.first_id = self.last_id + 1
        # NOTE: never back, so that rows are in the order of their times as well.
        self.now_ms = max(now_ms, clock_ms)
        self.events: list[Event] = []
        self.overfull: dict[int, None] = {}
        self.trimmed: list[int] = []
        self._to_trim = overfull
        self._rows: list[tuple[Any, ...]] = []
        self._channels: dict[str, _Channel] = {}

    def finish(self) -> None:
        """Write what was gathered; the caller commits."""
        self._flush()
        if self.last_id >= self.first_id:
            self._connection.execute(
                'UPDATE head SET last_id = ?, clock_ms = ?', (self.last_id, self.now_ms)
            )

    def _flush(self) -> None:
        execute = self._connection.execute
        if self._rows:
            self._connection.executemany(_INSERT, self._rows)
            self._rows.clear()
        for channel in self._channels.values():
            if channel.changed:
                execute(
                    'UPDATE channels SET top = ?, low = ?, size = ?, forget_ms = ? '
                    'WHERE id = ?',
                    (
                        channel.top,
                        channel.low,
                        channel.size,
                        channel.forget_ms,
                        channel.id,
                    ),
                )
        self._channels.clear()

    # --- publications ----------------------------------------------------------------

    def publish(
        self,
        name: str,
        publication: Publication,
        settings: StreamSettings,
        key: str | None,
    ) -> PublishResult:
        """Append a publication, unless its key was used."""
        if key is not None:
            known = self._connection.execute(
                'SELECT offset, epoch FROM keys '
                'WHERE channel = ? AND key = ? AND until_ms > ?',
                (name.encode(), key.encode(), self.now_ms),
            ).fetchone()
            if known is not None:
                return PublishResult(Position(*known), True)
        time_ms = publication.time_ms or self.now_ms
        body = encode_publication(publication, time_ms)
        if settings.size:
            position = self._append(name, settings, body)
            kind = LOGGED
        else:
            position = NO_POSITION
            kind = LIVE
            self._add(LIVE, None, name.encode(), None, self.now_ms + GRACE_MS, body)
        if key is not None:
            self._connection.execute(
                'INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)',
                (
                    name.encode(),
                    key.encode(),
                    *position,
                    self.now_ms + ms(settings.idempotency_ttl_s),
                ),
            )
        # PERF: the constructor is twice as fast as msgspec.structs.replace.
        item = Publication(
            data=publication.data,
            offset=position.offset,
            binary=publication.binary,
            time_ms=time_ms,
            tags=publication.tags,
            info=publication.info,
        )
        self.events.append(Event(kind, name, item, position.epoch))
        return PublishResult(position)

    def _append(self, name: str, settings: StreamSettings, body: bytes) -> Position:
        channel = self._channel(name, settings)
        channel.top += 1
        channel.size = settings.size
        channel.changed = True
        self._put_off(channel, settings)
        if channel.top - channel.low > settings.size:
            self.overfull[channel.id] = None
        until_ms = None
        if settings.ttl_s is not None:
            until_ms = self.now_ms + max(ms(settings.ttl_s), GRACE_MS)
        self._add(LOGGED, channel.id, None, channel.top, until_ms, body)
        return Position(channel.top, channel.epoch)

    def send(self, kind: int, name: str, body: bytes) -> None:
        """Add a signal or a control message."""
        self._add(kind, None, name.encode(), None, self.now_ms + GRACE_MS, body)
        self.events.append(Event(kind, name, body))

    def open_log(self, name: str, settings: StreamSettings) -> Position:
        """Make sure that there is a log; return its position."""
        channel = self._channel(name, settings)
        return Position(channel.top, channel.epoch)

    def keep_log(self, name: str, settings: StreamSettings) -> None:
        """Put off that a log is forgotten, for somebody subscribes to it."""
        channel = self._find(name)
        if channel is not None:
            self._put_off(channel, settings)

    def remove_history(self, name: str) -> None:
        """Empty a log; the sweep removes the rows."""
        channel = self._find(name)
        if channel is not None and channel.low < channel.top:
            channel.low = channel.top
            channel.changed = True
            self.overfull[channel.id] = None

    def _add(
        self,
        kind: int,
        channel_id: int | None,
        name: bytes | None,
        offset: int | None,
        until_ms: int | None,
        body: bytes,
    ) -> None:
        self.last_id += 1
        self._rows.append(
            (self.last_id, kind, channel_id, name, offset, self.now_ms, until_ms, body)
        )

    def _find(self, name: str) -> _Channel | None:
        channel = self._channels.get(name)
        if channel is None:
            row = self._connection.execute(_CHANNEL, (name.encode(),)).fetchone()
            if row is None:
                return None
            channel = self._channels[name] = _Channel(row)
        return channel

    def _channel(self, name: str, settings: StreamSettings) -> _Channel:
        channel = self._find(name)
        if channel is None:
            epoch = f'{self._base}-{self._generation}'
            cursor = self._connection.execute(
                'INSERT INTO channels (name, epoch, top, low, size, forget_ms) '
                'VALUES (?, ?, 0, 0, ?, ?)',
                (name.encode(), epoch, settings.size, self.now_ms + EMPTY_MS),
            )
            forget_ms = self.now_ms + EMPTY_MS
            row = (cursor.lastrowid, epoch, 0, 0, settings.size, forget_ms)
            channel = self._channels[name] = _Channel(row)
        return channel

    def _put_off(self, channel: _Channel, settings: StreamSettings) -> None:
        """Set when the log may be forgotten."""
        if settings.meta_ttl_s is None:
            forget_ms = None if channel.top else self.now_ms + EMPTY_MS
        else:
            forget_ms = self.now_ms + ms(settings.meta_ttl_s)
        before_ms = channel.forget_ms
        if forget_ms is None or before_ms is None:
            if forget_ms != before_ms:
                channel.forget_ms = forget_ms
                channel.changed = True
        # PERF: the index changes when the time moved by a twentieth, not each time.
        elif abs(forget_ms - before_ms) * 20 > forget_ms - self.now_ms:
            channel.forget_ms = forget_ms
            channel.changed = True

    # --- presence and revocations ----------------------------------------------------

    def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[bool]:
        """Add or refresh entries; return which are the first of their users."""
        execute = self._connection.execute
        until_ms = self.now_ms + ms(ttl_s)
        told = []
        for name, info in entries:
            channel, user = name.encode(), info.user.encode()
            known = execute(
                'SELECT 1 FROM presence WHERE channel = ? AND user = ? LIMIT 1',
                (channel, user),
            ).fetchone()
            execute(
                'INSERT OR REPLACE INTO presence VALUES (?, ?, ?, ?, ?)',
                (channel, info.client.encode(), user, encode_info(info), until_ms),
            )
            told.append(known is None)
        return told

    def remove_presence(self, name: str, client: str) -> PresenceChange | None:
        """Remove an entry."""
        row = self._connection.execute(
            'SELECT channel, client, user, info FROM presence '
            'WHERE channel = ? AND client = ?',
            (name.encode(), client.encode()),
        ).fetchone()
        return None if row is None else self._remove_entry(row)

    def expire_presence(self, limit: int) -> list[PresenceChange]:
        """Remove entries that have expired."""
        rows = self._connection.execute(
            'SELECT channel, client, user, info FROM presence '
            'WHERE until_ms <= ? ORDER BY until_ms LIMIT ?',
            (self.now_ms, limit),
        ).fetchall()
        return [self._remove_entry(row) for row in rows]

    def _remove_entry(self, row: tuple[bytes, bytes, bytes, bytes]) -> PresenceChange:
        channel, client, user, info = row
        execute = self._connection.execute
        execute(
            'DELETE FROM presence WHERE channel = ? AND client = ?', (channel, client)
        )
        left = execute(
            'SELECT 1 FROM presence WHERE channel = ? AND user = ? LIMIT 1',
            (channel, user),
        ).fetchone()
        return PresenceChange(channel.decode(), decode_info(info), left is None)

    def revoke(self, name: str, user: str, ttl_s: float) -> None:
        """Remember or forget a revocation."""
        key = (name.encode(), user.encode())
        if ttl_s > 0:
            self._connection.execute(
                'INSERT OR REPLACE INTO revocations VALUES (?, ?, ?)',
                (*key, min(self.now_ms + ms(ttl_s), _BIGGEST)),
            )
        else:
            self._connection.execute(
                'DELETE FROM revocations WHERE channel = ? AND user = ?', key
            )

    # --- the sweep -------------------------------------------------------------------

    def sweep(self) -> bool:
        """Remove what has expired; return whether there is more of it."""
        self._flush()
        removed = [
            self._forget_channels(),
            self._remove_aged(),
            self._trim(),
            self._remove_old('keys', 'channel', 'key'),
            self._remove_old('revocations', 'channel', 'user'),
        ]
        return any(removed)

    def _forget_channels(self) -> bool:
        rows = self._connection.execute(
            'SELECT id, top FROM channels WHERE forget_ms <= ? LIMIT ?',
            (self.now_ms, _CHANNELS),
        ).fetchall()
        for channel_id, top in rows:
            # NOTE: the rows go when every process has had time to read them.
            self._connection.execute(
                'UPDATE items SET until_ms = ? WHERE channel = ?',
                (self.now_ms + GRACE_MS, channel_id),
            )
            self._connection.execute('DELETE FROM channels WHERE id = ?', (channel_id,))
            self._generation += top > 0
        if rows:
            self._connection.execute(
                'UPDATE head SET generation = ?', (self._generation,)
            )
        return len(rows) == _CHANNELS

    def _remove_aged(self) -> bool:
        """Remove items by age; a log always loses its oldest first."""
        execute = self._connection.execute
        rows = execute(
            'SELECT id, channel, offset FROM items '
            'WHERE until_ms <= ? ORDER BY until_ms LIMIT ?',
            (self.now_ms, _SWEEP),
        ).fetchall()
        lows: dict[int, int] = {}
        for _, channel_id, offset in rows:
            if channel_id is not None:
                lows[channel_id] = max(offset, lows.get(channel_id, 0))
        for channel_id, low in lows.items():
            execute(
                'UPDATE channels SET low = max(low, ?) WHERE id = ?', (low, channel_id)
            )
            self.overfull[channel_id] = None
        self._connection.executemany(
            'DELETE FROM items WHERE id = ?', [(row[0],) for row in rows]
        )
        return len(rows) == _SWEEP

    def _trim(self) -> bool:
        """Remove what is below a log's `low` or beyond its size."""
        execute = self._connection.execute
        before_ms = self.now_ms - GRACE_MS
        budget = _SWEEP
        for channel_id in list(itertools.islice(self._to_trim, _CHANNELS)):
            row = execute(
                'SELECT top, low, size FROM channels WHERE id = ?', (channel_id,)
            ).fetchone()
            if row is None:
                self.trimmed.append(channel_id)
                continue
            top, low, size = row
            keep = max(low, top - size)
            ids = execute(
                'SELECT id FROM items WHERE channel = ? AND offset <= ? '
                'AND stored_ms <= ? ORDER BY offset LIMIT ?',
                (channel_id, keep, before_ms, budget),
            ).fetchall()
            self._connection.executemany('DELETE FROM items WHERE id = ?', ids)
            if keep > low:
                execute('UPDATE channels SET low = ? WHERE id = ?', (keep, channel_id))
            budget -= len(ids)
            if budget <= 0:
                return True
            left = execute(
                'SELECT 1 FROM items WHERE channel = ? AND offset <= ? LIMIT 1',
                (channel_id, keep),
            ).fetchone()
            self.trimmed.append(channel_id)
            if left is not None:
                # NOTE: its grace is not over; it goes to the end of the list.
                self.overfull[channel_id] = None
        return budget < _SWEEP and len(self._to_trim) > _CHANNELS

    def _remove_old(self, table: str, first: str, second: str) -> bool:
        rows = self._connection.execute(
            f'SELECT {first}, {second} FROM {table} WHERE until_ms <= ? LIMIT ?',
            (self.now_ms, _SWEEP),
        ).fetchall()
        self._connection.executemany(
            f'DELETE FROM {table} WHERE {first} = ? AND {second} = ?', rows
        )
        return len(rows) == _SWEEP


def find_overfull(connection: sqlite3.Connection) -> list[int]:
    """Return the ids of channels that a process which ended has left overfull."""
    rows = connection.execute(
        'SELECT id FROM channels AS c WHERE top - low > size OR EXISTS '
        '(SELECT 1 FROM items WHERE channel = c.id AND offset <= c.low) LIMIT 100000'
    ).fetchall()
    return [row[0] for row in rows]
