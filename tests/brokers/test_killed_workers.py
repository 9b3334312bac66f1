"""Workers are killed while they publish, with each broker for several processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import asynccontextmanager
import json
import os
from pathlib import Path
import signal
import sys

import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.asgi_servers import SERVE
from support.audience import Audience
from support.audience import open_channels
from support.audience import SUBSCRIBERS
from support.processes import ROOT
from support.processes import ServerProcess
from support.workers import broker_url
from support.workers import BROKERS
from support.workers import meet
from support.workers import two_workers
from support.workers import Worker
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

PUBLISHER = str(ROOT / 'tests' / 'support' / 'broker_publisher.py')
PUBLISHERS, COUNT = 5, 100
#: Characters of each item. The pipe has room for two fifths of them. A worker whose
#: output is not read can therefore not publish all items.
SIZE = 1000


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty broker of each kind."""
    with broker_url(request.param, tmp_path) as url:
        yield url


async def start_worker(url: str) -> asyncio.subprocess.Process:
    """Start a worker; each worker publishes the same items with the same keys."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, PUBLISHER, url, 'news'),
        *(str(PUBLISHERS), str(COUNT), str(SIZE), 'worker'),
        stdout=asyncio.subprocess.PIPE,
    )


async def test_successor_of_a_killed_publisher_publishes_each_item_once(
    url: str,
) -> None:
    """The successor repeats all items; fifty subscribers get each once, in order."""
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
        # The successor reports the same positions for the acknowledged items.
        assert set(acknowledged) <= {line + b'\n' for line in lines}
        total = PUBLISHERS * COUNT
        await audience.until(
            lambda: all(len(heard[-1]) >= total for heard in audience.heard),
            'every subscriber has received everything',
        )
    expected = sorted(
        (int(line.split()[1]), line.split()[3].decode().strip('"'))
        for line in lines[:-1]
    )
    assert list(range(1, total + 1)) == [offset for offset, _ in expected]
    for heard in audience.heard:
        assert [expected] == heard


class Guest:
    """A client in a room that reconnects, and recovers from its last position.

    Attributes:
        user: Id of the user.
        heard: Offset and payload of each received publication.
        entered: Number of times that the client has subscribed.
        present: Whether the client is subscribed.
    """

    def __init__(self, server: ServerProcess, user: str) -> None:
        self.user = user
        self.heard: list[tuple[int, str]] = []
        self.entered = 0
        self.present = False
        self._url = f'{server.ws_url}/rooms/news?user={user}'
        self._since = ''

    async def enter(self, worker: Worker) -> asyncio.Task[None]:
        """Connect to a worker; return the task that receives and reconnects."""
        with worker.dial() as connection:
            sock = connection.sock.dup()
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        first = connect(self._url, sock=sock, proxy=None)
        task = loop.create_task(self._stay(first))
        await until(lambda: self.present or task.done(), 'a guest is subscribed')
        return task

    async def _stay(self, connection: connect) -> None:
        while True:
            try:
                async with connection as ws:
                    async for text in ws:
                        self._take(json.loads(text))
            except (OSError, WebSocketException):
                pass
            self.present = False
            await asyncio.sleep(0.05)
            connection = connect(f'{self._url}{self._since}', proxy=None)

    def _take(self, message: dict[str, object]) -> None:
        joined = message.get('subscribed')
        if isinstance(joined, dict):
            assert joined.get('recovered') in (None, True)
            assert (self._since == '') is ('recovered' not in joined)
            self.entered += 1
            self.present = True
            position = joined if not self.heard else None
        else:
            self.heard.append((message['offset'], message['data']))  # type: ignore[arg-type]
            position = message
        if position is not None:
            self._since = f'&since={position["offset"]}:{position["epoch"]}'


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(40):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


class Room:
    """A server with two workers, fifty guests in a room, and a publisher.

    Attributes:
        server: The server.
        guests: The clients in the room.
        published: Offset and payload of each acknowledged publication.
        failures: Number of requests that have failed.
    """

    def __init__(self, server: ServerProcess, http: httpx.AsyncClient) -> None:
        self.server = server
        self.guests = [Guest(server, f'guest-{n:02}') for n in range(SUBSCRIBERS)]
        self.published: list[tuple[int, str]] = []
        self.failures = 0
        self._http = http

    async def publish(self, count: int) -> None:
        """Publish items, and repeat each until it is acknowledged."""
        for _ in range(count):
            value = f'item {len(self.published)}'
            while not await self._publish_once(value):
                self.failures += 1
                await asyncio.sleep(0.02)

    async def _publish_once(self, value: str) -> bool:
        try:
            answer = await self._http.post(
                '/rooms/news', params={'key': value}, json=value
            )
        except httpx.HTTPError:
            return False
        if answer.status_code == 200:
            self.published.append((answer.json(), value))
        return answer.status_code == 200

    async def users(self) -> list[str]:
        """Return the users in the room, once for each presence entry."""
        while True:
            try:
                users: list[str] = (await self._http.get('/rooms/news')).json()
            except httpx.HTTPError:
                await asyncio.sleep(0.02)
            else:
                return users

    async def until_all_are_present(self) -> None:
        """Wait until each guest has exactly one presence entry."""
        everybody = [guest.user for guest in self.guests]
        async with asyncio.timeout(40):
            while everybody != await self.users():
                await asyncio.sleep(0.05)

    async def until_all_have_received(self) -> None:
        """Wait until every guest has received the last publication."""
        last = self.published[-1]
        await until(
            lambda: all([last] == guest.heard[-1:] for guest in self.guests),
            'all guests have received the last item',
        )


@asynccontextmanager
async def open_room(
    url: str, asgi_server: AsgiServer = SERVE
) -> AsyncIterator[tuple[Room, tuple[Worker, Worker]]]:
    """Open a room with half of its guests at each worker, and publish 20 items."""
    with two_workers(url, asgi_server) as server:
        workers = meet(server)
        async with httpx.AsyncClient(base_url=server.url, timeout=10) as http:
            room = Room(server, http)
            tasks = [
                await guest.enter(workers[number % 2])
                for number, guest in enumerate(room.guests)
            ]
            try:
                await room.until_all_are_present()
                await room.publish(20)
                await room.until_all_have_received()
                yield room, workers
            finally:
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert {asyncio.CancelledError} == {type(end) for end in ends}
    assert list(range(1, len(room.published) + 1)) == [n for n, _ in room.published]
    for guest in room.guests:
        assert room.published == guest.heard


@pytest.mark.server
@pytest.mark.timeout(120)
async def test_guests_of_a_killed_worker_reconnect_without_a_gap(url: str) -> None:
    """Guests of a killed worker reconnect; no guest misses anything, and no presence
    entry is left over."""
    async with open_room(url) as (room, (_, two)):
        publishing = asyncio.create_task(room.publish(150))
        await until(lambda: len(room.published) > 50, '30 more items are published')
        os.kill(two.pid, signal.SIGKILL)
        await publishing
        await room.until_all_have_received()
        await room.until_all_are_present()
    stayed = [guest.entered for guest in room.guests[0::2]]
    reconnected = [guest.entered for guest in room.guests[1::2]]
    assert ([1] * 25, [2] * 25) == (stayed, reconnected)


@pytest.mark.server
@pytest.mark.timeout(120)
async def test_killed_and_restarted_server_loses_no_publication(
    url: str, asgi_server: AsgiServer
) -> None:
    """All processes are killed and started again; no guest misses anything."""
    async with open_room(url, asgi_server) as (room, _):
        publishing = asyncio.create_task(room.publish(150))
        await until(lambda: len(room.published) > 50, '30 more items are published')
        room.server.kill()
        await until(lambda: room.failures > 2, 'requests fail')
        await asyncio.to_thread(room.server.start)
        await publishing
        await room.until_all_have_received()
        await room.until_all_are_present()
    assert [2] * SUBSCRIBERS == [guest.entered for guest in room.guests]
