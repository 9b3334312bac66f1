"""Reads of the log that many clients need at the same time, made once.

After a restart of a process, all clients of a channel reconnect within a second and
recover from the same position. A request that arrives while the same read runs waits
for the next read. The next read serves all requests that have arrived before it begins.
Recovery relies on a read that begins after the request: see
`falcon_channels.protocol.recovery`.
"""

from __future__ import annotations

import asyncio

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.errors import ClosedError
from falcon_channels.publication import HistoryPage

#: Channel, settings, `since`, `limit` and `reverse`.
_Request = tuple[str, LogSettings, int | None, int, bool]


class SharedReads:
    """Shares the reads of a broker's logs.

    Args:
        broker: The broker.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: Reads that have not begun, by request.
        self._due: dict[_Request, asyncio.Task[HistoryPage]] = {}
        #: Reads that have begun, by request.
        self._running: dict[_Request, asyncio.Task[HistoryPage]] = {}

    async def history(
        self,
        channel: str,
        settings: LogSettings,
        *,
        since: int | None = None,
        limit: int,
        reverse: bool = False,
    ) -> HistoryPage:
        """Read the log with a `Broker.history` call that begins after this call.

        The page is shared with other callers: do not change it.

        Raises:
            BrokerUnavailableError: The log cannot be read now; try again.
            ClosedError: `close` was called.
        """
        if self._broker.capabilities.immediate_reads:
            # PERF: without a task, the reply is ready in the same event-loop iteration.
            #   It leaves in one write with earlier replies (benchmarks/storm.py, 10%).
            return await self._broker.history(
                channel, settings, since=since, limit=limit, reverse=reverse
            )
        request = (channel, settings, since, limit, reverse)
        read = self._due.get(request)
        if read is None:
            read = asyncio.get_running_loop().create_task(
                self._read(request), name=f'falcon_channels read of {channel}'
            )
            read.add_done_callback(_retrieve)
            self._due[request] = read
        # NOTE: `wait` does not cancel the task with this caller. Others share it.
        await asyncio.wait([read])
        if read.cancelled():
            # NOTE: nobody has cancelled the task of the caller.
            raise ClosedError('the hub is closed')
        return read.result()

    async def close(self) -> None:
        """Cancel all reads."""
        reads = [*self._due.values(), *self._running.values()]
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    async def _read(self, request: _Request) -> HistoryPage:
        before = self._running.get(request)
        if before is not None:
            await asyncio.wait([before])
        read = self._running[request] = self._due.pop(request)
        channel, settings, since, limit, reverse = request
        try:
            return await self._broker.history(
                channel, settings, since=since, limit=limit, reverse=reverse
            )
        finally:
            if self._running.get(request) is read:
                del self._running[request]


def _retrieve(read: asyncio.Task[HistoryPage]) -> None:
    """Mark an exception as retrieved, because all callers may be cancelled."""
    if not read.cancelled():
        read.exception()
