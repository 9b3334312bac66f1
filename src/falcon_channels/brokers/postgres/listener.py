"""The connection that listens to the notifications of PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
import secrets

import psycopg

from falcon_channels.brokers.postgres.connections import close_at_once
from falcon_channels.brokers.postgres.connections import Connection
from falcon_channels.brokers.postgres.connections import Pool
from falcon_channels.brokers.postgres.connections import Server
from falcon_channels.brokers.server_link import ServerLink
from falcon_channels.errors import BrokerUnavailableError


class Listener(ServerLink[Connection]):
    """The connection that listens.

    Args:
        server: The server options.
        pool: Connections that send the probes.
        schema: Name of the schema. Its settings have the name of the notifications.
        probe_s: Seconds between two probes.
        on_payload: Called with each notification, one after another.
        on_lost: Called when notifications no longer arrive.
        on_restored: Called when notifications arrive, also for the first time.
    """

    errors = (psycopg.Error, OSError, TimeoutError, EOFError, BrokerUnavailableError)

    def __init__(
        self,
        server: Server,
        pool: Pool,
        schema: str,
        *,
        probe_s: float,
        on_payload: Callable[[str], Awaitable[None]],
        on_lost: Callable[[], None],
        on_restored: Callable[[], Awaitable[None]],
    ) -> None:
        self._server = server
        self._pool = pool
        self._schema = schema
        self._on_payload = on_payload
        self._on_lost = on_lost
        self._on_restored = on_restored
        self._mark = f'?{secrets.token_urlsafe(9)} '
        self._was_up = asyncio.Event()
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
                # NOTE: the name is read each time, because the schema may have been
                #   created again.
                cursor = await connection.execute(
                    f'SELECT {self._schema}.notify_name()'.encode()
                )
                row = await cursor.fetchone()
                assert row is not None
                await connection.execute(f'LISTEN "{row[0]}"'.encode())
        except BaseException:
            await close_at_once(connection)
            raise
        return connection

    async def read(self, connection: Connection) -> None:
        """Pass on notifications until the connection ends."""
        async for notification in connection.notifies():
            payload = notification.payload
            if payload.startswith('?'):
                if payload.startswith(self._mark):
                    self.on_probe(int(payload[len(self._mark) :]))
                continue
            await self._on_payload(payload)
        raise EOFError('PostgreSQL has closed the connection')

    async def send_probe(self, number: int) -> None:
        """Send a notification with the number of a probe."""
        await self._pool.rows(
            f'SELECT pg_notify({self._schema}.notify_name(), %s)',
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
