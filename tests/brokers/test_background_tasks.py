"""Background tasks of brokers: what happens after an error."""

from __future__ import annotations

import asyncio
from pathlib import Path
import sqlite3

import pytest

from falcon_channels.brokers import background_tasks
from falcon_channels.brokers.background_tasks import run_forever
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.sqlite import SqliteBroker
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder
from falcon_channels.testing.recorder import eventually

LOG = LogSettings(size=10)
ITEM = Publication(data=b'1')


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_tasks, '_RESTART_S', 0.01)


async def test_function_that_fails_is_called_again_until_it_returns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each error is logged and reported, and the next call follows."""
    calls: list[str] = []

    async def function() -> None:
        calls.append('call')
        if calls.count('call') < 3:
            raise ZeroDivisionError

    async with asyncio.timeout(10):
        await run_forever(function, 'test', lambda: calls.append('failure'))
    assert ['call', 'failure', 'call', 'failure', 'call'] == calls
    assert 2 == caplog.text.count("task 'test' of a broker failed, and starts again")


class BrokenReceiver(Recorder):
    """A receiver with a defect: it raises an error for the publication 2."""

    def on_publication(
        self, channel: str, publication: Publication, epoch: str
    ) -> None:
        if publication.offset == 2:
            raise ZeroDivisionError
        super().on_publication(channel, publication, epoch)


async def test_sqlite_announces_later_rows_after_an_unexpected_error(
    tmp_path: Path,
) -> None:
    """The link is lost and restored, so that the hub reads what it has missed."""
    one, other = (SqliteBroker(tmp_path / 'chat.db', poll_s=0.1) for _ in range(2))
    recorder = BrokenReceiver()
    await one.start(recorder)
    await other.start(Recorder())
    try:
        await one.subscribe('news', LOG)
        for _ in range(3):
            await other.publish('news', ITEM, LOG)
        await recorder.until(lambda: recorder.links == ['lost', 'restored'], 'it is up')
        await other.publish('news', ITEM, LOG)
        await recorder.until(lambda: recorder.offsets_of('news')[-1] == 4, 'it arrives')
        assert [1, 3, 4] == recorder.offsets_of('news')
    finally:
        await one.close()
        await other.close()


async def test_sqlite_removes_expired_rows_after_a_sweep_that_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged row does not end the housekeeping, which also polls the file."""
    path = tmp_path / 'chat.db'
    broker = SqliteBroker(path, poll_s=0.05)
    await broker.start(Recorder())
    try:
        await broker.publish('news', ITEM, LOG)
        with sqlite3.connect(path) as database:
            database.execute('UPDATE items SET offset = NULL, until_ms = 1')

        async def has_failed() -> bool:
            return 'starts again' in caplog.text

        await eventually(has_failed, 'the sweep fails')
        with sqlite3.connect(path) as database:
            database.execute('UPDATE items SET offset = 1')

        async def is_removed() -> bool:
            with sqlite3.connect(path) as database:
                return database.execute('SELECT * FROM items').fetchall() == []

        await eventually(is_removed, 'the row is removed')
    finally:
        await broker.close()
