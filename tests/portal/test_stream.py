"""`Portal.stream`: threads write streams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
import threading

import pytest

from falcon_channels import CapabilityError
from falcon_channels import ChannelEnd
from falcon_channels import ChannelFinishedError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import PayloadError
from falcon_channels import StreamAbortedError
from falcon_channels import StreamWriterOptions
from falcon_channels.portal import BlockingStream
from falcon_channels.portal import Portal

TEXT = ''.join(f'{number} ' for number in range(500))


def make_channels() -> Channels:
    channels = Channels()
    channels.add_route('answers:{number}', None, ChannelOptions(history_size=1000))
    channels.add_route('live', None)
    return channels


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal(make_channels(), timeout_s=30.0)
    yield portal
    portal.close()


def read(portal: Portal, channel: str) -> tuple[str, ChannelEnd | None]:
    page = portal.history(channel, limit=None)
    return ''.join(item.value() or '' for item in page.publications), page.end


def write_on(stream: BlockingStream) -> None:
    while True:
        stream.write('more')


def test_thread_writes_a_stream_and_continues_it(portal: Portal) -> None:
    """A portal has the same writer as `Channels`."""

    def write_half() -> None:
        with portal.stream('answers:1') as stream:
            stream.write(TEXT[:700])
            stream.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    with portal.stream('answers:1') as stream:
        assert 700 == stream.length
        for character in TEXT[stream.length :]:
            stream.write(character)
        assert len(TEXT) == stream.length
    assert not stream.aborted
    assert (TEXT, ChannelEnd()) == read(portal, 'answers:1')
    with pytest.raises(ChannelFinishedError):
        portal.stream('answers:1').__enter__()


def test_error_in_a_thread_finishes_the_stream_with_an_error(portal: Portal) -> None:
    """Readers learn the end; the exception is raised to the thread."""

    def fail() -> None:
        with portal.stream('answers:1') as stream:
            stream.write('half')
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert ('half', ChannelEnd('the stream has failed')) == read(portal, 'answers:1')
    with portal.stream('answers:2') as stream:
        stream.fail('no credit')
    assert ('', ChannelEnd('no credit')) == read(portal, 'answers:2')
    with pytest.raises(CapabilityError):
        portal.stream('live').__enter__()
    with pytest.raises(PayloadError):
        portal.stream('answers:3', StreamWriterOptions(error_text='x' * 124))


def test_abort_stops_a_thread_at_its_next_write(portal: Portal) -> None:
    """The block ends without an error, and the thread can see the abort before."""
    begun, aborted = threading.Event(), threading.Event()

    def answer() -> bool:
        with portal.stream('answers:1') as stream:
            stream.write('half')
            stream.flush()
            begun.set()
            assert aborted.wait(30)
            with pytest.raises(StreamAbortedError):
                write_on(stream)
            stream.write('the block ends here')
            raise AssertionError('the block must not continue')
        return stream.aborted

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(answer)
        assert begun.wait(30)
        assert portal.abort_stream('answers:1')
        assert not portal.abort_stream('answers:1')
        aborted.set()
        assert writer.result(30)
    assert ('half', ChannelEnd('aborted')) == read(portal, 'answers:1')


async def test_thread_of_an_asgi_app_writes_in_the_event_loop_of_the_app() -> None:
    """A portal beside channels that the app has started needs no thread of its own."""
    async with make_channels() as channels:
        portal = Portal(channels)

        def write() -> None:
            with portal.stream('answers:1') as stream:
                for start in range(0, len(TEXT), 100):
                    stream.write(TEXT[start : start + 100])

        await asyncio.to_thread(write)
        page = await channels.history('answers:1', limit=None)
        assert TEXT == ''.join(item.value() or '' for item in page.publications)
        assert ChannelEnd() == page.end


def test_stream_of_a_thread_ends_with_the_event_loop_of_its_app() -> None:
    """A thread that writes while the app stops gets an error, and does not hang.

    The writer belongs to the loop of the app. The thread of the portal cannot run it.
    """
    channels = make_channels()
    portal = Portal(channels)
    begun = threading.Event()

    def write() -> None:
        with portal.stream('answers:1') as stream:
            while True:
                stream.write(TEXT)
                begun.set()

    async def run_app(pool: ThreadPoolExecutor) -> Future[None]:
        async with channels:
            writing = pool.submit(write)
            assert await asyncio.to_thread(begun.wait, 30)
        return writing

    with ThreadPoolExecutor(1) as pool:
        writing = asyncio.run(run_app(pool))
        with pytest.raises(ClosedError):
            writing.result(30)


async def test_stream_that_could_not_be_opened_is_opened_in_the_loop_of_the_app() -> (
    None
):
    """A first call that fails binds a stream to no event loop."""
    channels = make_channels()
    portal = Portal(channels)
    stream = portal.stream('answers:1')

    def write() -> None:
        with stream:
            stream.write(TEXT)

    async with channels:
        pass
    with pytest.raises(ClosedError):
        await asyncio.to_thread(write)
    async with channels:
        await asyncio.to_thread(write)
        page = await channels.history('answers:1', limit=None)
        assert TEXT == ''.join(item.value() or '' for item in page.publications)
    portal.close()
