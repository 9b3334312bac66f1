"""The connection that receives new publications from PostgreSQL.

While little is published, it waits for notifications. PostgreSQL commits transactions
with notifications one after the other, and each waits for the disk. If there are many
transactions, the listener therefore polls. Every few milliseconds, one query reads the
new publications of all channels. Transactions then need no notification, and can share
a wait for the disk.

A transaction is announced exactly once, because of two rules:

1. A listener that waits for notifications has a shared lock on each of the 32 locks of
   the SQL function ``all_poll``. If a publisher gets an exclusive lock on one of them,
   it does not notify. It has this lock until its commit is visible.
2. The listener compares each transaction with snapshots. A transaction is announced by
   its notification or by a poll, but not by both.

To start polling, a listener takes a snapshot, and receives all older notifications. It
announces the transactions that are visible in the snapshot. Then it releases the locks,
and polls for all other transactions. To wait again, it first takes the shared locks,
and then polls once more. Later transactions are announced by their notifications.
`docs/decisions.md` explains why no publication is lost.

The locks belong to the connection that listens. If this connection ends, the locks and
the notifications end together, and the link is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
from itertools import groupby
import secrets
from typing import Any
from typing import NamedTuple

import psycopg

from falcon_channels.brokers.postgres.connections import close_at_once
from falcon_channels.brokers.postgres.connections import Connection
from falcon_channels.brokers.postgres.connections import Pool
from falcon_channels.brokers.postgres.connections import Server
from falcon_channels.brokers.postgres.connections import with_deadline
from falcon_channels.brokers.postgres.snapshot import Snapshot
from falcon_channels.brokers.server_link import ServerLink
from falcon_channels.burst_log import BurstLog
from falcon_channels.errors import BrokerUnavailableError

#: Seconds between two polls. The second value applies after a poll that has found fewer
#: than `_FEW` publications.
_POLL_S = 0.005
_SLOW_POLL_S = 0.01
_FEW = 5
#: Longest time between two polls while a transaction delays the end of polling. The
#: time grows with each poll.
_MAX_POLL_S = 0.1
#: A listener polls if it gets this number of notifications within this time, from this
#: number of connections. The rate is low, because transactions cannot reach a higher
#: rate if each waits for a slow disk. With fewer connections, transactions rarely wait
#: for each other.
_BUSY_COUNT = 25
_BUSY_S = 0.125
_BUSY_CONNECTIONS = 3
#: Number of polls after which a listener decides whether to continue. It stops if fewer
#: than half of them have found something.
_POLLS = 20
#: Number of polls after which it stops polling, to count the connections again.
_MAX_POLLS = 400
#: Number of locks in the SQL function ``all_poll``.
_LOCKS = 32
#: Number of publications that are read at once.
_PAGE = 500

#: Settings of the connection. It stores no data, so commits need no disk.
#: PERF: PostgreSQL cannot know that a poll finds few rows. Without these settings, it
#:   reads a whole table, compiles the query (0.4 s), or plans each query (0.3 ms).
_SETTINGS = {
    'synchronous_commit': 'off',
    'enable_seqscan': 'off',
    'jit': 'off',
    'plan_cache_mode': 'force_generic_plan',
}

#: PERF: a long body is read only by processes with a subscription. The name is looked
#:   up for each row, because a join could read the whole table of channels.
_POLL_QUERY = """
SELECT (SELECT pg_current_snapshot()::text), c.name, c.epoch, n."offset", n.stored_ms,
       CASE WHEN octet_length(n.body) < 6000 THEN n.body END, n.xid::text::bigint
