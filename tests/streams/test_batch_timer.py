"""A stream stores its chunks at once in a process with few chunks, else in pairs."""

from __future__ import annotations

import asyncio
from collections import defaultdict
import json
from typing import Any

from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import PublishResult
from falcon_channels import StreamWriterOptions
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.chunk_rate import BUSY_CHUNKS_PER_S

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
        delay_s: Time for which the next publication waits before it is stored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stored_s: dict[str, list[float]] = defaultdict(list)
        self.num_stored = 0
        self.delay_s = 0.0

    async def publish(
        self, channel: str, publication: Any, *args: Any, **kwargs: Any
    ) -> PublishResult:
        delay_s, self.delay_s = self.delay_s, 0.0
        await asyncio.sleep(delay_s)
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


@on_fake_clock
async def test_delay_of_the_broker_delays_only_the_chunks_that_wait_for_it() -> None:
    """The pause between batches counts from the times at which they were due.

    The chunks come every 33 ms, and the pause is 30 ms. Chunk 5 is late because its
    batch is stored late, and chunk 6 because it waits for this batch. If the pause
    counted from the delayed batch, several more chunks would be late.
    """
    broker = RecordingBroker()
    async with make_channels(broker) as channels:
        clock = asyncio.get_running_loop().time
        written_s = []
        async with channels.stream('answers:1') as stream:
            for number in range(20):
                if number == 5:
                    broker.delay_s = 0.05
                written_s.append(clock())
                await stream.write('x')
                await asyncio.sleep(PERIOD_S)
        stored_s = broker.stored_s['answers:1']
        late = [
            number
            for number, (a, b) in enumerate(zip(written_s, stored_s, strict=True))
            if b - a > 0.001
        ]
        assert [5, 6] == late


@on_fake_clock
async def test_busy_process_keeps_the_pause_between_two_batches() -> None:
    """`busy_interval_s` does not shorten a longer `interval_s`."""
    broker = RecordingBroker()
    async with make_channels(broker) as channels:
        busy = asyncio.create_task(delays_of(channels, BUSY_STREAMS, 90))
        await asyncio.sleep(1)
        options = StreamWriterOptions(interval_s=0.5)
        async with channels.stream('answers:slow', options) as stream:
            for _ in range(200):
                await stream.write('x')
                await asyncio.sleep(0.005)
            await stream.flush()
        assert len(set(broker.stored_s['answers:slow'])) <= 4
        await busy
