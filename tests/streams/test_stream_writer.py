"""The writer of a stream, `Channels.stream`, on the memory broker and a fake clock.

Each test runs with and without `Broker.append_all`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Sequence
from contextvars import ContextVar
from contextvars import Token
import logging
import sys
from typing import Any

import pytest
from support.fake_clock import on_fake_clock
from support.loop_turns import LoopTurns

from falcon_channels import BrokerUnavailableError
from falcon_channels import CapabilityError
from falcon_channels import ChannelEnd
from falcon_channels import ChannelFinishedError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import HistoryPage
from falcon_channels import OptionsError
from falcon_channels import PayloadError
from falcon_channels import PositionError
from falcon_channels import PublicationTooLargeError
from falcon_channels import PublishResult
from falcon_channels import StreamAbortedError
from falcon_channels import StreamConflictError
from falcon_channels import StreamWriter
from falcon_channels import StreamWriterOptions
from falcon_channels import UnknownChannelError
from falcon_channels.brokers.base import Append
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.operations import Operation

CHANNEL = 'answers:1'
#: Name of the stream that the current code writes.
STREAM: ContextVar[str] = ContextVar('STREAM', default='')


class UncertainBroker(MemoryBroker):
    """A broker whose store is sometimes not available, before or after it has stored.

    Attributes:
        failures: Results of the next calls of `publish`: they fail ``'before'`` or
            ``'after'`` the publication is stored, or it ``'works'``.
        publishing: Number of calls of `publish`.
        gate: `publish` waits for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failures: Iterator[str] = iter(())
        self.publishing = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, *args: Any, **kwargs: Any) -> PublishResult:
        self.publishing += 1
        await self.gate.wait()
        failure = next(self.failures, 'works')
        if failure == 'before':
            raise BrokerUnavailableError('not stored')
        result = await super().publish(*args, **kwargs)
        if failure == 'after':
            raise BrokerUnavailableError('stored, but nobody knows')
        return result


class ContextObserver:
    """Records the value of `STREAM` when a publish begins and ends, by channel."""

    def __init__(self) -> None:
        self.begun: dict[str, set[str]] = defaultdict(set)
        self.ended: dict[str, set[str]] = defaultdict(set)

    def begin(self, operation: Operation) -> Token[str] | None:
        if operation.name != 'publish':
            return None
        self.begun[operation.channel].add(STREAM.get())
        return STREAM.set('an observer')

    def end(self, operation: Operation, state: Token[str] | None) -> None:
        if state is not None:
            STREAM.reset(state)
            self.ended[operation.channel].add(STREAM.get())


#: Whether the brokers of `make_channels` have `append_all`.
has_append_all = False


@pytest.fixture(autouse=True, params=[False, True], ids=['publish', 'append_all'])
def _calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], 'has_append_all', request.param)


async def append_each(broker: MemoryBroker, items: Sequence[Append]) -> list[Any]:
    """Implement `Broker.append_all`; it fails if one publication fails."""
    results: list[Any] = []
    for channel, publication, settings, version in items:
        try:
            results.append(
                await broker.publish(channel, publication, settings, version=version)
            )
        except ChannelFinishedError:
            results.append(None)
    return results


def make_channels(broker: MemoryBroker | None = None, **options: Any) -> Channels:
    broker = broker or MemoryBroker()
    if has_append_all:
        capabilities = Capabilities(immediate_reads=True, append_all=True)
        vars(broker)['capabilities'] = capabilities
        vars(broker)['append_all'] = lambda items: asyncio.ensure_future(
            append_each(broker, items)
        )
    channels = Channels(broker)
    channels.add_route(
        'answers:{number}', None, ChannelOptions(**{'history_size': 100, **options})
    )
    return channels


async def values(channels: Channels, channel: str = CHANNEL) -> list[Any]:
    page = await channels.history(channel, limit=None)
    return [item.value() for item in page.publications if not item.only_ends]


async def end(channels: Channels, channel: str = CHANNEL) -> ChannelEnd | None:
    return (await channels.history(channel, limit=0)).end


# --- batches --------------------------------------------------------------------------


@on_fake_clock
async def test_stream_publishes_its_chunks_and_the_end() -> None:
    """Texts are joined, other values are not, and the block finishes the channel."""
    async with make_channels() as channels:
        async with channels.stream(CHANNEL) as stream:
            for chunk in ('Two ', 'words. ', {'tool': 'search'}, [1], 'The ', 'end.'):
                await stream.write(chunk)
            assert 2 + len('Two words. The end.') == stream.length
        expected = ['Two words. ', {'tool': 'search'}, [1], 'The end.']
        assert expected == await values(channels)
        assert ChannelEnd() == await end(channels)
        assert not stream.aborted


@on_fake_clock
async def test_first_chunk_is_published_at_once_and_later_ones_are_collected() -> None:
    """After a pause nothing waits; then one batch is published in each interval."""
    async with make_channels() as channels:
        options = StreamWriterOptions(interval_s=1.0)
        async with channels.stream(CHANNEL, options) as stream:
            await stream.write('a')
            await asyncio.sleep(0.1)
            assert ['a'] == await values(channels)
            for _ in range(5):
                await stream.write('b')
                await asyncio.sleep(0.1)
            assert ['a'] == await values(channels)
            await asyncio.sleep(0.5)
            assert ['a', 'bbbbb'] == await values(channels)
            await asyncio.sleep(5)
            await stream.write('c')
            await asyncio.sleep(0.1)
            assert ['a', 'bbbbb', 'c'] == await values(channels)


