"""Notifications: a connection that is always there, or reported.

A probe goes through the server and back every few seconds, so that a frozen server and
half of a connection are noticed as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
import logging
import random
import secrets

import psycopg

from falcon_channels.brokers.postgres.connecting import Connection
from falcon_channels.brokers.postgres.connecting import Pool
from falcon_channels.brokers.postgres.connecting import Server
from falcon_channels.brokers.postgres.connecting import shut
from falcon_channels.brokers.tasks import start_task
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')

#: What a connection or a call can fail with.
_ERRORS = (psycopg.Error, OSError, TimeoutError, EOFError, BrokerUnavailableError)


class Listener:
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
        self._probe_s = probe_s
        self._on_payload = on_payload
        self._on_lost = on_lost
        self._on_back = on_back
        self._probe = f'?{secrets.token_urlsafe(9)} '
        self._seen = 0
        self._sent = 0
        self._arrived = asyncio.Event()
        self._up = asyncio.Event()
        self._task = start_task(self._run(), 'postgres link', self._die)

    async def wait(self) -> None:
        """Return when it listens."""
        await self._up.wait()

    async def close(self) -> None:
        """Listen no more."""
        self._on_lost = _ignore
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- inside ----------------------------------------------------------------------

    def _die(self) -> None:
        self._on_lost()

    async def _run(self) -> None:
        delay_s = 0.05
        while True:
            try:
                connection = await self._server.connect()
                try:
                    if await self._listen(connection):
                        delay_s = 0.05
                finally:
                    await shut(connection)
            except _ERRORS as ex:
                _logger.debug('no link to PostgreSQL: %s', ex)
            # NOTE: not all processes at the same moment.
            await asyncio.sleep(delay_s * (0.5 + random.random()))
            delay_s = min(delay_s * 2, 2.0)

    async def _listen(self, connection: Connection) -> bool:
        """Listen until the connection ends; return whether it was good at first."""
        # NOTE: a connection that waits for notifications has no statement to end.
        async with asyncio.timeout(self._server.timeout_s):
            await connection.execute(f'LISTEN "{self._name}"'.encode())
        reading = asyncio.create_task(
            self._read(connection), name='falcon_channels postgres reader'
        )
        tasks = [reading]
        try:
            await self._first_of(reading, self._probe_once(), tasks)
            await self._on_back()
            self._up.set()
            await self._first_of(reading, self._probe_on(), tasks)
        except _ERRORS as ex:
            if self._up.is_set():
                _logger.warning('the link to PostgreSQL is lost: %s', ex)
        finally:
            was_up = self._up.is_set()
            self._up.clear()
            if was_up:
                self._on_lost()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return was_up

    async def _first_of(
        self,
        reading: asyncio.Task[None],
        other: Awaitable[None],
        tasks: list[asyncio.Task[None]],
    ) -> None:
        """Wait until something ends; raise what it raised."""

        async def run() -> None:
            await other

        task = asyncio.create_task(run(), name='falcon_channels postgres probe')
        tasks.append(task)
        await asyncio.wait([task, reading], return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            await reading
        await task

    async def _read(self, connection: Connection) -> None:
        async for notification in connection.notifies():
            payload = notification.payload
            if payload.startswith('?'):
                if payload.startswith(self._probe):
                    self._seen = int(payload[len(self._probe) :])
                    self._arrived.set()
                continue
            await self._on_payload(payload)
        raise EOFError('the connection was closed')

    async def _probe_on(self) -> None:
        while True:
            await asyncio.sleep(self._probe_s)
            await self._probe_once()

    async def _probe_once(self) -> None:
        self._sent += 1
        number = self._sent
        try:
            async with asyncio.timeout(self._server.timeout_s):
                await self._pool.rows(
                    'SELECT pg_notify(%s, %s)', self._name, f'{self._probe}{number}'
                )
                while self._seen < number:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise BrokerUnavailableError(
                f'a probe was not announced within {self._server.timeout_s} s'
            ) from None


def _ignore() -> None:
    """Do nothing."""
