"""Streams are written while the store of the broker does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
import sqlite3
from typing import Any
from typing import NamedTuple

import pytest
from support.postgres_server import PostgresServer
from support.redis_server import RedisServer
from support.workers import BROKERS

from falcon_channels import BrokerUnavailableError
from falcon_channels import ChannelEnd
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import StreamWriterOptions

pytestmark = pytest.mark.xdist_group('lost link')

NAME = 'answers:1'


class Outage(NamedTuple):
    """A store that stops to answer, and later answers the calls that it has got.

    Attributes:
        url: URL of the broker; its calls fail after a second.
        begin: Function that stops the store.
        end: Function that lets it continue.
    """

    url: str
    begin: Callable[[], object]
    end: Callable[[], object]


@pytest.fixture(params=BROKERS)
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outage]:
    if request.param == 'sqlite':
        path = tmp_path / 'chat.db'
        lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        yield Outage(
            f'sqlite:///{path}?timeout_s=1',
            lambda: lock.execute('BEGIN IMMEDIATE'),
            lambda: lock.execute('ROLLBACK'),
        )
        lock.close()
    elif request.param == 'redis':
        redis = RedisServer(tmp_path)
        yield Outage(f'{redis.url}?timeout_s=1&probe_s=0.2', redis.freeze, redis.thaw)
        redis.stop()
    else:
        postgres = PostgresServer('fsync=off')
        url = f'{postgres.url}?migrate=yes&timeout_s=1&probe_s=0.2'
        yield Outage(url, postgres.freeze, postgres.thaw)
        postgres.stop()


@pytest.mark.timeout(120)
async def test_outage_of_the_store_repeats_and_loses_nothing(outage: Outage) -> None:
    """The store executes calls later whose results the writer never got."""
    channels = Channels(outage.url)
    channels.add_route('{name}', None, ChannelOptions(history_size=10_000))
    options = StreamWriterOptions(max_pending_bytes=200, max_batch_bytes=100)
    written: list[Any] = []

    async def fail_twice() -> None:
        """Wait until calls of this process have failed."""
        for _ in range(2):
            with pytest.raises(BrokerUnavailableError):
                await channels.publish('other', 'x')

    async with channels, asyncio.TaskGroup() as tasks:
        async with channels.stream(NAME, options) as stream:

            async def produce(numbers: range) -> None:
                for number in numbers:
                    for chunk in (f'{number} is a number. ', {'number': number}):
                        await stream.write(chunk)
                        written.append(chunk)

            await produce(range(25))
            await asyncio.to_thread(outage.begin)
            try:
                producer = tasks.create_task(produce(range(25, 150)))
                await fail_twice()
                assert not producer.done()
            finally:
                await asyncio.to_thread(outage.end)
            await producer
        page = await channels.history(NAME, limit=None)
    received = [item.value() for item in page.publications if not item.only_ends]
    assert written == received
    assert ChannelEnd() == page.end
