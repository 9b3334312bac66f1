"""wsgiref.simple_server of the standard library, and servers built on it."""

from __future__ import annotations

import io

from falcon_channels.wsgi.sockets.base import client_is_gone
from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import take_buffered
from falcon_channels.wsgi.sockets.base import TakenSocket

finish = client_is_gone


def take(environ: Environ) -> TakenSocket | None:
    """Return the socket of the reader that is the input."""
    reader = environ['wsgi.input']
    if not isinstance(reader, io.BufferedReader):
        return None
    if not environ.get('SERVER_SOFTWARE', '').startswith('WSGIServer/'):
        return None
    sock = reader.raw._sock
    return TakenSocket(sock, early=take_buffered(reader, sock))
