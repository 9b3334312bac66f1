"""uvicorn in a thread of the test process, and clients that send any bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Any
from typing import Self

from support.processes import wait_until
from uvicorn.config import Config
from uvicorn.server import Server

from falcon_channels.server.options import ServerOptions

OURS = 'falcon_channels.server.protocol:WebSocketProtocol'

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KEY = 'dGhlIHNhbXBsZSBub25jZQ=='


class RunningServer:
    """A uvicorn server that has started, on a free port of loopback."""

    def __init__(self, server: Server, thread: threading.Thread) -> None:
        self.server = server
        self.thread = thread
        self.port: int = server.servers[0].sockets[0].getsockname()[1]

    @property
    def ws_url(self) -> str:
        return f'ws://127.0.0.1:{self.port}'

    @property
    def connections(self) -> set[Any]:
        return self.server.server_state.connections

    def stop(self) -> None:
        """Stop gracefully and wait for the thread."""
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive(), 'the server does not stop'


@contextlib.contextmanager
def running(
    app: Callable[..., Any],
    *,
    ws: str | type[asyncio.Protocol] = OURS,
    options: ServerOptions | None = None,
    server_class: type[Server] = Server,
    **settings: Any,
) -> Iterator[RunningServer]:
    """Run `app` under uvicorn."""
    settings.setdefault('lifespan', 'off')
    settings.setdefault('log_config', None)
    settings.setdefault('timeout_graceful_shutdown', 10)
    config = Config(app, port=0, ws=ws, **settings)
    if options is not None:
        config.server_options = options  # type: ignore[attr-defined]
    server = server_class(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), 'the server starts')
    assert server.started
    up = RunningServer(server, thread)
    try:
        yield up
    finally:
        up.stop()


def frame(
    opcode: int,
    payload: bytes = b'',
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
    long_form: int = 0,
) -> bytes:
    """Return a client's frame, or a malformed one.

    Args:
        opcode: The opcode.
        payload: The payload, not masked.
        fin: Whether it is the last frame of its message.
        rsv: The three reserved bits, 4 for RSV1.
        masked: Whether to mask the payload, as clients must.
        length: Length in the header; by default the length of the payload.
        long_form: Bytes of the length in the header, 2 or 8, even if it is small.
    """
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if long_form == 8 or size > 65535:
        head += bytes([mask_bit | 127]) + struct.pack('!Q', size)
    elif long_form == 2 or size > 125:
        head += bytes([mask_bit | 126]) + struct.pack('!H', size)
    else:
        head += bytes([mask_bit | size])
    if not masked:
        return head + payload
    mask = b'\x11\x22\x33\x44'
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    body = int.from_bytes(payload, 'big') ^ int.from_bytes(repeated, 'big')
    return head + mask + body.to_bytes(len(payload), 'big')


class Peer:
    """A client that sends exactly the bytes that the test gives."""

    def __init__(self, port: int, *, receive_buffer_bytes: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer_bytes is not None:
            self.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes
            )
        self.sock.settimeout(20)
        self.sock.connect(('127.0.0.1', port))
        self._bytes = b''

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    def request(
        self,
        *lines: str,
        path: str = '/',
        without: tuple[str, ...] = (),
        body: str = '',
    ) -> str:
        """Send an upgrade request.

        Args:
            lines: Additional header lines.
            path: Path and query.
            without: Names of usual headers that are left out.
            body: Bytes after the head, as text.

        Returns:
            The head of the answer.
        """
        usual = {
            'Host': 'localhost',
            'Connection': 'Upgrade',
            'Upgrade': 'websocket',
            'Sec-WebSocket-Key': KEY,
            'Sec-WebSocket-Version': '13',
        }
        head = [f'GET {path} HTTP/1.1']
        head += [
            f'{name}: {value}' for name, value in usual.items() if name not in without
        ]
        self.send('\r\n'.join([*head, *lines, '', body]).encode('latin-1'))
        return self.read_head()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def flood(self, data: bytes, times: int) -> bool:
        """Send repeatedly; return whether the server has stopped reading."""
        self.sock.settimeout(0.5)
        try:
            for _ in range(times):
                self.sock.sendall(data)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(20)
        return False

    def read_head(self) -> str:
        """Return the answer's status line and headers."""
        while b'\r\n\r\n' not in self._bytes:
            data = self.sock.recv(65536)
            assert data, f'end of stream after {self._bytes!r}'
            self._bytes += data
        head, self._bytes = self._bytes.split(b'\r\n\r\n', 1)
        return head.decode('latin-1')

    def read_until(self, mark: bytes) -> None:
        """Read until these bytes have come."""
        while mark not in self._bytes:
            data = self.sock.recv(65536)
            assert data, f'end of stream after {self._bytes!r}'
            self._bytes += data
        self._bytes = self._bytes.partition(mark)[2]

    def status(self, *lines: str, **settings: Any) -> int:
        """Send an upgrade request, return the status code of the answer."""
        return int(self.request(*lines, **settings).split()[1])

    def open(self, *lines: str, **settings: Any) -> Self:
        """Do the handshake."""
        assert self.status(*lines, **settings) == 101
        return self

    def _need(self, count: int) -> bytes:
        while len(self._bytes) < count:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(f'end of stream after {self._bytes[:200]!r}')
            self._bytes += data
        taken, self._bytes = self._bytes[:count], self._bytes[count:]
        return taken

    def frame(self) -> tuple[int, bytes]:
        """Return first byte and payload of the next frame."""
        head, size = self._need(2)
        assert size < 128, 'a server must not mask'
        if size == 126:
            size = struct.unpack('!H', self._need(2))[0]
        elif size == 127:
            size = struct.unpack('!Q', self._need(8))[0]
        return head, self._need(size)

    def message(self) -> bytes:
        """Return the payload of the next data frame, answering no ping."""
        while True:
            head, payload = self.frame()
            if head & 0x0F in (TEXT, BINARY):
                return payload

    def close_code(self) -> int | None:
        """Return the code of the server's close frame; None if there is none."""
        try:
            while True:
                head, payload = self.frame()
                if head & 0x0F == CLOSE:
                    return struct.unpack('!H', payload[:2])[0] if payload else 1005
        except (EOFError, ConnectionError):
            return None

    def at_eof(self) -> bool:
        """Wait for the end of the stream; return whether no byte came before it."""
        rest = self._bytes
        with contextlib.suppress(ConnectionError):
            while data := self.sock.recv(65536):
                rest += data
        return rest == b''
