"""Channels that end under faults: every reader gets everything once, and the end."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from falcon_channels import BrokerUnavailableError
from falcon_channels import ChannelFinishedError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import NodeOptions
from falcon_channels import Position
from falcon_channels import UnsubscribedError
from falcon_channels.testing.clock import run_with_fake_clock
from simulation.faulty_broker import FaultyBroker
from simulation.faulty_broker import Store

_SEEDS = range(40)
_NUM_READERS = 12
#: Name of a channel in which the broker may also lose single announcements.
_CHANNEL = 'log:answer'


class _World:
    """Two processes, one channel, a writer, and readers that are cut at random."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store = Store(asyncio.get_running_loop())
        self.processes: list[tuple[FaultyBroker, Channels]] = []
        self.values = [str(n) for n in range(self.rng.randrange(30))]
        self.error = self.rng.choice(['', 'an error'])
        self.data = self.rng.choice([None, 'last'])
        self.finished = asyncio.Event()

    async def start(self) -> None:
        await self.store.start()
        for _ in range(2):
            broker = FaultyBroker(self.store, self.rng)
            channels = Channels(broker, NodeOptions(position_check_s=3.0, linger_s=0.5))
            channels.add_route('log:{name}', None, ChannelOptions(history_size=1000))
            await channels.start()
            self.processes.append((broker, channels))

    async def close(self) -> None:
        for _, channels in self.processes:
            await channels.close()

    async def call(self, name: str, *args: Any, **options: Any) -> None:
        """Call a method of any process until it succeeds, with one key."""
        while True:
            _, channels = self.rng.choice(self.processes)
            try:
                await getattr(channels, name)(_CHANNEL, *args, **options)
                return
            except (BrokerUnavailableError, ClosedError):
                await asyncio.sleep(0.3)

    async def write(self) -> None:
        for value in self.values:
            await self.call('publish', value, idempotency_key=value)
            await asyncio.sleep(self.rng.expovariate(5.0))
        await self.call('finish', self.data, error=self.error, idempotency_key='end')
        self.finished.set()
        for _ in range(3):
            with pytest.raises(ChannelFinishedError):
                await self.call('publish', 'too late')

    async def disturb(self) -> None:
        while not self.finished.is_set():
            await asyncio.sleep(self.rng.expovariate(1.0))
            broker, _ = self.rng.choice(self.processes)
            await broker.break_link()

    async def read(self) -> list[str]:
        """Read until the end, and return the payloads; reconnect after each loss."""
        await asyncio.sleep(self.rng.uniform(0.0, 8.0))
        position = Position(0, '')
        seen: list[str] = []
        while True:
            _, channels = self.rng.choice(self.processes)
            try:
                async with channels.subscribe(_CHANNEL, since=position) as reader:
                    assert reader.recovered, 'the log has everything'
                    epoch = reader.position.epoch
                    cut_s = self.rng.choice([self.rng.expovariate(0.5), 1000.0])
                    async with asyncio.timeout(cut_s):
                        async for item in reader:
                            seen.append(item.value())
                            position = Position(item.offset, epoch)
                    assert '' == self.error
                    return seen
            except UnsubscribedError as ex:
                if ex.code != 2500:
                    failure = ex
                    break
            except (BrokerUnavailableError, ClosedError, TimeoutError):
                pass
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))
        assert (2401, self.error) == (failure.code, failure.reason)
        return seen


@pytest.mark.parametrize('seed', _SEEDS)
def test_every_reader_receives_everything_once_and_the_end(seed: int) -> None:
    """Readers that are cut, and processes that miss the end, still learn it."""

    async def run() -> None:
        world = _World(seed)
        await world.start()
        readers = [asyncio.create_task(world.read()) for _ in range(_NUM_READERS)]
        async with asyncio.timeout(2000):
            await asyncio.gather(world.write(), world.disturb())
            found = await asyncio.gather(*readers)
        expected = world.values + ([] if world.data is None else [world.data])
        assert [expected] * _NUM_READERS == found
        await world.close()

    run_with_fake_clock(run())
