"""Shared reads of the log: few reads, and none that began too early."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import Position
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.hub.shared_reads import SharedReads
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Publication
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient

SETTINGS = LogSettings(size=10)


class SlowBroker(MemoryBroker):
    """A broker that reads at once, and returns the page when the test allows it."""

    capabilities = Capabilities()

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[asyncio.Future[None]] = []

    async def history(self, *args: Any, **options: Any) -> HistoryPage:
        page = await super().history(*args, **options)
        self.reads.append(asyncio.get_running_loop().create_future())
        await self.reads[-1]
        return page


async def test_request_during_a_read_waits_for_the_next_read() -> None:
    """A read serves only the requests that arrived before it began."""
    broker = SlowBroker()
    reads = SharedReads(broker)

    async def ask(channel: str = 'a', since: int = 0) -> int:
        page = await reads.history(channel, SETTINGS, since=since, limit=5)
        return page.position.offset

    first = [asyncio.create_task(ask()) for _ in range(3)]
    other = asyncio.create_task(ask('b'))
    older = asyncio.create_task(ask(since=1))
    while len(broker.reads) < 3:
        await asyncio.sleep(0)
    await broker.publish('a', Publication(data=b'1'), SETTINGS)
    second = [asyncio.create_task(ask()) for _ in range(5)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert 3 == len(broker.reads)
    for read in broker.reads:
        read.set_result(None)
    assert [0, 0, 0, 0, 0] == await asyncio.gather(*first, other, older)
    while len(broker.reads) == 3:
        await asyncio.sleep(0)
    broker.reads[3].set_result(None)
    assert [1] * 5 == await asyncio.gather(*second)
    assert 4 == len(broker.reads)


async def test_immediate_read_returns_without_an_event_loop_iteration() -> None:
    """A broker that holds its log in memory answers at once."""
    reads = SharedReads(MemoryBroker())
    asking = reads.history('a', SETTINGS, limit=1)
    with pytest.raises(StopIteration) as done:
        asking.send(None)
    assert [] == done.value.value.publications


async def test_cancelled_caller_does_not_cancel_the_shared_read() -> None:
    """A read continues for the other callers if one of them is cancelled."""
    broker = SlowBroker()
    reads = SharedReads(broker)
    asking = [
        asyncio.create_task(reads.history('a', SETTINGS, limit=1)) for _ in range(3)
    ]
    while not broker.reads:
        await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    broker.reads[0].set_result(None)
    pages = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(pages[0], asyncio.CancelledError)
    assert [HistoryPage, HistoryPage] == [type(page) for page in pages[1:]]


async def test_read_that_the_closing_hub_ends_raises_closed_error() -> None:
    """The caller gets no `CancelledError`, because nobody has cancelled its task."""
    broker = SlowBroker()
    channels = Channels(broker)
    channels.add_route(
        '{name}', None, ChannelOptions(subscribers='anybody', history_size=10)
    )

    async def subscribe() -> None:
        async with channels.subscribe('a', Position(0, '')):
            raise AssertionError('entered')

    subscribing = [asyncio.create_task(subscribe()) for _ in range(2)]
    while not broker.reads:
        await asyncio.sleep(0)
    await channels.close()
    async with asyncio.timeout(30):
        await asyncio.wait(subscribing)
    assert [ClosedError, ClosedError] == [type(t.exception()) for t in subscribing]


async def test_failed_read_raises_to_its_callers_only() -> None:
    """All callers of a failed read get its error. The next request reads again."""
    broker = SlowBroker()
    reads = SharedReads(broker)
    asking = [
        asyncio.create_task(reads.history('a', SETTINGS, limit=1)) for _ in range(2)
    ]
    while not broker.reads:
        await asyncio.sleep(0)
    broker.reads[0].set_exception(BrokerUnavailableError('on purpose'))
    for task in asking:
        with pytest.raises(BrokerUnavailableError, match='on purpose'):
            await task
    again = asyncio.create_task(reads.history('a', SETTINGS, limit=1))
    while len(broker.reads) == 1:
        await asyncio.sleep(0)
    broker.reads[1].set_result(None)
    assert 0 == (await again).position.offset
    await reads.close()


async def test_100_clients_recover_with_at_most_10_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred clients recover everything, once and in order, by a few reads."""
    channels = Channels(f'sqlite:///{tmp_path}/rooms.db')
    channels.add_route(
        'room', None, ChannelOptions(subscribers='anybody', history_size=1000)
    )
    first = await channels.publish('room', 0)
    clients = [SimulatedClient(channels) for _ in range(100)]
    count = 0
    broker = channels.node.hub.broker
    history = broker.history

    async def counted(*args: Any, **options: Any) -> HistoryPage:
        nonlocal count
        count += 1
        return await history(*args, **options)

    monkeypatch.setattr(broker, 'history', counted)
    for number in range(1, 21):
        await channels.publish('room', number)
    since = first.position

    async def reconnect(client: SimulatedClient) -> list[int]:
        async with client:
            joined = await client.subscribe('room', since)
            assert joined.recovered
            found = [publication.value() for publication in joined.publications]
            await channels.publish('room', 21)
            while len(found) + len(numbers(client)) < 120:
                await asyncio.sleep(0.01)
            return found + numbers(client)

    results = await asyncio.gather(*map(reconnect, clients))
    await channels.close()
    for found in results:
        assert [*range(1, 21), *[21] * 100] == found
    assert 1 <= count <= 10


def numbers(client: SimulatedClient) -> list[int]:
    return [
        event.item.value() for event in client.events if isinstance(event, Received)
    ]
