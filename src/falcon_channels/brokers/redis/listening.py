"""Announcements of one server: a pub/sub connection that is always there, or reported.

redis-py's own pub/sub object connects again in silence, and what was published
meanwhile is lost in silence. So this module reads the connection itself. A probe goes
through the server and back every few seconds, so that a frozen server, half of a
connection, and a subscription that was detached are noticed as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterable
import itertools
import logging
import random
from typing import Any

from redis.asyncio.connection import Connection

from falcon_channels.brokers.redis.commands import CommandLink
from falcon_channels.brokers.redis.connecting import Address
from falcon_channels.brokers.redis.connecting import describe
from falcon_channels.brokers.redis.connecting import disconnect
from falcon_channels.brokers.redis.connecting import LINK_ERRORS
from falcon_channels.brokers.redis.connecting import Server
from falcon_channels.brokers.tasks import start_task
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')

#: Names in one command.
_BATCH = 500


class Listener:
    """The pub/sub connection to one server.

    Args:
        server: How to connect.
        commands: To the same server, for probes.
        subscribe: ``SUBSCRIBE`` or ``SSUBSCRIBE``.
        unsubscribe: Its opposite.
        probe: Pub/sub name of the probes; always by ``SUBSCRIBE``.
        probe_s: Seconds between two probes.
        timeout_s: How long an answer may take.
        on_message: Called with name and data.
        on_change: Called when `up` has changed.
        on_moved: Called when the server says that a name is elsewhere now.
    """

    def __init__(
        self,
        server: Server,
        commands: CommandLink,
        subscribe: str,
        unsubscribe: str,
        probe: bytes,
        *,
        probe_s: float,
        timeout_s: float,
        on_message: Callable[[bytes, bytes], None],
        on_change: Callable[[], None],
        on_moved: Callable[[], None],
    ) -> None:
        self.up = False
        #: Why it is down.
        self.reason = 'not connected yet'
        self.names: set[bytes] = set()
        self._server = server
        self._commands = commands
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._probe = probe
        self._probe_s = probe_s
        self._timeout_s = timeout_s
        self._on_message = on_message
        self._on_change = on_change
        self._on_moved = on_moved
        self._connection: Connection | None = None
        self._sending = asyncio.Lock()
        self._confirming: dict[bytes, asyncio.Future[None]] = {}
        self._probes = itertools.count(1)
        self._probe_seen = 0
        self._probe_arrived = asyncio.Event()
        self._closed = False
        self._task = start_task(self._run(), 'redis link')

    @property
    def address(self) -> Address:
        """Of the server."""
        return self._commands.address

    async def subscribe(self, name: bytes) -> None:
        """Subscribe to a name, and return when the server has confirmed.

        Raises:
            BrokerUnavailableError: The link is lost, or no answer came.
        """
        if not self.up:
            raise BrokerUnavailableError(
                f'the link to Redis at {self.address} is lost: {self.reason}'
            )
        self.names.add(name)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send_names([name])
        except TimeoutError:
            self.names.discard(name)
            raise BrokerUnavailableError(
                f'Redis at {self.address} did not confirm a subscription within '
                f'{self._timeout_s} s'
            ) from None
        except BaseException:
            self.names.discard(name)
            raise

    async def unsubscribe(self, name: bytes) -> None:
        """Unsubscribe from a name; where the link is lost, it stays unsubscribed."""
        self.names.discard(name)
        connection = self._connection
        if connection is None or not self.up:
            return
        try:
            async with self._sending, asyncio.timeout(self._timeout_s):
                await connection.send_command(
                    self._unsubscribe, name, check_health=False
                )
        except LINK_ERRORS:
            # NOTE: the reader notices; what is subscribed then is `names`.
            await disconnect(connection)

    async def close(self) -> None:
        """Listen no more."""
        self._closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- inside ----------------------------------------------------------------------

    async def _run(self) -> None:
        delay_s = 0.05
        while True:
            try:
                connection = await self._server.connect(self.address)
            except BrokerUnavailableError as ex:
                self.reason = str(ex)
            else:
                self._connection = connection
                try:
                    if await self._listen(connection):
                        delay_s = 0.05
                finally:
                    self._connection = None
                    self._set_up(False)
                    self._fail_confirming()
                    await disconnect(connection)
            # NOTE: not all processes at the same moment.
            await asyncio.sleep(delay_s * (0.5 + random.random()))
            delay_s = min(delay_s * 2, 2.0)

    async def _listen(self, connection: Connection) -> bool:
        """Listen until the connection ends; return whether it was good at first."""
        was_up = False
        reading = asyncio.create_task(
            self._read(connection), name='falcon_channels redis reader'
        )
        tasks = [reading]
        try:
            async with asyncio.timeout(self._timeout_s + len(self.names) / 5000):
                await self._first_of(reading, self._start(connection), tasks)
            was_up = True
            self._set_up(True)
            await self._first_of(reading, self._probe_on(), tasks)
        except (*LINK_ERRORS, BrokerUnavailableError) as ex:
            self.reason = describe(ex)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return was_up

    async def _first_of(
        self,
        reading: asyncio.Task[None],
        other: Coroutine[Any, Any, None],
        tasks: list[asyncio.Task[None]],
    ) -> None:
        """Wait until something ends; raise what it raised."""
        task = asyncio.create_task(other, name='falcon_channels redis probe')
        tasks.append(task)
        await asyncio.wait([task, reading], return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            await reading
        await task

    async def _start(self, connection: Connection) -> None:
        async with self._sending:
            await connection.send_command('SUBSCRIBE', self._probe, check_health=False)
        await self._send_names(list(self.names))
        await self._probe_once()

    async def _send_names(self, names: list[bytes]) -> None:
        """Subscribe to names at the connection, and wait until all are confirmed."""
        connection = self._connection
        if connection is None:
            raise BrokerUnavailableError(f'the link to Redis is lost: {self.reason}')
        loop = asyncio.get_running_loop()
        futures = []
        for name in names:
            future = self._confirming.get(name)
            if future is None or future.done():
                future = self._confirming[name] = loop.create_future()
            futures.append(future)
        try:
            async with self._sending:
                for batch in self._batches(names):
                    await connection.send_command(
                        self._subscribe, *batch, check_health=False
                    )
            for future in futures:
                await future
        except LINK_ERRORS as ex:
            raise BrokerUnavailableError(
                f'the link to Redis is lost: {describe(ex)}'
            ) from None
        finally:
            for name, future in zip(names, futures, strict=True):
                if self._confirming.get(name) is future:
                    del self._confirming[name]

    def _batches(self, names: list[bytes]) -> Iterable[list[bytes]]:
        if self._subscribe == 'SUBSCRIBE':
            for start in range(0, len(names), _BATCH):
                yield names[start : start + _BATCH]
        else:
            # NOTE: names of one SSUBSCRIBE have to be in one slot.
            for name in names:
                yield [name]

    async def _read(self, connection: Connection) -> None:
        while True:
            message: Any = await connection.read_response(disable_decoding=True)
            kind = message[0]
            if kind in (b'message', b'smessage'):
                if message[1] == self._probe:
                    self._probe_seen = int(message[2])
                    self._probe_arrived.set()
                else:
                    self._on_message(message[1], message[2])
            elif kind in (b'subscribe', b'ssubscribe'):
                future = self._confirming.get(message[1])
                if future is not None and not future.done():
                    future.set_result(None)
            elif kind == b'sunsubscribe' and message[1] in self.names:
                self._on_moved()
                raise EOFError('the slot of a channel has moved')

    async def _probe_on(self) -> None:
        while True:
            await asyncio.sleep(self._probe_s)
            await self._probe_once()

    async def _probe_once(self) -> None:
        number = next(self._probes)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._commands.call('PUBLISH', self._probe, number)
                while self._probe_seen < number:
                    self._probe_arrived.clear()
                    await self._probe_arrived.wait()
        except TimeoutError:
            raise BrokerUnavailableError(
                f'a probe was not announced within {self._timeout_s} s'
            ) from None

    def _fail_confirming(self) -> None:
        for future in self._confirming.values():
            if not future.done():
                future.set_exception(
                    BrokerUnavailableError(f'the link to Redis is lost: {self.reason}')
                )
                # NOTE: seen, whether or not somebody still waits.
                future.exception()

    def _set_up(self, up: bool) -> None:
        if up is not self.up and not self._closed:
            self.up = up
            if not up:
                _logger.warning(
                    'the link to Redis at %s is lost: %s', self.address, self.reason
                )
            self._on_change()
