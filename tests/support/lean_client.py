"""A small WebSocket client, for tests with thousands of clients."""

from __future__ import annotations

import asyncio
import struct

_REQUEST = (
    'GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n'
    'Upgrade: websocket\r\nConnection: Upgrade\r\n'
    'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n'
    'Sec-WebSocket-Version: 13\r\n\r\n'
)


class LeanClient(asyncio.Protocol):
    """Reads whole text frames, and answers pings and the close frame.

    Attributes:
        status: HTTP status of the answer to the handshake; 0 before it.
        close_code: Close code of the server; None before its close frame.
        lost: Set when the TCP connection has ended.
    """

    def __init__(self, port: int, path: str, *, host: str = '127.0.0.1') -> None:
        self.host = host
        self.port = port
        self.path = path
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.close_code: int | None = None
        self.lost.clear()
        self._buffer = bytearray()

    async def connect(self) -> None:
        """Connect and send the handshake; return before its answer.

        Raises:
            OSError: No server listens on the port.
        """
        self._reset()
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, self.host, self.port)

    def say(self, text: str) -> None:
        """Send a text message of up to 65,535 bytes."""
        self._write(0x81, text.encode())

    def cut(self) -> None:
        """Abort the TCP connection without a close frame."""
        if self.transport is not None:
            self.transport.abort()

    def on_open(self) -> None:
        """Called when the handshake was answered with 101."""

    def on_text(self, text: str) -> None:
        """Called with each text message."""

    def on_close(self, code: int) -> None:
        """Called with the code of the server's close frame."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        request = _REQUEST.format(path=self.path, host=self.host, port=self.port)
        transport.write(request.encode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.status:
            head, found, rest = bytes(self._buffer).partition(b'\r\n\r\n')
            if not found:
                return
            self.status = int(head.split(b' ', 2)[1])
            self._buffer = bytearray(rest)
            if self.status == 101:
                self.on_open()
        at = 0
        while (frame := self._frame(at)) is not None:
            opcode, payload, at = frame
            self._on_frame(opcode, payload)
        del self._buffer[:at]

    def _frame(self, at: int) -> tuple[int, bytes, int] | None:
        """Return first byte, payload and end of the frame that begins at `at`."""
        buffer = self._buffer
        if len(buffer) < at + 2:
            return None
        size, start = buffer[at + 1], at + 2
        if size >= 126:
            kind, width = ('!H', 2) if size == 126 else ('!Q', 8)
            if len(buffer) < start + width:
                return None
            (size,) = struct.unpack_from(kind, buffer, start)
            start += width
        if len(buffer) < start + size:
            return None
        return buffer[at], bytes(buffer[start : start + size]), start + size

    def _on_frame(self, first: int, payload: bytes) -> None:
        if first == 0x81:
            self.on_text(payload.decode())
        elif first == 0x89:
            self._write(0x8A, payload)
        elif first == 0x88:
            self.close_code = 1005
            if payload:
                (self.close_code,) = struct.unpack_from('!H', payload)
            self._write(0x88, payload[:2])
            self.on_close(self.close_code)

    def _write(self, first: int, payload: bytes) -> None:
        """Send a frame that is masked with zeros (RFC 6455, section 5.2)."""
        size = len(payload)
        head = bytes([first, 0x80 | size])
        if size > 125:
            head = bytes([first, 0x80 | 126]) + struct.pack('!H', size)
        if self.transport is not None:
            self.transport.write(head + bytes(4) + payload)
