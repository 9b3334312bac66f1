"""The WSGI servers of the tests, and a client that writes its own bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import socket
from typing import Self

from websockets.frames import Close
from websockets.frames import Frame
from websockets.frames import Opcode

from support.processes import ServerProcess

HERE = Path(__file__).parents[1] / 'wsgi'
DEADLINE_S = 30.0
SEND_TIMEOUT_S = 2.0

_GUNICORN = (
    *('python', '-m', 'gunicorn', '--bind', '127.0.0.1:{port}', 'echo_wsgi:app'),
    *('--no-control-socket', '--graceful-timeout', '1', '--worker-class'),
)
_SERVE = ('python', str(HERE / 'serve_wsgi.py'))


@dataclass(frozen=True)
class ServerCase:
    """A WSGI server with its settings.

    Attributes:
        name: Name in test ids.
        command: The command; ``{port}`` is the port.
        concurrent: Whether it can serve more than one connection at a time.
        library: Library of the threads or greenlets in which requests run.
        early: Whether it passes on bytes that came with the handshake.
    """

    name: str
    command: tuple[str, ...]
    concurrent: bool = True
    library: str = 'threading'
    early: bool = True

    @property
    def give_up(self) -> str:
        """How a responder gives up: a timeout of greenlets, or ``timeout_s``."""
        for library in ('gevent', 'eventlet'):
            if library in self.name or library in self.command:
                return library
        return 'gevent' if 'pywsgi' in self.name else 'timeout_s'


CASES = (
    ServerCase('gunicorn-sync', (*_GUNICORN, 'sync'), concurrent=False),
    ServerCase('gunicorn-gthread', (*_GUNICORN, 'gthread', '--threads', '64')),
    ServerCase('gunicorn-gevent', (*_GUNICORN, 'gevent')),
    ServerCase('gunicorn-gevent_pywsgi', (*_GUNICORN, 'gevent_pywsgi')),
    ServerCase(
        'gunicorn-geventwebsocket',
        (*_GUNICORN, 'geventwebsocket.gunicorn.workers.GeventWebSocketWorker'),
    ),
    ServerCase('pywsgi', (*_SERVE, 'pywsgi', '{port}')),
    ServerCase(
        'pywsgi-unpatched',
        (*_SERVE, 'pywsgi_unpatched', '{port}'),
        library='gevent',
    ),
    ServerCase(
        'pywsgi-geventwebsocket',
        (*_SERVE, 'gevent_websocket', '{port}'),
        library='gevent',
    ),
    ServerCase('eventlet', (*_SERVE, 'eventlet', '{port}')),
    ServerCase(
        'eventlet-unpatched',
        (*_SERVE, 'eventlet_unpatched', '{port}'),
        library='eventlet',
    ),
    ServerCase(
        'waitress',
        (
            *('python', '-m', 'waitress', '--listen', '127.0.0.1:{port}'),
            *('--threads', '64', 'echo_wsgi:app'),
        ),
    ),
    ServerCase('werkzeug', (*_SERVE, 'werkzeug', '{port}')),
    ServerCase('cheroot', (*_SERVE, 'cheroot', '{port}')),
    ServerCase('wsgiref', (*_SERVE, 'wsgiref', '{port}')),
    ServerCase('uwsgi', (*_SERVE, 'uwsgi', '{port}'), early=False),
)


class RunningServer:
    """A case and its process, which starts when it is used."""

    def __init__(self, case: ServerCase) -> None:
        self.case = case
        self._process: ServerProcess | None = None

    @property
    def process(self) -> ServerProcess:
        """The process; a new one if the last one was stopped."""
        if self._process is None:
            env = {'PYTHONPATH': str(HERE), 'SEND_TIMEOUT_S': str(SEND_TIMEOUT_S)}
            self._process = ServerProcess(self.case.command, env=env).start()
        return self._process

    def stop(self) -> None:
        """Stop the process by SIGTERM."""
        if self._process is not None:
            self._process.__exit__(None, None, None)
            self._process = None


class RawClient:
    """The client's end of a connection, as a plain socket.

    Args:
        sock: The connected socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE_S)

    @classmethod
    def connect(
        cls, port: int, path: str = '/', *, receive_buffer_bytes: int | None = None
    ) -> Self:
        """Connect to a port of loopback, and do the handshake."""
        sock = socket.socket()
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.connect(('127.0.0.1', port))
        raw = cls(sock)
        raw.shake_hands(path)
        return raw

    def shake_hands(self, path: str = '/', early: bytes = b'', **headers: str) -> None:
        """Open a WebSocket; `early` is sent in one piece with the request."""
        self.sock.sendall(handshake(path, **headers) + early)
        head = self.read_head()
        assert head.startswith(b'HTTP/1.1 101 '), head

    def read_head(self) -> bytes:
        """Read the status line and headers of a response, and nothing more."""
        head = b''
        while not head.endswith(b'\r\n\r\n'):
            byte = self.sock.recv(1)
            assert byte, f'the response ended in {head!r}'
            head += byte
        return head

    def send(
        self, opcode: Opcode, data: bytes = b'', *, fin: bool = True, reserved: int = 0
    ) -> None:
        """Send a masked frame."""
        self.sock.sendall(frame(opcode, data, mask=True, fin=fin, reserved=reserved))

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end of the stream."""
        chunks = []
        while size > 0 and (chunk := self.sock.recv(min(size, 1 << 20))):
            chunks.append(chunk)
            size -= len(chunk)
        return b''.join(chunks)

    def read_to_end(self) -> bytes:
        """Read until the server ends the connection."""
        return self.read(1 << 40)

    def read_close(self) -> tuple[int, str]:
        """Read until the end; return code and reason of the last frame, a close."""
        data = self.read_to_end()
        start = data.rindex(b'\x88')
        close = Close.parse(data[start + 2 :])
        return int(close.code), close.reason

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()


def frame(
    opcode: Opcode,
    data: bytes = b'',
    *,
    mask: bool = False,
    fin: bool = True,
    reserved: int = 0,
) -> bytes:
    """Return a frame as bytes; servers do not mask theirs."""
    first, *rest = Frame(opcode, data, fin).serialize(mask=mask)
    return bytes([first | reserved << 4, *rest])


def handshake(path: str = '/', **headers: str) -> bytes:
    """Return the request of a handshake; headers replace the usual ones, '' removes."""
    fields = {
        'Host': 'localhost',
        'Upgrade': 'websocket',
        'Connection': 'Upgrade',
        'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
        'Sec-WebSocket-Version': '13',
        **{name.replace('_', '-'): value for name, value in headers.items()},
    }
    lines = [f'{name}: {value}' for name, value in fields.items() if value]
    return '\r\n'.join([f'GET {path} HTTP/1.1', *lines, '', '']).encode('latin-1')
