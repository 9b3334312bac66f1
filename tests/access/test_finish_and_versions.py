"""The end of a channel, and versions, in `Channels.publish` and `Channels.finish`."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import CapabilityError
from falcon_channels import ChannelEnd
from falcon_channels import ChannelFinishedError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import PayloadError
from falcon_channels import PublicationTooLargeError
from falcon_channels import UnknownChannelError
from falcon_channels.brokers.base import MAX_VERSION


def make_channels(**options: Any) -> Channels:
    channels = Channels()
    channels.add_route(
        'answers:{number}', None, ChannelOptions(**{'history_size': 100, **options})
    )
    return channels


@on_fake_clock
async def test_finish_appends_a_last_publication_and_refuses_later_ones() -> None:
    """After `finish`, every publish raises `ChannelFinishedError`."""
    async with make_channels() as channels:
        await channels.publish('answers:1', 'a')
        result = await channels.finish('answers:1', {'tokens': 1}, tags={'t': 'v'})
        assert 2 == result.position.offset
        with pytest.raises(ChannelFinishedError, match="'answers:1' is finished") as ex:
            await channels.publish('answers:1', 'b')
        assert 'answers:1' == ex.value.channel
        with pytest.raises(ChannelFinishedError):
            await channels.publish('answers:1', 'typing', skip_history=True)
        with pytest.raises(ChannelFinishedError):
            await channels.finish('answers:1')
        page = await channels.history('answers:1')
        assert (result.position, ChannelEnd()) == (page.position, page.end)
        assert ['a', {'tokens': 1}] == [item.value() for item in page.publications]
        assert {'t': 'v'} == page.publications[-1].tags
        await channels.publish('answers:2', 'b')


@on_fake_clock
async def test_finish_again_with_the_same_key_returns_the_first_position() -> None:
    """A repeated `finish` with its key is no error, so that a writer can retry."""
    async with make_channels() as channels:
        first = await channels.finish('answers:1', idempotency_key='end')
        again = await channels.finish('answers:1', idempotency_key='end')
        assert (first.position, True) == (again.position, again.duplicate)
        with pytest.raises(ChannelFinishedError):
            await channels.finish('answers:1', idempotency_key='other')


@on_fake_clock
async def test_finish_with_an_error_stores_it_for_readers() -> None:
    """The error of a failed channel is in its history."""
    async with make_channels() as channels:
        await channels.publish('answers:1', 'a')
        await channels.finish('answers:1', error='the model is overloaded')
        page = await channels.history('answers:1')
        assert ChannelEnd('the model is overloaded') == page.end
        last = page.publications[-1]
        assert (page.end, None, True) == (last.end, last.value(), last.only_ends)
        media = page.to_media()
        assert {'error': 'the model is overloaded'} == media['end']
        assert ['a'] == [item['data'] for item in media['publications']]
        assert 2 == media['offset']


@on_fake_clock
async def test_remove_history_opens_a_finished_channel_again() -> None:
    """A removed history has no end; the offsets continue."""
    async with make_channels() as channels:
        await channels.finish('answers:1')
        await channels.remove_history('answers:1')
        assert (await channels.history('answers:1')).end is None
        result = await channels.publish('answers:1', 'again')
        assert 2 == result.position.offset


@on_fake_clock
async def test_finish_with_wrong_arguments_ends_nothing() -> None:
    """Arguments are checked before anything is stored."""
    async with make_channels(max_publication_bytes=10) as channels:
        channels.add_route('live', None)
        with pytest.raises(UnknownChannelError):
            await channels.finish('unknown')
        with pytest.raises(CapabilityError, match=r"finish needs a log.* 'live'"):
            await channels.finish('live')
        for error in ('x' * 124, 'é' * 62, '\ud800', None, 1):
            wrong: Any = error
            with pytest.raises(PayloadError, match='at most 123 bytes'):
                await channels.finish('answers:1', error=wrong)
        with pytest.raises(PublicationTooLargeError):
            await channels.finish('answers:1', 'x' * 10)
        with pytest.raises(PayloadError, match='1 to 255 bytes'):
            await channels.finish('answers:1', idempotency_key='')
        with pytest.raises(CapabilityError, match='within a transaction'):
            await channels.finish('answers:1', connection=object())
        await channels.finish('answers:1', error='x' * 123)


@on_fake_clock
async def test_binary_channel_can_be_finished_with_and_without_data() -> None:
    """A last publication of a binary channel carries bytes, or no data."""
    async with make_channels(binary=True) as channels:
        await channels.finish('answers:1', b'\x00')
        await channels.finish('answers:2')
        (with_data,) = (await channels.history('answers:1')).publications
        assert (b'\x00', False) == (with_data.value(), with_data.only_ends)
        (without_data,) = (await channels.history('answers:2')).publications
        assert (None, True) == (without_data.value(), without_data.only_ends)


@on_fake_clock
async def test_late_writer_does_not_replace_a_newer_version() -> None:
    """A publish with an old version publishes nothing, and says so."""
    async with make_channels() as channels:
        for version, skipped in ((0, False), (7, False), (7, True), (3, True)):
            result = await channels.publish('answers:1', version, version=version)
            assert skipped == result.skipped
        assert 2 == result.position.offset
        restarted = await channels.publish(
            'answers:1', 'new', version=1, version_epoch='after a restart'
        )
        assert (3, False) == (restarted.position.offset, restarted.skipped)
        page = await channels.history('answers:1')
        assert [0, 7, 'new'] == [item.value() for item in page.publications]


@on_fake_clock
async def test_broadcast_with_a_version_skips_channels_that_have_a_newer_one() -> None:
    """The version is compared in each channel; the results say where it was old."""
    async with make_channels() as channels:
        await channels.publish('answers:1', 'newer', version=5)
        names = ('answers:1', 'answers:2')
        results = await channels.broadcast(names, 'older', version=4)
        assert [True, False] == [result.skipped for result in results]
        results = await channels.broadcast(
            names, 'again', version=1, version_epoch='after a restart'
        )
        assert [(2, False), (2, False)] == [
            (result.position.offset, result.skipped) for result in results
        ]


@on_fake_clock
async def test_broadcast_with_a_wrong_version_publishes_nothing() -> None:
    """All channels need a log, and the version is checked before the first publish."""
    async with make_channels() as channels:
        channels.add_route('live', None)
        for options, message in (
            ({'version': 1}, 'version needs a log'),
            ({'version': 1, 'skip_history': True}, 'leave out skip_history'),
        ):
            with pytest.raises(CapabilityError, match=message):
                await channels.broadcast(['answers:1', 'live'], 1, **options)
        with pytest.raises(PayloadError, match='version is -1'):
            await channels.broadcast(['answers:1'], 1, version=-1)
        assert [] == (await channels.history('answers:1')).publications


@on_fake_clock
async def test_publish_with_a_wrong_version_publishes_nothing() -> None:
    """A version is an integer that every broker can store."""
    async with make_channels() as channels:
        channels.add_route('live', None)
        for options, message in (
            ({'version': -1}, 'version is -1, and must be an integer'),
            ({'version': MAX_VERSION + 1}, 'must be an integer from 0 to 92233'),
            ({'version': 1.0}, 'version is 1.0'),
            ({'version': True}, 'version is True'),
            ({'version': '1'}, "version is '1'"),
            ({'version': 1, 'version_epoch': 'x' * 256}, 'at most 255 bytes'),
            ({'version': 1, 'version_epoch': '\ud800'}, 'at most 255 bytes'),
            ({'version_epoch': 'x'}, 'version_epoch needs a version'),
        ):
            wrong: dict[str, Any] = options
            with pytest.raises(PayloadError, match=message):
                await channels.publish('answers:1', 1, **wrong)
        with pytest.raises(CapabilityError, match='version needs a log'):
            await channels.publish('live', 1, version=1)
        assert 0 == (await channels.position('answers:1')).offset
