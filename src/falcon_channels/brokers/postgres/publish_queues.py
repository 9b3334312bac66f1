"""A queue of publications for each channel; a batch of one queue is one transaction.

A transaction locks only one channel. Two transactions of this process therefore never
wait for each other, and an application's transaction that publishes delays only its own
channel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from collections.abc import Callable
from typing import NamedTuple

from falcon_channels.brokers.background_tasks import start_task
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.brokers.base import Version
from falcon_channels.brokers.pending_calls import PendingCall
from falcon_channels.brokers.pending_calls import PendingCalls
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.publication import ChannelEnd

#: Maximum number of publications in one transaction.
_BATCH = 100


class QueuedPublication(NamedTuple):
    """A publication that waits for its transaction.

    Attributes:
        body: The encoded publication.
        key: The encoded idempotency key, or ``None``.
        settings: How long the publication is stored.
        version: The version of the publication, or ``None``.
        end: The end of the channel, or ``None``.
    """

    body: bytes
    key: bytes | None
    settings: StreamSettings
    version: Version | None = None
    end: ChannelEnd | None = None


_Call = PendingCall[QueuedPublication]


class PublishQueues:
    """The queues of one process.

    Args:
        store: Function that publishes a batch to a channel in one transaction, and
            returns a result for each publication. All have the same settings. The
            result is ``None`` if the channel has ended.
        workers: Maximum number of transactions at the same time.
        timeout_s: Deadline of a publication, in seconds.
    """

    def __init__(
        self,
        store: Callable[
            [str, list[QueuedPublication]], Awaitable[list[PublishResult | None]]
        ],
        workers: int,
        timeout_s: float,
    ) -> None:
        self._store = store
        self._pending: PendingCalls[QueuedPublication] = PendingCalls(
            'PostgreSQL', timeout_s
        )
        self._queues: dict[str, deque[_Call]] = {}
        #: Channels with a queue, except those that are being published. A channel is
        #: here once.
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._tasks = [
            start_task(self._work(), 'postgres publisher') for _ in range(workers)
        ]

    async def publish(
        self, channel: str, publication: QueuedPublication
    ) -> PublishResult | None:
        """Publish after the queued publications of the channel.

        Args:
            channel: Name of the channel.
            publication: The publication.

        Returns:
            ``None`` if the channel has ended.

        Raises:
            BrokerUnavailableError: The publication may have been stored or not.
        """
        call = self._pending.add(publication, len(publication.body))
        queue = self._queues.get(channel)
        if queue is None:
            queue = self._queues[channel] = deque()
            self._ready.put_nowait(channel)
        queue.append(call)
        result: PublishResult | None = await call.future
        return result

    async def close(self) -> None:
        """Publish nothing more, and fail the queued publications."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._queues.clear()
        self._pending.close()

    # --- internals --------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            channel = await self._ready.get()
            batch = self._take_batch(channel)
            try:
                if batch:
                    await self._publish(channel, batch)
            finally:
                if self._queues.get(channel):
                    self._ready.put_nowait(channel)
                else:
                    self._queues.pop(channel, None)

    def _take_batch(self, channel: str) -> list[_Call]:
        """Remove publications with equal settings from the start of a queue."""
        queue = self._queues[channel]
        batch: list[_Call] = []
        while queue and len(batch) < _BATCH:
            if batch and queue[0].request.settings != batch[0].request.settings:
                break
            call = queue.popleft()
            if call.future.done():
                # NOTE: the caller was cancelled, or the deadline has passed.
                self._pending.discard(call)
            else:
                batch.append(call)
        return batch

    async def _publish(self, channel: str, batch: list[_Call]) -> None:
        try:
            results = await self._store(channel, [call.request for call in batch])
        except BrokerUnavailableError as ex:
            for call in batch:
                self._pending.reject(call, ex)
        else:
            for call, result in zip(batch, results, strict=True):
                self._pending.resolve(call, result)