@on_fake_clock
async def test_full_batch_does_not_wait_for_the_interval() -> None:
    """Many chunks are published before the interval has passed, in bounded batches."""
    async with make_channels() as channels:
        options = StreamWriterOptions(interval_s=60.0, max_batch_bytes=100)
        async with channels.stream(CHANNEL, options) as stream:
            await stream.write('a')
            await stream.flush()
            for _ in range(7):
                await stream.write('b' * 40)
            await asyncio.sleep(1)
            assert 3 * 40 <= len(''.join(await values(channels)))
        texts = await values(channels)
        assert 'a' + 280 * 'b' == ''.join(texts)
        assert max(map(len, texts)) <= 98


@on_fake_clock
async def test_flush_returns_when_everything_is_stored() -> None:
    """`flush` does not wait for the interval."""
    async with make_channels() as channels:
        started_s = asyncio.get_running_loop().time()
        options = StreamWriterOptions(interval_s=3600.0)
        async with channels.stream(CHANNEL, options) as stream:
            for text in ('a', 'b', 'c'):
                await stream.write(text)
                await stream.flush()
            assert ['a', 'b', 'c'] == await values(channels)
            assert asyncio.get_running_loop().time() - started_s < 1


@on_fake_clock
async def test_flush_while_a_batch_is_stored_does_not_wait_for_the_interval() -> None:
    """Chunks that were written meanwhile are published next."""
    broker = UncertainBroker()
    async with make_channels(broker) as channels:
        started_s = asyncio.get_running_loop().time()
        options = StreamWriterOptions(interval_s=3600.0)
        async with channels.stream(CHANNEL, options) as stream:
            broker.gate.clear()
            await stream.write('a')
            await asyncio.sleep(1)
            await stream.write('b')
            flushing = asyncio.create_task(stream.flush())
            await asyncio.sleep(1)
            broker.gate.set()
            await flushing
            assert asyncio.get_running_loop().time() - started_s < 5
            assert ['a', 'b'] == await values(channels)


@on_fake_clock
async def test_chunks_are_collected_again_after_an_early_batch() -> None:
    """An early batch does not change when the next ones are published."""
    async with make_channels() as channels:
        options = StreamWriterOptions(interval_s=1.0, max_batch_bytes=100)
        async with channels.stream(CHANNEL, options) as stream:
            for text in ('a', 'b' * 200):
                await stream.write(text)
                await stream.flush()
                count = len(await values(channels))
                for _ in range(5):
                    await stream.write('c')
                    await asyncio.sleep(0.1)
                assert count == len(await values(channels))
                await asyncio.sleep(1)
                assert count + 1 == len(await values(channels))


async def write_during_the_store_of_a_long_text(
    broker: UncertainBroker, stream: StreamWriter
) -> None:
    """Store a text of two batches, and a chunk that is written meanwhile."""
    broker.gate.clear()
    await stream.write('a' * 150)
    await asyncio.sleep(1)
    await stream.write('b')
    broker.gate.set()
    await asyncio.sleep(10)


@on_fake_clock
async def test_chunk_after_a_long_text_does_not_wait_for_a_flush() -> None:
    """The interval applies again, also if a chunk was stored with the long text."""
    broker = UncertainBroker()
    async with make_channels(broker) as channels:
        options = StreamWriterOptions(interval_s=1.0, max_batch_bytes=100)
        async with channels.stream(CHANNEL, options) as stream:
            await write_during_the_store_of_a_long_text(broker, stream)
            assert 'a' * 150 + 'b' == ''.join(await values(channels))
            await stream.write('c')
            await asyncio.sleep(2)
            assert 'c' == (await values(channels))[-1]


@on_fake_clock
async def test_flush_of_an_empty_stream_does_not_stop_other_streams() -> None:
    """A flush stores nothing if everything is stored, and other streams continue."""
    broker = UncertainBroker()
    async with make_channels(broker) as channels:
        options = StreamWriterOptions(interval_s=1.0, max_batch_bytes=100)
        async with (
            channels.stream(CHANNEL, options) as stream,
            channels.stream('answers:2', options) as other,
        ):
            await write_during_the_store_of_a_long_text(broker, stream)
            await stream.flush()
            await other.write('c')
            async with asyncio.timeout(10):
                await other.flush()
        assert ['c'] == await values(channels, 'answers:2')


@on_fake_clock
async def test_flush_waits_for_a_value_without_bytes() -> None:
    """A binary value without bytes is stored when `flush` returns."""
    async with make_channels(binary=True) as channels:
        options = StreamWriterOptions(interval_s=60.0)
        async with channels.stream(CHANNEL, options) as stream:
            await stream.write(b'a')
            await stream.flush()
            await stream.write(b'')
            await stream.flush()
            page = await channels.history(CHANNEL, limit=None)
            assert [b'a', b''] == [item.data for item in page.publications]


