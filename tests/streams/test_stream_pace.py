"""The pace of stream writers: quick while a process writes little, else in batches."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
import json
from typing import Any

from support.fake_clock import on_fake_clock

from falcon_channels import BrokerUnavailableError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import PublishResult
from falcon_channels import StreamWriterOptions
from falcon_channels.brokers.base import Append
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.stream_pace import BUSY_CHUNKS_PER_S
from falcon_channels.stream_pace import MAX_ITEMS
from falcon_channels.stream_pace import StreamPace

INTERVAL_S = StreamWriterOptions().busy_interval_s
#: Longest delay by the timers themselves.
TICK_S = 0.006
#: Time between two chunks of a language model.
PERIOD_S = 1 / 30
#: Number of streams of a busy process.
BUSY_STREAMS = 2 * BUSY_CHUNKS_PER_S // 30


class RecordingBroker(MemoryBroker):
    """A broker that records when it stores each character.

    Attributes:
        stored_s: Times of the stored characters, by channel.
        num_stored: Number of publications with text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stored_s: dict[str, list[float]] = defaultdict(list)
        self.num_stored = 0

    async def publish(
        self, channel: str, publication: Any, *args: Any, **kwargs: Any
    ) -> PublishResult:
        if publication.data:
            now_s = asyncio.get_running_loop().time()
            self.stored_s[channel] += [now_s] * len(json.loads(publication.data))
            self.num_stored += 1
        return await super().publish(channel, publication, *args, **kwargs)


def make_channels(broker: RecordingBroker) -> Channels:
    channels = Channels(broker)
    channels.add_route('answers:{number}', None, ChannelOptions(history_size=1000))
    return channels


async def delays_of(
    channels: Channels, streams: int, chunks: int, busy_interval_s: float = INTERVAL_S
) -> list[float]:
    """Write streams at the speed of a language model.

    Returns:
        The time from the write of each chunk to its publication.
    """
    clock = asyncio.get_running_loop().time
    stored_s = channels.node.broker.stored_s  # type: ignore[attr-defined]  # a `RecordingBroker`
    delays = []

    async def write(number: int) -> None:
        await asyncio.sleep(PERIOD_S * number / streams)
        name = f'answers:{streams}-{number}'
        written_s = []
        options = StreamWriterOptions(busy_interval_s=busy_interval_s)
        async with channels.stream(name, options) as stream:
            for _ in range(chunks):
                written_s.append(clock())
                await stream.write('x')
                await asyncio.sleep(PERIOD_S)
            await asyncio.sleep(1)
        assert len(written_s) == len(stored_s[name])
        delays.extend(b - a for a, b in zip(written_s, stored_s[name], strict=True))

    await asyncio.gather(*(write(number) for number in range(streams)))
    return delays


@on_fake_clock
async def test_chunk_of_a_process_with_few_chunks_is_stored_at_once() -> None:
    """Below the limit of the process, a chunk after a pause does not wait."""
    broker = RecordingBroker()
    async with make_channels(broker) as channels:
        delays = await delays_of(channels, 100, 60)
        assert 6000 == len(delays)
        assert max(delays) < TICK_S


@on_fake_clock
async def test_chunks_of_a_busy_process_are_stored_in_pairs_within_an_interval() -> (
    None
):
    """Above the limit, a first chunk waits for the next one, and no longer.

    At the speed of a language model, this halves the number of publications.
    """
    broker = RecordingBroker()
    async with make_channels(broker) as channels:
        delays = await delays_of(channels, BUSY_STREAMS, 60)
        assert 60 * BUSY_STREAMS == len(delays)
        assert max(delays) <= INTERVAL_S + TICK_S
        # Before the process has counted the chunks, they are stored one by one.
        assert broker.num_stored < 0.62 * len(delays)


@on_fake_clock
async def test_process_that_is_no_longer_busy_stores_chunks_at_once() -> None:
    """The limit applies to the chunks of the last moment."""
    async with make_channels(RecordingBroker()) as channels:
        delays = await delays_of(channels, BUSY_STREAMS, 60)
        assert max(delays) >= INTERVAL_S
        await asyncio.sleep(1)
        delays = await delays_of(channels, 1, 30)
        assert max(delays) < TICK_S


@on_fake_clock
async def test_stream_without_busy_interval_is_quick_in_a_busy_process() -> None:
    """With ``busy_interval_s=0``, only `interval_s` counts."""
    async with make_channels(RecordingBroker()) as channels:
        delays = await delays_of(channels, BUSY_STREAMS, 60, busy_interval_s=0.0)
        assert max(delays) < TICK_S


@on_fake_clock
async def test_chunk_that_completes_a_pair_does_not_wait() -> None:
    """A batch does not wait for a chunk that would come after the interval."""
    async with make_channels(RecordingBroker()) as channels:
        delays = await delays_of(channels, BUSY_STREAMS, 60)
        # No chunk follows the last one of each stream.
        waited = [
            delay
            for number, delay in enumerate(delays)
            if number % 60 < 59 and delay > TICK_S
        ]
        assert len(waited) > len(delays) // 3
        assert max(waited) < PERIOD_S + 0.001


@on_fake_clock
async def test_batch_waits_no_longer_if_its_stream_pauses() -> None:
    """Without a next chunk, the batch is stored after the interval."""
    broker = RecordingBroker()
    async with make_channels(broker) as channels:
        busy = asyncio.create_task(delays_of(channels, BUSY_STREAMS, 60))
        await asyncio.sleep(1)
        clock = asyncio.get_running_loop().time
        async with channels.stream('answers:paused') as stream:
            written_s = clock()
            await stream.write('x')
            await asyncio.sleep(0.5)
        (stored_s,) = broker.stored_s['answers:paused']
        assert INTERVAL_S <= stored_s - written_s <= INTERVAL_S + TICK_S
        await busy


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
        channels.stream('third') as third,
    ):
        await first.write('a')
        first_call = await broker.calls.get()
        await second.write('a')
        second_call = await broker.calls.get()
        for character in 'bcde':
            await third.write(character)
            await asyncio.sleep(0)
        first_call.set_result(None)
        (await broker.calls.get()).set_result(None)
        second_call.set_result(None)
        await third.flush()
        page = await channels.history('third', limit=None)
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

    pace = StreamPace(append_all)
    for number in range(4 * MAX_ITEMS):
        pace.turn(
            lambda: None,
            partial(int, number),  # type: ignore[arg-type]  # stands for an `Append`
            lambda result, n=number: results.append((n, result)),  # type: ignore[misc]
        ).queue()
    await asyncio.sleep(0)
    assert [MAX_ITEMS, MAX_ITEMS] == [len(items) for items, _ in calls]
    calls[0][1].set_result([-n for n in calls[0][0]])
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
