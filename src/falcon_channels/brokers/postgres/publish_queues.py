"""Publishing: a lane for each channel, and all that waits in a lane in one transaction.

A transaction holds the lock of one channel only, so that no two of ours wait for each
other, and an application's transaction that publishes holds up nothing but its channel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

from falcon_channels.brokers.background_tasks import start_task
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.errors import BrokerUnavailableError

#: Publications in one transaction at most.
_BATCH = 100
#: Publications, and bytes of theirs, that may wait.
_MAX_WAITING = 20_000
_MAX_BYTES = 67_108_864


class Waiting:
    """A publication that waits."""

    __slots__ = ('body', 'future', 'key', 'settings')

    def __init__(
        self,
        body: bytes,
        key: bytes | None,
        settings: StreamSettings,
        future: asyncio.Future[PublishResult],
    ) -> None:
        self.body = body
        self.key = key
        self.settings = settings
        self.future = future


class Lanes:
    """The lanes of one process.

    Args:
        store: Publishes what is in one lane; returns a result for each.
        workers: How many lanes move at the same time.
        timeout_s: How long a publication may take.
    """

    def __init__(
        self,
        store: Callable[[str, list[Waiting]], Awaitable[list[PublishResult]]],
        workers: int,
        timeout_s: float,
    ) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._lanes: dict[str, deque[Waiting]] = {}
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._count = 0
        self._bytes = 0
        self._tasks = [
            start_task(self._work(), 'postgres lanes') for _ in range(workers)
        ]

    async def publish(
        self, channel: str, body: bytes, key: bytes | None, settings: StreamSettings
    ) -> PublishResult:
        """Publish after what waits in the channel's lane.

        Raises:
            BrokerUnavailableError: Stored or not.
        """
        if self._count >= _MAX_WAITING or self._bytes + len(body) > _MAX_BYTES:
            raise BrokerUnavailableError(
                f'{self._count} publications with {self._bytes} bytes wait already; '
                f'the limits are {_MAX_WAITING} and {_MAX_BYTES}'
            )
        future: asyncio.Future[PublishResult] = (
            asyncio.get_running_loop().create_future()
        )
        lane = self._lanes.get(channel)
        if lane is None:
            lane = self._lanes[channel] = deque()
            self._ready.put_nowait(channel)
        lane.append(Waiting(body, key, settings, future))
        self._count += 1
        self._bytes += len(body)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError:
            raise BrokerUnavailableError(
                f'not published within {self._timeout_s} s'
            ) from None

    async def close(self) -> None:
        """Publish no more; fail what waits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes.values():
            for waiting in lane:
                _fail(waiting, BrokerUnavailableError('the broker is closed'))
        self._lanes.clear()

    # --- inside ----------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            # NOTE: a channel is in `_ready` once, and not while it is being published.
            channel = await self._ready.get()
            batch = self._take(channel)
            try:
                if batch:
                    await self._publish(channel, batch)
            finally:
                if self._lanes.get(channel):
                    self._ready.put_nowait(channel)
                else:
                    self._lanes.pop(channel, None)

    def _take(self, channel: str) -> list[Waiting]:
        """Take what can be published together: of one kind, and still wanted."""
        lane = self._lanes[channel]
        batch: list[Waiting] = []
        while lane and len(batch) < _BATCH:
            if batch and lane[0].settings != batch[0].settings:
                break
            waiting = lane.popleft()
            self._count -= 1
            self._bytes -= len(waiting.body)
            if not waiting.future.done():
                batch.append(waiting)
        return batch

    async def _publish(self, channel: str, batch: list[Waiting]) -> None:
        try:
            results = await self._store(channel, batch)
        except BrokerUnavailableError as ex:
            for waiting in batch:
                _fail(waiting, ex)
        except asyncio.CancelledError:
            for waiting in batch:
                _fail(waiting, BrokerUnavailableError('the broker is closed'))
            raise
        else:
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(result)


def _fail(waiting: Waiting, error: Exception) -> None:
    future: asyncio.Future[Any] = waiting.future
    if not future.done():
        future.set_exception(error)
        # NOTE: seen, also where the caller has gone.
        future.exception()
