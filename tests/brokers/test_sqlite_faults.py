"""Faults of SQLite: all publications still arrive once and in order.

There is no server that could fail. The faults are a process that stops in the middle of
a transaction, and lost notifications between processes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
import signal
import sys

import pytest
from support.audience import Audience
from support.audience import open_channels
from support.audience import run_fault
from support.processes import ROOT

from falcon_channels.channels import Channels

pytestmark = pytest.mark.xdist_group('sqlite faults')

PUBLISHER = str(ROOT / 'tests' / 'support' / 'broker_publisher.py')

#: Short times, so that faults are noticed soon.
QUICK = '?timeout_s=1&poll_s=0.2'

#: The program of a process that stays in the middle of a transaction.
WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute('BEGIN IMMEDIATE')
connection.execute('DELETE FROM items')
print('in', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'chat.db'


async def test_publications_of_four_processes_have_one_order(path: Path) -> None:
    """Fifty subscribers receive the publications of four processes in order."""
    async with (
        open_channels(f'sqlite:///{path}') as channels,
        Audience(channels, 'news') as audience,
    ):
        writers = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, PUBLISHER, f'sqlite:///{path}{QUICK}', 'news'),
                *('10', '25', '0', f'writer {number}'),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            for number in range(4)
        ]
        outputs = await asyncio.gather(*(writer.communicate() for writer in writers))
        assert [0] * 4 == [writer.returncode for writer in writers]
        acknowledged = sorted(
            (int(line.split()[1]), line.split(' ', 3)[3].strip('"'))
            for output, _ in outputs
            for line in output.decode().splitlines()
            if line != 'done'
        )
        assert 1000 == len({value for _, value in acknowledged})
        await audience.until_heard(acknowledged[-1][1])
        page = await channels.history('news', limit=None)
    assert acknowledged == [(item.offset, item.value()) for item in page.publications]
    audience.check_all_heard([value for _, value in acknowledged])
    assert 0 == channels.node.hub.counters.links_lost


async def test_writer_frozen_in_a_transaction_fails_calls_and_loses_nothing(
    path: Path,
) -> None:
    """A process stops for 10 s with the lock: calls fail, nothing is lost."""

    async def fault(channels: Channels, audience: Audience) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, '-c', WRITER, str(path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert writer.stdout is not None
        assert b'in\n' == await writer.stdout.readline()
        writer.send_signal(signal.SIGSTOP)
        await audience.until(lambda: loop.time() > begun_s + 10, '10 s are over')
        # SQLite undoes its transaction.
        writer.kill()
        await writer.communicate()

    audience, publisher, channels = await run_fault(f'sqlite:///{path}{QUICK}', fault)
    # NOTE: with a deadline of one second, at least two calls fail in this time.
    assert publisher.failures >= 2
    audience.check_all_heard(publisher.values)
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_lost_notifications_lose_no_publication(path: Path) -> None:
    """Notifications are lost and restored; no subscriber misses anything."""
    names, away = path.with_name('chat.db-news'), path.with_name('away')
    away.mkdir()

    async def fault(channels: Channels, audience: Audience) -> None:
        for source, target in [(names, away), (away, names)] * 3:
            counts = [len(part[-1]) for part in audience.heard]
            for name in source.iterdir():
                name.rename(target / name.name)

            def more(counts: list[int] = counts) -> bool:
                return all(
                    len(part[-1]) > before + 10
                    for part, before in zip(audience.heard, counts, strict=True)
                )

            await audience.until(more, 'the file is polled')

    audience, publisher, channels = await run_fault(f'sqlite:///{path}{QUICK}', fault)
    assert 0 == publisher.failures
    audience.check_all_heard(publisher.values)
    assert 0 == channels.node.hub.counters.insufficient_state