FROM (VALUES (1)) AS one LEFT JOIN (
    SELECT i.channel, i."offset", i.stored_ms, i.body, i.xid FROM {schema}.items AS i
    WHERE i.xid >= %s::xid8 AND i.xid < pg_snapshot_xmax(pg_current_snapshot())
    UNION ALL
    SELECT i.channel, i."offset", i.stored_ms, i.body, i.xid FROM {schema}.items AS i
    WHERE i.xid = ANY (%s::xid8[])
) AS n ON true
LEFT JOIN LATERAL (
    SELECT s.name, s.epoch FROM {schema}.channels AS s WHERE s.id = n.channel OFFSET 0
) AS c ON true
ORDER BY n.channel, n."offset"
"""


class StoredPublication(NamedTuple):
    """A publication that a poll has found.

    Attributes:
        channel: Encoded name of the channel.
        epoch: The epoch of the log.
        offset: The offset of the publication.
        stored_ms: Unix time in milliseconds at which it was stored.
        body: The encoded publication; ``None`` if it is long.
        xid: Id of the transaction that has stored it.
    """

    channel: bytes
    epoch: str
    offset: int
    stored_ms: int
    body: bytes | None
    xid: int


class _Notification:
    """A notification of transactions that publish or send messages.

    Args:
        payload: Its text: ``#ID|MESSAGE|MESSAGE``. If a poll does not find all its
            messages, a space and a snapshot follow the id.
    """

    def __init__(self, payload: str) -> None:
        head, *self.messages = payload.split('|')
        xid, _, before = head.partition(' ')
        self.xid = int(xid[1:])
        self._before = Snapshot.parse(before) if before else None

    @property
    def has_order(self) -> bool:
        """Whether it has messages that a poll cannot find."""
        return self._before is not None

    def split(
        self, publications: Sequence[StoredPublication]
    ) -> tuple[list[StoredPublication], list[StoredPublication]]:
        """Divide publications into those before the messages, and those after them.

        Args:
            publications: Publications in the order of their channels and offsets.
        """
        before: list[StoredPublication] = []
        after: list[StoredPublication] = []
        for _, group in groupby(publications, lambda publication: publication.channel):
            own = list(group)
            # NOTE: all lower offsets were committed earlier. The snapshot may not see
            #   them, because it can be older than the lock of the channel.
            ends = [end for end, item in enumerate(own, 1) if self._follows(item)]
            end = ends[-1] if ends else 0
            before += own[:end]
            after += own[end:]
        return before, after

    def _follows(self, publication: StoredPublication) -> bool:
        """Return whether a publication was committed before the messages."""
        return publication.xid == self.xid or (
            self._before is not None and self._before.sees(publication.xid)
        )


def _parse(payload: str) -> _Notification | None:
    """Return a notification; ``None`` for a probe, or if it is malformed."""
    try:
        return _Notification(payload) if payload.startswith('#') else None
    except ValueError:
        return None


class Listener(ServerLink[Connection]):
    """The connection that listens.

    Args:
        server: The server options.
        pool: Connections that send the probes.
        schema: Name of the schema. The name of the notifications is stored in it.
        probe_s: Seconds between two probes.
        on_messages: Called with the messages of each notification, in order. The second
            argument is true if its stored publications were not announced before.
        on_stored: Called with the publications that a poll has found.
        on_lost: Called when notifications no longer arrive.
        on_restored: Called when notifications arrive again or for the first time.
    """

    errors = (psycopg.Error, OSError, TimeoutError, EOFError, BrokerUnavailableError)

    def __init__(
        self,
        server: Server,
        pool: Pool,
        schema: str,
        *,
        probe_s: float,
        on_messages: Callable[[Sequence[str], bool], Awaitable[None]],
        on_stored: Callable[[Sequence[StoredPublication]], Awaitable[None]],
        on_lost: Callable[[], None],
        on_restored: Callable[[], Awaitable[None]],
    ) -> None:
        self._server = server
        self._pool = pool
        self._schema = schema
        self._query = _POLL_QUERY.format(schema=schema)
        self._on_messages = on_messages
        self._on_stored = on_stored
        self._on_lost = on_lost
        self._on_restored = on_restored
        self._mark = f'?{secrets.token_urlsafe(9)} '
        self._malformed = BurstLog()
        self._was_up = asyncio.Event()
        #: Snapshot of the last poll. All transactions that it sees were announced.
        self._seen = Snapshot(0, frozenset())
        self._polling = True
        #: Notifications that the last poll did not see. The next poll forwards them.
        self._delayed: list[str] = []
        super().__init__(
            'postgres', 'PostgreSQL', probe_s=probe_s, timeout_s=server.timeout_s
        )

    async def wait_until_up(self) -> None:
        """Wait until notifications have arrived for the first time."""
        await self._was_up.wait()

    # --- called by ServerLink ---------------------------------------------------------

    async def open_connection(self) -> Connection:
        """Open a connection and listen to the notifications."""
        connection = await self._server.connect()
        try:
            async with asyncio.timeout(self._timeout_s):
                for name, value in _SETTINGS.items():
                    await connection.execute(
                        'SELECT set_config(%s, %s, false)', (name, value)
                    )
                # NOTE: the name is read for each connection, because it changes if the
                #   schema is created again.
                cursor = await connection.execute(
                    f'SELECT {self._schema}.notification_name()'.encode()
                )
                row = await cursor.fetchone()
                assert row is not None
                await connection.execute(f'LISTEN "{row[0]}"'.encode())
        except BaseException:
            await close_at_once(connection)
            raise
        return connection

    async def read(self, connection: Connection) -> None:
        """Announce publications until the connection ends."""
        ((text,),) = await self._rows(connection, 'SELECT pg_current_snapshot()::text')
        self._seen = Snapshot.parse(text)
        self._polling = True
        self._delayed = []
        await self._stop_polling(connection)
        while True:
            await self._wait_until_busy(connection)
            await self._start_polling(connection)
            while True:
                await self._poll_until_quiet(connection)
                if await self._stop_polling(connection):
                    break

    async def send_probe(self, number: int) -> None:
        """Send a notification with the number of a probe."""
        await self._pool.rows(
            f'SELECT pg_notify({self._schema}.notification_name(), %s)',
            f'{self._mark}{number}',
        )

    async def close_connection(self, connection: Connection) -> None:
        """Close a connection at once."""
        await close_at_once(connection)

    async def on_up(self) -> None:
        """Called when notifications arrive."""
        await self._on_restored()
        self._was_up.set()

    def on_down(self) -> None:
        """Called when notifications no longer arrive."""
        self._on_lost()

    # --- notifications ----------------------------------------------------------------

    async def _wait_until_busy(self, connection: Connection) -> None:
        """Forward notifications until many transactions publish."""
        loop = asyncio.get_running_loop()
        busy = False
        while not busy:
            begun_s = loop.time()
            count = 0
            connections: set[int] = set()
            async for notification in connection.notifies(stop_after=_BUSY_COUNT):
                if notification.payload.startswith('#'):
                    count += 1
                    connections.add(notification.pid)
                await self._on_payload(notification.payload)
            busy = (
                count >= _BUSY_COUNT
                and len(connections) >= _BUSY_CONNECTIONS
                and loop.time() - begun_s < _BUSY_S
            )

    async def _on_payload(self, payload: str) -> None:
        """Forward a notification or a probe."""
        try:
            if payload.startswith(self._mark):
                self.on_probe(int(payload[len(self._mark) :]))
            if not payload.startswith('#'):
                return
            notification = _Notification(payload)
        except ValueError as ex:
            # SECURITY: each role of the database can send notifications. One that is
            #   malformed must not end the link.
            self._malformed.warning('left out a malformed notification: %s', ex)
            return
        await self._on_notification(notification)

    async def _on_notification(self, notification: _Notification) -> None:
        new = not self._polling and not self._seen.sees(notification.xid)
        await self._on_messages(notification.messages, new)

    # --- polling ----------------------------------------------------------------------

    async def _start_polling(self, connection: Connection) -> None:
        """Announce all transactions of a snapshot, and release the locks."""
        # NOTE: this notification arrives after those of all transactions that the
        #   snapshot sees, because PostgreSQL sends them in the order of the commits.
        mark = f'?{secrets.token_urlsafe(9)}'
        ((text, _),) = await self._rows(
            connection,
            'SELECT pg_current_snapshot()::text, '
            f'pg_notify({self._schema}.notification_name(), %s)',
            mark,
        )
        seen = Snapshot.parse(text)
        payloads: list[str] = []
        async with asyncio.timeout(self._timeout_s):
            while mark not in payloads:
                payloads += await self._receive(connection, None, stop_after=1)
        while payloads:
            first = _parse(payloads[0])
            if first is not None and not seen.sees(first.xid):
                break
            await self._on_payload(payloads.pop(0))
        self._seen = seen
        self._polling = True
        await self._rows(connection, 'SELECT pg_advisory_unlock_all()')
        await self._poll(connection, payloads)

    async def _poll_until_quiet(self, connection: Connection) -> None:
        """Poll until few transactions publish, or `_MAX_POLLS` times."""
        count = 0
        for _ in range(_MAX_POLLS // _POLLS):
            successes = 0
            for _ in range(_POLLS):
                delay_s = _SLOW_POLL_S if count < _FEW else _POLL_S
                payloads = await self._receive(connection, delay_s)
                count = await self._poll(connection, payloads)
                successes += count > 0
            if successes * 2 < _POLLS:
                break

    async def _stop_polling(self, connection: Connection) -> bool:
        """Take the shared locks, and poll once more.

        A transaction that does not notify has a lock. Until it ends, the listener
        continues to poll. A notification of another transaction causes a poll at once.

        Returns:
            Whether polling has ended. It continues if many transactions publish again.
        """
        delay_s = _POLL_S
        locks = list(range(_LOCKS))
        payloads: list[str] = []
        polls = successes = 0
        while True:
            ((locks,),) = await self._rows(
                connection, f'SELECT {self._schema}.share_locks(%s)', locks
            )
            # NOTE: the last poll must begin after the listener has all locks.
            count = await self._poll(connection, payloads, last=not locks)
            successes += count > 0
            polls += 1
            if not locks:
                return True
            if polls == _POLLS:
                if successes * 2 >= _POLLS:
                    await self._rows(connection, 'SELECT pg_advisory_unlock_all()')
                    return False
                polls = successes = 0
            if self._delayed:
                # NOTE: the next poll sees these. They need not wait for `delay_s`.
                payloads = []
                continue
            payloads = await self._receive(connection, delay_s, stop_after=1)
            delay_s = min(delay_s * 1.5, _MAX_POLL_S)

    async def _receive(
        self,
        connection: Connection,
        timeout_s: float | None,
        stop_after: int | None = None,
    ) -> list[str]:
        """Return the notifications that arrive within `timeout_s`."""
        return [
            notification.payload
            async for notification in connection.notifies(
                timeout=timeout_s, stop_after=stop_after
            )
        ]

    async def _poll(
        self, connection: Connection, payloads: Sequence[str], *, last: bool = False
    ) -> int:
        """Announce the publications that no earlier poll has found.

        A notification is forwarded after the publications that were committed before
        it, and before the publications that were committed after it. If the snapshot of
        the query does not see it, the query may have missed publications before it. It
        then waits for the next poll.

        NOTE: if the query finds more than `_PAGE` publications, all pages except the
        last one are announced before any notification.

        Args:
            connection: The connection.
            payloads: Notifications that have arrived.
            last: Whether the listener waits for notifications after this poll.

        Returns:
            Number of publications that were found.
        """
        values = (
            str(self._seen.next_xid),
            '{' + ','.join(map(str, self._seen.running)) + '}',
        )
        rows: Sequence[tuple[Any, ...]] = await self._rows(
            connection, f'{self._query} LIMIT {_PAGE}', *values
        )
        if len(rows) == _PAGE:
            rows = await self._read_pages(connection, values)
        self._seen = Snapshot.parse(rows[0][0])
        self._polling = not last
        found = _publications(rows)
        count = len(found)
        # NOTE: if a message was sent before one of these publications, it has arrived
        #   by now, together with the answer of the query.
        earlier = [*self._delayed, *payloads]
        arrived = await self._receive(connection, 0)
        self._delayed = []
        for index, payload in enumerate((*earlier, *arrived)):
            notification = _parse(payload)
            if notification is None:
                await self._on_payload(payload)
                continue
            # NOTE: the query sees each notification that arrived before it. A wrong id,
            #   which any role of the database can send, must not delay it again.
            visible = index < len(earlier) or self._seen.sees(notification.xid)
            if visible and notification.has_order:
                before, found = notification.split(found)
                await self._on_stored(before)
            elif not visible and last:
                # NOTE: all these publications were committed before it. Those that the
                #   query has missed are announced by their own notifications.
                await self._on_stored(found)
                found = []
            elif not visible and notification.has_order:
                self._delayed.append(payload)
                continue
            await self._on_notification(notification)
        await self._on_stored(found)
        return count

    async def _read_pages(
        self, connection: Connection, values: tuple[str, ...]
    ) -> Sequence[tuple[Any, ...]]:
        """Read many publications in pages; announce all pages except the last one.

        Returns:
            Rows of the last page.
        """
        await self._rows(connection, 'BEGIN')
        await self._rows(
            connection, f'DECLARE poll NO SCROLL CURSOR FOR {self._query}', *values
        )
        rows: Sequence[tuple[Any, ...]] = ()
        while following := await self._rows(connection, f'FETCH {_PAGE} FROM poll'):
            await self._on_stored(_publications(rows))
            rows = following
            await asyncio.sleep(0)
        await self._rows(connection, 'COMMIT')
        return rows

    async def _rows(
        self, connection: Connection, query: str, *values: Any
    ) -> list[tuple[Any, ...]]:
        """Execute a statement; return its rows if it has any."""

        async def run(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(query, values, binary=True)
            return [] if cursor.description is None else await cursor.fetchall()

        return await with_deadline(connection, run, self._timeout_s)


def _publications(rows: Sequence[tuple[Any, ...]]) -> list[StoredPublication]:
    # NOTE: if a row has no name, its channel was removed after the publication.
    return [StoredPublication(*row[1:]) for row in rows if row[1] is not None]