@on_fake_clock
async def test_long_text_is_cut_to_publications_of_the_channel() -> None:
    """A text may be longer than `max_publication_bytes`; a value may not."""
    async with make_channels(max_publication_bytes=100) as channels:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('é' * 1000)
            with pytest.raises(PublicationTooLargeError):
                await stream.write(['x' * 100])
            await stream.write(b'{"a": 1}')
            await stream.write(b'"text"')
            assert 1005 == stream.length
        page = await channels.history(CHANNEL, limit=None)
        assert max(len(item.data) for item in page.publications) <= 100
        *texts, value, text = await values(channels)
        assert ('é' * 1000, {'a': 1}, 'text') == (''.join(texts), value, text)


@on_fake_clock
async def test_write_waits_while_too_many_bytes_are_not_stored() -> None:
    """A producer that is faster than the broker waits: the memory is bounded."""
    broker = UncertainBroker()
    async with make_channels(broker) as channels:
        options = StreamWriterOptions(max_pending_bytes=1000)
        async with channels.stream(CHANNEL, options) as stream:
            broker.gate.clear()
            written = 0

            async def produce() -> None:
                nonlocal written
                for _ in range(100):
                    await stream.write('x' * 100)
                    written += 100

            producer = asyncio.create_task(produce())
            await asyncio.sleep(10)
            assert (1000, False) == (written, producer.done())
            broker.gate.set()
            await producer
        assert 'x' * 10_000 == ''.join(await values(channels))


# --- continue -------------------------------------------------------------------------


@on_fake_clock
async def test_second_writer_continues_where_the_first_one_was_cancelled() -> None:
    """A cancelled writer leaves the stream open, and `position` says what is stored."""
    text = ''.join(f'word{number} ' for number in range(100))
    async with make_channels(history_size=1000) as channels:
        for _ in range(3):
            writer = asyncio.create_task(write_from_position(channels, text, 0.01))
            await asyncio.sleep(1.05)
            writer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writer
            assert await end(channels) is None
            stored = ''.join(await values(channels))
            assert stored
            assert text.startswith(stored)
        await write_from_position(channels, text, 0.01)
        assert text == ''.join(await values(channels))
        assert ChannelEnd() == await end(channels)


async def write_from_position(channels: Channels, text: str, pause_s: float) -> None:
    async with channels.stream(CHANNEL) as stream:
        for character in text[stream.length :]:
            await stream.write(character)
            await asyncio.sleep(pause_s)


@on_fake_clock
async def test_replaying_producer_starts_again_and_nothing_is_repeated() -> None:
    """With ``replay=True`` the writer drops what is stored, whatever the chunks are."""
    async with make_channels() as channels:
        options = StreamWriterOptions(replay=True)

        async def write(size: int, count: int) -> None:
            async with channels.stream(CHANNEL, options) as stream:
                chunks = ['abcdefghij' * 3, {'v': 1}, {'v': 2}, 'klmnopqrst' * 3]
                for chunk in chunks[:count]:
                    pieces: list[Any] = (
                        [chunk[i : i + size] for i in range(0, len(chunk), size)]
                        if isinstance(chunk, str)
                        else [chunk]
                    )
                    for piece in pieces:
                        await stream.write(piece)
                if count < 4:
                    await stream.flush()
                    raise asyncio.CancelledError

        for size, count in ((7, 1), (4, 2), (11, 3)):
            with pytest.raises(asyncio.CancelledError):
                await write(size, count)
        await write(9, 4)
        first, one, two, last = await values(channels)
        assert ('abcdefghij' * 3, 'klmnopqrst' * 3) == (first, last)
        assert ({'v': 1}, {'v': 2}) == (one, two)


@on_fake_clock
async def test_writer_continues_after_publications_of_others() -> None:
    """Publications that no writer has made do not change the position."""
    async with make_channels() as channels:
        await channels.publish(CHANNEL, {'question': 'why?'})

        async def block() -> None:
            async with channels.stream(CHANNEL) as stream:
                assert 0 == stream.length
                await stream.write('abc')
                await stream.flush()
                for number in range(3):
                    await channels.publish(CHANNEL, number, tags={'stream_length': 'x'})
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await block()
        async with channels.stream(CHANNEL) as stream:
            assert 3 == stream.length
            await stream.write('def')
        expected = [{'question': 'why?'}, 'abc', 0, 1, 2, 'def']
        assert expected == await values(channels)


@on_fake_clock
async def test_opening_a_stream_lets_the_event_loop_turn_between_pages() -> None:
    """The log of a channel may have only publications of others. All are read."""
    num_publications = 3_000
    async with make_channels(history_size=num_publications) as channels:
        for number in range(num_publications):
            await channels.publish(CHANNEL, number)
        with LoopTurns() as turns:
            async with channels.stream(CHANNEL) as stream:
                assert 0 == stream.length
        # NOTE: even the shortest loop needs five bytecodes for each publication.
        assert turns.longest < 5 * num_publications


