"""What an adapter of a WSGI server does. The contract of every module beside this one.

WSGI has no way to hand an application the connection, so each server is a case of its
own: where its socket can be found in the environ, which of the client's bytes it has
read ahead, and how it is told that the response is done and the connection not to be
used again. A module has two functions:

``take(environ) -> TakenSocket | None``
    The connection of this request, and all that the server has read of it beyond the
    request; None if the request is not of this server. Must not block.

``finish(start_response) -> Iterable[bytes]``
    What the application returns to the server when the WebSocket is over. May raise
    what this server takes for "say nothing more". By then the socket is shut.

    SECURITY: the server must not read another request. A shut socket still gives out
    what the client sent before, and a server that goes on would serve it.
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
    """This server is known, but not with these settings; the message says more."""


@dataclass(frozen=True, slots=True)
class TakenSocket:
    """A connection that is ours until the response is done.

    Attributes:
        sock: The server's socket object: plain, TLS, gevent's or eventlet's.
        early: What the client sent after its handshake, as far as the server read it;
            None if there was something, and the server has lost it.
        accepted: Whether the server has answered 101 already.
        ours: Whether to close the socket object; otherwise the server does.
        tells_version: Whether the environ has the client's HTTP version.
    """

    sock: Any
    early: bytes | None = b''
    accepted: bool = False
    ours: bool = False
    tells_version: bool = True


@dataclass(frozen=True, slots=True)
class Server:
    """A row of the table: a server, and its adapter."""

    name: str
    place: str
    end: str
    take: Callable[[Environ], TakenSocket | None]
    finish: Callable[[StartResponse], Iterable[bytes]]


def take_buffered(reader: Any, sock: Any) -> bytes:
    """Take what a buffered reader of a socket holds, without waiting for more."""
    timeout = sock.gettimeout()
    # NOTE: with an empty buffer read1() reads the socket, which must not block here.
    # What it gets then are the client's next bytes, as good as those of the buffer.
    sock.settimeout(0)
    data = b''
    with contextlib.suppress(OSError):
        data = reader.read1()
    sock.settimeout(timeout)
    return bytes(data)


def client_is_gone(start_response: StartResponse) -> Iterable[bytes]:
    """End the response as if the client had left, for servers that give up then.

    Raises:
        BrokenPipeError: Always.
    """
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def nothing_more(start_response: StartResponse) -> Iterable[bytes]:
    """End the response of a server that sends nothing before `start_response`."""
    return []
