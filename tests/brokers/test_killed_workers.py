"""Workers are killed in the middle of publishing, on each broker for several."""

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


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A broker of each kind, with nothing in it."""
    with broker_url(request.param, tmp_path) as url:
        yield url


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


class Guest:
    """A WebSocket in a room, which comes back to where it was when it breaks.

    Attributes:
        heard: Offsets and payloads.
        entered: How often it was let in.
    """

    def __init__(self, server: ServerProcess, user: str) -> None:
        self.user = user
        self.heard: list[tuple[int, str]] = []
        self.entered = 0
        self.present = False
        self._url = f'{server.ws_url}/rooms/news?user={user}'
        self._since = ''

    async def enter(self, worker: Worker) -> asyncio.Task[None]:
        """Enter at this worker; return the task that listens, here or elsewhere."""
        with worker.dial() as connection:
            sock = connection.sock.dup()
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        first = connect(self._url, sock=sock, proxy=None)
        task = loop.create_task(self._stay(first))
        await until(lambda: self.present or task.done(), 'a guest is in')
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
    """Return when `condition()` is true."""
    async with asyncio.timeout(40):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


class House:
    """A server with two workers, fifty guests and somebody who publishes."""

    def __init__(self, server: ServerProcess, http: httpx.AsyncClient) -> None:
        self.server = server
        self.guests = [Guest(server, f'guest-{n:02}') for n in range(SUBSCRIBERS)]
        self.published: list[tuple[int, str]] = []
        self.failures = 0
        self._http = http

    async def publish(self, count: int) -> None:
        """Publish so many items, each again until it is acknowledged."""
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
        """Return who is in the room, each as often as the broker knows them."""
        while True:
            try:
                there: list[str] = (await self._http.get('/rooms/news')).json()
            except httpx.HTTPError:
                await asyncio.sleep(0.02)
            else:
                return there

    async def until_all_are_seen(self) -> None:
        """Return when the room has each guest once, and no ghost."""
        everybody = [guest.user for guest in self.guests]
        async with asyncio.timeout(40):
            while everybody != await self.users():
                await asyncio.sleep(0.05)

    async def until_all_is_heard(self) -> None:
        """Return when every guest has heard what was published last."""
        last = self.published[-1]
        await until(
            lambda: all([last] == guest.heard[-1:] for guest in self.guests),
            'all is heard',
        )


@asynccontextmanager
async def open_house(
    url: str, asgi_server: AsgiServer = SERVE
) -> AsyncIterator[tuple[House, tuple[Worker, Worker]]]:
    """Open a house whose guests are half here and half there, and publish a little."""
    with two_workers(url, asgi_server) as server:
        workers = meet(server)
        async with httpx.AsyncClient(base_url=server.url, timeout=10) as http:
            house = House(server, http)
            tasks = [
                await guest.enter(workers[number % 2])
                for number, guest in enumerate(house.guests)
            ]
            try:
                await house.until_all_are_seen()
                await house.publish(20)
                await house.until_all_is_heard()
                yield house, workers
            finally:
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert {asyncio.CancelledError} == {type(end) for end in ends}
    assert list(range(1, len(house.published) + 1)) == [n for n, _ in house.published]
    for guest in house.guests:
        assert house.published == guest.heard


@pytest.mark.server
@pytest.mark.timeout(120)
async def test_one_worker_of_two_dies_with_its_presence(url: str) -> None:
    """Its guests come back, the others stay: nobody misses anything, no ghost stays."""
    async with open_house(url) as (house, (_, two)):
        publishing = asyncio.create_task(house.publish(150))
        await until(lambda: len(house.published) > 50, 'some more is published')
        os.kill(two.pid, signal.SIGKILL)
        await publishing
        await house.until_all_is_heard()
        await house.until_all_are_seen()
    stayed = [guest.entered for guest in house.guests[0::2]]
    came_back = [guest.entered for guest in house.guests[1::2]]
    assert ([1] * 25, [2] * 25) == (stayed, came_back)


@pytest.mark.server
@pytest.mark.timeout(120)
async def test_all_processes_die_and_begin_again(
    url: str, asgi_server: AsgiServer
) -> None:
    """The server is killed whole and started again: nobody misses anything."""
    async with open_house(url, asgi_server) as (house, _):
        publishing = asyncio.create_task(house.publish(150))
        await until(lambda: len(house.published) > 50, 'some more is published')
        house.server.kill()
        await until(lambda: house.failures > 2, 'nobody answers')
        await asyncio.to_thread(house.server.start)
        await publishing
        await house.until_all_is_heard()
        await house.until_all_are_seen()
    assert [2] * SUBSCRIBERS == [guest.entered for guest in house.guests]
