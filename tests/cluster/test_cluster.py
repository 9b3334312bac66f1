"""Processes that share a broker: messages between them, and surveys."""

from __future__ import annotations

import asyncio
from typing import Any

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.errors import BrokerUnavailableError


class LinkedBroker(MemoryBroker):
    """Memory of its own, and control messages that reach all on one list."""

    capabilities = Capabilities(shared=True)

    def __init__(self, link: list[LinkedBroker]) -> None:
        super().__init__()
        self.link = link
        #: How many control messages it carried, and how large the largest was.
        self.sent = 0
        self.largest_bytes = 0
        self.cut = False

    async def start(self, receiver: Any) -> None:
        await super().start(receiver)
        self.receiver = receiver
        self.link.append(self)

    async def close(self) -> None:
        if self in self.link:
            self.link.remove(self)
        await super().close()

    async def control(self, message: bytes) -> None:
        if self.cut:
            raise BrokerUnavailableError('cut')
        self.sent += 1
        self.largest_bytes = max(self.largest_bytes, len(message))
        loop = asyncio.get_running_loop()
        for broker in self.link:
            if not broker.cut:
                loop.call_soon(broker.receiver.on_control, message)


async def start(link: list[LinkedBroker]) -> tuple[Channels, LinkedBroker]:
    broker = LinkedBroker(link)
    channels = Channels(broker)
    channels.add_route('rooms:{room}', None, ChannelOptions(history_size=10))
    await channels.start()
    return channels, broker


async def test_one_process_answers_itself() -> None:
    """A process whose broker is its own sends no message to find itself."""
    channels = Channels()
    channels.add_route('rooms:{room}', None)
    async with channels.subscribe('rooms:a'):
        assert {'rooms:a': 1} == await channels.node.info.channels()
        (node,) = await channels.node.info.nodes()
    assert (channels.node.cluster.id, 1, 1) == (
        node.uid,
        node.num_subs,
        node.num_channels,
    )
    await channels.close()


async def test_survey_gathers_all_processes() -> None:
    """Channels of all processes are counted together, and each process is listed."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start(link), await start(link)
    async with one.subscribe('rooms:a'), two.subscribe('rooms:a'):
        async with two.subscribe('rooms:b'):
            assert {'rooms:a': 2, 'rooms:b': 1} == await one.node.info.channels()
    nodes = await two.node.info.nodes()
    assert sorted([one.node.cluster.id, two.node.cluster.id]) == [
        node.uid for node in nodes
    ]
    await one.close()
    await two.close()


async def test_survey_ends_when_all_known_have_answered() -> None:
    """Once the processes are known, a survey does not wait for its time to pass."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start(link), await start(link)
    first = await one.node.cluster.survey('node')
    assert {one.node.cluster.id, two.node.cluster.id} == first.keys()
    three, _ = await start(link)
    async with asyncio.timeout(30):
        again = await one.node.cluster.survey('node', timeout_s=3600)
    assert {
        one.node.cluster.id,
        two.node.cluster.id,
        three.node.cluster.id,
    } == again.keys()
    await three.close()
    async with asyncio.timeout(30):
        last = await one.node.cluster.survey('node', timeout_s=3600)
    assert first.keys() == last.keys()
    await one.close()
    await two.close()


async def test_a_dead_process_is_waited_for_once() -> None:
    """A process that died without a goodbye delays one survey and no more."""
    link: list[LinkedBroker] = []
    (one, _), (two, dead) = await start(link), await start(link)
    assert 2 == len(await one.node.cluster.survey('node'))
    link.remove(dead)
    assert [one.node.cluster.id] == list(
        await one.node.cluster.survey('node', timeout_s=0.2)
    )
    async with asyncio.timeout(30):
        assert [one.node.cluster.id] == list(
            await one.node.cluster.survey('node', timeout_s=3600)
        )
    await one.close()
    await two.close()


async def test_who_starts_later_is_told_who_is_there() -> None:
    """A process that is known is waited for, even longer than for unknown ones."""
    link: list[LinkedBroker] = []
    (one, slow), (two, _) = await start(link), await start(link)
    told = asyncio.Event()
    one.node.cluster.handle('done', lambda body: told.set())
    await two.node.cluster.send('', 'done', b'')
    await asyncio.wait_for(told.wait(), 30)
    link.remove(slow)
    asking = asyncio.create_task(two.node.cluster.survey('note', timeout_s=3600))
    done, _ = await asyncio.wait([asking], timeout=1.5)
    assert set() == done
    await two.node.cluster.send('', 'goodbye', one.node.cluster.id.encode())
    assert {} == await asyncio.wait_for(asking, 30)
    await one.close()
    await two.close()


async def test_after_a_lost_link_all_are_asked_anew() -> None:
    """Who started while the link was lost is found by the next survey."""
    link: list[LinkedBroker] = []
    one, broker = await start(link)
    assert 1 == len(await one.node.cluster.survey('node', timeout_s=0.1))
    broker.cut = True
    one.node.hub.on_link_lost()
    two, _ = await start(link)
    broker.cut = False
    one.node.hub.on_link_restored()
    assert 2 == len(await one.node.cluster.survey('node'))
    await one.close()
    await two.close()


async def test_large_answers_travel_in_small_parts() -> None:
    """An answer of a megabyte arrives whole, in control messages under 4 KiB.

    The other process has no answer, says so, and is not waited for.
    """
    link: list[LinkedBroker] = []
    (one, _), (two, broker) = await start(link), await start(link)
    answer = bytes(range(256)) * 4096
    two.node.cluster.answer('large', lambda body: body + answer)
    answers = await one.node.cluster.survey('large', b'x', timeout_s=30)
    assert {two.node.cluster.id: b'x' + answer} == answers
    assert broker.largest_bytes < 4096
    await one.close()
    await two.close()


async def test_messages_reach_the_process_that_is_meant() -> None:
    """A message for one process is read there only, one for all everywhere."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start(link), await start(link)
    read: list[tuple[str, bytes]] = []
    everywhere = asyncio.Event()

    def reader(name: str) -> Any:
        def read_it(body: bytes) -> None:
            read.append((name, body))
            if len(read) == 3:
                everywhere.set()

        return read_it

    one.node.cluster.handle('note', reader('one'))
    two.node.cluster.handle('note', reader('two'))
    await one.node.cluster.send(two.node.cluster.id, 'note', b'1')
    await one.node.cluster.send('', 'note', b'2')
    await asyncio.wait_for(everywhere.wait(), 30)
    assert [('two', b'1'), ('one', b'2'), ('two', b'2')] == read
    await one.close()
    await two.close()


async def test_rubbish_between_processes_is_counted() -> None:
    """Messages that cannot be read, or that nobody reads, harm nothing."""
    link: list[LinkedBroker] = []
    one, _ = await start(link)
    for kind in ('hello', 'ask', 'answer', 'unheard of'):
        await one.node.cluster.send('', kind, b'\xff')
    done = asyncio.Event()
    one.node.cluster.handle('done', lambda body: done.set())
    await one.node.cluster.send('', 'done', b'')
    await asyncio.wait_for(done.wait(), 30)
    assert 3 == one.node.hub.counters.control_errors
    await one.close()
