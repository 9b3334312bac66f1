"""Reads of the log that many clients want at once, made once.

When a process has restarted, all clients of a channel come back in the same second and
recover from the same position. Whoever asks while the same read is under way waits for
the next one, which serves all who came by then. It begins after each of them had asked,
and that is what recovery needs: see `falcon_channels.protocol.recovery`.
"""

from __future__ import annotations

import asyncio

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.publication import HistoryPage

#: Channel, settings, `since`, `limit` and `reverse`.
_Question = tuple[str, StreamSettings, int | None, int, bool]


class SharedReads:
    """Reads from a broker.

    Args:
        broker: Whose log.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: Reads that have not begun, and reads that have.
        self._due: dict[_Question, asyncio.Task[HistoryPage]] = {}
        self._running: dict[_Question, asyncio.Task[HistoryPage]] = {}

    async def history(
        self,
        channel: str,
        settings: StreamSettings,
        *,
        since: int | None = None,
        limit: int,
        reverse: bool = False,
    ) -> HistoryPage:
        """Do what `Broker.history` does, by a read that begins after this call.

        Nobody may change the page, for others have it as well.
        """
        if self._broker.capabilities.immediate_reads:
            # PERF: no task, and no turn of the event loop before the answer, which
            #   then leaves with the one before it (benchmarks/storm.py, a tenth).
            return await self._broker.history(
                channel, settings, since=since, limit=limit, reverse=reverse
            )
        question = (channel, settings, since, limit, reverse)
        read = self._due.get(question)
        if read is None:
            read = asyncio.get_running_loop().create_task(
                self._read(question), name=f'falcon_channels read of {channel}'
            )
            read.add_done_callback(_retrieve)
            self._due[question] = read
        # NOTE: who is cancelled here does not cancel it for the others.
        await asyncio.wait([read])
        return read.result()

    async def close(self) -> None:
        """Give up all reads."""
        reads = [*self._due.values(), *self._running.values()]
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    async def _read(self, question: _Question) -> HistoryPage:
        before = self._running.get(question)
        if before is not None:
            await asyncio.wait([before])
        read = self._running[question] = self._due.pop(question)
        channel, settings, since, limit, reverse = question
        try:
            return await self._broker.history(
                channel, settings, since=since, limit=limit, reverse=reverse
            )
        finally:
            if self._running.get(question) is read:
                del self._running[question]


def _retrieve(read: asyncio.Task[HistoryPage]) -> None:
    """Look at an exception that perhaps nobody waits for any more."""
    if not read.cancelled():
        read.exception()
