"""One reader of five hundred that never reads: bounded, and nobody else notices."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from support.processes import ServerProcess

from rooms.servers import USUAL
from rooms.servers import UVICORN
from rooms.test_storm import masked_frame

PUBLICATIONS = 10_000
MIB = 1024 * 1024
#: How many others read, and by how many MiB a server may grow. Ten are published to who
#: does not read, and a quarter of one may wait. What else grows is what the others have
#: under way, so that few others show the bound, and many that it makes no difference.
CASES = {
    'falcon-channels': [(499, 64), (49, 5)],
    'uvicorn': [(49, 5)],
    'uvicorn websockets': [(19, 5)],
    'uvicorn wsproto': [(19, 5)],
}

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
    """Return the readers, and by how much the server grew at most."""
    loop = asyncio.get_running_loop()
    port = server.port
    readers = [Reader(port) for _ in range(count)]
    for reader in readers:
        await loop.create_connection(lambda reader=reader: reader, '127.0.0.1', port)
    while any(reader.got < 0 for reader in readers):
        await asyncio.sleep(0.01)
    before_bytes = peak_bytes = server.rss_bytes()
    publisher = readers[0].transport
    assert publisher is not None
    for number in range(PUBLICATIONS):
        text = b'%08d' % number + b'x' * 1016
        publisher.write(b'\x81\xfe\x04\x00' + bytes(4) + text)
        while number - min(reader.got for reader in readers[::10]) > 200:
            await asyncio.sleep(0.002)
        if number % 100 == 0:
            peak_bytes = max(peak_bytes, server.rss_bytes())
    while any(reader.got < PUBLICATIONS for reader in readers):
        await asyncio.sleep(0.02)
    for reader in readers:
        assert reader.transport is not None
        reader.transport.abort()
    await asyncio.sleep(0)
    return readers, peak_bytes - before_bytes


@pytest.mark.parametrize(
    ('name', 'others', 'limit_mib'),
    [(name, *case) for name, cases in CASES.items() for case in cases],
)
def test_others_get_everything(name: str, others: int, limit_mib: int) -> None:
    """Memory stays bounded by the backlog; all others get everything, in order."""
    with (
        ServerProcess({**USUAL, **UVICORN}[name]) as server,
        socket.create_connection(('127.0.0.1', server.port)) as stuck,
    ):
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(handshake(server.port))
        assert stuck.recv(12).startswith(b'HTTP/1.1 101')
        readers, grown_bytes = asyncio.run(publish_to_all(server, others))
        figures = httpx.get(server.url + '/figures', timeout=30).json()['counters']
        assert {PUBLICATIONS} == {reader.got for reader in readers}
        assert 0 == sum(reader.wrong for reader in readers)
        assert grown_bytes < limit_mib * MIB
        assert 1 == figures['slow_disconnects']
        assert 1 == server.log().count('reads too slowly')
        assert "channel 'plain:slow'" in server.log()
