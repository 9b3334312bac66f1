"""gevent.pywsgi, alone or as gunicorn's worker gevent_pywsgi."""

from __future__ import annotations

from falcon_channels.wsgi.sockets.base import client_is_gone
from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import take_buffered
from falcon_channels.wsgi.sockets.base import TakenSocket

finish = client_is_gone


def take(environ: Environ) -> TakenSocket | None:
    """Return the socket of the reader, which pywsgi does not wrap for an Upgrade."""
    stream = environ['wsgi.input']
    # NOTE: pywsgi's own test of the Upgrade header is simpler than ours. If it fails,
    # pywsgi wraps the reader.
    reader = getattr(stream, 'rfile', stream)
    sock = getattr(getattr(reader, 'raw', None), '_sock', None)
    if not type(sock).__module__.startswith('gevent.'):
        return None
    if not environ.get('SERVER_SOFTWARE', '').startswith('gevent/'):
        return None
    return TakenSocket(sock, early=take_buffered(reader, sock))