@on_fake_clock
async def test_channel_is_a_new_stream_after_its_history_was_removed() -> None:
    """An answer can be written again into the same channel."""
    async with make_channels() as channels:
        for text in ('first', 'second'):
            async with channels.stream(CHANNEL) as stream:
                assert 0 == stream.length
                await stream.write(text)
            assert [text] == await values(channels)
            await channels.remove_history(CHANNEL)


@on_fake_clock
async def test_batch_that_was_stored_without_an_answer_is_not_repeated() -> None:
    """If the broker stored a batch and could not say so, it is stored once."""
    broker = UncertainBroker()
    async with make_channels(broker) as channels:
        broker.failures = iter(
            ['after', 'before', 'works', 'before', 'after', 'works', 'after']
        )
        async with channels.stream(CHANNEL) as stream:
            for chunk in ('a', {'v': 1}, {'v': 1}, 'b', 'b'):
                await stream.write(chunk)
                await stream.flush()
        assert ['a', {'v': 1}, {'v': 1}, 'b', 'b'] == await values(channels)
        assert ChannelEnd() == await end(channels)


@on_fake_clock
async def test_end_that_was_stored_without_an_answer_is_no_error() -> None:
    """The writer finishes again with its key."""
    broker = UncertainBroker()
    async with make_channels(broker) as channels:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('a')
            await stream.flush()
            broker.failures = iter(['after', 'before'])
        assert ChannelEnd() == await end(channels)
        assert 4 == broker.publishing


@on_fake_clock
async def test_stream_stays_open_if_the_broker_is_gone_for_too_long() -> None:
    """The error is raised after `retry_timeout_s`; another process can continue."""
    broker = UncertainBroker()
    async with make_channels(broker) as channels:
        started_s = asyncio.get_running_loop().time()

        async def block() -> None:
            async with channels.stream(CHANNEL) as stream:
                await stream.write('a')
                await stream.flush()
                broker.failures = iter(lambda: 'before', None)
                await stream.write('b')
                await stream.flush()

        with pytest.raises(BrokerUnavailableError):
            await block()
        assert 30 <= asyncio.get_running_loop().time() - started_s < 32
        assert (['a'], None) == (await values(channels), await end(channels))
        broker.failures = iter(())
        async with channels.stream(CHANNEL) as stream:
            assert 1 == stream.length
            await stream.write('b')
        assert ['a', 'b'] == await values(channels)


# --- two writers ----------------------------------------------------------------------


@on_fake_clock
async def test_two_writers_of_the_same_text_write_it_once() -> None:
    """A writer that is believed to be dead, and its successor, spoil nothing."""
    text = ''.join(f'{number} ' for number in range(200))
    async with make_channels(history_size=1000) as channels:
        options = StreamWriterOptions(interval_s=0.0)

        async def write(size: int, pause_s: float) -> None:
            async with channels.stream(CHANNEL, options) as stream:
                for start in range(stream.length, len(text), size):
                    await stream.write(text[start : start + size])
                    await asyncio.sleep(pause_s)

        writers = [write(3, 0.003), write(7, 0.004), write(1, 0.002)]
        results = await asyncio.gather(*writers, return_exceptions=True)
        assert text == ''.join(await values(channels))
        assert ChannelEnd() == await end(channels)
        assert 1 == results.count(None)
        others = [result for result in results if result is not None]
        assert [ChannelFinishedError] * 2 == list(map(type, others))


@on_fake_clock
async def test_writer_whose_twin_has_just_finished_learns_the_end() -> None:
    """The twin finishes while this writer reads what the twin has written."""

    class TwinBroker(MemoryBroker):
        async def history(self, *args: Any, **kwargs: Any) -> HistoryPage:
            if kwargs.get('limit') == 100 and finish:
                await finish.pop()()
            return await super().history(*args, **kwargs)

    finish: list[Any] = []
    async with make_channels(TwinBroker()) as channels:

        async def write() -> None:
            async with channels.stream(CHANNEL) as own:
                twin = channels.stream(CHANNEL)
                await twin.open()
                await twin.write('abc')
                await twin.flush()
                finish.append(lambda: twin.close(None))
                await own.write('abc')

        with pytest.raises(ChannelFinishedError):
            await write()
        assert (['abc'], ChannelEnd()) == (await values(channels), await end(channels))


@on_fake_clock
async def test_writer_stops_if_another_one_has_written_something_else() -> None:
    """Texts of two writers are never mixed; the stream stays open for the other one."""
    async with make_channels() as channels:
        async with channels.stream(CHANNEL) as first:

            async def block() -> None:
                async with channels.stream(CHANNEL) as second:
                    await first.write('first')
                    await first.flush()
                    await second.write('second')
                    await second.flush()

            with pytest.raises(StreamConflictError, match='another writer'):
                await block()
            assert await end(channels) is None
            await first.write(' goes on')
        assert ['first', ' goes on'] == await values(channels)


@on_fake_clock
async def test_writer_that_is_late_does_not_finish_the_stream_of_another() -> None:
    """An error of a writer that was replaced is not the end of the stream."""
    async with make_channels() as channels:
        async with channels.stream(CHANNEL) as second:

            async def block() -> None:
                async with channels.stream(CHANNEL):
                    await second.write('abc')
                    await second.flush()
                    raise LookupError

            with pytest.raises(LookupError):
                await block()
            assert await end(channels) is None
            await second.write('def')
        assert ['abc', 'def'] == await values(channels)
        assert ChannelEnd() == await end(channels)


