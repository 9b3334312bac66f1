"""A connection to one server that passes on each answer as it arrives.

redis-py opens the connection: it does the TLS handshake and sends the password. Its
methods that read and write await several coroutines for each part of an answer. This
module therefore takes over the transport once the connection is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import InvalidResponse

from falcon_channels.brokers.redis.connections import disconnect
from falcon_channels.brokers.redis.replies import Argument
from falcon_channels.brokers.redis.replies import INCOMPLETE
from falcon_channels.brokers.redis.replies import new_parser
from falcon_channels.brokers.redis.replies import pack


class RespConnection(asyncio.Protocol):
    """An open connection. The answers arrive in the order of the commands.

    Args:
        connection: A connection of redis-py, after its handshake. Nothing else uses
            it from now on.
    """

    def __init__(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        self._connection = connection
        self._parser = new_parser()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._on_answer: Callable[[Any], None] = self._answers.put_nowait
        self._reason: Exception | None = None
        self._ended: asyncio.Future[None] = loop.create_future()
        # NOTE: the connection may end while nobody waits for that.
        self._ended.add_done_callback(asyncio.Future.exception)
        # NOTE: redis-py has no public name for the transport. The server sends nothing
        #   without a command, so redis-py has read all bytes so far.
        writer: asyncio.StreamWriter = connection._writer  # type: ignore[assignment]
        self._transport = writer.transport
        self._transport.set_protocol(self)

    async def ask(self, *arguments: Argument) -> Any:
        """Send a command and return its answer; not possible after `pass_answers`.

        Raises:
            redis.exceptions.RedisError: The server answered with an error.
            EOFError: The connection has ended.
            OSError: The same.
        """
        self.write(pack(arguments))
        getting = asyncio.ensure_future(self._answers.get())
        try:
            await asyncio.wait(
                [getting, self._ended], return_when=asyncio.FIRST_COMPLETED
            )
            if not getting.done():
                await self.wait_until_ended()
            answer = getting.result()
        finally:
            getting.cancel()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pass_answers(self, on_answer: Callable[[Any], None]) -> None:
        """Pass each answer on from now on.

        Args:
            on_answer: Called with each answer. An error of the server is an answer. If
                the function raises an error, the connection ends with it.
        """
        self._on_answer = on_answer

    def write(self, data: bytes) -> None:
        """Send encoded commands; nothing happens if the connection has ended."""
        if self._reason is None:
            self._transport.write(data)

    async def wait_until_ended(self) -> None:
        """Wait until the connection ends, and raise the reason.

        Raises:
            redis.exceptions.RedisError: The server broke the protocol.
            EOFError: The server has closed the connection.
            OSError: The connection has failed.
        """
        await asyncio.shield(self._ended)

    def abort(self) -> None:
        """End the connection at once; call `close` as well."""
        self._end(EOFError('the connection was closed'))

    async def close(self) -> None:
        """Close the connection at once, in any state; raise nothing."""
        self.abort()
        await disconnect(self._connection)

    # --- called by the transport ------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Called when the server has sent bytes."""
        parser, on_answer = self._parser, self._on_answer
        try:
            parser.feed(data)
            while (answer := parser.gets()) is not INCOMPLETE:
                if self._reason is not None:
                    return
                on_answer(answer)
        except (InvalidResponse, EOFError) as ex:
            self._end(ex)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection has ended."""
        self._end(exc or EOFError('the server has closed the connection'))

    def _end(self, reason: Exception) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        self._transport.abort()
        self._ended.set_exception(reason)
