"""The contract of the adapters of WSGI servers.

WSGI cannot hand the connection over to an application. Each server therefore needs an
adapter, which knows three things. Where is the socket in the environ? Which bytes of
the client has the server already read? How does the server learn that the response is
finished, and that it must not use the connection again? An adapter is a module with two
functions:

``take(environ) -> TakenSocket | None``
    Return the connection of this request, and all bytes that the server has read after
    the request; None if the request is not of this server. Must not block.

``finish(start_response) -> Iterable[bytes]``
    Return the response that the application returns when the WebSocket has ended. May
    raise an exception after which this server sends nothing more. The socket is already
    shut down.

    SECURITY: The server must not read another request. A socket that was shut down
    still returns the bytes that the client sent before. A server that reads on would
    serve them as a request.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import contextlib
from dataclasses import dataclass
import errno
import os
from typing import Any

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class NoSocketError(Exception):
    """The server is known, but its socket cannot be reached, for the given reason."""


@dataclass(frozen=True, slots=True)
class TakenSocket:
    """A connection that the app owns until the response is finished.

    Attributes:
        sock: The server's socket object: plain, TLS, gevent's or eventlet's.
        early: Bytes after the handshake that the server has read already; None if it
            has read some and lost them.
        accepted: Whether the server has answered 101 already.
        ours: Whether the app closes the socket object; otherwise the server does.
        tells_version: Whether the environ has the client's HTTP version.
    """

    sock: Any
    early: bytes | None = b''
    accepted: bool = False
    ours: bool = False
    tells_version: bool = True


@dataclass(frozen=True, slots=True)
class ServerAdapter:
    """A row of the table: a server and its adapter.

    Attributes:
        name: Name of the server.
        place: Expression that gives the socket; only for documentation.
        end: How the response ends; only for documentation.
        take: Function of the adapter.
        finish: Function of the adapter.
    """

    name: str
    place: str
    end: str
    take: Callable[[Environ], TakenSocket | None]
    finish: Callable[[StartResponse], Iterable[bytes]]


def take_buffered(reader: Any, sock: Any) -> bytes:
    """Return the bytes in the buffer of a socket's reader, without blocking."""
    timeout = sock.gettimeout()
    # NOTE: If the buffer is empty, read1() reads the socket, which must not block here.
    # The bytes that it then returns are the client's next bytes, too.
    sock.settimeout(0)
    data = b''
    with contextlib.suppress(OSError):
        data = reader.read1()
    sock.settimeout(timeout)
    return bytes(data)


def client_is_gone(start_response: StartResponse) -> Iterable[bytes]:
    """End the response as if the client had left; such servers then close.

    Raises:
        BrokenPipeError: Always; the server closes the connection.
    """
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def nothing_more(start_response: StartResponse) -> Iterable[bytes]:
    """End the response of a server that sends nothing before `start_response`."""
    return []
