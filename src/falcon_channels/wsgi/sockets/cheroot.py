"""cheroot, the server of CherryPy."""

from __future__ import annotations

from falcon_channels.wsgi.sockets.base import client_is_gone
from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import take_buffered
from falcon_channels.wsgi.sockets.base import TakenSocket

finish = client_is_gone


def take(environ: Environ) -> TakenSocket | None:
    """Return the socket of the reader of the input."""
    stream = environ['wsgi.input']
    if not type(stream).__module__.startswith('cheroot.'):
        return None
    reader = stream.rfile
    sock = reader.raw._sock
    return TakenSocket(sock, early=take_buffered(reader, sock))
