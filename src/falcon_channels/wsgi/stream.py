"""A blocking byte stream over the socket that a WSGI server handed over.

The same code has to run in real threads, in gevent's greenlets and in eventlet's. It
must not matter whether anything was monkey-patched, and in which order. Nothing here
therefore asks which server it is, or calls a module that patching may have replaced:
**the class of the socket decides.** A socket of gevent waits in gevent's hub, one of
eventlet in eventlet's hub, a plain one in the kernel. Each uses its own timeout and not
select(), which cannot watch descriptors from 1024 upwards. Locks come from the same
library: a thread lock that a greenlet acquires would block all other greenlets while it
waits.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import importlib
import socket
import ssl
import struct
import threading
import time
from typing import Any
from typing import Protocol
from typing import TypeVar

T = TypeVar('T')
R = TypeVar('R')

#: Maximum timeout of a socket.
#: NOTE: The timeout is never None. A socket with a timeout is non-blocking in the
#: kernel, and a duplicate without one would make both of them blocking again.
_MAX_WAIT_S = 3600.0

_SHORTEST_SLEEP_S = 1e-5

_TLS_WAITS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Lock(Protocol):
    """The interface that locks of threading, gevent and eventlet have in common."""

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool:
        """Acquire the lock; return False if that was not possible in time."""

    def release(self) -> Any:
        """Release the lock."""


def _library(sock: Any) -> str:
    for cls in type(sock).__mro__:
        root = cls.__module__.partition('.')[0]
        if root in ('gevent', 'eventlet'):
            return root
    return 'threading'


class _TlsHalf:
    """One direction of a TLS socket, with its own timeout.

    OpenSSL does not let two threads use a connection at the same time. A reader then
    took the state of a writer for the end of the stream. The lock is held only during
    calls that do not wait.

    Args:
        sock: The TLS socket.
        lock: Lock that both directions share.
    """

    def __init__(self, sock: ssl.SSLSocket, lock: threading.Lock) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._lock = lock
        #: The same socket without TLS; used to wait, and to shut the connection down.
        self._plain = socket.fromfd(sock.fileno(), sock.family, sock.type)
        self.gettimeout = self._plain.gettimeout
        self.settimeout = self._plain.settimeout
        # NOTE: `SSLSocket.shutdown` also ends TLS. The reader would then get encrypted
        #   bytes, and would not wait for them.
        self.shutdown = self._plain.shutdown
        self.close = self._plain.close

    def recv(self, max_bytes: int) -> bytes:
        """Return bytes; wait for them once, no longer than the timeout."""
        return self._call(self._sock.recv, max_bytes)

    def send(self, data: memoryview) -> int:
        """Send bytes; wait for room once, no longer than the timeout."""
        return self._call(self._sock.send, data)

    def _call(self, method: Callable[[T], R], argument: T) -> R:
        # NOTE: TLS has messages of its own. A call may therefore have to wait for the
        #   other direction.
        try:
            with self._lock:
                return method(argument)
        except ssl.SSLWantReadError:
            self._plain.recv(1, socket.MSG_PEEK)
        except ssl.SSLWantWriteError:
            # NOTE: a socket with a timeout waits for room before it sends.
            self._plain.send(b'')
        with self._lock:
            return method(argument)


class Stream:
    """The bytes of a connection in both directions, with deadlines.

    One reader and one writer may use it at the same time, but not two readers or two
    writers.

    Args:
        sock: The server's socket object: plain, TLS, gevent's or eventlet's.
        ours: Whether `close` closes it; by default the server does.
    """

    __slots__ = ('_library', '_ours', '_reader', '_sock', '_writer')

    _reader: Any
    _writer: Any

    def __init__(self, sock: Any, ours: bool = False) -> None:
        self._sock = sock
        self._ours = [sock] if ours else []
        self._library = _library(sock)
        if self._library == 'threading':
            # NOTE: A timeout belongs to a socket object, so two threads need two
            # objects. Greenlets do not, because nothing switches between setting the
            # timeout and using it.
            if isinstance(sock, ssl.SSLSocket):
                lock = threading.Lock()
                self._reader, self._writer = _TlsHalf(sock, lock), _TlsHalf(sock, lock)
            else:
                self._reader, self._writer = sock.dup(), sock.dup()
            self._ours += [self._reader, self._writer]
        else:
            self._reader = self._writer = sock
        with contextlib.suppress(OSError):  # a Unix socket has no such option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def new_lock(self) -> Lock:
        """Return a lock that blocks only the thread or greenlet that waits for it."""
        lock: Lock
        if self._library == 'gevent':
            lock = importlib.import_module('gevent.lock').BoundedSemaphore(1)
        elif self._library == 'eventlet':
            lock = importlib.import_module('eventlet.semaphore').Semaphore(1)
        else:
            lock = threading.Lock()
        return lock

    def give_way(self) -> None:
        """Yield to other greenlets; do nothing in a thread."""
        if self._library != 'threading':
            # NOTE: Not 0: gevent switches up to 50 times between greenlets that sleep
            # for 0 before it looks at sockets and timers again.
            importlib.import_module(self._library).sleep(_SHORTEST_SLEEP_S)

    def recv(self, max_bytes: int, timeout_s: float) -> bytes:
        """Return bytes as soon as any are there; empty at the end of the stream.

        Args:
            max_bytes: Maximum number of bytes to return.
            timeout_s: Maximum wait in seconds.

        Raises:
            TimeoutError: No bytes came within `timeout_s`.
            OSError: The connection broke.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            _set_timeout(self._reader, timeout_s)
            try:
                return self._reader.recv(max_bytes)  # type: ignore[no-any-return]  # Any
            except (TimeoutError, BlockingIOError, *_TLS_WAITS):
                timeout_s = deadline - time.monotonic()
                if timeout_s <= 0:
                    raise TimeoutError from None

    def send_all(self, data: bytes, timeout_s: float) -> None:
        """Send all of `data`.

        Args:
            data: The bytes.
            timeout_s: Maximum time in seconds.

        Raises:
            TimeoutError: The client did not read all bytes within `timeout_s`. It is
                not known how many it got, so the connection cannot be used any more.
            OSError: The connection broke.
        """
        deadline = time.monotonic() + timeout_s
        rest = memoryview(data)
        while rest:
            _set_timeout(self._writer, timeout_s)
            with contextlib.suppress(TimeoutError, *_TLS_WAITS):
                rest = rest[self._writer.send(rest) :]
            # PERF: Nearly all messages leave in the first call, with the timeout that
            # the socket has already.
            if rest:
                timeout_s = deadline - time.monotonic()
                if timeout_s <= 0:
                    raise TimeoutError(f'{len(rest)} bytes were not read in time')

    def end_writing(self) -> None:
        """Shut down the sending direction; the client can still send."""
        with contextlib.suppress(OSError):
            self._writer.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """End the connection at once, discard unsent bytes, and wake up all waiters."""
        with contextlib.suppress(OSError):
            # SECURITY: Without this option the kernel offers the unsent bytes to a
            # client that does not read, for minutes, and keeps them in memory.
            self._sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
            )
        self.shut()

    def shut(self) -> None:
        """End both directions for all holders of the socket, including the server."""
        with contextlib.suppress(OSError):
            self._writer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End both directions, and close the descriptors that are ours."""
        self.shut()
        with contextlib.suppress(OSError):
            # NOTE: this ends TLS, too. If a server then still answers, it gets the
            #   BrokenPipeError that it knows, and logs no error of TLS.
            self._sock.shutdown(socket.SHUT_RDWR)
        for sock in self._ours:
            sock.close()


def _set_timeout(sock: Any, timeout_s: float) -> None:
    timeout_s = min(max(timeout_s, 0.0), _MAX_WAIT_S)
    # PERF: On a plain socket the setter is a system call, one for each message. A
    # timeout that is a little too short costs nothing, because callers compare with the
    # clock.
    current = sock.gettimeout()
    if current is None or not 0.9 * timeout_s <= current <= timeout_s:
        sock.settimeout(timeout_s)
