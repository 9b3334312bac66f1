"""The broker for many hosts on PostgreSQL: tables, and notifications on commit.

* A publish locks the row of its channel until the end of the transaction. Offsets are
  therefore assigned in the order of the commits, which is also the order of the
  notifications.
* A publication that is too long for a notification is read from its table when the
  notification arrives.
* An application can pass its own connection, and then publishes in its own transaction.
  The publication is announced when the transaction commits. If it is rolled back,
  nothing was published.
"""

from __future__ import annotations

import asyncio
from binascii import a2b_base64
from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import logging
from typing import Any
from typing import TypeAlias

import psycopg
from psycopg.rows import tuple_row

from falcon_channels.brokers.background_tasks import run_forever
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import BrokerReceiver
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceAdded
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import RouteSettings
from falcon_channels.brokers.base import Version
from falcon_channels.brokers.control_inbox import ControlInbox
from falcon_channels.brokers.encoding import decode_info
from falcon_channels.brokers.encoding import decode_presence
from falcon_channels.brokers.encoding import decode_publication
from falcon_channels.brokers.encoding import encode_info
from falcon_channels.brokers.encoding import encode_publication
from falcon_channels.brokers.milliseconds import to_ms
from falcon_channels.brokers.postgres.batch_encoding import Batch
from falcon_channels.brokers.postgres.batch_encoding import encode_batches
from falcon_channels.brokers.postgres.batch_encoding import QueuedPublication
from falcon_channels.brokers.postgres.connections import Pool
from falcon_channels.brokers.postgres.connections import read_url
from falcon_channels.brokers.postgres.connections import SCHEMA
from falcon_channels.brokers.postgres.connections import Server
from falcon_channels.brokers.postgres.listener import Listener
from falcon_channels.brokers.postgres.listener import StoredPublication
from falcon_channels.brokers.postgres.migration import check_version
from falcon_channels.brokers.postgres.migration import create_schema
from falcon_channels.brokers.postgres.publish_queues import PublishQueues
from falcon_channels.brokers.postgres.stored_routes import StoredRoutes
from falcon_channels.burst_log import BurstLog
from falcon_channels.checks import check_number
from falcon_channels.checks import check_seconds
from falcon_channels.checks import check_type
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import NO_POSITION
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

_logger = logging.getLogger('falcon_channels')

#: Seconds between two sweeps that remove expired rows.
_SWEEP_S = 10.0
#: The largest offset that a query gets, well below the limit of ``bigint``.
_MAX_OFFSET = 2**62
#: Milliseconds for which the SQL function ``send`` stores a control message.
_CONTROL_AGE_MS = 3_600_000
#: Number of missed control messages that are read at once.
_PAGE = 500

#: Number and Unix time in milliseconds of a control message.
_ControlId: TypeAlias = tuple[int, int]


