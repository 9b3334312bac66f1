"""Workers that write streams are killed, with each broker for several processes.

``make test-streams`` runs these tests with 200 readers, and kills more workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
import json
import os
import random
import signal
from typing import Any

import httpx
import pytest
from support.asgi_servers import SERVE
from support.event_reader import EventReader
from support.processes import ServerProcess
from support.processes import wait_until
from support.streams_app import answer
from support.workers import broker_url
from support.workers import BROKERS
from support.workers import meet
from support.workers import Worker

READERS = int(os.environ.get('STREAM_READERS', '20'))
KILLS = int(os.environ.get('STREAM_KILLS', '2'))

pytestmark = pytest.mark.server


@pytest.fixture(params=BROKERS, scope='module')
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server with two workers and an empty broker of each kind."""
    command = SERVE.command('support.streams_app:app', '--workers', '2')
    with broker_url(request.param, tmp_path_factory.mktemp('broker')) as url:
        env = {'PYTHONPATH': 'tests', 'BROKER': url}
        with ServerProcess(command, env=env) as server:
            yield server


def joined(chunks: Iterator[Any]) -> list[Any]:
    """Return chunks with neighbouring texts joined."""
    found: list[Any] = []
    for chunk in chunks:
        if isinstance(chunk, str) and found and isinstance(found[-1], str):
            found[-1] += chunk
        elif chunk != '':
            found.append(chunk)
    return found


class Reader:
    """An EventSource whose connection is cut again and again.

    Attributes:
        received: The data of all events.
        end: The data of the event ``end``; ``None`` before.
        cuts: Number of times that the connection was cut.
    """

    def __init__(self, server: ServerProcess, answer: int, seed: int) -> None:
        self.received: list[Any] = []
        self.end: Any = None
        self.cuts = 0
        self._server = server
        self._answer = answer
        self._random = random.Random(seed)
        self._last_id = ''

    async def read(self) -> None:
        """Read until the end, over many connections."""
        while self.end is None:
            # NOTE: a worker that is killed cuts its connections, too.
            with contextlib.suppress(OSError):
                await self._read_once(self._random.randint(200, 8000))
            self.cuts += 1
            await asyncio.sleep(self._random.random() / 10)

    async def _read_once(self, size_bytes: int) -> None:
        """Read at most that many bytes over one connection."""
        reader, writer = await asyncio.open_connection('127.0.0.1', self._server.port)
        try:
            last_id = f'Last-Event-ID: {self._last_id}\r\n' if self._last_id else ''
            writer.write(
                f'GET /answers/{self._answer} HTTP/1.1\r\nHost: localhost\r\n'
                f'Accept: text/event-stream\r\n{last_id}\r\n'.encode()
            )
            head = await reader.readuntil(b'\r\n\r\n')
            assert head.startswith(b'HTTP/1.1 200 '), head
            rest = b''
            while size_bytes > 0 and self.end is None:
                # NOTE: the server sends chunks (RFC 9112 section 7.1). Most cuts are
                #   within an event.
                chunk_bytes = min(int(await reader.readuntil(b'\r\n'), 16), size_bytes)
                *blocks, rest = (rest + await reader.readexactly(chunk_bytes)).split(
                    b'\n\n'
                )
                await reader.readexactly(2)
                size_bytes -= chunk_bytes or size_bytes
                for block in blocks:
                    self._take(block.decode())
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.transport.abort()

    def _take(self, block: str) -> None:
        lines = [line for line in block.split('\n') if not line.startswith(':')]
        fields = dict(line.split(': ', 1) for line in lines)
        self._last_id = fields.get('id', self._last_id)
        if 'data' not in fields:
            return
        data = json.loads(fields['data'])
        if fields.get('event') == 'end':
            self.end = data
        else:
            assert 'event' not in fields, block
            self.received.append(data)


def length(chunks: list[Any]) -> int:
    return sum(len(str(chunk)) for chunk in chunks)


def write(worker: Worker, number: int) -> None:
    worker.ask('POST', f'/answers/{number}')


@pytest.mark.timeout(120)
def test_abort_in_one_worker_stops_the_writer_in_another(server: ServerProcess) -> None:
    """The writer waits for its producer; its block ends without an error."""
    one, two = meet(server)
    with (
        httpx.Client(base_url=server.url, timeout=30) as client,
        EventReader.open(client, '/answers/7') as reader,
    ):
        one.ask('POST', '/answers/7?waits=true')
        assert '"first"' == reader.event().data
        assert [] == one.ask('GET', '/answers/7/ends')
        assert two.ask('DELETE', '/answers/7')
        wait_until(lambda: one.ask('GET', '/answers/7/ends'), 'the writer has ended')
        assert ['aborted: True'] == one.ask('GET', '/answers/7/ends')
        end = reader.event()
        assert ('end', 'aborted') == (end.name, json.loads(end.data)['error'])
        assert not two.ask('DELETE', '/answers/7')


async def write_and_kill(server: ServerProcess, readers: list[Reader]) -> None:
    """Start writers in one worker, kill it, and start them in the other one."""
    sizes = [length(joined(answer(number))) for number in (0, 1)]
    killed: list[int] = []
    for number in range(KILLS):
        worker = (await asyncio.to_thread(meet, server, *killed))[number % 2]
        for index in (0, 1):
            await asyncio.to_thread(write, worker, index)
        part = (number + 1) / (KILLS + 2)
        while any(length(readers[i].received) < part * sizes[i] for i in (0, 1)):
            await asyncio.sleep(0.02)
        killed.append(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
    # NOTE: each stream has two writers now, like one whose first writer is not dead.
    for worker in await asyncio.to_thread(meet, server, *killed):
        for index in (0, 1):
            await asyncio.to_thread(write, worker, index)


@pytest.mark.timeout(600)
async def test_readers_receive_a_stream_once_although_its_writers_are_killed(
    server: ServerProcess,
) -> None:
    """Every reader has exactly what was written, once, in order, and sees the end."""
    readers = [Reader(server, number % 2, number) for number in range(READERS)]
    async with asyncio.timeout(500), asyncio.TaskGroup() as tasks:
        for reader in readers:
            tasks.create_task(reader.read())
        await write_and_kill(server, readers)
    expected = [joined(answer(number)) for number in (0, 1)]
    for number, reader in enumerate(readers):
        assert expected[number % 2] == joined(iter(reader.received))
        assert '' == reader.end['error']
    assert sum(reader.cuts for reader in readers) > 3 * READERS
    assert 'Error' not in server.log()
