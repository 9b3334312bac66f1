"""Connections to PostgreSQL, with deadlines that work even if the server is frozen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
import contextlib
import os
import re
import select
import socket
from typing import Any
from typing import TypeVar
from urllib.parse import urlencode
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from falcon_channels.brokers.milliseconds import to_ms
from falcon_channels.brokers.password_warning import warn_without_password
from falcon_channels.brokers.url_options import parse_query
from falcon_channels.brokers.url_options import POSTGRES_SCHEMES
from falcon_channels.brokers.url_options import seconds
from falcon_channels.brokers.url_options import whole_number
from falcon_channels.brokers.url_options import yes_or_no
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import OptionsError

_T = TypeVar('_T')

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

#: The schema, if the URL does not name one.
SCHEMA = 'falcon_channels'
# SECURITY: PostgreSQL looks for functions and operators in these schemas. With
#   ``public``, someone who may create objects there could run code with the rights of
#   this process: PostgreSQL prefers an operator with the exact types to its own.
SEARCH_PATH = 'pg_catalog, pg_temp'

# SECURITY: the name becomes part of SQL statements. With other characters, someone who
#   controls the URL could execute SQL of their own.
_SCHEMA_NAME = re.compile(r'[a-z_][a-z0-9_]{0,39}')

#: A host in a URL: a name or an address, and perhaps a port.
_HOST = re.compile(r'(\[[^\[\]]*\]|[^:\[\]]*)(:\d*)?', re.ASCII)

#: Options of a URL that are passed to libpq.
LIBPQ_OPTIONS = (
    'application_name',
    'channel_binding',
    'host',
    'passfile',
    'port',
    'sslcert',
    'sslkey',
    'sslmode',
    'sslrootcert',
    'target_session_attrs',
)


def read_url(url: str) -> tuple[str, dict[str, Any]]:
    """Split a URL into a URL for libpq and the options of the broker.

    Args:
        url: The URL of a broker.

    Returns:
        The URL for libpq, and the arguments of `PostgresBroker`.

    Raises:
        OptionsError: The URL has another scheme, or an option is unknown or out of
            range.
    """
    parts, options = parse_query(
        url,
        POSTGRES_SCHEMES,
        {
            'schema': _schema_name,
            'timeout_s': seconds,
            'probe_s': seconds,
            'pool_size': whole_number,
            'trusted': yes_or_no,
            'migrate': yes_or_no,
            **dict.fromkeys(LIBPQ_OPTIONS, _text),
        },
    )
    # SECURITY: with a slash in a password, its beginning looks like a port. An error of
    #   libpq would contain it. NOTE: there may be several hosts.
    for host in parts.netloc.rpartition('@')[2].split(','):
        if not _HOST.fullmatch(host):
            raise OptionsError(
                'a host in the URL of PostgreSQL is malformed, or its port is not a '
                'number: write "/", "?" and "#" in a password as %2F, %3F and %23'
            )
    libpq = {name: options.pop(name) for name in LIBPQ_OPTIONS if name in options}
    # NOTE: the path is not decoded, because libpq decodes it. `urlunsplit` is not used,
    #   because it omits the slashes if there is no host, as for a Unix socket.
    path = urlsplit(url).path
    query = f'?{urlencode(libpq)}' if libpq else ''
    return f'postgresql://{parts.netloc}{path}{query}', options


def _schema_name(name: str, text: str) -> str:
    if not _SCHEMA_NAME.fullmatch(text):
        raise OptionsError(
            f'{name} is {text!r}, and must be a word of 1 to 40 lower-case letters, '
            'digits and "_"'
        )
    return text


def _text(name: str, text: str) -> str:
    return text


class RowLockedError(BrokerUnavailableError):
    """Another transaction has locked a row for too long; nothing was changed."""


class Server:
    """The options with which a server is connected.

    Args:
        url: A URL of libpq.
        timeout_s: Deadline of a connect and of each statement, in seconds.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self.timeout_s = timeout_s
        self._warned = False

    async def connect(self) -> Connection:
        """Open a connection in autocommit mode.

        Raises:
            BrokerUnavailableError: The server does not answer in time, or refuses.
        """
        # NOTE: shorter than the deadline of the broker, so that the caller gets the
        #   error of the server instead of a timeout.
        server_ms = to_ms(self.timeout_s * 0.8)
        try:
            async with asyncio.timeout(self.timeout_s):
                connection = await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=60
                )
                try:
                    await connection.execute(
                        "SELECT pg_catalog.set_config('statement_timeout', %s, false), "
                        "pg_catalog.set_config('synchronous_commit', 'on', false), "
                        "pg_catalog.set_config('search_path', %s, false)",
                        (str(server_ms), SEARCH_PATH),
                    )
                except BaseException:
                    # NOTE: cancelled or too late. No other code can close this.
                    await close_at_once(connection)
                    raise
        except TimeoutError:
            raise BrokerUnavailableError(
                f'no connection to PostgreSQL{self._where()} within {self.timeout_s} s'
            ) from None
        except (psycopg.Error, OSError) as ex:
            raise unavailable(ex) from None
        self._warn(connection)
        return connection

    def _where(self) -> str:
        """Return the address for a message; ``''`` if the URL does not contain one."""
        # SECURITY: only the address, because the URL may contain a password, which
        #   would get into logs.
        info = conninfo_to_dict(self._url)
        parts = [str(info[name]) for name in ('host', 'port') if info.get(name)]
        return f' at {":".join(parts)}' if parts else ''

    def _warn(self, connection: Connection) -> None:
        if self._warned:
            return
        self._warned = True
        host = connection.info.host
        if not host.startswith('/') and not connection.info.password:
            warn_without_password('PostgreSQL', host, host)


