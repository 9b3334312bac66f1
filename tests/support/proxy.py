"""A TCP proxy in front of a server, which a test can cut."""

from __future__ import annotations

import asyncio
import contextlib
import random
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards connections to a port of loopback until it is cut.

    Args:
        target_port: Port of the server.

    Attributes:
        port: Port of the proxy.
        swallow: Whether bytes are dropped instead of forwarded.
        sent_bytes: Number of bytes that the server has sent to clients.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.swallow = False
        self.sent_bytes = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    async def mend(self) -> None:
        """Accept connections, on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, '127.0.0.1', self.port
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()
        await asyncio.gather(*self._tasks)

    def drop_one(self, dice: random.Random) -> None:
        """Reset one connection, if there is one."""
        if self._writers:
            dice.choice(list(self._writers)).transport.abort()

    def drop(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            back_reader, back_writer = await asyncio.open_connection(
                '127.0.0.1', self._target_port
            )
            self._writers.add(back_writer)
            try:
                await asyncio.gather(
                    self._pass(reader, back_writer),
                    self._pass(back_reader, writer, is_sent=True),
                )
            finally:
                self._writers.discard(back_writer)
                back_writer.close()
        except OSError:
            pass  # The server is unavailable, so the client's connection ends, too.
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_sent: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if is_sent:
                    self.sent_bytes += len(data)
                if not self.swallow:
                    writer.write(data)
                    await writer.drain()
        writer.close()

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.cut()
