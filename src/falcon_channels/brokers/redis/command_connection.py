"""A connection for commands to one server, on which commands are pipelined."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import ReadOnlyError
from redis.exceptions import ResponseError

from falcon_channels.brokers.background_tasks import start_task
from falcon_channels.brokers.pending_calls import PendingCall
from falcon_channels.brokers.pending_calls import PendingCalls
from falcon_channels.brokers.redis.connections import Address
from falcon_channels.brokers.redis.connections import disconnect
from falcon_channels.brokers.redis.connections import LINK_ERRORS
from falcon_channels.brokers.redis.connections import Server
from falcon_channels.brokers.server_link import describe
from falcon_channels.errors import BrokerUnavailableError

#: Approximate memory that a command takes without its arguments, in bytes.
_COMMAND_BYTES = 256

Argument = str | bytes | int

_Command = PendingCall[tuple[Argument, ...]]


class CommandConnection:
    """A connection for commands, opened when there is a command to send.

    All commands of one event-loop iteration are sent in one write, in the order of the
    calls. The server answers in the same order.

    No command is sent twice. If the connection ends, all commands that were sent fail,
    because nobody knows which of them were executed.

    Args:
        server: The server options.
        address: Address of the server.
        timeout_s: Deadline of a command, in seconds.
    """

    def __init__(self, server: Server, address: Address, timeout_s: float) -> None:
        self.address = address
        self._server = server
        self._timeout_s = timeout_s
        self._pending: PendingCalls[tuple[Argument, ...]] = PendingCalls(
            f'Redis at {address}', timeout_s, self._on_overdue
        )
        self._unsent: deque[_Command] = deque()
        #: Commands that were sent, in the order in which the server answers.
        self._sent: deque[_Command] = deque()
        self._wake = asyncio.Event()
        self._task = start_task(self._run(), 'redis commands')

    def call(self, *arguments: Argument) -> asyncio.Future[Any]:
        """Send a command and return the future of its answer.

        If the server answers with an error, the future raises it as
        `redis.exceptions.ResponseError`.

        Args:
            arguments: Name of the command and its arguments.

        Raises:
            BrokerUnavailableError: The connection is closed, or too many commands are
                pending. Nothing was sent.
        """
        size_bytes = _COMMAND_BYTES + sum(
            len(argument)
            for argument in arguments
            if isinstance(argument, (str, bytes))
        )
        command = self._pending.add(arguments, size_bytes)
        self._unsent.append(command)
        self._wake.set()
        return command.future

    async def close(self) -> None:
        """Close the connection and fail all pending commands."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._sent.clear()
        self._unsent.clear()
        self._pending.close()

    # --- internals --------------------------------------------------------------------

    def _on_overdue(self) -> None:
        # NOTE: the server answers in order. If it does not answer the oldest command,
        #   it will not answer the later ones either.
        self._sent.clear()
        self._unsent.clear()
        self._pending.fail_all(
            f'Redis at {self.address} did not answer within {self._timeout_s} s'
        )
        self._task.cancel()
        self._task = start_task(self._run(), 'redis commands')

    def _reject_all(self, commands: deque[_Command], reason: str) -> None:
        while commands:
            self._pending.reject(commands.popleft(), BrokerUnavailableError(reason))

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if not self._unsent:
                self._wake.clear()
                continue
            try:
                connection = await self._server.connect(self.address)
            except BrokerUnavailableError as ex:
                self._reject_all(self._unsent, str(ex))
                continue
            writing = asyncio.create_task(
                self._write(connection), name='falcon_channels redis writer'
            )
            try:
                await self._read(connection)
            except LINK_ERRORS as ex:
                self._reject_all(
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
            packed = connection.pack_commands([command.request for command in batch])
            try:
                await connection.send_packed_command(packed, check_health=False)
            except LINK_ERRORS:
                # NOTE: the reader gets an error as well, and rejects the commands.
                await disconnect(connection)
                return

    async def _read(self, connection: Connection) -> None:
        while True:
            error: ResponseError | None = None
            answer = None
            try:
                answer = await connection.read_response(disable_decoding=True)
            except ResponseError as ex:
                error = ex
            if not self._sent:
                raise EOFError('the server sent an answer without a command')
            command = self._sent.popleft()
            if error is None:
                self._pending.resolve(command, answer)
            else:
                self._pending.reject(command, error)
            if isinstance(error, ReadOnlyError):
                # NOTE: after a fail-over, the name of the server may lead to the new
                #   primary. A new connection resolves it again.
                raise EOFError('the server has become a replica')
