"""A WebSocket client that sends any bytes, for attacks.

It builds handshakes and frames by hand, because libraries refuse to send malformed
ones. `handshake` and `frame` return bytes; `RawSocket` sends them and reads the
answers. Layout of a frame: RFC 6455 section 5.2.
"""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
import select
import socket
import time
from types import TracebackType
from typing import NamedTuple
from typing import Self

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# The 16 bytes of RFC 6455's own example, and the server's correct answer.
KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo='

#: Longest time for a correct answer on a busy machine, in seconds.
PATIENCE_S = 30.0

#: Time after which a server that is known to be silent counts as silent.
SILENCE_S = 0.7


class Response(NamedTuple):
    status: int
    headers: dict[str, str]


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool
    rsv: int


class ClosedByServer(Exception):
    """The server ended the TCP connection while an answer was expected."""


def mask(payload: bytes, key: bytes) -> bytes:
    """Return the payload masked with a key of four bytes."""
    size = len(payload)
    keys = (key * (size // 4 + 1))[:size]
    value = int.from_bytes(payload, 'big') ^ int.from_bytes(keys, 'big')
    return value.to_bytes(size, 'big')


def frame(
    opcode: int,
    payload: bytes = b'',
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = b'\x12\x34\x56\x78',
    length: int | None = None,
    length_bytes: int | None = None,
) -> bytes:
    """Return the bytes of a frame, legal or not.

    Args:
        opcode: Opcode, 0 to 15.
        payload: Payload, not masked.
        fin: Whether it is the last frame of its message.
        rsv: The three reserved bits: 4, 2 and 1.
        key: The masking key; None for an unmasked frame.
        length: Length in the header; by default the length of the payload.
        length_bytes: Extra bytes of the length, 0, 2 or 8; by default as few as
            possible.
    """
    length = len(payload) if length is None else length
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 65536 else 8
    short = {0: length, 2: 126, 8: 127}[length_bytes]
    return (
        bytes([fin << 7 | rsv << 4 | opcode, (key is not None) << 7 | short])
        + (length.to_bytes(length_bytes, 'big') if length_bytes else b'')
        + (key or b'')
        + (payload if key is None else mask(payload, key))
    )


def handshake(
    port: int,
    path: str,
    *,
    method: str = 'GET',
    version: str = 'HTTP/1.1',
    drop: Iterable[str] = (),
    add: Iterable[tuple[str, str]] = (),
) -> bytes:
    """Return a handshake request; latin-1 characters become bytes.

    Args:
        port: Port in the Host header.
        path: Path in the request line.
        method: Method in the request line.
        version: HTTP version in the request line.
        drop: Headers of the correct handshake that are left out.
        add: Further headers; to replace a header, drop it, too.
    """
    headers = {
        'Host': f'127.0.0.1:{port}',
        'Upgrade': 'websocket',
        'Connection': 'Upgrade',
        'Sec-WebSocket-Key': KEY,
        'Sec-WebSocket-Version': '13',
    }
    for name in drop:
        del headers[name]
    lines = [f'{method} {path} {version}']
    lines += [f'{name}: {value}' for name, value in [*headers.items(), *add]]
    return '\r\n'.join([*lines, '', '']).encode('latin-1')


def close_payload(code: int, reason: bytes = b'') -> bytes:
    return code.to_bytes(2, 'big') + reason


class RawSocket:
    """A TCP connection to a server, and the received bytes.

    Args:
        port: Port of the server, on loopback.
        path: Path of its WebSocket.
        receive_buffer_bytes: Size of the receive buffer; by default the system's.
        source: Address of loopback from which it connects.
    """

    def __init__(
        self,
        port: int,
        path: str,
        *,
        receive_buffer_bytes: int | None = None,
        source: str = '127.0.0.1',
    ) -> None:
        self.port = port
        self.path = path
        self._buffer = b''
        self.sock = socket.socket()
        if receive_buffer_bytes is not None:
            self.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes
            )
        self.sock.settimeout(PATIENCE_S)
        self.sock.bind((source, 0))
        self.sock.connect(('127.0.0.1', port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    def open(self, *, query: str = '', add: Iterable[tuple[str, str]] = ()) -> Response:
        """Do a correct handshake and return its answer, which must be 101."""
        self.send(handshake(self.port, self.path + query, add=add))
        response = self.read_response()
        assert 101 == response.status
        assert ACCEPT == response.headers['sec-websocket-accept']
        return response

    def send(self, data: bytes) -> None:
        """Send all bytes; a server that has closed is detected by the next read."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(data)

    def push(self, data: bytes, stuck_s: float = 2.0) -> int:
        """Send until done, refused, or stuck; read nothing; return the sent bytes."""
        self.sock.settimeout(stuck_s)
        view = memoryview(data)
        sent = 0
        try:
            while sent < len(view):
                sent += self.sock.send(view[sent : sent + 262144])
        except OSError:
            pass
        finally:
            self.sock.settimeout(PATIENCE_S)
        return sent

    def push_and_read(self, data: bytes) -> None:
        """Send all bytes, and buffer what the server sends meanwhile."""
        view = memoryview(data)
        sent = 0
        while sent < len(view):
            readable, writable, _ = select.select(
                [self.sock], [self.sock], [], PATIENCE_S
            )
            try:
                if readable:
                    chunk = self.sock.recv(65536)
                    self._buffer += chunk
                    if not chunk:
                        return
                if writable:
                    sent += self.sock.send(view[sent : sent + 65536])
            except ConnectionError:
                return

    def _fill(self) -> None:
        try:
            chunk = self.sock.recv(65536)
        except ConnectionError:
            chunk = b''
        if not chunk:
            raise ClosedByServer(f'after {self._buffer[:200]!r}')
        self._buffer += chunk

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def read_response(self) -> Response:
        """Return the head of the next HTTP response, in its order of headers.

        Raises:
            ClosedByServer: The connection ended before it.
            TimeoutError: No response came.
        """
        while b'\r\n\r\n' not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b'\r\n\r\n')
        first, *lines = head.decode('latin-1').split('\r\n')
        pairs = (line.split(':', 1) for line in lines)
        return Response(
            int(first.split(' ')[1]),
            {name.lower(): value.strip() for name, value in pairs},
        )

    def read_frame(self) -> Frame:
        """Return the next frame; raises as `read_response` does."""
        first, second = self._take(2)
        assert not second & 0x80, 'a server must not mask its frames'
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(self._take(2 if length == 126 else 8), 'big')
        return Frame(
            first & 0x0F, self._take(length), bool(first & 0x80), first >> 4 & 7
        )

    def read_message(self) -> Frame:
        """Return the next frame that is neither ping nor pong; answer pings."""
        while (found := self.read_frame()).opcode in (PING, PONG):
            if found.opcode == PING:
                self.send(frame(PONG, found.payload))
        return found

    def read_rest(self, timeout_s: float = PATIENCE_S) -> bytes:
        """Return all bytes until the server ends the connection.

        Raises:
            TimeoutError: The server does not end it.
        """
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(ClosedByServer):
            while True:
                self.sock.settimeout(max(0.01, deadline - time.monotonic()))
                self._fill()
        self.sock.settimeout(PATIENCE_S)
        return self.taken()

    def wait_for(self, part: bytes) -> None:
        """Wait until the buffer has `part`; raises as `read_response` does."""
        while part not in self._buffer:
            self._fill()

    def taken(self) -> bytes:
        """Remove and return the buffered bytes."""
        rest, self._buffer = self._buffer, b''
        return rest

    def echo(self, text: str) -> str:
        """Send a text and return the next message, which must be a text."""
        self.send(frame(TEXT, text.encode()))
        found = self.read_message()
        assert TEXT == found.opcode
        return found.payload.decode()
