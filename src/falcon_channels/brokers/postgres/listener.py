"""Notifications: a connection that is always there, or reported."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
import secrets

import psycopg

from falcon_channels.brokers.postgres.connections import Connection
from falcon_channels.brokers.postgres.connections import Pool
from falcon_channels.brokers.postgres.connections import Server
from falcon_channels.brokers.postgres.connections import shut
from falcon_channels.brokers.server_link import Link
from falcon_channels.errors import BrokerUnavailableError


class Listener(Link[Connection]):
    """The connection that listens.

    Args:
        server: How to connect.
        pool: For the probes.
        name: To listen to.
        probe_s: Seconds between two probes.
        on_payload: Called with each notification, one after another.
        on_lost: Called when the link is lost.
        on_back: Called when it is back.
    """

    errors = (psycopg.Error, OSError, TimeoutError, EOFError, BrokerUnavailableError)

    def __init__(
        self,
        server: Server,
        pool: Pool,
        name: str,
        *,
        probe_s: float,
        on_payload: Callable[[str], Awaitable[None]],
        on_lost: Callable[[], None],
        on_back: Callable[[], Awaitable[None]],
    ) -> None:
        self._server = server
        self._pool = pool
        self._name = name
        self._on_payload = on_payload
        self._on_lost = on_lost
        self._on_back = on_back
        self._mark = f'?{secrets.token_urlsafe(9)} '
        self._first_up = asyncio.Event()
        super().__init__(
            'postgres', 'PostgreSQL', probe_s=probe_s, timeout_s=server.timeout_s
        )

    async def wait(self) -> None:
        """Return when it has listened."""
        await self._first_up.wait()

    # --- what the link asks ----------------------------------------------------------

    async def open_connection(self) -> Connection:
        """Return a connection that listens."""
        connection = await self._server.connect()
        try:
            # NOTE: a connection that waits for notifications has no statement to end.
            async with asyncio.timeout(self._timeout_s):
                await connection.execute(f'LISTEN "{self._name}"'.encode())
        except BaseException:
            await shut(connection)
            raise
        return connection

    async def read(self, connection: Connection) -> None:
        """Take notifications."""
        async for notification in connection.notifies():
            payload = notification.payload
            if payload.startswith('?'):
                if payload.startswith(self._mark):
                    self.probe_arrived(int(payload[len(self._mark) :]))
                continue
            await self._on_payload(payload)
        raise EOFError('the connection was closed')

    async def send_probe(self, number: int) -> None:
        """Notify of a number."""
        await self._pool.rows(
            'SELECT pg_notify(%s, %s)', self._name, f'{self._mark}{number}'
        )

    async def shut(self, connection: Connection) -> None:
        """Close a connection."""
        await shut(connection)

    async def on_up(self) -> None:
        """Tell that it is back."""
        await self._on_back()
        self._first_up.set()

    def on_down(self) -> None:
        """Tell that it is lost."""
        self._on_lost()
