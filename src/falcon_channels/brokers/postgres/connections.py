"""Connections to PostgreSQL, with deadlines that hold whatever the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
import contextlib
import os
import re
import socket
from typing import Any
from typing import TypeVar
from urllib.parse import urlencode
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from falcon_channels.brokers.password_warning import warn_without_password
from falcon_channels.brokers.url_options import parse_query
from falcon_channels.brokers.url_options import seconds
from falcon_channels.brokers.url_options import whole_number
from falcon_channels.brokers.url_options import yes_or_no
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import OptionsError

_T = TypeVar('_T')

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

#: The schema where the URL names none.
SCHEMA = 'falcon_channels'

# SECURITY: a name that needs no quotes, for it goes into statements as it is.
_SCHEMA_NAME = re.compile(r'[a-z_][a-z0-9_]{0,39}')

#: Options of a URL that are libpq's own.
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
    """Return a URL for libpq, and the options that are ours.

    Raises:
        OptionsError: The URL makes no sense.
    """
    parts, options = parse_query(
        url,
        {
            'schema': _schema_name,
            'timeout_s': seconds,
            'probe_s': seconds,
            'pool_size': whole_number,
            'trusted': yes_or_no,
            'migrate': yes_or_no,
            **dict.fromkeys(LIBPQ_OPTIONS, _as_it_is),
        },
    )
    libpq = {name: options.pop(name) for name in LIBPQ_OPTIONS if name in options}
    # NOTE: as it is, percent signs and all. And not by `urlunsplit`, which leaves the
    #   slashes out where there is no host, as for a socket in the file system.
    path = urlsplit(url).path
    query = f'?{urlencode(libpq)}' if libpq else ''
    return f'postgresql://{parts.netloc}{path}{query}', options


def _schema_name(name: str, text: str) -> str:
    if not _SCHEMA_NAME.fullmatch(text):
        raise OptionsError(
            f'{name} is {text!r}, and must be a word of 1 to 40 lower case letters, '
            'digits and "_"'
        )
    return text


def _as_it_is(name: str, text: str) -> str:
    return text


class Server:
    """How to connect to a server.

    Args:
        url: Of libpq.
        timeout_s: Deadline of everything.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self.timeout_s = timeout_s
        self._warned = False

    async def connect(self) -> Connection:
        """Open a connection in autocommit mode.

        Raises:
            BrokerUnavailableError: It cannot be opened in time.
        """
        # NOTE: less than our own deadline, so that callers learn what the server says.
        server_ms = max(1, int(self.timeout_s * 800))
        try:
            async with asyncio.timeout(self.timeout_s):
                connection = await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=60
                )
                try:
                    await connection.execute(
                        "SELECT set_config('statement_timeout', %s, false), "
                        "set_config('synchronous_commit', 'on', false)",
                        (str(server_ms),),
                    )
                except BaseException:
                    # NOTE: cancelled, or too late; nobody else knows of it yet.
                    await shut(connection)
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
        """Return where the server is, in words; nothing where that is not said."""
        # SECURITY: says where, and nothing else of the URL.
        said = conninfo_to_dict(self._url)
        parts = [str(said[name]) for name in ('host', 'port') if said.get(name)]
        return f' at {":".join(parts)}' if parts else ''

    def _warn(self, connection: Connection) -> None:
        if self._warned:
            return
        self._warned = True
        host = connection.info.host
        if not host.startswith('/') and not connection.info.password:
            warn_without_password('PostgreSQL', host, host)


class Pool:
    """A few connections, opened when they are needed.

    Args:
        server: How to connect.
        size: How many at most.
    """

    def __init__(self, server: Server, size: int) -> None:
        self._server = server
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(size)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own; return its rows.

        Raises:
            BrokerUnavailableError: It failed, or did not end in time.
        """

        async def run(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(query, values, binary=True)
            return await cursor.fetchall()

        return await self.use(run)

    async def use(self, call: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Do something with a connection.

        Raises:
            BrokerUnavailableError: It failed, or did not end in time.
        """
        timeout_s = self._server.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise BrokerUnavailableError(
                f'all connections to PostgreSQL are busy for {timeout_s} s'
            ) from None
        # NOTE: a task of its own, for a statement whose caller has gone must end
        #   before its connection can be used again.
        task = asyncio.create_task(
            self._use(call), name='falcon_channels postgres call'
        )
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return await asyncio.shield(task)

    async def forget_idle(self) -> None:
        """Close connections that nobody uses: their server may have gone."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await shut(connection)

    async def close(self) -> None:
        """Close all connections, and end what is under way."""
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
            # NOTE: seen, also where the caller has gone.
            task.exception()

    async def _use(self, call: Callable[[Connection], Awaitable[_T]]) -> _T:
        if self._closed:
            raise BrokerUnavailableError('the broker is closed')
        connection = self._idle.pop() if self._idle else None
        if connection is None or connection.closed:
            connection = await self._server.connect()
        try:
            result = await with_deadline(connection, call, self._server.timeout_s)
        except BaseException:
            # NOTE: a statement that the server refused leaves a good connection.
            if connection.broken or connection.closed or self._closed:
                await shut(connection)
            else:
                self._idle.append(connection)
            raise
        self._idle.append(connection)
        return result


async def with_deadline(
    connection: Connection,
    call: Callable[[Connection], Awaitable[_T]],
    timeout_s: float,
) -> _T:
    """Do something with a connection; end the connection where that takes too long.

    Raises:
        BrokerUnavailableError: It failed, or did not end in time.
    """

    # NOTE: psycopg answers a cancellation by asking the server to cancel, and waits
    #   for that. A frozen server never answers; a socket that is shut ends all.
    async def run() -> _T:
        return await call(connection)

    task = asyncio.create_task(run(), name='falcon_channels postgres statement')
    try:
        done, _ = await asyncio.wait([task], timeout=timeout_s)
    except asyncio.CancelledError:
        _shut_socket(connection)
        await asyncio.gather(task, return_exceptions=True)
        raise
    if not done:
        _shut_socket(connection)
        await asyncio.gather(task, return_exceptions=True)
        raise BrokerUnavailableError(f'no answer from PostgreSQL within {timeout_s} s')
    try:
        return task.result()
    except (psycopg.Error, OSError) as ex:
        raise unavailable(ex) from None


async def shut(connection: Connection) -> None:
    """Close a connection at once, whatever its state."""
    _shut_socket(connection)
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.close()


def _shut_socket(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error, OSError):
        with socket.socket(fileno=os.dup(connection.fileno())) as shared:
            shared.shutdown(socket.SHUT_RDWR)


def unavailable(error: Exception) -> BrokerUnavailableError:
    """Return an error of PostgreSQL in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return BrokerUnavailableError(f'PostgreSQL: {lines[0]}')
