"""The queue that appends the batches of many streams with few calls of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from falcon_channels import BrokerUnavailableError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import PublishResult
from falcon_channels.append_queue import AppendQueue
from falcon_channels.append_queue import BatchSource
from falcon_channels.append_queue import MAX_ITEMS
from falcon_channels.brokers.base import Append
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.chunk_rate import ChunkRate


class SlowBroker(MemoryBroker):
    """A broker with `append_all`, whose calls end when the test says so.

    Attributes:
        calls: The future that each call waits for.
    """

    capabilities = Capabilities(append_all=True)

    def __init__(self) -> None:
        super().__init__()
        self.calls: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    def append_all(
        self, items: Sequence[Append]
    ) -> asyncio.Future[list[PublishResult | None]]:
        end = asyncio.get_running_loop().create_future()
        self.calls.put_nowait(end)
        return asyncio.ensure_future(self._append_all(items, end))

    async def _append_all(
        self, items: Sequence[Append], end: asyncio.Future[None]
    ) -> list[PublishResult | None]:
        await end
        return [
            await self.publish(channel, publication, settings, version=version)
            for channel, publication, settings, version in items
        ]


async def test_chunks_join_a_batch_that_waits_for_its_turn() -> None:
    """While the broker is slow, batches become larger, and not more."""
    broker = SlowBroker()
    channels = Channels(broker)
    channels.add_route('{name}', None, ChannelOptions(history_size=1000))
    async with (
        channels,
        channels.stream('first') as first,
        channels.stream('second') as second,
    ):
        await first.write('a')
        first_call = await broker.calls.get()
        for character in 'bcde':
            await second.write(character)
            await asyncio.sleep(0)
        assert broker.calls.empty()
        first_call.set_result(None)
        (await broker.calls.get()).set_result(None)
        await second.flush()
        page = await channels.history('second', limit=None)
        assert ['bcde'] == [publication.value() for publication in page.publications]
        assert broker.calls.empty()


async def test_many_batches_are_appended_by_few_calls_of_limited_size() -> None:
    """Batches wait in order until a call has ended; a failed call has no results."""
    calls: list[tuple[list[Any], asyncio.Future[Any]]] = []
    results: list[tuple[int, Any]] = []

    def append_all(items: list[Any]) -> asyncio.Future[Any]:
        if len(calls) == 3:
            raise BrokerUnavailableError('too many calls are pending')
        calls.append((items, asyncio.get_running_loop().create_future()))
        return calls[-1][1]

    queue = AppendQueue(append_all, ChunkRate())
    for number in range(4 * MAX_ITEMS):
        queue.add(
            BatchSource(
                partial(int, number),
                lambda result, n=number: results.append((n, result)),  # type: ignore[misc]
            )
        )
    await asyncio.sleep(0)
    assert [MAX_ITEMS] == [len(items) for items, _ in calls]
    calls[0][1].set_result([-n for n in calls[0][0]])
    await asyncio.sleep(0)
    assert [MAX_ITEMS, MAX_ITEMS] == [len(items) for items, _ in calls]
    calls[1][1].set_exception(BrokerUnavailableError('the disk is full'))
    await asyncio.sleep(0)
    assert 3 == len(calls)
    calls[2][1].set_result([-n for n in calls[2][0]])
    await asyncio.sleep(0)
    failed = {*range(MAX_ITEMS, 2 * MAX_ITEMS), *range(3 * MAX_ITEMS, 4 * MAX_ITEMS)}
    appended = [item for items, _ in calls for item in items]
    assert list(range(3 * MAX_ITEMS)) == appended
    expected = {n: None if n in failed else -n for n in range(4 * MAX_ITEMS)}
    assert expected == dict(results)
    assert len(results) == len(expected)


class Told:
    """The results that sources were told.

    Args:
        count: Number of results to wait for.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = asyncio.Event()
        self.results: list[PublishResult | None] = []

    def add(self, result: PublishResult | None) -> None:
        """Store a result."""
        self.results.append(result)
        if len(self.results) == self._count:
            self._done.set()

    async def wait(self) -> None:
        """Return when all results have arrived."""
        async with asyncio.timeout(5):
            await self._done.wait()


async def test_source_with_an_error_does_not_stop_the_others() -> None:
    """A batch is appended if another stream fails to give its own batch."""
    appended: list[str] = []
    told = Told(2)

    def append_all(items: list[str]) -> asyncio.Future[list[PublishResult | None]]:
        appended.extend(items)
        future = asyncio.get_running_loop().create_future()
        future.set_result([None] * len(items))
        return future

    def fail(*_: object) -> None:
        raise RuntimeError('a bug')

    queue = AppendQueue(append_all, ChunkRate())
    queue.add(BatchSource(fail, fail))
    queue.add(BatchSource(lambda: 'a', fail))
    failed = Told(1)
    queue.add(BatchSource(fail, failed.add))
    queue.add(BatchSource(lambda: 'b', told.add))
    await asyncio.sleep(0)
    queue.add(BatchSource(lambda: 'c', told.add))
    await told.wait()
    assert ['a', 'b', 'c'] == appended
    # The stream that failed is told to store its batch by itself.
    await failed.wait()
    assert [None] == failed.results


async def test_error_of_the_broker_is_told_to_each_source() -> None:
    """If `append_all` raises any error, each stream stores its batch by itself."""
    told = Told(2)

    def append_all(items: list[str]) -> asyncio.Future[list[PublishResult | None]]:
        raise RuntimeError('a bug')

    queue = AppendQueue(append_all, ChunkRate())
    for text in 'ab':
        queue.add(BatchSource(lambda text=text: text, told.add))  # type: ignore[misc]
    await told.wait()
    assert [None, None] == told.results
