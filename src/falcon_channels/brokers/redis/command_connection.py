"""A connection for commands to one server, on which commands are pipelined."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
import logging
import re
from typing import Any

from redis.exceptions import NoScriptError
from redis.exceptions import ReadOnlyError
from redis.exceptions import ResponseError

from falcon_channels.brokers.background_tasks import start_task
from falcon_channels.brokers.pending_calls import PendingCall
from falcon_channels.brokers.pending_calls import PendingCalls
from falcon_channels.brokers.redis.connections import Address
from falcon_channels.brokers.redis.connections import LINK_ERRORS
from falcon_channels.brokers.redis.connections import RedisConnector
from falcon_channels.brokers.redis.replies import Argument
from falcon_channels.brokers.redis.replies import pack
from falcon_channels.brokers.redis.resp_connection import RespConnection
from falcon_channels.brokers.redis.scripts import Script
from falcon_channels.brokers.server_link import describe
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')

#: Approximate memory that a command takes beside its encoded text, in bytes.
_COMMAND_BYTES = 256

_RUN_ID = re.compile(rb'^run_id:(\w+)', re.MULTILINE)

#: A command, or a script with its keys and arguments.
_Request = tuple[Script | None, tuple[Argument, ...]]
_Command = PendingCall[_Request]


class CommandConnection:
    """A connection for commands, opened when there is a command to send.

    A command is sent at once if no other one waits for its answer. Otherwise it is sent
    in the next event-loop iteration, with all other new commands in one write. The
    order is that of the calls. The server answers in the same order.

    No command is sent twice. If the connection ends, all commands that were sent fail,
    because nobody knows which of them were executed.

    A TCP connection leads to one run of one server. The id of this run is read when the
    connection is opened. It is part of the text of each script that needs it. A server
    that was restarted or replaced does not know a script with the id of another run. It
    refuses to execute the script.

    Args:
        connector: Opens connections to the servers.
        address: Address of the server.
        timeout_s: Deadline of a command, in seconds.
    """

    def __init__(
        self, connector: RedisConnector, address: Address, timeout_s: float
    ) -> None:
        self.address = address
        self._connector = connector
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._pending: PendingCalls[_Request] = PendingCalls(
            f'Redis at {address}', timeout_s, self._on_overdue
        )
        self._unsent: deque[_Command] = deque()
        #: The encoded commands of `_unsent`, while the connection is open.
        self._packed: list[bytes] = []
        #: Commands that were sent, in the order in which the server answers.
        self._sent: deque[_Command] = deque()
        #: The open connection, or ``None``.
        self._connection: RespConnection | None = None
        #: Id of the current run of the server; empty if it does not tell.
        self._run_id = b''
        self._flushes = False
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
        return self._send((None, arguments))

    async def run(self, script: Script, words: tuple[Argument, ...]) -> Any:
        """Run a script and return its result.

        Args:
            script: The script.
            words: The number of its keys, its keys and its arguments.

        Raises:
            redis.exceptions.ResponseError: The server answered with an error.
            BrokerUnavailableError: As for `call`, or the server did not answer.
        """
        try:
            return await self._send((script, words))
        except NoScriptError:
            # NOTE: the script was not executed. The server caches it from now on.
            self._run_id = await self._read_run_id(self.call('INFO', 'server'))
            return await self.call('EVAL', script.text_of(self._run_id), *words)

    async def close(self) -> None:
        """Close the connection and fail all pending commands."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._sent.clear()
        self._unsent.clear()
        self._pending.close()

    # --- sending ----------------------------------------------------------------------

    def _send(self, request: _Request) -> asyncio.Future[Any]:
        # NOTE: a word that cannot be encoded must fail this call only, and not a flush.
        packed = self._pack(request)
        command = self._pending.add(request, _COMMAND_BYTES + len(packed))
        self._unsent.append(command)
        if self._connection is None:
            self._wake.set()
            return command.future
        self._packed.append(packed)
        if not self._sent:
            self._flush()
        elif not self._flushes:
            self._flushes = True
            self._loop.call_soon(self._flush)
        return command.future

    def _pack(self, request: _Request) -> bytes:
        script, words = request
        if script is None:
            return pack(words)
        return pack(('EVALSHA', script.sha_of(self._run_id), *words))

    def _flush(self) -> None:
        """Send all commands that wait, in one write."""
        self._flushes = False
        if self._connection is None or not self._unsent:
            return
        self._connection.write(b''.join(self._packed))
        self._packed.clear()
        self._sent.extend(self._unsent)
        self._unsent.clear()

    # --- the connection ---------------------------------------------------------------

    def _on_overdue(self) -> None:
        # NOTE: the server answers in order. If it does not answer the oldest command,
        #   it will not answer the later ones either.
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
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
                connection = await self._open()
            except BrokerUnavailableError as ex:
                self._reject_all(self._unsent, str(ex))
                continue
            except Exception as ex:
                self._reject_all(self._unsent, self._note_defect(ex))
                continue
            try:
                connection.pass_answers(self._on_answer)
                # NOTE: the text of a script contains the id of the new run.
                self._packed = [self._pack(command.request) for command in self._unsent]
                self._connection = connection
                self._flush()
                await connection.wait_until_ended()
            except LINK_ERRORS as ex:
                self._connection = None
                self._reject_all(
                    self._sent,
                    f'the connection to Redis at {self.address} ended: {describe(ex)}',
                )
            except Exception as ex:
                self._connection = None
                self._reject_all(self._sent, self._note_defect(ex))
            finally:
                await connection.close()

    def _note_defect(self, error: Exception) -> str:
        """Log an error that is not one of `LINK_ERRORS`; return the reason for calls.

        NOTE: the next command opens another connection, as after any other error. If
          the task ended, commands would fail only after their deadline.
        """
        _logger.error(
            'an unexpected error ended the connection to Redis at %s',
            self.address,
            exc_info=error,
        )
        return f'the connection to Redis at {self.address} ended: {describe(error)}'

    async def _open(self) -> RespConnection:
        """Open a connection, and read the id of the run of its server."""
        connection = RespConnection(await self._connector.connect(self.address))
        try:
            async with asyncio.timeout(self._timeout_s):
                self._run_id = await self._read_run_id(connection.ask('INFO', 'server'))
        except BaseException as ex:
            await connection.close()
            if isinstance(ex, LINK_ERRORS):
                raise BrokerUnavailableError(
                    f'the connection to Redis at {self.address} ended: {describe(ex)}'
                ) from None
            raise
        return connection

    async def _read_run_id(self, answer: Awaitable[bytes]) -> bytes:
        """Return the id of the run of the server from its answer to ``INFO server``."""
        try:
            found = _RUN_ID.search(await answer)
        except ResponseError:
            # NOTE: the user may lack the permission.
            return b''
        return found[1] if found else b''

    def _on_answer(self, answer: Any) -> None:
        """Called with each answer of the server."""
        if not self._sent:
            raise EOFError('the server sent an answer without a command')
        command = self._sent.popleft()
        if not isinstance(answer, Exception):
            self._pending.resolve(command, answer)
        elif isinstance(answer, ResponseError):
            self._pending.reject(command, answer)
            if isinstance(answer, ReadOnlyError):
                # NOTE: after a fail-over, the name of the server may lead to the new
                #   primary. A new connection resolves it again.
                raise EOFError('the server has become a replica')
        else:
            self._pending.reject(
                command,
                BrokerUnavailableError(f'Redis answered with an error: {answer}'),
            )
            raise EOFError(describe(answer))
