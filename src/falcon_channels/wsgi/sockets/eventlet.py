"""eventlet.wsgi."""

from __future__ import annotations

from collections.abc import Iterable
import importlib

from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import StartResponse
from falcon_channels.wsgi.sockets.base import take_buffered
from falcon_channels.wsgi.sockets.base import TakenSocket


def take(environ: Environ) -> TakenSocket | None:
    """Return the socket of eventlet's input; the environ always has HTTP/1.0."""
    stream = environ.get('eventlet.input')
    if stream is None:
        return None
    sock = stream.get_socket()
    early = take_buffered(stream.rfile, sock)
    return TakenSocket(sock, early=early, tells_version=False)


def finish(start_response: StartResponse) -> Iterable[bytes]:
    """End the response, and mark it as handled for eventlet."""
    importlib.import_module('eventlet.wsgi').WSGI_LOCAL.already_handled = True
    return []