@on_fake_clock
async def test_writer_stops_if_the_history_was_removed_below_it() -> None:
    """A version of the channel that has no publication is a conflict."""
    async with make_channels() as channels:

        async def block() -> None:
            async with channels.stream(CHANNEL) as stream:
                async with channels.stream(CHANNEL) as other:
                    await other.write('other')
                await channels.remove_history(CHANNEL)
                await stream.write('own')
                await stream.flush()

        with pytest.raises(StreamConflictError):
            await block()


# --- ends -----------------------------------------------------------------------------


@on_fake_clock
async def test_exception_finishes_the_stream_with_a_public_text() -> None:
    """Readers get the chunks, and an error that says nothing about the exception."""
    async with make_channels() as channels:

        async def block() -> None:
            async with channels.stream(CHANNEL) as stream:
                await stream.write('half an')
                raise LookupError('password of the database')

        with pytest.raises(LookupError, match='password'):
            await block()
        assert ['half an'] == await values(channels)
        assert ChannelEnd('the stream has failed') == await end(channels)
        options = StreamWriterOptions(error_text='the model is busy')
        with pytest.raises(LookupError):
            async with channels.stream('answers:2', options):
                raise LookupError
        assert ChannelEnd('the model is busy') == await end(channels, 'answers:2')


@on_fake_clock
async def test_fail_finishes_the_stream_with_the_error_of_the_application() -> None:
    """`fail` is the end; the block may end without an exception."""
    async with make_channels() as channels:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('half')
            for wrong in ('', 'x' * 124):
                with pytest.raises(PayloadError):
                    await stream.fail(wrong)
            await stream.fail('no credit')
            with pytest.raises(ChannelFinishedError):
                await stream.write('more')
        assert (['half'], ChannelEnd('no credit')) == (
            await values(channels),
            await end(channels),
        )
        assert not stream.aborted


@on_fake_clock
async def test_stream_that_is_finished_cannot_be_opened() -> None:
    """A job that is delivered twice does not write its answer twice."""
    async with make_channels() as channels:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('a')
        with pytest.raises(ChannelFinishedError):
            async with channels.stream(CHANNEL):
                raise AssertionError('the block must not run')


@on_fake_clock
async def test_writer_learns_that_somebody_has_finished_the_channel() -> None:
    """An end that is no abort is an error, also if the block writes nothing more."""
    async with make_channels() as channels:

        async def block() -> None:
            async with channels.stream(CHANNEL) as stream:
                await stream.write('a')
                await stream.flush()
                await channels.finish(CHANNEL, error='by hand')

        with pytest.raises(ChannelFinishedError) as ex:
            await block()
        assert ChannelFinishedError is type(ex.value)

        async def block() -> None:
            async with channels.stream('answers:2') as stream:
                await channels.finish('answers:2')
                await stream.write('b')
                await asyncio.sleep(1)

        with pytest.raises(ChannelFinishedError):
            await block()
        assert ChannelEnd('by hand') == await end(channels)


@on_fake_clock
async def test_stream_fails_if_its_log_was_lost() -> None:
    """Readers of the new log get an error, because the beginning is gone."""
    broker = MemoryBroker()
    async with make_channels(broker, meta_ttl_s=60.0, history_ttl_s=60.0) as channels:

        async def block() -> None:
            async with channels.stream(CHANNEL) as stream:
                await stream.write('beginning')
                await stream.flush()
                await asyncio.sleep(120)
                await channels.publish('answers:2', 'the broker removes old logs now')
                await stream.write('middle')
                await stream.flush()

        with pytest.raises(PositionError, match="of the stream 'answers:1' was lost"):
            await block()
        assert ChannelEnd('the stream has failed') == await end(channels)


# --- abort ----------------------------------------------------------------------------


@on_fake_clock
async def test_abort_stops_a_writer_that_waits_for_its_producer() -> None:
    """The task is cancelled where it waits, and continues after the block."""
    async with make_channels() as channels:

        async def answer() -> str:
            async with channels.stream(CHANNEL) as stream:
                await stream.write('half an')
                await asyncio.Event().wait()
            assert stream.aborted
            await asyncio.sleep(1)
            return 'saved'

        writer = asyncio.create_task(answer())
        await asyncio.sleep(1)
        assert await channels.abort_stream(CHANNEL)
        assert 'saved' == await writer
        assert 0 == writer.cancelling()
        assert ['half an'] == await values(channels)
        assert ChannelEnd('aborted') == await end(channels)
        assert not await channels.abort_stream(CHANNEL)


@on_fake_clock
async def test_abort_stops_a_writer_that_waits_for_the_broker() -> None:
    """Chunks that are not stored when the stream is aborted are dropped."""
    broker = UncertainBroker()
    async with make_channels(broker) as channels:

        async def answer() -> bool:
            options = StreamWriterOptions(max_pending_bytes=0, interval_s=60.0)
            async with channels.stream(CHANNEL, options) as stream:
                await stream.write('a')
                await stream.write('b')
            return stream.aborted

        writer = asyncio.create_task(answer())
        await asyncio.sleep(1)
        assert await channels.abort_stream(CHANNEL)
        assert await writer
        assert ['a'] == await values(channels)


