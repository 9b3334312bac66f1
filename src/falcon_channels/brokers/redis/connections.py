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


class Server:
    """The options with which all servers of one URL are connected.

    Args:
        parts: The parts of the URL: ``redis://``, ``rediss://`` or ``redis+unix://``.
        tls: TLS options, with the names of redis-py (``ssl_ca_certs`` ...).
        timeout_s: Deadline of a connect, in seconds.

    Attributes:
        first: Address of the server in the URL.
        database: Number of the database.
        has_password: Whether the URL has a password.
        timeout_s: Deadline of a connect, in seconds.

    Raises:
        OptionsError: The port or database is not a number, or a TLS option is given
            without ``rediss://``.
    """

    def __init__(
        self, parts: SplitResult, tls: dict[str, Any], timeout_s: float
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
        if parts.username:
            self._options['username'] = unquote(parts.username)
        if parts.password:
            self._options['password'] = unquote(parts.password)
        self.has_password = bool(parts.password)
        self.database = 0
        if parts.scheme == 'redis+unix':
            self.first = Address(unquote(parts.path), 0)
        else:
            try:
                port = parts.port or 6379
            except ValueError:
                raise OptionsError(
                    'the port in the URL of Redis is not a number'
                ) from None
            self.first = Address(unquote(parts.hostname or 'localhost'), port)
            number = parts.path.strip('/') or '0'
            if not number.isdecimal():
                raise OptionsError(
                    'the path of a redis:// URL is the number of a database, as in /0'
                )
            self.database = int(number)
        self._tls = parts.scheme in ('rediss', 'valkeys')
        if tls and not self._tls:
            raise OptionsError(f'the options {sorted(tls)} need a rediss:// URL')
        self._options.update(tls)

    def warn(self) -> None:
        """Log a warning if the server is on another host and has no password."""
        if not self.has_password and self.first.port:
            warn_without_password('Redis', self.first.host, str(self.first))

    async def connect(self, address: Address) -> Connection:
        """Open a connection.

        Raises:
            BrokerUnavailableError: The server does not answer in time, or refuses.
        """
        connection: Any
        if not address.port:
            connection = UnixDomainSocketConnection(
                path=address.host, db=self.database, **self._options
            )
        else:
            kind = SSLConnection if self._tls else Connection
            connection = kind(
                host=address.host,
                port=address.port,
                db=self.database,
                socket_keepalive=True,
                **self._options,
            )
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.connect()
        except BaseException as ex:
            await disconnect(connection)
            if isinstance(ex, LINK_ERRORS):
                raise BrokerUnavailableError(
                    f'cannot connect to Redis at {address}: {self._why(ex)}'
                ) from None
            raise
        return connection  # type: ignore[no-any-return]

    def _why(self, error: BaseException) -> str:
        if not isinstance(error, (TimeoutError, RedisTimeoutError)):
            return describe(error)
        hint = '; does it speak TLS?' if self._tls else ''
        return f'no answer within {self.timeout_s} s{hint}'


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


async def find_topology(server: Server, known: frozenset[Address]) -> Topology:
    """Ask the servers which of them serves which slots.

    Args:
        server: The server options.
        known: Addresses to ask first. The server in the URL is asked last.

    Raises:
        BrokerUnavailableError: No server answers, or some slots are not served.
    """
    error = BrokerUnavailableError('no Redis server is known')
    for address in (*known - {server.first}, server.first):
        try:
            connection = await server.connect(address)
        except BrokerUnavailableError as ex:
            error = ex
            continue
        try:
            async with asyncio.timeout(server.timeout_s):
                await connection.send_command('INFO', 'cluster')
                found = await connection.read_response(disable_decoding=True)
                if b'cluster_enabled:1' not in found:
                    return Topology(frozenset([server.first]), ())
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
