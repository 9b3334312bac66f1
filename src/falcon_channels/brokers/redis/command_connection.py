"""Commands to one server: one connection, many commands under way, answers in order."""

from __future__ import annotations

import asyncio
from collections import deque
import contextlib
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import ReadOnlyError
from redis.exceptions import ResponseError

from falcon_channels.brokers.background_tasks import start_task
from falcon_channels.brokers.redis.connections import Address
from falcon_channels.brokers.redis.connections import disconnect
from falcon_channels.brokers.redis.connections import LINK_ERRORS
from falcon_channels.brokers.redis.connections import Server
from falcon_channels.brokers.server_link import describe
from falcon_channels.errors import BrokerUnavailableError

#: Commands, and bytes of theirs, that may be under way.
_MAX_COMMANDS = 20_000
_MAX_BYTES = 67_108_864

Word = str | bytes | int


class _Command:
    """A command under way."""

    __slots__ = ('deadline_s', 'future', 'size_bytes', 'words')

    def __init__(
        self,
        words: tuple[Word, ...],
        future: asyncio.Future[Any],
        deadline_s: float,
        size_bytes: int,
    ) -> None:
        self.words = words
        self.future = future
        self.deadline_s = deadline_s
        self.size_bytes = size_bytes


class CommandLink:
    """A connection for commands, opened when one is there to send.

    What is called in one turn of the event loop is sent at once, in the order of the
    calls. Nothing is sent twice: where the connection ends, all commands that were sent
    fail, for nobody knows which of them were executed.

    Args:
        server: How to connect.
        address: Where.
        timeout_s: Seconds until a command fails.
    """

    def __init__(self, server: Server, address: Address, timeout_s: float) -> None:
        self.address = address
        self._server = server
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[_Command] = deque()
        self._sent: deque[_Command] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._task = start_task(self._run(), 'redis commands')

    def call(self, *words: Word) -> asyncio.Future[Any]:
        """Send a command; return the future of its answer.

        An answer that is an error is raised as `redis.exceptions.ResponseError`.

        Raises:
            BrokerUnavailableError: Closed, or too much is under way.
        """
        size_bytes = 256 + sum(
            len(word) for word in words if isinstance(word, (str, bytes))
        )
        under_way = len(self._unsent) + len(self._sent)
        if self._closed:
            raise BrokerUnavailableError('the broker is closed')
        if under_way >= _MAX_COMMANDS or self._bytes + size_bytes > _MAX_BYTES:
            raise BrokerUnavailableError(
                f'{under_way} commands with {self._bytes} bytes are under way to Redis '
                f'already; the limits are {_MAX_COMMANDS} and {_MAX_BYTES}'
            )
        deadline_s = self._loop.time() + self._timeout_s
        command = _Command(words, self._loop.create_future(), deadline_s, size_bytes)
        self._bytes += size_bytes
        self._unsent.append(command)
        if self._timer is None:
            self._timer = self._loop.call_at(deadline_s, self._check_deadlines)
        self._wake.set()
        return command.future

    async def close(self) -> None:
        """End everything under way."""
        self._closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        self._fail(self._sent, 'the broker is closed')
        self._fail(self._unsent, 'the broker is closed')

    # --- inside ----------------------------------------------------------------------

    def _check_deadlines(self) -> None:
        # PERF: one timer for all commands: they end in order.
        self._timer = None
        oldest = (self._sent or self._unsent or [None])[0]
        if oldest is None:
            return
        if oldest.deadline_s > self._loop.time():
            self._timer = self._loop.call_at(oldest.deadline_s, self._check_deadlines)
            return
        # NOTE: a server that does not answer this will not answer what comes after.
        reason = f'no answer from Redis at {self.address} within {self._timeout_s} s'
        self._fail(self._sent, reason)
        self._fail(self._unsent, reason)
        self._task.cancel()
        self._task = start_task(self._run(), 'redis commands')

    def _fail(self, commands: deque[_Command], reason: str) -> None:
        while commands:
            command = commands.popleft()
            self._bytes -= command.size_bytes
            if not command.future.done():
                command.future.set_exception(BrokerUnavailableError(reason))

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if not self._unsent:
                self._wake.clear()
                continue
            try:
                connection = await self._server.connect(self.address)
            except BrokerUnavailableError as ex:
                self._fail(self._unsent, str(ex))
                continue
            writing = asyncio.create_task(
                self._write(connection), name='falcon_channels redis writer'
            )
            try:
                await self._read(connection, writing)
            except LINK_ERRORS as ex:
                self._fail(
                    self._sent,
                    f'the connection to Redis at {self.address} ended: {describe(ex)}',
                )
            finally:
                writing.cancel()
                await disconnect(connection)

    async def _write(self, connection: Connection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = list(self._unsent)
            self._unsent.clear()
            self._sent.extend(batch)
            packed = connection.pack_commands([command.words for command in batch])
            try:
                await connection.send_packed_command(packed, check_health=False)
            except LINK_ERRORS:
                # NOTE: the reader learns of it as well, and tells.
                await disconnect(connection)
                return

    async def _read(self, connection: Connection, writing: asyncio.Task[None]) -> None:
        while True:
            error: ResponseError | None = None
            answer = None
            try:
                answer = await connection.read_response(disable_decoding=True)
            except ResponseError as ex:
                error = ex
            if not self._sent:
                raise EOFError('an answer to nothing')
            command = self._sent.popleft()
            self._bytes -= command.size_bytes
            if not command.future.done():
                if error is None:
                    command.future.set_result(answer)
                else:
                    command.future.set_exception(error)
            if isinstance(error, ReadOnlyError):
                # NOTE: a primary no longer; its name may lead to another one by now.
                raise EOFError('the server has become a replica')


async def wait_quietly(future: asyncio.Future[Any]) -> None:
    """Wait for an answer that nobody needs."""
    with contextlib.suppress(*LINK_ERRORS, BrokerUnavailableError):
        await future
