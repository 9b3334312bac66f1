"""The development server of Werkzeug, which Flask uses, too."""

from __future__ import annotations

from collections.abc import Iterable

from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import StartResponse
from falcon_channels.wsgi.sockets.base import take_buffered
from falcon_channels.wsgi.sockets.base import TakenSocket


def take(environ: Environ) -> TakenSocket | None:
    """Return the socket that Werkzeug offers."""
    sock = environ.get('werkzeug.socket')
    if sock is None:
        return None
    stream = environ['wsgi.input']
    reader = getattr(stream, '_rfile', stream)  # the reader of a chunked body
    return TakenSocket(sock, early=take_buffered(reader, sock))


def finish(start_response: StartResponse) -> Iterable[bytes]:
    """Return a response, which Werkzeug cannot write.

    SECURITY: After an exception Werkzeug reads another request. It does not after a
    response, to which it has added ``Connection: close`` itself.
    """
    start_response('101 Switching Protocols', [])
    return [b'']