class PostgresBroker(Broker):
    """A broker in a schema of a PostgreSQL database.

    Args:
        url: A URL of libpq.
        schema: Name of the schema, which ``falcon-channels migrate URL`` creates.
        timeout_s: Deadline of every call, in seconds.
        probe_s: Seconds between two probes of the link.
        pool_size: Number of connections besides the one that listens, at least 2.
        trusted: Whether a fail-over never loses an acknowledged write, because of
            synchronous replication. Epochs then survive a fail-over; otherwise it
            begins new epochs.
        migrate: Whether `start` creates the schema if it is missing.
    """

    capabilities = Capabilities(durable=True, shared=True, transactions=True)

    def __init__(
        self,
        url: str,
        *,
        schema: str = SCHEMA,
        timeout_s: float = 5.0,
        probe_s: float = 2.0,
        pool_size: int = 4,
        trusted: bool = False,
        migrate: bool = False,
    ) -> None:
        check_type('url', url, str)
        check_type('schema', schema, str)
        check_type('trusted', trusted, bool)
        check_type('migrate', migrate, bool)
        self._url = url
        self._schema = schema
        self._timeout_s: float = check_seconds('timeout_s', timeout_s)
        self._probe_s: float = check_seconds('probe_s', probe_s)
        self._pool_size: int = check_number('pool_size', pool_size, lowest=2)
        #: The run id in queries: ``''`` turns the check for a fail-over off, ``None``
        #: stands for the id of the server.
        self._run_id = '' if trusted else None
        self._migrate = migrate
        self._routes = StoredRoutes(self._rows, schema, trusted)
        self._pool: Pool | None = None
        self._queues: PublishQueues | None = None
        self._listener: Listener | None = None
        self._housekeeping: asyncio.Task[None] | None = None
        self._receiver: BrokerReceiver | None = None
        #: The subscribed channels, by their names in hexadecimal, as in notifications.
        self._subscribed: dict[str, str] = {}
        self._inbox = ControlInbox((0, 0))
        self._errors = BurstLog()
        self._lost = False
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> PostgresBroker:
        """Return a broker for ``postgresql://user:password@host/database``.

        Args:
            url: The URL. Its options are the arguments of the class: ``schema``,
                ``timeout_s``, ``probe_s``, ``pool_size``, ``trusted=yes`` and
                ``migrate=yes``. Options of libpq are accepted as well, such as
                ``sslmode``, or ``host`` with the folder of a Unix socket.

        Raises:
            OptionsError: An option is unknown or out of range.
        """
        libpq_url, options = read_url(url)
        return cls(libpq_url, **options)

    # --- start and close --------------------------------------------------------------

    async def start(self, receiver: BrokerReceiver) -> None:
        if self._closed:
            raise BrokerUnavailableError('the broker is closed')
        self._receiver = receiver
        server = Server(self._url, self._timeout_s)
        pool = self._pool = Pool(server, self._pool_size)
        try:
            if self._migrate:
                await asyncio.to_thread(create_schema, self._url, self._schema)
            await pool.use(lambda connection: check_version(connection, self._schema))
            ((number, until_ms),) = await pool.rows(
                'SELECT coalesce(max(id), 0), coalesce(max(until_ms), 0) '
                f'FROM {self._schema}.messages WHERE control'
            )
            last = (number, until_ms - _CONTROL_AGE_MS)
            self._inbox = ControlInbox(last, receiver.on_control, _follow)
            await self._routes.start()
            self._listener = Listener(
                server,
                pool,
                self._schema,
                probe_s=self._probe_s,
                on_messages=self._on_messages,
                on_stored=self._on_stored,
                on_lost=self._on_lost,
                on_restored=self._on_restored,
            )
            try:
                async with asyncio.timeout(self._timeout_s * 2):
                    await self._listener.wait_until_up()
            except TimeoutError:
                raise BrokerUnavailableError(
                    'no notification of PostgreSQL has arrived within '
                    f'{self._timeout_s * 2} s; connect to it directly, and not through '
                    'a pooler'
                ) from None
        except BaseException:
            await self._close_all()
            raise
        # NOTE: one connection remains for calls that do not publish.
        self._queues = PublishQueues(self._store, self._pool_size - 1, self._timeout_s)
        self._housekeeping = run_forever(
            self._run_housekeeping, 'postgres housekeeping'
        )

    def set_routes(self, routes: Sequence[RouteSettings]) -> None:
        self._routes.replace(routes)

    async def close(self) -> None:
        self._closed = True
        await self._close_all()

    async def _close_all(self) -> None:
        housekeeping, self._housekeeping = self._housekeeping, None
        if housekeeping is not None:
            housekeeping.cancel()
            await asyncio.gather(housekeeping, return_exceptions=True)
        await self._routes.close()
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()
        queues, self._queues = self._queues, None
        if queues is not None:
            await queues.close()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    # --- publications -----------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        publication: Publication,
        settings: LogSettings,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
        version: Version | None = None,
        skip_history: bool = False,
    ) -> PublishResult:
        if skip_history or not settings.size:
            self._check_link(channel)
        queued = QueuedPublication(
            encode_publication(publication),
            None if idempotency_key is None else idempotency_key.encode(),
            settings,
            version,
            publication.end,
            skip_history,
        )
        if connection is None:
            if self._queues is None:
                raise self._not_open()
            result = await self._queues.publish(channel, queued)
        else:
            result = await self._publish_within(connection, channel, queued)
        if result is None:
            raise ChannelFinishedError(channel)
        return result

    async def _publish_within(
        self, connection: Any, channel: str, queued: QueuedPublication
    ) -> PublishResult | None:
        """Publish in a transaction of the application."""
        if not isinstance(connection, psycopg.AsyncConnection):
            raise CapabilityError(
                'connection must be a psycopg.AsyncConnection, not '
                f'{type(connection).__name__}'
            )
        query, values = self._publish_query([Batch(channel, [queued])], None, False)
        # NOTE: psycopg's errors are not converted, because the transaction belongs to
        #   the application.
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(query, values)
            row = await cursor.fetchone()
        assert row is not None
        return _result(row)

    async def _store(
        self, batches: Sequence[Batch], *, wait_s: float | None, skip: bool
    ) -> list[list[PublishResult | None] | None]:
        """Implement `Store` of the queues."""
        query, values = self._publish_query(batches, wait_s, skip)
        rows = iter(await self._rows(query, *values))
        results: list[list[PublishResult | None] | None] = []
        for batch in batches:
            own = list(itertools.islice(rows, len(batch.publications)))
            locked = own[0][3] == 'locked'
            results.append(None if locked else [_result(row) for row in own])
        return results

    def _publish_query(
        self, batches: Sequence[Batch], wait_s: float | None, skip: bool
    ) -> tuple[str, tuple[Any, ...]]:
        # PERF: psycopg takes 26 us for each element of a list. The numbers are
        #   therefore text, and the bytes are one value
        #   (benchmarks/postgres_publish.py).
        numbers, data = encode_batches(batches)
        wait_ms = to_ms(self._timeout_s * 0.8 if wait_s is None else wait_s)
        return (
            f'SELECT * FROM {self._schema}.publish_batch(%s, %s, %s, %s, %s::bytea)'
        ), (
            wait_ms,
            skip,
            self._run_id,
            '{' + ','.join(map(str, numbers)) + '}',
            data,
        )

    async def subscribe(self, channel: str, settings: LogSettings) -> HistoryPage:
        if self._lost:
            raise _lost_error()
        # NOTE: before the position is read, so that no publication between the two is
        #   missed.
        self._subscribed[_hex(channel)] = channel
        if not settings.size:
            return HistoryPage([], NO_POSITION)
        try:
            return await self.history(channel, settings, limit=0)
        except BaseException:
            self._subscribed.pop(_hex(channel), None)
            raise

    async def unsubscribe(self, channel: str) -> None:
        self._subscribed.pop(_hex(channel), None)

    async def history(
        self,
        channel: str,
        settings: LogSettings,
        *,
        since: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        if not settings.size:
            return HistoryPage([], NO_POSITION)
        (top, epoch, _, error), *found = await self._rows(
            f'SELECT * FROM {self._schema}.history(%s, %s, %s, %s, %s, %s, %s, %s)',
            self._run_id,
            channel.encode(),
            settings.size,
            to_ms(settings.ttl_s),
            to_ms(settings.meta_ttl_s),
            None if since is None else max(0, min(since, _MAX_OFFSET)),
            limit,
            reverse,
        )
        if not reverse:
            found = found[_last_run([row[0] for row in found]) :]
        return HistoryPage(
            [decode_publication(body, offset, ms) for offset, _, ms, body in found],
            Position(top, epoch),
            None if error is None else ChannelEnd(error.decode()),
        )

    async def remove_history(self, channel: str) -> None:
        await self._rows(f'SELECT {self._schema}.remove_history(%s)', channel.encode())

    async def signal(self, channel: str, signal: bytes) -> None:
        self._check_link(channel)
        # NOTE: a signal is not stored. Its transaction need not wait for the disk.
        await self._send(
            's', channel, signal, "set_config('synchronous_commit', 'off', true), "
        )

    async def control(self, message: bytes) -> None:
        await self._send('c', '', message)

    async def _send(
        self, kind: str, channel: str, body: bytes, before: str = ''
    ) -> None:
        await self._rows(
            f'SELECT {before}{self._schema}.send(%s, %s, %s)',
            kind,
            channel.encode(),
            body,
        )

    # --- presence and revocations -----------------------------------------------------

    async def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[PresenceAdded]:
        if not entries:
            return []
        rows = await self._rows(
            f'SELECT * FROM {self._schema}.add_entries(%s, %s::bytea[], %s::bytea[], '
            '%s::bytea[], %s::bytea[])',
            to_ms(ttl_s),
            [channel.encode() for channel, _ in entries],
            [info.client.encode() for _, info in entries],
            [info.user.encode() for _, info in entries],
            [encode_info(info) for _, info in entries],
        )
        return [PresenceAdded(first, new) for first, new in rows]

    async def remove_presence(self, channel: str, client: str) -> PresenceChange | None:
        rows = await self._rows(
            f'SELECT * FROM {self._schema}.remove_presence(%s, %s)',
            channel.encode(),
            client.encode(),
        )
        for info, last in rows:
            return PresenceChange(channel, decode_info(info), last)
        return None

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        rows = await self._rows(
            f'SELECT client, info FROM {self._schema}.presence '
            f'WHERE channel = %s AND until_ms > {self._schema}.now_ms()',
            channel.encode(),
        )
        return await decode_presence(rows)

    async def has_user(self, channel: str, user: str) -> bool:
        rows = await self._rows(
            f'SELECT 1 FROM {self._schema}.presence '
            'WHERE channel = %s AND "user" = %s LIMIT 1',
            channel.encode(),
            user.encode(),
        )
        return bool(rows)

    async def expire_presence(self, limit: int) -> list[PresenceChange]:
        rows = await self._rows(
            f'SELECT * FROM {self._schema}.expire_presence(%s)', limit
        )
        return [
            PresenceChange(channel.decode(), decode_info(info), last)
            for channel, info, last in rows
        ]

    async def revoke(self, channel: str, user: str, ttl_s: float) -> None:
        key = (channel.encode(), user.encode())
        if ttl_s > 0:
            await self._rows(
                f'INSERT INTO {self._schema}.revocations '
                f'VALUES (%s, %s, {self._schema}.now_ms() + %s) '
                'ON CONFLICT (channel, "user") DO UPDATE '
                'SET until_ms = excluded.until_ms RETURNING 1',
                *key,
                to_ms(ttl_s),
            )
        else:
            await self._rows(
                f'DELETE FROM {self._schema}.revocations '
                'WHERE channel = %s AND "user" = %s RETURNING 1',
                *key,
            )

    async def is_revoked(self, channel: str, user: str) -> bool:
        rows = await self._rows(
            f'SELECT 1 FROM {self._schema}.revocations WHERE channel = %s '
            f'AND "user" = %s AND until_ms > {self._schema}.now_ms()',
            channel.encode(),
            user.encode(),
        )
        return bool(rows)

    # --- notifications ----------------------------------------------------------------

    async def _on_messages(self, messages: Sequence[str], new: bool) -> None:
        """Called with the messages of each notification."""
        for message in messages:
            try:
                head, number, epoch, ms, text = message.split(' ', 4)
                kind, name = head[:1], head[1:]
                channel = '' if kind == 'c' else self._subscribed.get(name)
                if channel is None or (kind == 'p' and not new):
                    continue
                stamp = (int(number), epoch, int(ms))
                if text == '@':
                    await self._announce_long(kind, channel, stamp)
                else:
                    self._announce(kind, channel, a2b_base64(text), stamp)
            except (ValueError, RecursionError) as ex:
                # NOTE: another release or another application has sent this message.
                #   The hub detects the gap in the offsets, and repairs it.
                _logger.error('cannot decode a notification: %s', ex)

    async def _on_stored(self, publications: Sequence[StoredPublication]) -> None:
        """Called with publications for which there was no notification."""
        for name, epoch, offset, ms, body, _ in publications:
            channel = self._subscribed.get(name.hex())
            if channel is None:
                continue
            try:
                if body is None:
                    await self._announce_long('p', channel, (offset, epoch, ms))
                else:
                    self._announce('p', channel, body, (offset, epoch, ms))
            except (ValueError, RecursionError) as ex:
                _logger.error('cannot decode a publication: %s', ex)

    async def _announce_long(
        self, kind: str, channel: str, stamp: tuple[int, str, int]
    ) -> None:
        """Announce a message whose body must be read."""
        number, epoch, _ = stamp
        body = await self._read_body(kind, channel, epoch, number)
        if body is not None and (kind == 'c' or _hex(channel) in self._subscribed):
            self._announce(kind, channel, body, stamp)

    def _announce(
        self, kind: str, channel: str, body: bytes, stamp: tuple[int, str, int]
    ) -> None:
        receiver = self._receiver
        if receiver is None or self._closed:
            return
        number, epoch, ms = stamp
        if kind == 'c':
            self._inbox.receive((number, ms), body)
        elif kind == 's':
            receiver.on_signal(channel, body)
        elif kind == 'l':
            receiver.on_publication(channel, decode_publication(body, 0, ms), '')
        elif kind == 'p':
            item = decode_publication(body, number, ms)
            receiver.on_publication(channel, item, epoch)

    async def _read_body(
        self, kind: str, channel: str, epoch: str, number: int
    ) -> bytes | None:
        """Read a body too long for a notification; ``None`` if it was removed.

        Raises:
            BrokerUnavailableError: The body of a message that is in no log cannot be
                read. The link is then lost, because nothing else shows that the message
                is missing.
        """
        if kind != 'p':
            rows = await self._rows(
                f'SELECT body FROM {self._schema}.messages WHERE id = %s', number
            )
            return rows[0][0] if rows else None
        try:
            rows = await self._rows(
                f'SELECT i.body FROM {self._schema}.items AS i '
                f'JOIN {self._schema}.channels AS c ON c.id = i.channel '
                'WHERE c.name = %s AND c.epoch = %s AND i."offset" = %s',
                channel.encode(),
                epoch,
                number,
            )
        except BrokerUnavailableError as ex:
            # NOTE: the hub notices the gap in the offsets, and repairs it.
            self._errors.warning('cannot read an announced publication: %s', ex)
            return None
        return rows[0][0] if rows else None

    def _on_lost(self) -> None:
        if not self._lost and self._receiver is not None and not self._closed:
            self._lost = True
            self._inbox.start_buffering()
            self._receiver.on_link_lost()

    async def _on_restored(self) -> None:
        if not self._lost:
            return
        if self._pool is not None:
            await self._pool.close_idle()
        await self._rows(f'SELECT {self._schema}.store_run_id()')
        await self._read_missed_controls()
        self._inbox.stop_buffering()
        if self._receiver is not None and not self._closed:
            self._lost = False
            self._receiver.on_link_restored()

    async def _read_missed_controls(self) -> None:
        """Deliver the control messages that were sent while the link was lost."""
        number, ms = self._inbox.last
        ((first,),) = await self._rows(
            f'SELECT min(id) FROM {self._schema}.messages '
            'WHERE control AND id <= %s AND until_ms > %s',
            number,
            ms + _CONTROL_AGE_MS,
        )
        if first is not None:
            # NOTE: the numbers continue from a lower number; see `_follow`.
            self._inbox.reset((first - 1, ms))
        rows: Sequence[tuple[Any, ...]] | None = None
        while rows is None or len(rows) == _PAGE:
            rows = await self._rows(
                f'SELECT id, until_ms, body FROM {self._schema}.messages '
                'WHERE control AND id > %s ORDER BY id LIMIT %s',
                self._inbox.last[0],
                _PAGE,
            )
            for number, until_ms, body in rows:
                self._inbox.deliver((number, until_ms - _CONTROL_AGE_MS), body)

    # --- internals --------------------------------------------------------------------

    def _check_link(self, channel: str) -> None:
        """Raise an error if this process would miss a message that is not stored."""
        if self._lost and _hex(channel) in self._subscribed:
            raise _lost_error()

    async def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        if self._pool is None:
            raise self._not_open()
        return await self._pool.rows(query, *values)

    def _not_open(self) -> BrokerUnavailableError:
        return BrokerUnavailableError('the PostgreSQL broker is not open')

    async def _run_housekeeping(self) -> None:
        more = False
        errors = BurstLog()
        while True:
            if not more:
                await asyncio.sleep(_SWEEP_S)
            try:
                ((more,),) = await self._rows(f'SELECT {self._schema}.sweep()')
            except BrokerUnavailableError as ex:
                more = False
                errors.warning('cannot remove expired rows: %s', ex)


def _follow(message_id: _ControlId, last: _ControlId) -> _ControlId | None:
    """Return the position after a control message; ``None`` for an earlier message.

    NOTE: after a backup or dump was restored, and after a fail-over, the numbers may
    continue from a lower number. The time then shows that the message is new. After a
    change of the clock, times may be lower, and the number shows that it is new.

    Args:
        message_id: Number and Unix time in milliseconds of the message.
        last: The highest number and the highest time of the messages before it.
    """
    number, ms = message_id
    if number > last[0]:
        return number, max(ms, last[1])
    return message_id if ms > last[1] else None


def _lost_error() -> BrokerUnavailableError:
    return BrokerUnavailableError('the link to PostgreSQL is lost')


def _result(row: tuple[Any, ...]) -> PublishResult | None:
    """Return the result of a publication, or ``None`` if the channel has ended."""
    duplicate, offset, epoch, refused = row
    if refused == 'ended':
        return None
    return PublishResult(Position(offset, epoch), duplicate, refused == 'skipped')


def _hex(channel: str) -> str:
    return channel.encode().hex()


def _last_run(offsets: list[int]) -> int:
    """Return the index at which the last run of consecutive offsets begins."""
    index = len(offsets) - 1
    while index > 0 and offsets[index - 1] == offsets[index] - 1:
        index -= 1
    return max(index, 0)