@on_fake_clock
async def test_abort_without_a_message_stops_the_next_write() -> None:
    """The log has the end; a writer whose link is lost finds it when it publishes."""
    async with make_channels() as channels:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('a')
            await stream.flush()
            await channels.finish(CHANNEL, error='aborted')
            await stream.write('b')
            await asyncio.sleep(1)
            with pytest.raises(StreamAbortedError):
                await stream.write('c')
            await stream.write('d')
            raise AssertionError('the block must not continue')
        assert stream.aborted
        assert ['a'] == await values(channels)


@on_fake_clock
async def test_abort_before_the_writer_begins_is_an_error_of_the_block() -> None:
    """A stream that was aborted cannot be opened; its producer is not started."""
    async with make_channels() as channels:
        assert await channels.abort_stream(CHANNEL)
        with pytest.raises(StreamAbortedError, match="'answers:1' was aborted"):
            async with channels.stream(CHANNEL):
                raise AssertionError('the block must not run')


@on_fake_clock
async def test_abort_does_not_hide_another_cancellation() -> None:
    """If the task was cancelled by somebody else, too, it stays cancelled."""
    async with make_channels() as channels:

        async def answer() -> None:
            async with channels.stream(CHANNEL):
                await asyncio.Event().wait()
            raise AssertionError('the task must not continue')

        writer = asyncio.create_task(answer())
        await asyncio.sleep(1)
        await channels.abort_stream(CHANNEL)
        writer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writer


@on_fake_clock
async def test_abort_does_not_hide_an_exception_of_the_block() -> None:
    """An error of the clean-up after an abort is raised."""
    async with make_channels() as channels:

        async def answer() -> None:
            async with channels.stream(CHANNEL):
                try:
                    await asyncio.Event().wait()
                finally:
                    raise LookupError

        writer = asyncio.create_task(answer())
        await asyncio.sleep(1)
        await channels.abort_stream(CHANNEL)
        with pytest.raises(LookupError):
            await writer
        assert ChannelEnd('aborted') == await end(channels)


@on_fake_clock
async def test_abort_of_an_earlier_stream_does_not_stop_a_new_one() -> None:
    """A message that arrives late is for the stream that it was sent for."""
    async with make_channels() as channels:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('first')
        end_of_first = await channels.position(CHANNEL)
        await channels.remove_history(CHANNEL)
        async with channels.stream(CHANNEL) as stream:
            await channels.node.stream_aborts.send(CHANNEL, end_of_first)
            await asyncio.sleep(1)
            await stream.write('second')
        assert not stream.aborted
        assert ['second'] == await values(channels)


class DeafBroker(MemoryBroker):
    """A broker whose control messages are lost."""

    async def control(self, message: bytes) -> None:
        pass


@on_fake_clock
async def test_aborted_writer_does_not_write_to_the_next_stream() -> None:
    """A writer that did not learn the abort is refused after `remove_history`."""
    async with make_channels(DeafBroker()) as channels:

        async def write_on() -> None:
            async with channels.stream(CHANNEL) as old:
                await old.write('old')
                await old.flush()
                await channels.abort_stream(CHANNEL)
                await channels.remove_history(CHANNEL)
                await old.write(' and more')
                await old.flush()

        with pytest.raises(StreamConflictError):
            await write_on()
        async with channels.stream(CHANNEL) as stream:
            assert 0 == stream.length
            await stream.write('new')
        assert ['new'] == await values(channels)


@on_fake_clock
async def test_abort_succeeds_while_the_writer_is_faster() -> None:
    """An abort tries again if the writer has written, and at last ends it anyway."""

    class BusyBroker(MemoryBroker):
        async def history(self, *args: Any, **kwargs: Any) -> HistoryPage:
            page = await super().history(*args, **kwargs)
            if kwargs.get('limit') == 0 and writing:
                await writing[0].write('x')
                await writing[0].flush()
            return page

    writing: list[StreamWriter] = []
    async with make_channels(BusyBroker()) as channels:
        async with channels.stream(CHANNEL) as stream:
            writing.append(stream)
            aborting = asyncio.create_task(channels.abort_stream(CHANNEL))
            await asyncio.Event().wait()
        writing.clear()
        assert await aborting
        assert ChannelEnd('aborted') == await end(channels)


@on_fake_clock
async def test_abort_that_comes_too_late_returns_false() -> None:
    """If the writer ends the stream during the last attempt, nothing is raised."""

    class BusyBroker(MemoryBroker):
        async def history(self, *args: Any, **kwargs: Any) -> HistoryPage:
            page = await super().history(*args, **kwargs)
            if kwargs.get('limit') == 0 and page.end is None:
                await stream.write('x')
                await stream.flush()
            return page

        async def publish(self, *args: Any, **kwargs: Any) -> PublishResult:
            publication = args[1]
            if publication.end == ChannelEnd('aborted') and not kwargs.get('version'):
                await stream.close(None)
            return await super().publish(*args, **kwargs)

    async with make_channels(BusyBroker()) as channels:
        stream = channels.stream(CHANNEL)
        await stream.open()
        assert not await channels.abort_stream(CHANNEL)
        assert ChannelEnd() == await end(channels)
        assert not stream.aborted


