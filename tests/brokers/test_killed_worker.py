"""A worker is killed in the middle of publishing, on each broker for several."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
from pathlib import Path
import sys

import pytest
from support.audience import Audience
from support.audience import open_channels
from support.postgres_server import PostgresServer
from support.processes import ROOT
from support.redis_server import RedisServer

PUBLISHER = str(ROOT / 'tests' / 'support' / 'broker_publisher.py')
PUBLISHERS, COUNT = 5, 100


@pytest.fixture(params=['sqlite', 'redis', 'postgresql'])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A broker of each kind, with nothing in it."""
    with contextlib.ExitStack() as stack:
        if request.param == 'sqlite':
            yield f'sqlite:///{tmp_path}/rooms.db'
        elif request.param == 'redis':
            redis = RedisServer(tmp_path)
            stack.callback(redis.stop)
            yield redis.url
        else:
            postgres = PostgresServer('fsync=off')
            stack.callback(postgres.stop)
            yield f'{postgres.url}?migrate=yes'


async def start_worker(url: str) -> asyncio.subprocess.Process:
    """Start the worker; started again, it publishes the same with the same keys."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, PUBLISHER, url, 'news'),
        *(str(PUBLISHERS), str(COUNT), '0', 'worker'),
        stdout=asyncio.subprocess.PIPE,
    )


async def test_a_worker_killed_while_it_publishes(url: str) -> None:
    """Its successor publishes again: fifty subscribers get all, once and in order."""
    async with open_channels(url) as channels, Audience(channels, 'news') as audience:
        worker = await start_worker(url)
        assert worker.stdout is not None
        acknowledged = [await worker.stdout.readline() for _ in range(100)]
        worker.kill()
        await worker.communicate()
        assert -9 == worker.returncode
        successor = await start_worker(url)
        output, _ = await successor.communicate()
        lines = output.splitlines()
        assert b'done' == lines[-1]
        # What the first had acknowledged has the same positions in the second's words.
        assert set(acknowledged) <= {line + b'\n' for line in lines}
        total = PUBLISHERS * COUNT
        await audience.until(
            lambda: all(len(heard[-1]) >= total for heard in audience.heard),
            'everybody hears everything',
        )
    expected = sorted(
        (int(line.split()[1]), line.split()[3].decode().strip('"'))
        for line in lines[:-1]
    )
    assert list(range(1, total + 1)) == [offset for offset, _ in expected]
    for heard in audience.heard:
        assert [expected] == heard
