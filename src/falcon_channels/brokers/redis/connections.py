"""Connections to servers: addresses, TLS, credentials, and the slots of a Cluster."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from typing import NamedTuple
from urllib.parse import SplitResult
from urllib.parse import unquote

from redis.asyncio.connection import Connection
from redis.asyncio.connection import SSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from falcon_channels.brokers.password_warning import warn_without_password
from falcon_channels.brokers.server_link import describe
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import OptionsError

#: The errors that a connection can raise.
LINK_ERRORS = (RedisError, OSError, TimeoutError, EOFError)


class Address(NamedTuple):
    """Address of a server; with ``port`` 0, ``host`` is the path of a Unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        return f'{self.host}:{self.port}' if self.port else self.host


class RedisConnector:
    """Opens connections to the servers of one URL.

    Args:
        parts: The parts of the URL: ``redis://``, ``rediss://``, ``redis+unix://`` or
            ``redis+sentinel://``.
        tls: TLS options, with the names of redis-py (``ssl_ca_certs`` ...).
        timeout_s: Deadline of a connect, in seconds.
        sentinel_password: Password of the Sentinels, or ``None``.

    Attributes:
        first: Address of the server in the URL. With Sentinels, its host is the name
            of the service, and each connect asks for the current primary.
        database: Number of the database.
        has_password: Whether the URL has a password.
        timeout_s: Deadline of a connect, in seconds.

    Raises:
        OptionsError: The port or database is not a number. Or a TLS option is given
            without ``rediss://``. Or the URL of Sentinels has no name of a service.
    """

    def __init__(
        self,
        parts: SplitResult,
        tls: dict[str, Any],
        timeout_s: float,
        sentinel_password: str | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._options: dict[str, Any] = {
            'protocol': 2,
            'socket_timeout': None,
            'socket_connect_timeout': timeout_s,
            # NOTE: redis-py would otherwise send a command a second time that the
            #   server has perhaps executed.
            'retry': Retry(NoBackoff(), 0),
        }
        #: Addresses of the Sentinels; the one that answered last comes first.
        self._sentinels: list[Address] = []
        self._sentinel_options = {**self._options, 'password': sentinel_password}
        if parts.username:
            self._options['username'] = unquote(parts.username)
        if parts.password:
            self._options['password'] = unquote(parts.password)
        self.has_password = bool(parts.password)
        self.database = 0
        if parts.scheme == 'redis+unix':
            # SECURITY: with a slash in a password, its end looks like the path, which
            #   messages contain.
            if parts.netloc.rpartition('@')[2] not in ('', 'localhost'):
                raise OptionsError(
                    'a redis+unix:// URL has no host: write redis+unix:///path, and '
                    '"/" and "#" in a password as %2F and %23'
                )
            self.first = Address(unquote(parts.path), 0)
        elif parts.scheme.endswith('+sentinel'):
            self._sentinels = _sentinel_addresses(parts)
            service, _, number = parts.path.strip('/').partition('/')
            if not service:
                raise OptionsError(
                    'the path of a redis+sentinel:// URL is the name of the service, '
                    'as in redis+sentinel://host1,host2/mymaster'
                )
            self.first = Address(service, 0)
            self.database = _database(number)
        else:
            try:
                port = parts.port or 6379
            except ValueError:
                raise OptionsError(
                    'the port in the URL of Redis is not a number'
                ) from None
            self.first = Address(unquote(parts.hostname or 'localhost'), port)
            self.database = _database(parts.path.strip('/'))
        self._tls = parts.scheme in ('rediss', 'valkeys', 'rediss+sentinel')
        if tls and not self._tls:
            raise OptionsError(f'the options {sorted(tls)} need a rediss:// URL')
        self._options.update(tls)
        self._sentinel_options.update(tls)

    def warn(self) -> None:
        """Log a warning if the server is on another host and has no password."""
        if self.has_password:
            return
        for address in self._sentinels or [self.first]:
            if address.port:
                warn_without_password('Redis', address.host, str(self.first))

    async def connect(self, address: Address) -> Connection:
        """Open a connection.

        Raises:
            BrokerUnavailableError: The server does not answer in time, or refuses.
        """
        if self._sentinels and not address.port:
            return await self._connect_to_primary()
        return await self._connect(
            address, {'db': self.database, **self._options}, self.timeout_s
        )

    async def _connect(
        self, address: Address, options: dict[str, Any], timeout_s: float
    ) -> Connection:
        connection: Any
        if not address.port:
            connection = UnixDomainSocketConnection(path=address.host, **options)
        else:
            kind = SSLConnection if self._tls else Connection
            connection = kind(
                host=address.host, port=address.port, socket_keepalive=True, **options
            )
        try:
            async with asyncio.timeout(timeout_s):
                await connection.connect()
        except BaseException as ex:
            await disconnect(connection)
            if isinstance(ex, LINK_ERRORS):
                raise BrokerUnavailableError(
                    f'cannot connect to Redis at {address}: {self._why(ex, timeout_s)}'
                ) from None
            raise
        return connection  # type: ignore[no-any-return]

    def _why(self, error: BaseException, timeout_s: float) -> str:
        if not isinstance(error, (TimeoutError, RedisTimeoutError)):
            return describe(error)
        hint = '; does it speak TLS?' if self._tls else ''
        return f'no answer within {timeout_s:g} s{hint}'

    # --- Sentinel ---------------------------------------------------------------------

    async def _connect_to_primary(self) -> Connection:
        """Ask the Sentinels for the primary, and open a connection to it."""
        # NOTE: so that a host that does not answer leaves time for the others.
        timeout_s = self.timeout_s / (len(self._sentinels) + 1)
        reasons = []
        for sentinel in list(self._sentinels):
            try:
                primary = await self._ask_sentinel(sentinel, timeout_s)
            except BrokerUnavailableError as ex:
                reasons.append(str(ex))
                continue
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return await self._connect_as_primary(primary, timeout_s)
        raise BrokerUnavailableError('; '.join(reasons))

    async def _ask_sentinel(self, sentinel: Address, timeout_s: float) -> Address:
        """Return the address of the primary that a Sentinel knows."""
        connection = await self._connect(sentinel, self._sentinel_options, timeout_s)
        command = ('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', self.first.host)
        found = await self._ask(connection, sentinel, timeout_s, *command)
        await disconnect(connection)
        if found is None:
            raise BrokerUnavailableError(
                f'the Sentinel at {sentinel} knows no service {self.first.host!r}'
            )
        return Address(found[0].decode(), int(found[1]))

    async def _connect_as_primary(
        self, address: Address, timeout_s: float
    ) -> Connection:
        """Open a connection to a server, and refuse it if it is a replica."""
        options = {'db': self.database, **self._options}
        connection = await self._connect(address, options, timeout_s)
        info = await self._ask(connection, address, timeout_s, 'INFO', 'replication')
        # NOTE: a Sentinel may name the old primary for a moment after a fail-over.
        if b'role:slave' in info:
            await disconnect(connection)
            raise BrokerUnavailableError(
                f'Redis at {address} is a replica, but the Sentinel says that it is '
                f'the primary of {self.first.host!r}'
            )
        return connection

    async def _ask(
        self, connection: Connection, address: Address, timeout_s: float, *words: str
    ) -> Any:
        """Send a command and return the answer; close the connection on an error."""
        try:
            async with asyncio.timeout(timeout_s):
                await connection.send_command(*words)
                return await connection.read_response(disable_decoding=True)
        except BaseException as ex:
            await disconnect(connection)
            if isinstance(ex, LINK_ERRORS):
                raise BrokerUnavailableError(
                    f'Redis at {address} did not answer {words[0]}: {describe(ex)}'
                ) from None
            raise


def _database(text: str) -> int:
    """Return the number of a database; ``''`` stands for 0."""
    if text and not text.isdecimal():
        raise OptionsError(
            f'the number of the database in the URL of Redis is {text!r}; write it as '
            'in /0'
        )
    return int(text or '0')


def _sentinel_addresses(parts: SplitResult) -> list[Address]:
    """Return the addresses of the Sentinels in a URL, separated by commas."""
    addresses = []
    for text in parts.netloc.rpartition('@')[2].split(','):
        host, colon, port = text.rpartition(':')
        if not colon or text.endswith(']'):
            host, port = text, '26379'
        if not host or not port.isdecimal():
            raise OptionsError(
                'the URL has an address of a Sentinel that is malformed: write host or '
                'host:port, and "/" and "#" in a password as %2F and %23'
            )
        addresses.append(Address(unquote(host).strip('[]'), int(port)))
    return addresses


class Topology(NamedTuple):
    """The servers, and the slots of a Cluster that they serve.

    Attributes:
        addresses: Addresses of all servers that store keys.
        slots: In a Cluster, the address for each of the 16384 slots; otherwise empty.
    """

    addresses: frozenset[Address]
    slots: tuple[Address, ...]

    def address_of(self, key: str | bytes) -> Address:
        """Return the address of the server for a key or a sharded pub/sub name."""
        if not self.slots:
            (only,) = self.addresses
            return only
        return self.slots[key_slot(key.encode() if isinstance(key, str) else key)]

    @property
    def publish(self) -> str:
        """The command that publishes to subscribers of the command `subscribe`."""
        return 'SPUBLISH' if self.slots else 'PUBLISH'

    @property
    def subscribe(self) -> str:
        """The command that subscribes to a name."""
        return 'SSUBSCRIBE' if self.slots else 'SUBSCRIBE'

    @property
    def unsubscribe(self) -> str:
        """The command that unsubscribes from a name."""
        return 'SUNSUBSCRIBE' if self.slots else 'UNSUBSCRIBE'


async def find_topology(
    connector: RedisConnector, known: frozenset[Address]
) -> Topology:
    """Ask the servers which of them serves which slots.

    Args:
        connector: Opens connections to the servers.
        known: Addresses to ask first. The server in the URL is asked last.

    Raises:
        BrokerUnavailableError: No server answers, or some slots are not served.
    """
    error = BrokerUnavailableError('no Redis server is known')
    for address in (*known - {connector.first}, connector.first):
        try:
            connection = await connector.connect(address)
        except BrokerUnavailableError as ex:
            error = ex
            continue
        try:
            async with asyncio.timeout(connector.timeout_s):
                await connection.send_command('INFO', 'cluster')
                found = await connection.read_response(disable_decoding=True)
                if b'cluster_enabled:1' not in found:
                    return Topology(frozenset([connector.first]), ())
                await connection.send_command('CLUSTER', 'SLOTS')
                rows = await connection.read_response(disable_decoding=True)
                return _topology(rows, address)
        except LINK_ERRORS as ex:
            error = BrokerUnavailableError(
                f'Redis at {address} did not report its slots: {describe(ex)}'
            )
        except BrokerUnavailableError as ex:
            error = ex
        finally:
            await disconnect(connection)
    raise error


def _topology(rows: list[Any], asked: Address) -> Topology:
    slots: list[Address | None] = [None] * 16384
    for first, last, primary, *_ in rows:
        # NOTE: an empty host stands for the server that was asked.
        address = Address((primary[0] or b'').decode() or asked.host, primary[1])
        slots[first : last + 1] = [address] * (last + 1 - first)
    found = [address for address in slots if address is not None]
    if len(found) != len(slots):
        raise BrokerUnavailableError(
            f'{len(slots) - len(found)} of {len(slots)} slots of the Redis Cluster are '
            'served by no server'
        )
    return Topology(frozenset(found), tuple(found))


async def disconnect(connection: Any) -> None:
    """Close a connection at once, in any state; raise nothing."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(1.0):
            await connection.disconnect(nowait=True)