@on_fake_clock
async def test_abort_while_the_end_is_acknowledged_does_not_change_the_end() -> None:
    """A stream whose end was stored is not aborted, and later calls say so."""
    late = []

    class SlowBroker(MemoryBroker):
        async def publish(self, *args: Any, **kwargs: Any) -> PublishResult:
            result = await super().publish(*args, **kwargs)
            if args[1].end is not None:
                late.append(await channels.abort_stream(CHANNEL))
                await asyncio.sleep(1)
            return result

    async with make_channels(SlowBroker()) as channels:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('x')
        assert [False] == late
        assert ChannelEnd() == await end(channels)
        assert not stream.aborted
        with pytest.raises(ChannelFinishedError):
            await stream.write('y')


@on_fake_clock
async def test_abort_while_fail_is_acknowledged_does_not_end_the_block() -> None:
    """The block goes on after `fail`, because the stream has the end of `fail`."""
    late: list[asyncio.Task[bool]] = []

    class SlowBroker(MemoryBroker):
        async def publish(self, *args: Any, **kwargs: Any) -> PublishResult:
            result = await super().publish(*args, **kwargs)
            if args[1].end is not None:
                late.append(asyncio.create_task(channels.abort_stream(CHANNEL)))
                await asyncio.sleep(1)
            return result

    went_on = False
    async with make_channels(SlowBroker()) as channels:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('x')
            await stream.fail('no credit')
            went_on = True
        assert went_on
        assert [False] == await asyncio.gather(*late)
        assert ChannelEnd('no credit') == await end(channels)
        assert not stream.aborted


@on_fake_clock
async def test_abort_before_fail_of_another_task_ends_the_block() -> None:
    """If the abort was stored first, it ends the block, as without `fail`."""

    class SlowBroker(MemoryBroker):
        async def publish(self, *args: Any, **kwargs: Any) -> PublishResult:
            if args[1].end == ChannelEnd('no credit'):
                await channels.abort_stream(CHANNEL)
                await asyncio.sleep(1)
            return await super().publish(*args, **kwargs)

    went_on = False
    async with make_channels(SlowBroker()) as channels:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('x')
            failing = asyncio.create_task(stream.fail('no credit'))
            await asyncio.sleep(100)
            went_on = True
        assert not went_on
        with pytest.raises(StreamAbortedError):
            await failing
        assert ChannelEnd('aborted') == await end(channels)
        assert stream.aborted


# --- mistakes -------------------------------------------------------------------------


@on_fake_clock
async def test_stream_reports_mistakes_when_it_is_entered() -> None:
    """A stream needs a route with history, and a block."""
    async with make_channels() as channels:
        channels.add_route('live', None)
        with pytest.raises(UnknownChannelError):
            async with channels.stream('unknown'):
                raise AssertionError
        with pytest.raises(CapabilityError, match=r"a stream needs a log.* 'live'"):
            async with channels.stream('live'):
                raise AssertionError
        with pytest.raises(CapabilityError, match=r"abort_stream needs a log.* 'live'"):
            await channels.abort_stream('live')
        wrong: Any = ChannelOptions()
        with pytest.raises(OptionsError):
            channels.stream(CHANNEL, wrong)
        with pytest.raises(PayloadError, match='at most 123 bytes'):
            channels.stream(CHANNEL, StreamWriterOptions(error_text='x' * 124))
        stream = channels.stream(CHANNEL)
        with pytest.raises(RuntimeError, match='enter the stream first'):
            await stream.write('a')
        async with stream:
            with pytest.raises(PayloadError):
                await stream.write(object())
        with pytest.raises(ChannelFinishedError):
            await stream.write('a')
        with pytest.raises(asyncio.CancelledError):
            async with channels.stream('answers:2') as left:
                raise asyncio.CancelledError
        with pytest.raises(RuntimeError, match='has ended: write within it'):
            await left.write('a')
        with pytest.raises(RuntimeError, match='opened once'):
            await stream.open()


@pytest.mark.parametrize(
    'options',
    [
        {'interval_s': -1},
        {'max_batch_bytes': 15},
        {'max_pending_bytes': -1},
        {'retry_timeout_s': 0},
        {'error_text': ''},
    ],
)
def test_wrong_option_is_refused(options: dict[str, Any]) -> None:
    """An option out of its range raises `OptionsError` with its name."""
    (name,) = options
    with pytest.raises(OptionsError, match=name):
        StreamWriterOptions(**options)


