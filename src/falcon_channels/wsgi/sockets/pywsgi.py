"""gevent.pywsgi, by itself or as gunicorn's worker gevent_pywsgi."""

from __future__ import annotations

from falcon_channels.wsgi.sockets.base import client_is_gone
from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import take_buffered
from falcon_channels.wsgi.sockets.base import TakenSocket

finish = client_is_gone


def take(environ: Environ) -> TakenSocket | None:
    """Take the socket below the reader, which pywsgi passes raw for an Upgrade."""
    stream = environ['wsgi.input']
    # NOTE: pywsgi wraps the reader if its own test of the Upgrade header, a simpler
    # one than ours, says no.
    reader = getattr(stream, 'rfile', stream)
    sock = getattr(getattr(reader, 'raw', None), '_sock', None)
    if not type(sock).__module__.startswith('gevent.'):
        return None
    if not environ.get('SERVER_SOFTWARE', '').startswith('gevent/'):
        return None
    return TakenSocket(sock, early=take_buffered(reader, sock))
