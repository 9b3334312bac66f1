"""The development server of Werkzeug, which is also Flask's."""

from __future__ import annotations

from collections.abc import Iterable

from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import StartResponse
from falcon_channels.wsgi.sockets.base import take_buffered
from falcon_channels.wsgi.sockets.base import TakenSocket


def take(environ: Environ) -> TakenSocket | None:
    """Take the socket that Werkzeug offers."""
    sock = environ.get('werkzeug.socket')
    if sock is None:
        return None
    stream = environ['wsgi.input']
    reader = getattr(stream, '_rfile', stream)  # what is below a chunked body
    return TakenSocket(sock, early=take_buffered(reader, sock))


def finish(start_response: StartResponse) -> Iterable[bytes]:
    """Let Werkzeug fail to write a response.

    SECURITY: it looks for another request after an exception, but not after a
    response, in which it has put ``Connection: close`` itself.
    """
    start_response('101 Switching Protocols', [])
    return [b'']
