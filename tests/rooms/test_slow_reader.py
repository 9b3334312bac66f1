"""One client of five hundred that never reads: bounded, without effect on others."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.asgi_servers import SERVE
from support.memory import resident_bytes
from support.processes import ServerProcess

from rooms.servers import APP
from rooms.servers import UVICORN
from rooms.test_storm import masked_frame

PUBLICATIONS = 10_000
MIB = 1024 * 1024
#: MiB by which a server may grow with few other clients, or with many. Ten MiB are sent
#: to the client that does not read, and its backlog is a quarter of a MiB. The rest is
#: pending output of the others: few of them show the limit of memory, and many show
#: that the client makes no difference.
FEW_MIB, MANY_MIB = 5, 64

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group('rooms'),
    pytest.mark.timeout(240),
]


class Reader(asyncio.Protocol):
    """Counts publications of 1 KiB, each of which begins with its number."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.buffer = bytearray()
        self.got = -1
        self.wrong = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(handshake(self.port))

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data
        at = 0
        if self.got < 0:
            at = buffer.find(b'\r\n\r\n') + 4
            if at < 4:
                return
            self.got = 0
        while len(buffer) - at >= 4:
            if buffer[at] == 0x89:
                size = buffer[at + 1]
                if len(buffer) - at < 2 + size:
                    break
                assert self.transport is not None
                self.transport.write(
                    masked_frame(0x8A, bytes(buffer[at + 2 : at + 2 + size]))
                )
                at += 2 + size
                continue
            if len(buffer) - at < 4 + 1024:
                break
            self.wrong += not buffer.startswith(b'%08d' % self.got, at + 4)
            self.got += 1
            at += 4 + 1024
        del buffer[:at]


def handshake(port: int) -> bytes:
    return (
        f'GET /plain/slow HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n'
        'Upgrade: websocket\r\nConnection: Upgrade\r\n'
        'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n'
        'Sec-WebSocket-Version: 13\r\n\r\n'
    ).encode()


async def publish_to_all(server: ServerProcess, count: int) -> tuple[list[Reader], int]:
    """Return the readers, and the largest growth of the server's memory."""
    loop = asyncio.get_running_loop()
    port = server.port
    readers = [Reader(port) for _ in range(count)]
    for reader in readers:
        await loop.create_connection(lambda reader=reader: reader, '127.0.0.1', port)
    while any(reader.got < 0 for reader in readers):
        await asyncio.sleep(0.01)
    before_bytes = peak_bytes = resident_bytes(server.pid)
    publisher = readers[0].transport
    assert publisher is not None
    for number in range(PUBLICATIONS):
        text = b'%08d' % number + b'x' * 1016
        publisher.write(b'\x81\xfe\x04\x00' + bytes(4) + text)
        while number - min(reader.got for reader in readers[::10]) > 200:
            await asyncio.sleep(0.002)
        if number % 100 == 0:
            peak_bytes = max(peak_bytes, resident_bytes(server.pid))
    while any(reader.got < PUBLICATIONS for reader in readers):
        await asyncio.sleep(0.02)
    for reader in readers:
        assert reader.transport is not None
        reader.transport.abort()
    await asyncio.sleep(0)
    return readers, peak_bytes - before_bytes


def test_client_that_does_not_read_does_not_affect_the_others(
    asgi_server: AsgiServer,
) -> None:
    """The backlog limits the memory; all others get everything, in order."""
    with ServerProcess(asgi_server.command(APP)) as server:
        check_others(server, 49 if asgi_server is SERVE else 19, FEW_MIB)


@pytest.mark.parametrize('command', UVICORN.values(), ids=UVICORN.keys())
def test_client_that_does_not_read_does_not_affect_the_others_on_other_classes(
    command: list[str],
) -> None:
    """The same holds with uvicorn's other WebSocket classes."""
    with ServerProcess(command) as server:
        check_others(server, 19, FEW_MIB)


def test_client_that_does_not_read_does_not_affect_499_others() -> None:
    """One client of five hundred that does not read makes no difference."""
    with ServerProcess(SERVE.command(APP)) as server:
        check_others(server, 499, MANY_MIB)


def check_others(server: ServerProcess, others: int, limit_mib: int) -> None:
    """Publish to one client that does not read, and to others; check both."""
    with socket.create_connection(('127.0.0.1', server.port)) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(handshake(server.port))
        assert stuck.recv(12).startswith(b'HTTP/1.1 101')
        readers, grown_bytes = asyncio.run(publish_to_all(server, others))
        counters = httpx.get(server.url + '/metrics', timeout=30).json()['counters']
        assert {PUBLICATIONS} == {reader.got for reader in readers}
        assert 0 == sum(reader.wrong for reader in readers)
        assert grown_bytes < limit_mib * MIB
        assert 1 == counters['slow_disconnects']
        assert 1 == server.log().count('reads too slowly')
        assert "channel 'plain:slow'" in server.log()
