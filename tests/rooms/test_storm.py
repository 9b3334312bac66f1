"""Two hundred clients that reconnect while 20,000 publications are made.

Each client stores its position, is cut off at random, and reconnects with `?since=`. In
the end it has every publication exactly once, in order.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
import json
import os
import random
import struct

import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.asgi_servers import SERVE
from support.processes import ServerProcess

from rooms.servers import APP

CLIENTS = 200
PUBLICATIONS = 20_000
#: The same for the slower servers of `make test-servers`.
FEWER = 4_000
#: Start of the message that follows each offset.
EXPECTED = [b'{"data":%d,"offset":%d,' % (n + 1, n + 1) for n in range(PUBLICATIONS)]
EXPECTED.append(b'nothing follows')
#: Most publications that are in flight at once.
IN_FLIGHT = 100

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group('rooms'),
    pytest.mark.timeout(180),
]


@pytest.fixture
def server(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    with ServerProcess(asgi_server.command(APP)) as server:
        yield server


class StormClient(asyncio.Protocol):
    """A WebSocket client that reads whole text frames only, fast."""

    def __init__(self, port: int, seed: int, wanted: int) -> None:
        self.port = port
        self.wanted = wanted
        self.rng = random.Random(seed)
        self.offset = 0
        self.epoch = ''
        self.connects = 0
        self.recovered = 0
        self.wrong: list[str] = []
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()
        self.done = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.done.is_set():
            self.buffer = bytearray()
            self.shaken = False
            self.lost.clear()
            self.connects += 1
            await loop.create_connection(lambda: self, '127.0.0.1', self.port)
            await self.lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = base64.b64encode(self.rng.randbytes(16)).decode()
        query = f'?since={self.offset}:{self.epoch}' if self.epoch else ''
        transport.write(
            (
                f'GET /log/storm{query} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n'
                'Upgrade: websocket\r\nConnection: Upgrade\r\n'
                f'Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n'
            ).encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def cut(self) -> None:
        """Abort the connection, and lose the bytes in the buffers."""
        if self.transport is not None and not self.done.is_set():
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data
        at = 0
        if not self.shaken:
            at = buffer.find(b'\r\n\r\n') + 4
            if at < 4:
                return
            if not buffer.startswith(b'HTTP/1.1 101'):
                self.wrong.append(bytes(buffer[:80]).decode())
                self.done.set()
            self.shaken = True
        while len(buffer) - at >= 2:
            size = buffer[at + 1]
            start = at + 2
            if size == 126:
                start += 2
                if len(buffer) < start:
                    break
                (size,) = struct.unpack_from('!H', buffer, at + 2)
            if len(buffer) < start + size:
                break
            if buffer[at] == 0x81:
                # PERF: There are four million frames; expected ones are not parsed.
                if buffer.startswith(EXPECTED[self.offset], start):
                    self.offset += 1
                else:
                    self.on_text(bytes(buffer[start : start + size]))
            elif buffer[at] == 0x89 and self.transport is not None:
                payload = bytes(buffer[start : start + size])
                self.transport.write(masked_frame(0x8A, payload))
            elif buffer[at] == 0x88:
                # NOTE: The server has closed; reconnect.
                assert self.transport is not None
                self.transport.abort()
            at = start + size
        del buffer[:at]
        if self.offset == self.wanted:
            self.done.set()
            assert self.transport is not None
            self.transport.abort()

    def on_text(self, text: bytes) -> None:
        message = json.loads(text)
        begin = message.get('subscribed')
        if begin is not None:
            self.recovered += begin.get('recovered', False)
            if self.epoch and not begin['recovered']:
                self.wrong.append(f'not recovered at {self.offset}: {begin}')
            elif not self.epoch and begin['offset']:
                self.wrong.append(f'began late: {begin}')
            self.epoch = begin['epoch']
            return
        self.wrong.append(f'{message} after {self.offset}')
        self.offset = message['offset']


async def publish_all(
    port: int, clients: list[StormClient], rng: random.Random
) -> None:
    """Publish through a plain WebSocket, cut clients off, and wait for the others."""
    wanted = clients[0].wanted
    publisher = StormClient(port, 0, wanted)
    running = asyncio.create_task(publisher.run())
    while not publisher.epoch:
        await asyncio.sleep(0.01)
    transport = publisher.transport
    assert transport is not None
    for number in range(1, wanted + 1):
        transport.write(masked_frame(0x81, b'%d' % number))
        if number % 20 == 0:
            rng.choice(clients).cut()
            await asyncio.sleep(0)
        while number - max(client.offset for client in clients) > IN_FLIGHT:
            await asyncio.sleep(0.002)
    await asyncio.gather(*(client.done.wait() for client in clients))
    await running
    assert [] == publisher.wrong


def masked_frame(first: int, payload: bytes) -> bytes:
    """Return a frame masked with zeros (RFC 6455, section 5.2), of up to 125 bytes."""
    return bytes([first, 0x80 | len(payload)]) + bytes(4) + payload


async def storm(port: int, seed: int, wanted: int) -> list[StormClient]:
    clients = [StormClient(port, seed + number, wanted) for number in range(CLIENTS)]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    while not all(client.epoch for client in clients):
        await asyncio.sleep(0.01)
    try:
        await publish_all(port, clients, random.Random(seed))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            if client.transport is not None:
                client.transport.abort()
        await asyncio.sleep(0)
    return clients


def test_clients_cut_at_random_get_each_publication_once(
    asgi_server: AsgiServer, server: ServerProcess
) -> None:
    """After all cuts each client has every publication exactly once, in order."""
    seed = int(os.environ.get('STORM_SEED', '1'))
    wanted = PUBLICATIONS if asgi_server is SERVE else FEWER
    clients = asyncio.run(storm(server.port, seed, wanted))
    assert [] == [wrong for client in clients for wrong in client.wrong][:5]
    assert {wanted} == {client.offset for client in clients}
    assert sum(client.recovered for client in clients) > wanted // 40
    metrics = httpx.get(server.url + '/metrics', timeout=30).json()
    assert wanted == metrics['counters']['publications']
    assert 0 == metrics['counters']['insufficient_state']
