"""One transaction of the writer; everything here runs in the writer's thread.

The rows of `items` get consecutive ids, assigned under the write lock of the database.
A process that reads the ids above the last one that it has seen therefore gets all rows
in order. A missing id means that the process did not read for longer than `GRACE_MS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
import itertools
import sqlite3
from typing import Any
from typing import NamedTuple

from msgspec.structs import replace

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceAdded
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.brokers.encoding import decode_info
from falcon_channels.brokers.encoding import encode_info
from falcon_channels.brokers.encoding import encode_publication
from falcon_channels.brokers.milliseconds import to_ms
from falcon_channels.brokers.sqlite.clock import DatabaseClock
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import new_named_tuple
from falcon_channels.publication import NO_POSITION
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

#: Kinds of items: a publication with and without a log, a signal, a control message.
LOGGED, LIVE, SIGNAL, CONTROL = range(4)

#: Milliseconds for which an item outside a log is stored, so that slow processes can
#: read it.
GRACE_MS = 10_000
#: Milliseconds after which a log that never had a publication is removed.
EMPTY_MS = 86_400_000
#: Maximum number of rows of each kind, and of channels, that one sweep removes.
_MAX_SWEPT_ROWS = 2000
_MAX_SWEPT_CHANNELS = 200

#: Maximum number of rows in a `ChannelCache`.
_MAX_CACHED_ROWS = 5000

_BIGGEST = 2**63 - 1


class Announcement(NamedTuple):
    """A publication, signal or control message to announce.

    Attributes:
        kind: `LOGGED`, `LIVE`, `SIGNAL` or `CONTROL`.
        channel: Name of the channel; ``''`` for a control message.
        item: The publication, or the bytes of the signal or control message.
        epoch: Epoch of the publication; ``''`` for anything else.
    """

    kind: int
    channel: str
    item: Any
    epoch: str = ''


class _Channel:
    """The row of a channel, with its columns as attributes."""

    __slots__ = (
        'changed',
        'end',
        'epoch',
        'forget_ms',
        'id',
        'low',
        'postponed',
        'size',
        'top',
        'version',
    )

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.id, self.epoch, self.top, self.low, self.size, self.forget_ms = row[:6]
        error, number, version_epoch = row[6:]
        self.end = as_end(error)
        self.version = None if number is None else Version(number, version_epoch)
        #: Whether the transaction in progress must write the row.
        self.changed = False
        #: Whether `forget_ms` has changed, too.
        self.postponed = False


class ChannelCache:
    """Rows of channels that the writer has read or written.

    PERF: a busy channel is in nearly every transaction. Reading its row costs a third
    of a publication (benchmarks/sqlite_publish.py).

    Attributes:
        rows: The rows by channel name.
    """

    def __init__(self) -> None:
        self.rows: dict[str, _Channel] = {}
        self._data_version = -1

    def validate(self, connection: sqlite3.Connection) -> None:
        """Forget all rows if another connection has written to the database.

        Call it within the transaction, after its lock was taken.
        """
        (data_version,) = connection.execute('PRAGMA data_version').fetchone()
        if data_version != self._data_version or len(self.rows) > _MAX_CACHED_ROWS:
            self._data_version = data_version
            self.rows.clear()

    def clear(self) -> None:
        """Forget all rows, because a transaction was rolled back."""
        self.rows.clear()


_INSERT = 'INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)'
_UPDATE_ROW = (
    'UPDATE channels SET top = ?, low = ?, size = ?, "end" = ?, version = ?, '
    'version_epoch = ? WHERE id = ?'
)
#: PERF: SQLite changes the index of `forget_ms` only if the statement sets it.
_UPDATE_TIME = 'UPDATE channels SET forget_ms = ? WHERE id = ?'
_CHANNEL = (
    'SELECT id, epoch, top, low, size, forget_ms, "end", version, version_epoch '
    'FROM channels WHERE name = ?'
)


def as_end(error: str | None) -> ChannelEnd | None:
    """Return the end of a channel from the column `end`."""
    return None if error is None else ChannelEnd(error)


def lifetime_ms(settings: LogSettings, top: int) -> int | None:
    """Return the milliseconds for which a log is kept; ``None`` for ever.

    Args:
        settings: Settings of the log.
        top: Offset of its newest publication.
    """
    life_ms = None if settings.meta_ttl_s is None else to_ms(settings.meta_ttl_s)
    if top:
        return life_ms
    return EMPTY_MS if life_ms is None else min(life_ms, EMPTY_MS)


@lru_cache(maxsize=1000)
def _durations_ms(settings: LogSettings) -> tuple[int | None, int | None]:
    """Return the milliseconds for which a log and each of its publications are kept.

    PERF: they are the same for most publications of a transaction
    (benchmarks/event_streams.py).
    """
    ttl_ms = None
    if settings.ttl_s is not None:
        ttl_ms = max(to_ms(settings.ttl_s), GRACE_MS)
    return lifetime_ms(settings, 1), ttl_ms


class Transaction:
    """A transaction in progress.

    Args:
        connection: A connection on which the transaction has begun.
        oversized: Ids of the channels that a sweep trims.
        cache: Rows of channels of the same connection.

    Attributes:
        first_id: The id of the first item of this transaction.
        last_id: The id of its last item; below `first_id` if it has no item.
        announcements: Announcements of the new items, in the order of their ids.
        oversized: Ids of channels that now have more rows than their size.
        trimmed: Ids of channels that no longer have too many rows.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        oversized: dict[int, None],
        cache: ChannelCache,
    ) -> None:
        self._connection = connection
        cache.validate(connection)
        self.last_id, self._base, self._generation, *clock = connection.execute(
            'SELECT last_id, base, generation, clock_ms, wall_ms, boot, shift_ms '
            'FROM head'
        ).fetchone()
        self.first_id = self.last_id + 1
        stored = DatabaseClock(*clock)
        self._clock = stored.advance()
        #: Whether this is the first transaction since the host has booted.
        self._has_booted = stored.shift_ms != self._clock.shift_ms
        #: Time of the database clock. It never goes back. The order of the rows is
        #: therefore also the order of their times.
        self._now_ms = self._clock.clock_ms
        self.announcements: list[Announcement] = []
        self.oversized: dict[int, None] = {}
        self.trimmed: list[int] = []
        self._to_trim = oversized
        self._rows: list[tuple[Any, ...]] = []
        self._channels = cache.rows
        self._changed: list[_Channel] = []

    def finish(self) -> None:
        """Write the buffered rows; the caller commits."""
        self._flush()
        if self.last_id >= self.first_id or self._has_booted:
            self._connection.execute(
                'UPDATE head '
                'SET last_id = ?, clock_ms = ?, wall_ms = ?, boot = ?, shift_ms = ?',
                (self.last_id, *self._clock),
            )

    def _flush(self) -> None:
        executemany = self._connection.executemany
        executemany(_INSERT, self._rows)
        self._rows.clear()
        updates: list[tuple[Any, ...]] = []
        times: list[tuple[Any, ...]] = []
        for channel in self._changed:
            updates.append(
                (
                    channel.top,
                    channel.low,
                    channel.size,
                    None if channel.end is None else channel.end.error,
                    *(channel.version or (None, None)),
                    channel.id,
                )
            )
            if channel.postponed:
                times.append((channel.forget_ms, channel.id))
            channel.changed = channel.postponed = False
        self._changed.clear()
        executemany(_UPDATE_ROW, updates)
        executemany(_UPDATE_TIME, times)

    def _note_change(self, channel: _Channel) -> None:
        """Write the row of a channel at the end of the transaction."""
        if not channel.changed:
            channel.changed = True
            self._changed.append(channel)

    # --- publications -----------------------------------------------------------------

    def publish(
        self,
        name: str,
        publication: Publication,
        settings: LogSettings,
        key: str | None,
        version: Version | None = None,
        skip_history: bool = False,
    ) -> PublishResult | None:
        """Append a publication; see `Broker.publish`.

        Returns:
            ``None`` if the channel has ended. After an exception, all publications of
            the transaction would be written again.
        """
        if key is not None:
            known = self._connection.execute(
                'SELECT offset, epoch FROM keys '
                'WHERE channel = ? AND key = ? AND until_ms > ?',
                (name.encode(), key.encode(), self._now_ms),
            ).fetchone()
            if known is not None:
                return PublishResult(Position(*known), True)
        channel = None
        if skip_history:
            ended = self._find(name) if settings.size else None
            if ended is not None and ended.end is not None:
                return None
        elif settings.size:
            channel = self._channels.get(name) or self._channel(name, settings)
            if channel.end is not None:
                return None
            if version is not None:
                if not version.follows(channel.version):
                    position = Position(channel.top, channel.epoch)
                    return PublishResult(position, skipped=True)
                channel.version = version
            channel.end = publication.end
        time_ms = publication.time_ms or self._clock.wall_ms
        body = encode_publication(publication, time_ms)
        if channel is not None:
            position = self._append(channel, settings, body)
            kind = LOGGED
        else:
            position = NO_POSITION
            kind = LIVE
            self._add(LIVE, name, body)
        if key is not None:
            self._connection.execute(
                'INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)',
                (
                    name.encode(),
                    key.encode(),
                    *position,
                    self._now_ms + to_ms(settings.idempotency_ttl_s),
                ),
            )
        item = replace(publication, offset=position.offset, time_ms=time_ms)
        announcement = (kind, name, item, position.epoch)
        self.announcements.append(new_named_tuple(Announcement, announcement))
        return new_named_tuple(PublishResult, (position, False, False))

    def _append(
        self, channel: _Channel, settings: LogSettings, body: bytes
    ) -> Position:
        channel.top = top = channel.top + 1
        channel.size = settings.size
        if not channel.changed:
            self._note_change(channel)
        now_ms = self._now_ms
        life_ms, ttl_ms = _durations_ms(settings)
        self._postpone_removal(channel, life_ms)
        if top - channel.low > settings.size:
            self.oversized[channel.id] = None
        until_ms = None if ttl_ms is None else now_ms + ttl_ms
        self.last_id += 1
        self._rows.append(
            (self.last_id, LOGGED, channel.id, None, top, now_ms, until_ms, body)
        )
        return new_named_tuple(Position, (top, channel.epoch))

    def send(self, kind: int, name: str, body: bytes) -> None:
        """Add a signal (`SIGNAL`) or a control message (`CONTROL`)."""
        self._add(kind, name, body)
        self.announcements.append(Announcement(kind, name, body))

    def open_log(self, name: str, settings: LogSettings) -> HistoryPage:
        """Create a log, or postpone its removal; return an empty page of it."""
        channel = self._channel(name, settings)
        self._postpone_removal(channel, lifetime_ms(settings, channel.top))
        return HistoryPage([], Position(channel.top, channel.epoch), channel.end)

    def renew_log(self, name: str, settings: LogSettings) -> None:
        """Postpone the removal of a log, because it has subscribers."""
        channel = self._find(name)
        if channel is not None:
            self._postpone_removal(channel, lifetime_ms(settings, channel.top))

    def remove_history(self, name: str) -> None:
        """Empty a log and open it again; a sweep removes its rows later."""
        channel = self._find(name)
        if channel is None:
            return
        if channel.end is not None:
            channel.end = None
            self._note_change(channel)
        if channel.low < channel.top:
            channel.low = channel.top
            self._note_change(channel)
            self.oversized[channel.id] = None

    def _add(self, kind: int, name: str, body: bytes) -> None:
        """Add an item outside a log."""
        self.last_id += 1
        now_ms = self._now_ms
        until_ms = now_ms + GRACE_MS
        self._rows.append(
            (self.last_id, kind, None, name.encode(), None, now_ms, until_ms, body)
        )

    def _find(self, name: str) -> _Channel | None:
        channel = self._channels.get(name)
        if channel is None:
            row = self._connection.execute(_CHANNEL, (name.encode(),)).fetchone()
            if row is None:
                return None
            channel = self._channels[name] = _Channel(row)
        return channel

    def _channel(self, name: str, settings: LogSettings) -> _Channel:
        channel = self._find(name)
        if channel is None:
            epoch = f'{self._base}-{self._generation}'
            cursor = self._connection.execute(
                'INSERT INTO channels (name, epoch, top, low, size, forget_ms) '
                'VALUES (?, ?, 0, 0, ?, ?)',
                (name.encode(), epoch, settings.size, self._now_ms + EMPTY_MS),
            )
            forget_ms = self._now_ms + EMPTY_MS
            row = (cursor.lastrowid, epoch, 0, 0, settings.size, forget_ms)
            channel = self._channels[name] = _Channel((*row, None, None, None))
        return channel

    def _postpone_removal(self, channel: _Channel, life_ms: int | None) -> None:
        """Set the time after which a sweep removes the log; ``None`` for never."""
        forget_ms = None if life_ms is None else self._now_ms + life_ms
        before_ms = channel.forget_ms
        if forget_ms is None or before_ms is None:
            if forget_ms != before_ms:
                self._set_forget_time(channel, forget_ms)
        # NOTE: changing the time changes an index, too. It is therefore written only if
        #   it has moved by a twentieth.
        elif abs(forget_ms - before_ms) * 20 > forget_ms - self._now_ms:
            self._set_forget_time(channel, forget_ms)

    def _set_forget_time(self, channel: _Channel, forget_ms: int | None) -> None:
        channel.forget_ms = forget_ms
        channel.postponed = True
        self._note_change(channel)

    # --- presence and revocations -----------------------------------------------------

    def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[PresenceAdded]:
        """Add or refresh presence entries; see `Broker.add_presence`."""
        execute = self._connection.execute
        until_ms = self._now_ms + to_ms(ttl_s)
        added = []
        for name, info in entries:
            channel, user = name.encode(), info.user.encode()
            client = info.client.encode()
            of_user = execute(
                'SELECT 1 FROM presence WHERE channel = ? AND user = ? LIMIT 1',
                (channel, user),
            ).fetchone()
            known = execute(
                'SELECT 1 FROM presence WHERE channel = ? AND client = ?',
                (channel, client),
            ).fetchone()
            execute(
                'INSERT OR REPLACE INTO presence VALUES (?, ?, ?, ?, ?)',
                (channel, client, user, encode_info(info), until_ms),
            )
            added.append(PresenceAdded(of_user is None, known is None))
        return added

    def remove_presence(self, name: str, client: str) -> PresenceChange | None:
        """Remove a presence entry; return ``None`` if it does not exist."""
        row = self._connection.execute(
            'SELECT channel, client, user, info FROM presence '
            'WHERE channel = ? AND client = ?',
            (name.encode(), client.encode()),
        ).fetchone()
        return None if row is None else self._remove_entry(row)

    def expire_presence(self, limit: int) -> list[PresenceChange]:
        """Remove at most `limit` expired presence entries and return them."""
        rows = self._connection.execute(
            'SELECT channel, client, user, info FROM presence '
            'WHERE until_ms <= ? ORDER BY until_ms LIMIT ?',
            (self._now_ms, limit),
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
        """Store a revocation for `ttl_s` seconds; 0 removes it."""
        key = (name.encode(), user.encode())
        if ttl_s > 0:
            self._connection.execute(
                'INSERT OR REPLACE INTO revocations VALUES (?, ?, ?)',
                (*key, min(self._now_ms + to_ms(ttl_s), _BIGGEST)),
            )
        else:
            self._connection.execute(
                'DELETE FROM revocations WHERE channel = ? AND user = ?', key
            )

    # --- the sweep --------------------------------------------------------------------

    def sweep(self) -> bool:
        """Remove a limited number of expired rows.

        Returns:
            Whether more rows have expired, so that another sweep should follow.
        """
        self._flush()
        # NOTE: the statements of the sweep change rows in the database only.
        self._channels.clear()
        removed = [
            self._remove_channels(),
            self._remove_old_items(),
            self._trim(),
            self._remove_expired('keys', 'channel', 'key'),
            self._remove_expired('revocations', 'channel', 'user'),
        ]
        return any(removed)

    def _remove_channels(self) -> bool:
        rows = self._connection.execute(
            'SELECT id, top FROM channels WHERE forget_ms <= ? LIMIT ?',
            (self._now_ms, _MAX_SWEPT_CHANNELS),
        ).fetchall()
        for channel_id, top in rows:
            # NOTE: the rows are removed later, when every process has had time to read
            #   them.
            self._connection.execute(
                'UPDATE items SET until_ms = ? WHERE channel = ?',
                (self._now_ms + GRACE_MS, channel_id),
            )
            self._connection.execute('DELETE FROM channels WHERE id = ?', (channel_id,))
            self._generation += top > 0
        if rows:
            self._connection.execute(
                'UPDATE head SET generation = ?', (self._generation,)
            )
        return len(rows) == _MAX_SWEPT_CHANNELS

    def _remove_old_items(self) -> bool:
        """Remove items by age, the oldest of a log first."""
        execute = self._connection.execute
        rows = execute(
            'SELECT id, channel, offset FROM items '
            'WHERE until_ms <= ? ORDER BY until_ms LIMIT ?',
            (self._now_ms, _MAX_SWEPT_ROWS),
        ).fetchall()
        lows: dict[int, int] = {}
        for _, channel_id, offset in rows:
            if channel_id is not None:
                lows[channel_id] = max(offset, lows.get(channel_id, 0))
        for channel_id, low in lows.items():
            execute(
                'UPDATE channels SET low = max(low, ?) WHERE id = ?', (low, channel_id)
            )
            self.oversized[channel_id] = None
        self._connection.executemany(
            'DELETE FROM items WHERE id = ?', [(row[0],) for row in rows]
        )
        return len(rows) == _MAX_SWEPT_ROWS

    def _trim(self) -> bool:
        """Remove items at or below the `low` of a log, and items beyond its size."""
        execute = self._connection.execute
        before_ms = self._now_ms - GRACE_MS
        budget = _MAX_SWEPT_ROWS
        for channel_id in list(itertools.islice(self._to_trim, _MAX_SWEPT_CHANNELS)):
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
                # NOTE: `GRACE_MS` is not over for some rows. The channel goes to the
                #   end of the list.
                self.oversized[channel_id] = None
        return budget < _MAX_SWEPT_ROWS and len(self._to_trim) > _MAX_SWEPT_CHANNELS

    def _remove_expired(self, table: str, first: str, second: str) -> bool:
        rows = self._connection.execute(
            f'SELECT {first}, {second} FROM {table} WHERE until_ms <= ? LIMIT ?',
            (self._now_ms, _MAX_SWEPT_ROWS),
        ).fetchall()
        self._connection.executemany(
            f'DELETE FROM {table} WHERE {first} = ? AND {second} = ?', rows
        )
        return len(rows) == _MAX_SWEPT_ROWS


def find_oversized(connection: sqlite3.Connection) -> list[int]:
    """Return the ids of channels that ended processes have left untrimmed."""
    rows = connection.execute(
        'SELECT id FROM channels AS c WHERE top - low > size OR EXISTS '
        '(SELECT 1 FROM items WHERE channel = c.id AND offset <= c.low) LIMIT 100000'
    ).fetchall()
    return [row[0] for row in rows]
