"""The queues of publications to PostgreSQL: errors of a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.postgres.batch_encoding import Batch
from falcon_channels.brokers.postgres.batch_encoding import QueuedPublication
from falcon_channels.brokers.postgres.connections import RowLockedError
from falcon_channels.brokers.postgres.publish_queues import PublishQueues
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.publication import Position

ITEM = QueuedPublication(b'1', None, LogSettings(size=10))
STORED = PublishResult(Position(1, 'x'))

Results = list[list[PublishResult | None] | None]


@pytest.mark.parametrize('locked', [False, True], ids=['group', 'locked channel'])
async def test_unexpected_error_of_a_transaction_fails_only_its_publications(
    locked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """After an error of any class, the queues store the next publications.

    An example is a function in the database that is of another release, and returns
    other columns.
    """
    broken = True

    async def store(
        batches: Sequence[Batch], *, wait_s: float | None, skip: bool
    ) -> Results:
        if locked and wait_s is not None:
            if skip:
                return [None]
            raise RowLockedError('locked')
        if broken:
            raise ValueError('not enough values to unpack')
        return [[STORED]]

    queues = PublishQueues(store, workers=1, timeout_s=5)
    try:
        async with asyncio.timeout(4):
            with pytest.raises(BrokerUnavailableError, match='ValueError: not enough'):
                await queues.publish('news', ITEM)
            broken = False
            assert STORED == await queues.publish('news', ITEM)
    finally:
        await queues.close()
    assert 'publications were not stored' in caplog.text
