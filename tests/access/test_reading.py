"""Reading by the application: positions, pages of history, presence."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import CapabilityError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Position
from falcon_channels import PositionError
from falcon_channels import UnknownChannelError


def make_channels(history_size: int = 100) -> Channels:
    channels = Channels()
    channels.add_route('rooms:{room}', None, ChannelOptions(history_size=history_size))
    return channels


@on_fake_clock
async def test_position_is_that_of_the_history_page() -> None:
    """`position` is the position of a page, and empty for a channel without history."""
    channels = make_channels()
    channels.add_route('plain', None)
    before = await channels.position('rooms:a')
    assert 0 == before.offset
    await channels.publish('rooms:a', 1)
    await channels.publish('rooms:a', 2)
    position = await channels.position('rooms:a')
    assert (2, before.epoch) == position
    assert position == (await channels.history('rooms:a')).position
    async with channels.subscribe('rooms:a', since=before) as subscription:
        assert 1 == (await anext(subscription)).value()
    assert Position(0, '') == await channels.position('plain')
    with pytest.raises(UnknownChannelError):
        await channels.position('nothing')
    await channels.close()


@on_fake_clock
async def test_history_is_read_in_both_directions_from_a_position() -> None:
    """History is read in both directions, and a position of another log is refused."""
    channels = make_channels(history_size=5)
    for number in range(1, 9):
        await channels.publish('rooms:a', number)
    page = await channels.history('rooms:a', limit=2)
    epoch = page.position.epoch
    assert ([4, 5], 8) == ([p.offset for p in page.publications], page.position.offset)

    async def offsets(**options: Any) -> list[int]:
        read = await channels.history('rooms:a', **options)
        return [p.offset for p in read.publications]

    assert [7, 8] == await offsets(since=Position(6, epoch))
    assert [8, 7] == await offsets(reverse=True, limit=2)
    assert [5, 4] == await offsets(reverse=True, since=Position(6, epoch))
    assert [] == await offsets(limit=0)
    with pytest.raises(PositionError, match='another log'):
        await offsets(since=Position(6, 'other'))
    await channels.remove_history('rooms:a')
    assert [] == await offsets()
    assert 9 == (await channels.publish('rooms:a', 9)).position.offset
    media = (await channels.history('rooms:a')).to_media()
    assert (9, epoch) == (media['offset'], media['epoch'])
    assert 9 == media['publications'][0]['data']
    await channels.close()


@on_fake_clock
async def test_presence_of_a_channel_without_presence_raises() -> None:
    """A channel without presence is refused, and the message names the option."""
    channels = make_channels()
    with pytest.raises(CapabilityError, match='presence=True'):
        await channels.presence('rooms:a')
    await channels.close()


@on_fake_clock
async def test_snapshot_reads_the_position_before_the_state() -> None:
    """A change during the load is in the state, and comes after the position too."""
    channels = make_channels()
    stored = ['new']

    async def load() -> str:
        stored[0] = 'paid'
        await channels.publish('rooms:a', 'paid')
        return stored[0]

    before = await channels.position('rooms:a')
    snapshot = await channels.snapshot('rooms:a', load)
    assert ('paid', before) == snapshot
    assert {'state': 'paid', 'offset': 0, 'epoch': before.epoch} == snapshot.to_media()
    async with channels.subscribe('rooms:a', since=snapshot.position) as subscription:
        assert 'paid' == (await anext(subscription)).value()
    assert (1, before.epoch) == (
        await channels.snapshot('rooms:a', lambda: stored[0])
    ).position
    await channels.close()


@pytest.mark.parametrize(
    'options', [{}, {'history_size': 5, 'recovery': 'off'}], ids=['log', 'recovery']
)
@on_fake_clock
async def test_snapshot_of_a_channel_that_clients_cannot_follow_is_refused(
    options: Any,
) -> None:
    """Without recovery, a client would load its state again and again."""
    channels = Channels()
    channels.add_route('plain', None, ChannelOptions(**options))
    with pytest.raises(CapabilityError, match='cannot follow it'):
        await channels.snapshot('plain', lambda: 1)
    await channels.close()


@on_fake_clock
async def test_snapshot_passes_on_an_error_of_the_application() -> None:
    """An error while the state is loaded reaches the responder."""
    channels = make_channels()

    def load() -> None:
        raise KeyError('order')

    with pytest.raises(KeyError, match='order'):
        await channels.snapshot('rooms:a', load)
    await channels.close()
