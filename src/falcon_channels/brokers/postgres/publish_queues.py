"""Queues of publications. One transaction stores the publications of many channels.

A transaction locks the row of each channel. All processes lock the rows in the order of
the channel names, so that two groups cannot deadlock. The transaction of an application
may lock a row for longer. Such a row must not delay the other channels:

1. A group waits for a locked row for `_GROUP_WAIT_S` only.
2. After that, the rest of the group is stored without the channels that are locked.
3. A locked channel gets a transaction of its own, which waits until the deadline.
   Further publications to the channel wait behind it. Groups do not contain it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
import logging
from typing import Protocol

from falcon_channels.brokers.background_tasks import start_task
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.pending_calls import PendingCall
from falcon_channels.brokers.pending_calls import PendingCalls
from falcon_channels.brokers.postgres.batch_encoding import Batch
from falcon_channels.brokers.postgres.batch_encoding import QueuedPublication
from falcon_channels.brokers.postgres.connections import RowLockedError
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')

#: Limits of one transaction: publications, and bytes of their bodies. The last
#: publication may exceed the second one.
_MAX_PUBLICATIONS = 200
_MAX_BYTES = 1_048_576
#: Seconds for which a group waits for a row that another transaction has locked. It is
#: longer than most transactions, and far shorter than PostgreSQL's ``deadlock_timeout``
#: of a second. PostgreSQL therefore aborts no other transaction because of a group.
_GROUP_WAIT_S = 0.05
#: The same for the second attempt, for each row.
_RETRY_WAIT_S = 0.01


class Store(Protocol):
    """Stores publications in one transaction."""

    async def __call__(
        self, batches: Sequence[Batch], *, wait_s: float | None, skip: bool
    ) -> list[list[PublishResult | None] | None]:
        """Store batches of different channels in one transaction.

        Args:
            batches: The batches, sorted by channel.
            wait_s: Seconds for which the transaction waits for a locked channel;
                ``None`` for the deadline of the broker.
            skip: Whether locked channels are skipped.

        Returns:
            The results of each batch; ``None`` for a batch that was skipped. The
            result of a publication is ``None`` if its channel has ended.

        Raises:
            RowLockedError: A channel is locked, and `skip` is false.
            BrokerUnavailableError: The publications may have been stored or not.
        """


_Call = PendingCall[QueuedPublication]


class PublishQueues:
    """The queues of one process.

    Args:
        store: Stores publications in one transaction.
        workers: Maximum number of transactions at the same time, at least 1.
        timeout_s: Deadline of a publication, in seconds.
    """

    def __init__(self, store: Store, workers: int, timeout_s: float) -> None:
        self._store = store
        self._pending: PendingCalls[QueuedPublication] = PendingCalls(
            'PostgreSQL', timeout_s
        )
        #: The queue of each channel that has publications. Such a channel is also in
        #: `_ready` or in `_locked`, except while a transaction publishes to it.
        self._queues: dict[str, deque[_Call]] = {}
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._locked: asyncio.Queue[str] = asyncio.Queue()
        self._tasks = [start_task(self._store_groups(), 'postgres publisher')]
        self._tasks += [
            start_task(self._store_locked(), 'postgres publisher of a locked channel')
            for _ in range(max(1, workers - 1))
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

    # --- groups -----------------------------------------------------------------------

    async def _store_groups(self) -> None:
        while True:
            channel = await self._ready.get()
            group: dict[str, list[_Call]] = {}
            count = size_bytes = 0
            while True:
                calls = self._take_calls(channel, _MAX_PUBLICATIONS - count)
                group[channel] = calls
                count += len(calls)
                size_bytes += sum(call.size_bytes for call in calls)
                if (
                    count >= _MAX_PUBLICATIONS
                    or size_bytes >= _MAX_BYTES
                    or self._ready.empty()
                ):
                    break
                channel = self._ready.get_nowait()
            await self._store_group(group)

    async def _store_group(self, group: dict[str, list[_Call]]) -> None:
        batches = [
            _batch(channel, group[channel])
            for channel in sorted(group)
            if group[channel]
        ]
        try:
            results = await self._try_to_store(batches) if batches else []
        except Exception as ex:
            for calls in group.values():
                self._reject(calls, ex)
        else:
            for batch, found in zip(batches, results, strict=True):
                if found is not None:
                    self._resolve(group[batch.channel], found)
                    continue
                calls = group.pop(batch.channel)
                self._queues[batch.channel].extendleft(reversed(calls))
                self._locked.put_nowait(batch.channel)
        for channel in group:
            self._release(channel)

    async def _try_to_store(
        self, batches: Sequence[Batch]
    ) -> Sequence[list[PublishResult | None] | None]:
        """Store a group; return ``None`` for each batch of a locked channel."""
        try:
            return await self._store(batches, wait_s=_GROUP_WAIT_S, skip=False)
        except RowLockedError:
            pass
        try:
            return await self._store(batches, wait_s=_RETRY_WAIT_S, skip=True)
        except RowLockedError:
            # NOTE: a row that is not the channel's is locked, such as one that is being
            #   removed because it has expired.
            return [None] * len(batches)

    # --- locked channels --------------------------------------------------------------

    async def _store_locked(self) -> None:
        while True:
            channel = await self._locked.get()
            calls = self._take_calls(channel, _MAX_PUBLICATIONS)
            if calls:
                try:
                    (results,) = await self._store(
                        [_batch(channel, calls)], wait_s=None, skip=False
                    )
                except Exception as ex:
                    self._reject(calls, ex)
                else:
                    assert results is not None
                    self._resolve(calls, results)
            self._release(channel)

    # --- both -------------------------------------------------------------------------

    def _take_calls(self, channel: str, limit: int) -> list[_Call]:
        """Remove calls that fit into one batch from the start of a queue."""
        queue = self._queues[channel]
        calls: list[_Call] = []
        size_bytes = 0
        while queue and len(calls) < limit and size_bytes < _MAX_BYTES:
            if calls and not queue[0].request.fits(calls[0].request):
                break
            call = queue.popleft()
            if call.future.done():
                # NOTE: the caller was cancelled, or the deadline has passed.
                self._pending.discard(call)
            else:
                calls.append(call)
                size_bytes += call.size_bytes
        return calls

    def _resolve(
        self, calls: Sequence[_Call], results: Sequence[PublishResult | None]
    ) -> None:
        for call, result in zip(calls, results, strict=True):
            self._pending.resolve(call, result)

    def _reject(self, calls: Sequence[_Call], error: Exception) -> None:
        """Fail the calls of a transaction.

        NOTE: an error that is no `BrokerUnavailableError` is a defect, or the functions
        in the database are those of another release. Later publications still have a
        task that stores them.
        """
        if not isinstance(error, BrokerUnavailableError):
            _logger.error('publications were not stored', exc_info=error)
            error = BrokerUnavailableError(
                f'PostgreSQL: {type(error).__name__}: {error}'
            )
        for call in calls:
            self._pending.reject(call, error)

    def _release(self, channel: str) -> None:
        """Add a channel to the next group if it has publications; else forget it."""
        if self._queues[channel]:
            self._ready.put_nowait(channel)
        else:
            del self._queues[channel]


def _batch(channel: str, calls: Sequence[_Call]) -> Batch:
    return Batch(channel, [call.request for call in calls])
