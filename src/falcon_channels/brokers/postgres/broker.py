"""The broker of many hosts on PostgreSQL: tables, and notifications on commit.

Whoever publishes to a channel locks its row until the end of the transaction, and so
gets its offset in the order of the commits, which is the order of the notifications,
too. What is too long for a notification is read from the table when it arrives.

An application that gives its own connection publishes within its own transaction: what
is rolled back was never published, what is committed is delivered.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Mapping
from collections.abc import Sequence
import logging
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

from falcon_channels.brokers.background_tasks import start_task
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import BrokerReceiver
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.brokers.control_inbox import ControlInbox
from falcon_channels.brokers.encoding import decode_info
from falcon_channels.brokers.encoding import decode_publication
from falcon_channels.brokers.encoding import encode_info
from falcon_channels.brokers.encoding import encode_publication
from falcon_channels.brokers.postgres.connections import Pool
from falcon_channels.brokers.postgres.connections import read_url
from falcon_channels.brokers.postgres.connections import SCHEMA
from falcon_channels.brokers.postgres.connections import Server
from falcon_channels.brokers.postgres.listener import Listener
from falcon_channels.brokers.postgres.migration import check_version
from falcon_channels.brokers.postgres.migration import make_schema
from falcon_channels.brokers.postgres.publish_queues import Lanes
from falcon_channels.brokers.postgres.publish_queues import Waiting
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import CapabilityError
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import NO_POSITION
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

_logger = logging.getLogger('falcon_channels')

#: Seconds between two sweeps for what has expired.
_SWEEP_S = 10.0
_BIGGEST = 2**62


class PostgresBroker(Broker):
    """Keeps everything in a schema of a PostgreSQL database.

    Args:
        url: Of libpq.
        schema: The schema, made by ``falcon-channels migrate URL``.
        timeout_s: Deadline of every call, in seconds.
        probe_s: Seconds between two probes of the link.
        pool_size: Connections beside the one that listens.
        trusted: Whether a fail-over loses nothing that was acknowledged (synchronous
            replication). Epochs then survive it; otherwise it begins new ones.
        migrate: Whether to make the schema at the start where it is missing.
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
        self._url = url
        self._schema = schema
        self._timeout_s = timeout_s
        self._probe_s = probe_s
        self._pool_size = pool_size
        self._run = '' if trusted else None
        self._migrate = migrate
        self._name = f'falcon:{schema}'
        self._pool: Pool | None = None
        self._lanes: Lanes | None = None
        self._listener: Listener | None = None
        self._house: asyncio.Task[None] | None = None
        self._receiver: BrokerReceiver | None = None
        self._subscribed: set[str] = set()
        self._inbox = ControlInbox(0)
        self._lost = False
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> PostgresBroker:
        """Return a broker for ``postgresql://user:password@host/database``.

        Options: ``schema``, ``timeout_s``, ``probe_s``, ``pool_size``,
        ``trusted=yes``, ``migrate=yes``, and of libpq ``sslmode``, ``sslrootcert``,
        ``host`` (also of a socket's folder) and others.

        Raises:
            OptionsError: The URL makes no sense.
        """
        libpq_url, options = read_url(url)
        return cls(libpq_url, **options)

    # --- life ------------------------------------------------------------------------

    async def start(self, receiver: BrokerReceiver) -> None:
        if self._closed:
            raise BrokerUnavailableError('the broker is closed')
        self._receiver = receiver
        server = Server(self._url, self._timeout_s)
        pool = self._pool = Pool(server, self._pool_size)
        try:
            if self._migrate:
                await asyncio.to_thread(make_schema, self._url, self._schema)
            await pool.use(lambda connection: check_version(connection, self._schema))
            ((last,),) = await pool.rows(
                f'SELECT coalesce(max(id), 0) FROM {self._schema}.messages '
                'WHERE control'
            )
            self._inbox = ControlInbox(last, receiver.on_control)
            self._listener = Listener(
                server,
                pool,
                self._name,
                probe_s=self._probe_s,
                on_payload=self._on_payload,
                on_lost=self._on_lost,
                on_back=self._on_back,
            )
            try:
                async with asyncio.timeout(self._timeout_s * 2):
                    await self._listener.wait()
            except TimeoutError:
                raise BrokerUnavailableError(
                    f'no notifications of PostgreSQL within {self._timeout_s * 2} s; '
                    'connect to it directly, and not through a pooler'
                ) from None
        except BaseException:
            await self._let_go()
            raise
        # NOTE: one connection is left to calls that do not publish.
        self._lanes = Lanes(self._store, self._pool_size - 1, self._timeout_s)
        self._house = start_task(self._keep_house(), 'postgres housekeeping')

    async def close(self) -> None:
        self._closed = True
        await self._let_go()

    async def _let_go(self) -> None:
        house, self._house = self._house, None
        if house is not None:
            house.cancel()
            await asyncio.gather(house, return_exceptions=True)
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            await lanes.close()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    # --- publications ----------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        publication: Publication,
        settings: StreamSettings,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
    ) -> PublishResult:
        body = encode_publication(publication)
        key = None if idempotency_key is None else idempotency_key.encode()
        if connection is None:
            if self._lanes is None:
                raise self._not_open()
            return await self._lanes.publish(channel, body, key, settings)
        if not isinstance(connection, psycopg.AsyncConnection):
            raise CapabilityError(
                'connection has to be a psycopg.AsyncConnection, not '
                f'{type(connection).__name__}'
            )
        query, values = self._publishing(channel, [body], [key], settings)
        # NOTE: errors of the application's own transaction are its own.
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(query, values)
            row = await cursor.fetchone()
        assert row is not None
        return _result(row)

    async def _store(self, channel: str, batch: list[Waiting]) -> list[PublishResult]:
        query, values = self._publishing(
            channel,
            [waiting.body for waiting in batch],
            [waiting.key for waiting in batch],
            batch[0].settings,
        )
        rows = await self._rows(query, *values)
        return [_result(row) for row in rows]

    def _publishing(
        self,
        channel: str,
        bodies: list[bytes],
        keys: list[bytes | None],
        settings: StreamSettings,
    ) -> tuple[str, tuple[Any, ...]]:
        query = (
            f'SELECT * FROM {self._schema}.publish(%s, %s, %s, %s, %s, %s, %s, %s, '
            '%s::bytea[], %s::bytea[])'
        )
        return query, (
            self._name,
            max(1, int(self._timeout_s * 800)),
            self._run,
            channel.encode(),
            settings.size,
            _ms(settings.ttl_s),
            _ms(settings.meta_ttl_s),
            _ms(settings.idempotency_ttl_s),
            bodies,
            keys,
        )

    async def subscribe(self, channel: str, settings: StreamSettings) -> Position:
        if self._lost:
            raise BrokerUnavailableError('the link to PostgreSQL is lost')
        # NOTE: before the position is read, so that nothing falls between.
        self._subscribed.add(channel)
        if not settings.size:
            return NO_POSITION
        try:
            return (await self.history(channel, settings, limit=0)).position
        except BaseException:
            self._subscribed.discard(channel)
            raise

    async def unsubscribe(self, channel: str) -> None:
        self._subscribed.discard(channel)

    async def history(
        self,
        channel: str,
        settings: StreamSettings,
        *,
        since: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        if not settings.size:
            return HistoryPage([], NO_POSITION)
        (top, epoch, _, _), *found = await self._rows(
            f'SELECT * FROM {self._schema}.history(%s, %s, %s, %s, %s, %s, %s, %s)',
            self._run,
            channel.encode(),
            settings.size,
            _ms(settings.ttl_s),
            _ms(settings.meta_ttl_s),
            None if since is None else max(0, min(since, _BIGGEST)),
            limit,
            reverse,
        )
        if not reverse:
            found = found[_after_holes([row[0] for row in found]) :]
        return HistoryPage(
            [decode_publication(body, offset, ms) for offset, _, ms, body in found],
            Position(top, epoch),
        )

    async def remove_history(self, channel: str) -> None:
        await self._rows(f'SELECT {self._schema}.remove_history(%s)', channel.encode())

    async def signal(self, channel: str, signal: bytes) -> None:
        # NOTE: nothing of it is kept, so that it need not wait for the disk.
        await self._send(
            's', channel, signal, "set_config('synchronous_commit', 'off', true), "
        )

    async def control(self, message: bytes) -> None:
        await self._send('c', '', message)

    async def _send(
        self, kind: str, channel: str, body: bytes, before: str = ''
    ) -> None:
        await self._rows(
            f'SELECT {before}{self._schema}.send(%s, %s, %s, %s)',
            self._name,
            kind,
            channel.encode(),
            body,
        )

    # --- presence and revocations ----------------------------------------------------

    async def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[bool]:
        if not entries:
            return []
        ((told,),) = await self._rows(
            f'SELECT {self._schema}.add_presence(%s, %s::bytea[], %s::bytea[], '
            '%s::bytea[], %s::bytea[])',
            _ms(ttl_s),
            [channel.encode() for channel, _ in entries],
            [info.client.encode() for _, info in entries],
            [info.user.encode() for _, info in entries],
            [encode_info(info) for _, info in entries],
        )
        return list(told)

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
        return {client.decode(): decode_info(info) for client, info in rows}

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
                _ms(ttl_s),
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

    # --- notifications ---------------------------------------------------------------

    async def _on_payload(self, payload: str) -> None:
        try:
            head, number, epoch, ms, text = payload.split(' ', 4)
            kind, channel = head[:1], bytes.fromhex(head[1:]).decode()
            if kind != 'c' and channel not in self._subscribed:
                return
            body: bytes | None
            if text == '@':
                body = await self._read_body(kind, channel, epoch, int(number))
            else:
                body = b64decode(text)
            if body is not None:
                self._announce(kind, channel, body, (int(number), epoch, int(ms)))
        except (ValueError, msgspec.DecodeError) as ex:
            # NOTE: of another release, or a stranger's; a gap shows in the offsets.
            _logger.error('a notification cannot be read: %s', ex)

    def _announce(
        self, kind: str, channel: str, body: bytes, stamp: tuple[int, str, int]
    ) -> None:
        receiver = self._receiver
        if receiver is None or self._closed:
            return
        number, epoch, ms = stamp
        if kind == 'c':
            self._inbox.arrive(number, body)
        elif channel not in self._subscribed:
            return
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
        """Read what was too long for a notification; ``None`` where it has gone."""
        try:
            if kind == 'p':
                rows = await self._rows(
                    f'SELECT i.body FROM {self._schema}.items AS i '
                    f'JOIN {self._schema}.channels AS c ON c.id = i.channel '
                    'WHERE c.name = %s AND c.epoch = %s AND i."offset" = %s',
                    channel.encode(),
                    epoch,
                    number,
                )
            else:
                rows = await self._rows(
                    f'SELECT body FROM {self._schema}.messages WHERE id = %s', number
                )
        except BrokerUnavailableError as ex:
            # NOTE: the next offset shows the gap, and the link is lost as well.
            _logger.warning('a long publication cannot be read: %s', ex)
            return None
        return rows[0][0] if rows else None

    def _on_lost(self) -> None:
        if not self._lost and self._receiver is not None and not self._closed:
            self._lost = True
            self._inbox.hold()
            self._receiver.on_link_lost()

    async def _on_back(self) -> None:
        if not self._lost:
            return
        if self._pool is not None:
            await self._pool.forget_idle()
        rows = await self._rows(
            f'SELECT id, body FROM {self._schema}.messages '
            'WHERE control AND id > %s ORDER BY id',
            self._inbox.last,
        )
        for number, body in rows:
            self._inbox.read(number, body)
        self._inbox.release()
        if self._receiver is not None and not self._closed:
            self._lost = False
            self._receiver.on_link_restored()

    # --- inside ----------------------------------------------------------------------

    async def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        if self._pool is None:
            raise self._not_open()
        return await self._pool.rows(query, *values)

    def _not_open(self) -> BrokerUnavailableError:
        return BrokerUnavailableError('the PostgreSQL broker is not open')

    async def _keep_house(self) -> None:
        more = False
        while True:
            if not more:
                await asyncio.sleep(_SWEEP_S)
            try:
                ((more,),) = await self._rows(f'SELECT {self._schema}.sweep()')
            except BrokerUnavailableError as ex:
                more = False
                _logger.warning('cannot remove what has expired: %s', ex)


def _result(row: tuple[Any, ...]) -> PublishResult:
    duplicate, offset, epoch = row
    return PublishResult(Position(offset, epoch), duplicate)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, int(seconds * 1000))


def _after_holes(offsets: list[int]) -> int:
    """Return where the last run of offsets without a gap begins."""
    index = len(offsets) - 1
    while index > 0 and offsets[index - 1] == offsets[index] - 1:
        index -= 1
    return max(index, 0)