@on_fake_clock
async def test_stream_that_is_longer_than_its_history_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Readers that come late would miss the beginning."""
    async with make_channels(history_size=5) as channels:
        with caplog.at_level(logging.WARNING, 'falcon_channels'):
            async with channels.stream(CHANNEL) as stream:
                for _ in range(5):
                    await stream.write([])
                await stream.flush()
                assert [] == caplog.messages
                for _ in range(5):
                    await stream.write([])
        (message,) = caplog.messages
        assert "'answers:1' has more publications than history_size of 5" in message


@on_fake_clock
async def test_producer_that_repeats_less_than_is_stored_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With ``replay=True``, a shorter repetition shows that it is not the same."""
    async with make_channels() as channels:

        async def block() -> None:
            async with channels.stream(CHANNEL) as stream:
                await stream.write('abcdef')
                await stream.flush()
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await block()
        with caplog.at_level(logging.WARNING, 'falcon_channels'):
            options = StreamWriterOptions(replay=True)
            async with channels.stream(CHANNEL, options) as stream:
                await stream.write('abc')
        (message,) = caplog.messages
        assert 'ends 3 characters or values before the position' in message


# --- start and stop -------------------------------------------------------------------


class SlowHistoryBroker(MemoryBroker):
    """A broker whose first answer about the history arrives when `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self._waited = False

    async def history(self, *args: Any, **kwargs: Any) -> HistoryPage:
        page = await super().history(*args, **kwargs)
        if not self._waited:
            self._waited = True
            await self.gate.wait()
        return page


@on_fake_clock
async def test_abort_while_the_stream_is_opened_is_an_error_of_the_block() -> None:
    """The writer has read a log without an end, but the message has arrived."""
    broker = SlowHistoryBroker()
    async with make_channels(broker) as channels:
        opening = asyncio.create_task(channels.stream(CHANNEL).open())
        await asyncio.sleep(1)
        assert await channels.abort_stream(CHANNEL)
        broker.gate.set()
        with pytest.raises(StreamAbortedError):
            await opening


@on_fake_clock
async def test_stream_stays_open_if_the_channels_close() -> None:
    """A process that stops ends no stream; another process can continue it."""
    channels = make_channels()
    await channels.start()

    async def block() -> None:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('a')
            await channels.close()
            await stream.write('b')
            await stream.flush()

    with pytest.raises(ClosedError):
        await block()


@on_fake_clock
async def test_several_tasks_write_to_one_stream() -> None:
    """Chunks of other tasks of the block are appended in the order of their calls."""
    async with make_channels() as channels:
        options = StreamWriterOptions(max_pending_bytes=0)
        async with channels.stream(CHANNEL, options) as stream:

            async def write(number: int) -> None:
                for n in range(10):
                    await stream.write([number, n])

            await asyncio.gather(*(write(number) for number in range(3)))
        received = await values(channels)
        assert 30 == len(received)
        for number in range(3):
            own = [value for value in received if value[0] == number]
            assert [[number, n] for n in range(10)] == own


@on_fake_clock
async def test_other_task_of_the_block_learns_the_abort_when_it_writes() -> None:
    """Only the task that has entered the block is cancelled."""
    async with make_channels() as channels:
        others: list[asyncio.Task[None]] = []

        async def answer() -> None:
            async with channels.stream(CHANNEL) as stream:

                async def produce() -> None:
                    while True:
                        await stream.write('x')
                        await asyncio.sleep(1)

                others.append(asyncio.create_task(produce()))
                await asyncio.Event().wait()

        writer = asyncio.create_task(answer())
        await asyncio.sleep(5)
        await channels.abort_stream(CHANNEL)
        await writer
        await asyncio.wait(others)
        assert isinstance(others[0].exception(), StreamAbortedError)


@on_fake_clock
async def test_block_that_aborts_its_own_stream_ends_without_an_error() -> None:
    """The block goes on until its next write, and the task is not cancelled."""
    async with make_channels() as channels:
        async with channels.stream(CHANNEL) as stream:
            await stream.write('a')
            await stream.flush()
            assert await channels.abort_stream(CHANNEL)
            await asyncio.sleep(1)
        assert stream.aborted
        await asyncio.sleep(1)
        async with channels.stream('answers:2') as other:
            assert await channels.abort_stream('answers:2')
            await other.write('b')
            raise AssertionError('the block must not continue')
        assert other.aborted
        assert ['a'] == await values(channels)


# --- observers ------------------------------------------------------------------------


async def test_publications_of_a_stream_are_observed_in_its_context() -> None:
    """A trace shows the batches of a stream below the request that writes it."""
    observer = ContextObserver()

    async def write(channels: Channels, name: str) -> None:
        STREAM.set(name)
        async with channels.stream(name) as stream:
            for _ in range(3):
                await stream.write('x')
                await stream.flush()

    names = [f'answers:{number}' for number in range(3)]
    async with make_channels() as channels, asyncio.TaskGroup() as tasks:
        channels.node.operations.observe(observer)
        for name in names:
            tasks.create_task(write(channels, name))
    assert {name: {name} for name in names} == observer.begun == observer.ended


async def test_batch_that_the_broker_refuses_ends_its_operation() -> None:
    """An operation ends also if the broker does not accept the call."""
    broker = UncertainBroker()
    broker.failures = iter(['before'])
    observer = ContextObserver()
    async with make_channels(broker) as channels:
        channels.node.operations.observe(observer)
        async with channels.stream(CHANNEL) as stream:
            await stream.write('x')
        assert ['x'] == await values(channels)
    assert observer.begun
    assert observer.begun == observer.ended
