"""One user in two processes: joins and leaves are announced in a consistent order."""

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


class SlowSignals(Broker):
    """A mixin for brokers: the next signal waits for `gate`, later ones do not."""

    gate: asyncio.Event | None = None
    waits = False

    async def signal(self, channel: str, signal: bytes) -> None:
        gate, self.gate = self.gate, None
        if gate is not None:
            self.waits = True
            await gate.wait()
            self.waits = False
        await super().signal(channel, signal)  # type: ignore[safe-super] # mixed in


class SlowSqlite(SlowSignals, SqliteBroker):
    """The SQLite broker with slow signals."""


class SlowRedis(SlowSignals, RedisBroker):
    """The Redis broker with slow signals."""


class SlowPostgres(SlowSignals, PostgresBroker):
    """The PostgreSQL broker with slow signals."""


@pytest.fixture(params=['sqlite', 'redis', 'postgresql'], scope='module')
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], SlowSignals]]:
    """A function that returns brokers of each kind, all on the same store."""
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
        subscribers='anybody',
        presence=True,
        join_leave='user',
        presence_ttl_s=presence_ttl_s,
    )
    channels.add_route('room:{name}', None, options)
    await channels.start()
    try:
        yield channels
    finally:
        await channels.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition is true; fail with its description otherwise."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f'not within {TIMEOUT_S} s: {what}')


def announced(watcher: SimulatedClient, user: str) -> list[str]:
    """Return the joins and leaves of a user that a watcher has received."""
    return [
        event.item.kind
        for event in watcher.events
        if isinstance(event, Received)
        and isinstance(event.item, Signal)
        and event.item.info.user == user
    ]


async def test_user_who_returns_in_another_process_is_announced_as_present(
    opened: Callable[[], SlowSignals],
) -> None:
    """A late leave of one process does not hide a join in another process."""
    slow = opened()
    async with process(slow) as one, process(opened()) as two:
        async with (
            SimulatedClient(two, user='watcher') as watcher,
            SimulatedClient(one, user='ann') as first,
            SimulatedClient(two, user='ann') as second,
        ):
            await watcher.subscribe('room:1')
            await first.subscribe('room:1')
            await until(lambda: announced(watcher, 'ann') == ['join'], 'ann is there')
            slow.gate = gate = asyncio.Event()
            first.unsubscribe('room:1')
            await until(lambda: slow.waits, 'the leave is about to be announced')
            await second.subscribe('room:1')
            await until(
                lambda: announced(watcher, 'ann')[1:] == ['join'], 'ann is back'
            )
            gate.set()
            await until(
                lambda: len(announced(watcher, 'ann')) == 4, 'everything is announced'
            )
            assert ['join', 'join', 'leave', 'join'] == announced(watcher, 'ann')
            second.unsubscribe('room:1')
            await until(lambda: len(announced(watcher, 'ann')) == 5, 'ann has left')
            assert 'leave' == announced(watcher, 'ann')[-1]
            assert ['watcher'] == [
                info.user for info in (await two.presence('room:1')).values()
            ]


async def test_leave_and_join_in_one_process_are_announced_in_order(
    opened: Callable[[], SlowSignals],
) -> None:
    """In one process, a join waits for the leave before it; each comes once."""
    slow = opened()
    async with process(slow) as one, process(opened()) as two:
        async with (
            SimulatedClient(two, user='watcher') as watcher,
            SimulatedClient(one, user='bob') as first,
            SimulatedClient(one, user='bob') as second,
        ):
            await watcher.subscribe('room:2')
            await first.subscribe('room:2')
            await until(lambda: announced(watcher, 'bob') == ['join'], 'bob is there')
            slow.gate = gate = asyncio.Event()
            first.unsubscribe('room:2')
            await until(lambda: slow.waits, 'the leave is about to be announced')
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
            await until(
                lambda: len(announced(watcher, 'bob')) == 3, 'everything is announced'
            )
            assert ['join', 'leave', 'join'] == announced(watcher, 'bob')