class Pool:
    """A pool of connections, opened when they are needed.

    Args:
        server: The server options.
        size: Maximum number of connections.
    """

    def __init__(self, server: Server, size: int) -> None:
        self._server = server
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(size)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Execute a statement in its own transaction and return its rows.

        Args:
            query: The statement.
            values: Values of its parameters.

        Raises:
            BrokerUnavailableError: The statement failed, or did not end in time.
        """

        async def run(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(query, values, binary=True)
            return await cursor.fetchall()

        return await self.use(run)

    async def use(self, call: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Call a function with a connection of the pool.

        Args:
            call: The function.

        Returns:
            The result of the function.

        Raises:
            BrokerUnavailableError: The call failed, or did not end in time.
        """
        timeout_s = self._server.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise BrokerUnavailableError(
                f'all connections to PostgreSQL were busy for {timeout_s} s; raise '
                'pool_size'
            ) from None
        # NOTE: a separate task, because a statement whose caller was cancelled must end
        #   before its connection can be used again.
        task = asyncio.create_task(
            self._use(call), name='falcon_channels postgres call'
        )
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        await asyncio.wait([task])
        if task.cancelled():
            # NOTE: `close` has cancelled the task, but nobody has cancelled the caller.
            raise BrokerUnavailableError(
                'the broker was closed before PostgreSQL answered'
            )
        return task.result()

    async def close_idle(self) -> None:
        """Close unused connections, because their server may have been replaced."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await close_at_once(connection)

    async def close(self) -> None:
        """Close all connections, and cancel the calls that use them."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._idle:
            await connection.close()
        self._idle.clear()

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._free.release()
        if not task.cancelled():
            # NOTE: keeps asyncio from logging the error if the caller was cancelled.
            task.exception()

    async def _use(self, call: Callable[[Connection], Awaitable[_T]]) -> _T:
        if self._closed:
            raise BrokerUnavailableError('the broker is closed')
        connection = await self._take_idle()
        if connection is None:
            connection = await self._server.connect()
        try:
            result = await with_deadline(connection, call, self._server.timeout_s)
        except BaseException:
            # NOTE: after an error of a statement, the connection is still usable.
            if connection.broken or connection.closed or self._closed:
                await close_at_once(connection)
            else:
                self._idle.append(connection)
            raise
        self._idle.append(connection)
        return result

    async def _take_idle(self) -> Connection | None:
        """Return an unused connection that works, or ``None``.

        NOTE: a server can end connections that are idle, and then sends an error. A
        call on such a connection would fail, although the server is available.
        """
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and not _has_input(connection):
                return connection
            await close_at_once(connection)
        return None


def _has_input(connection: Connection) -> bool:
    """Return whether an idle connection has ended, or has other unexpected input."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def with_deadline(
    connection: Connection,
    call: Callable[[Connection], Awaitable[_T]],
    timeout_s: float,
) -> _T:
    """Call a function with a connection; close the connection at the deadline.

    Args:
        connection: The connection.
        call: The function.
        timeout_s: Deadline of the call, in seconds.

    Raises:
        BrokerUnavailableError: The call failed, or did not end in time.
    """

    # NOTE: on cancellation, psycopg asks the server to cancel the statement, and waits
    #   for the answer. A frozen server never answers. Shutting the socket down ends the
    #   call in any case.
    async def run() -> _T:
        return await call(connection)

    task = asyncio.create_task(run(), name='falcon_channels postgres statement')
    try:
        done, _ = await asyncio.wait([task], timeout=timeout_s)
    except asyncio.CancelledError:
        _shut_down_socket(connection)
        await asyncio.gather(task, return_exceptions=True)
        raise
    if not done:
        _shut_down_socket(connection)
        await asyncio.gather(task, return_exceptions=True)
        raise BrokerUnavailableError(f'PostgreSQL did not answer within {timeout_s} s')
    try:
        return task.result()
    except (psycopg.Error, OSError) as ex:
        raise unavailable(ex) from None


async def close_at_once(connection: Connection) -> None:
    """Close a connection at once, in any state; raise nothing."""
    _shut_down_socket(connection)
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.close()


def _shut_down_socket(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error, OSError):
        with socket.socket(fileno=os.dup(connection.fileno())) as shared:
            shared.shutdown(socket.SHUT_RDWR)


def unavailable(error: Exception) -> BrokerUnavailableError:
    """Convert an error of PostgreSQL to one with a message of one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return RowLockedError(f'PostgreSQL: {lines[0]}')
    return BrokerUnavailableError(f'PostgreSQL: {lines[0]}')
