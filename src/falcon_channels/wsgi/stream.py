"""A blocking byte stream over whatever socket a WSGI server handed over.

The same code has to run in real threads, in gevent's greenlets and in eventlet's,
whether or not anything was monkey-patched and in which order. So nothing here asks
which server it is, nor calls a module that patching may have replaced: **the class of
the socket decides.** A socket of gevent's waits in gevent's hub, one of eventlet's in
eventlet's, a plain one in the kernel; each by its own timeout, none by select(), which
cannot watch descriptors from 1024 upwards. Locks come from the same library, for a
thread lock that a greenlet holds while it waits would stop every other greenlet.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import ssl
import struct
import threading
import time
from typing import Any
from typing import Protocol

# Never None: a socket with a timeout is non-blocking underneath, and a duplicate
# without one would make the pair blocking again.
_MAX_WAIT_S = 3600.0

_SHORTEST_SLEEP_S = 1e-5


class Lock(Protocol):
    """What the locks of threading, gevent and eventlet have in common."""

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool:
        """Take the lock; False if that was not possible in time."""

    def release(self) -> Any:
        """Give the lock back."""


def _library(sock: Any) -> str:
    for cls in type(sock).__mro__:
        root = cls.__module__.partition('.')[0]
        if root in ('gevent', 'eventlet'):
            return root
    return 'threading'


class Stream:
    """A connection: bytes in, bytes out, with deadlines.

    One reader and one writer may use it at the same time; two of either may not.

    Args:
        sock: The server's socket object: plain, TLS, gevent's or eventlet's.
        ours: Whether to close it in the end; otherwise the server does.
    """

    __slots__ = ('_library', '_ours', '_reader', '_sock', '_writer')

    def __init__(self, sock: Any, ours: bool = False) -> None:
        self._sock = sock
        self._ours = [sock] if ours else []
        self._library = _library(sock)
        if self._library == 'threading' and not isinstance(sock, ssl.SSLSocket):
            # NOTE: a timeout belongs to a socket object, and two threads need two.
            # Greenlets do not: nothing switches between setting it and using it. A
            # TLS socket cannot be duplicated; there, send_all and recv look at the
            # clock again before they believe in a timeout.
            self._reader = sock.dup()
            self._writer = sock.dup()
            self._ours += [self._reader, self._writer]
        else:
            self._reader = self._writer = sock
        with contextlib.suppress(OSError):  # a Unix socket has no such option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def new_lock(self) -> Lock:
        """Return a lock whose waiters let everything else go on."""
        lock: Lock
        if self._library == 'gevent':
            lock = importlib.import_module('gevent.lock').BoundedSemaphore(1)
        elif self._library == 'eventlet':
            lock = importlib.import_module('eventlet.semaphore').Semaphore(1)
        else:
            lock = threading.Lock()
        return lock

    def give_way(self) -> None:
        """Let other greenlets run; threads need no such thing."""
        if self._library != 'threading':
            # NOTE: not 0. gevent switches up to 50 times between those who sleep for 0
            # before it looks at sockets and timers again.
            importlib.import_module(self._library).sleep(_SHORTEST_SLEEP_S)

    def recv(self, max_bytes: int, timeout_s: float) -> bytes:
        """Return what is there as soon as anything is; empty at the end.

        Raises:
            TimeoutError: If nothing came in `timeout_s` seconds.
            OSError: If the connection broke.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            _set_timeout(self._reader, timeout_s)
            try:
                return self._reader.recv(max_bytes)  # type: ignore[no-any-return]  # Any
            except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
                timeout_s = deadline - time.monotonic()
                if timeout_s <= 0:
                    raise TimeoutError from None

    def send_all(self, data: bytes, timeout_s: float) -> None:
        """Send all of `data`.

        Raises:
            TimeoutError: If that took more than `timeout_s` seconds; nobody knows how
                much was sent, so the connection is of no use any more.
            OSError: If the connection broke.
        """
        deadline = time.monotonic() + timeout_s
        rest = memoryview(data)
        while rest:
            _set_timeout(self._writer, timeout_s)
            with contextlib.suppress(TimeoutError, ssl.SSLWantWriteError):
                rest = rest[self._writer.send(rest) :]
            # PERF: nearly every message leaves in the first call, with the timeout
            # that the socket has already.
            if rest:
                timeout_s = deadline - time.monotonic()
                if timeout_s <= 0:
                    raise TimeoutError(f'{len(rest)} bytes were not read in time')

    def end_writing(self) -> None:
        """Tell the client that nothing more will come; it can still send."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Cut the connection at once, throw away what is unsent, wake whoever waits."""
        with contextlib.suppress(OSError):
            # SECURITY: without this the kernel goes on for minutes to offer the unsent
            # bytes to a client that does not read, and keeps their memory.
            self._sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
            )
        self.shut()

    def shut(self) -> None:
        """End both directions for every holder of the socket, also the server."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Shut the connection, and give back our descriptors of it."""
        self.shut()
        for sock in self._ours:
            sock.close()


def _set_timeout(sock: Any, timeout_s: float) -> None:
    timeout_s = min(max(timeout_s, 0.0), _MAX_WAIT_S)
    # PERF: on a plain socket the setter is a system call, one for each message. A
    # timeout that is a little too short costs nothing: who uses it looks at the clock.
    current = sock.gettimeout()
    if current is None or not 0.9 * timeout_s <= current <= timeout_s:
        sock.settimeout(timeout_s)
