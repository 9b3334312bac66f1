"""A lost link to a real server: what is accepted meanwhile, and what is announced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support.postgres_server import PostgresServer
from support.redis_server import RedisServer

from falcon_channels.brokers.base import StreamSettings
from falcon_channels.brokers.urls import open_broker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder

pytestmark = pytest.mark.xdist_group('lost link')

LOG = StreamSettings(size=10)
NO_LOG = StreamSettings()
ITEM = Publication(data=b'1')


class Store:
    """A server whose connections for announcements a test can end.

    Args:
        url: URL of the broker.
        end_links: Function that ends the connections for announcements, but not those
            for calls.
    """

    def __init__(self, url: str, end_links: Callable[[], None]) -> None:
        self.url = url
        self.end_links = end_links


@pytest.fixture(params=['redis', 'postgresql'])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == 'redis':
        redis = RedisServer(tmp_path)
        yield Store(redis.url, lambda: redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub'))
        redis.stop()
        return
    postgres = PostgresServer('fsync=off')

    def end_links() -> None:
        with psycopg.connect(postgres.url) as connection:
            connection.execute(
                'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
                "WHERE query LIKE 'LISTEN %'"
            )

    yield Store(f'{postgres.url}?migrate=yes', end_links)
    postgres.stop()


async def test_publish_without_log_is_refused_while_the_own_link_is_lost(
    store: Store,
) -> None:
    """Promise 13: a publish that succeeds is delivered to the own subscribers."""
    broker, recorder = open_broker(store.url), Recorder()
    await broker.start(recorder)
    await broker.subscribe('live', NO_LOG)
    await broker.subscribe('logged', LOG)
    await asyncio.to_thread(store.end_links)
    await recorder.until(lambda: recorder.links == ['lost'], 'the link is lost')
    # NOTE: nothing is awaited before these calls, so the link is still lost.
    with pytest.raises(BrokerUnavailableError, match=r'link to .* is lost'):
        await broker.publish('live', ITEM, NO_LOG)
    with pytest.raises(BrokerUnavailableError, match=r'link to .* is lost'):
        await broker.signal('live', b'join')
    # A log can be read later, and nobody in this process listens to the third channel.
    await broker.publish('logged', ITEM, LOG)
    await broker.publish('elsewhere', ITEM, NO_LOG)
    await recorder.until(lambda: recorder.links[-1] == 'restored', 'it is back')
    await broker.publish('live', ITEM, NO_LOG)
    await broker.signal('live', b'join')
    await recorder.until(lambda: recorder.signals, 'the signal')
    assert [b'1'] == recorder.data_of('live')
    assert [b'1'] == [
        item.data for item in (await broker.history('logged', LOG)).publications
    ]
    await broker.close()
