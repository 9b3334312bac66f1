"""One user in two processes: what they tell of each other in what order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
import contextlib

import pytest
from support.postgres_server import PostgresServer
from support.redis_server import RedisServer

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.postgres.broker import PostgresBroker
from falcon_channels.brokers.redis.broker import RedisBroker
from falcon_channels.brokers.sqlite.broker import SqliteBroker
from falcon_channels.publication import Signal
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('presence races')]

TIMEOUT_S = 30.0


class SlowToTell(Broker):
    """Mixed into a broker: the next signal waits for `gate`, those after it do not."""

    gate: asyncio.Event | None = None
    waits = False

    async def signal(self, channel: str, signal: bytes) -> None:
        gate, self.gate = self.gate, None
        if gate is not None:
            self.waits = True
            await gate.wait()
            self.waits = False
        await super().signal(channel, signal)  # type: ignore[safe-super] # mixed in


class SlowSqlite(SlowToTell, SqliteBroker):
    """SQLite, slow to tell."""


class SlowRedis(SlowToTell, RedisBroker):
    """Redis, slow to tell."""


class SlowPostgres(SlowToTell, PostgresBroker):
    """PostgreSQL, slow to tell."""


@pytest.fixture(params=['sqlite', 'redis', 'postgresql'], scope='module')
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], SlowToTell]]:
    """Return what opens a broker of each kind, always on the same store."""
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp('races')
        if request.param == 'sqlite':
            url = f'sqlite:///{folder}/races.db'
            yield lambda: SlowSqlite.from_url(url)
        elif request.param == 'redis':
            redis = RedisServer(folder)
            stack.callback(redis.stop)
            yield lambda: SlowRedis.from_url(redis.url)
        else:
            postgres = PostgresServer('fsync=off')
            stack.callback(postgres.stop)
            url = f'{postgres.url}?migrate=yes'
            yield lambda: SlowPostgres.from_url(url)


@contextlib.asynccontextmanager
async def process(
    broker: Broker, presence_ttl_s: float = 60.0
) -> AsyncIterator[Channels]:
    channels = Channels(broker)
    options = ChannelOptions(
        presence=True, join_leave='user', presence_ttl_s=presence_ttl_s
    )
    channels.add_route('room:{name}', None, options)
    await channels.start()
    try:
        yield channels
    finally:
        await channels.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, and say what it was where it does not come."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f'not within {TIMEOUT_S} s: {what}')


def told(watcher: SimulatedClient, user: str) -> list[str]:
    """Return what a watcher was told of a user."""
    return [
        event.item.kind
        for event in watcher.events
        if isinstance(event, Received)
        and isinstance(event.item, Signal)
        and event.item.info.user == user
    ]


async def test_who_comes_back_elsewhere_is_there_for_all(
    opened: Callable[[], SlowToTell],
) -> None:
    """The word that a user left one process has not the last word over another's."""
    slow = opened()
    async with process(slow) as one, process(opened()) as two:
        async with (
            SimulatedClient(two, user='watcher') as watcher,
            SimulatedClient(one, user='ann') as first,
            SimulatedClient(two, user='ann') as second,
        ):
            await watcher.subscribe('room:1')
            await first.subscribe('room:1')
            await until(lambda: told(watcher, 'ann') == ['join'], 'ann is there')
            slow.gate = gate = asyncio.Event()
            first.unsubscribe('room:1')
            await until(lambda: slow.waits, 'the leave is about to be told')
            await second.subscribe('room:1')
            await until(lambda: told(watcher, 'ann')[1:] == ['join'], 'ann is back')
            gate.set()
            await until(lambda: len(told(watcher, 'ann')) == 4, 'all was told')
            assert ['join', 'join', 'leave', 'join'] == told(watcher, 'ann')
            second.unsubscribe('room:1')
            await until(lambda: len(told(watcher, 'ann')) == 5, 'ann has left')
            assert 'leave' == told(watcher, 'ann')[-1]
            assert ['watcher'] == [
                info.user for info in (await two.presence('room:1')).values()
            ]


async def test_one_process_tells_in_order(opened: Callable[[], SlowToTell]) -> None:
    """Within a process a join waits for the leave before it, and each is told once."""
    slow = opened()
    async with process(slow) as one, process(opened()) as two:
        async with (
            SimulatedClient(two, user='watcher') as watcher,
            SimulatedClient(one, user='bob') as first,
            SimulatedClient(one, user='bob') as second,
        ):
            await watcher.subscribe('room:2')
            await first.subscribe('room:2')
            await until(lambda: told(watcher, 'bob') == ['join'], 'bob is there')
            slow.gate = gate = asyncio.Event()
            first.unsubscribe('room:2')
            await until(lambda: slow.waits, 'the leave is about to be told')
            joining = asyncio.create_task(second.subscribe('room:2'))
            await until(
                lambda: (
                    'room:2' in second.connection.subscriptions
                    and second.connection.subscriptions['room:2'].joined
                ),
                'bob has joined again',
            )
            for _ in range(20):
                assert {'watcher'} == {
                    info.user for info in (await two.presence('room:2')).values()
                }
            gate.set()
            await joining
            await until(lambda: len(told(watcher, 'bob')) == 3, 'all was told')
            assert ['join', 'leave', 'join'] == told(watcher, 'bob')
