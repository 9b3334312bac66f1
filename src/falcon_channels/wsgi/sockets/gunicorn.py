"""gunicorn with the workers sync, gthread and gevent."""

from __future__ import annotations

from collections.abc import Iterable
import functools
import logging

from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import NoSocketError
from falcon_channels.wsgi.sockets.base import StartResponse
from falcon_channels.wsgi.sockets.base import TakenSocket

_logger = logging.getLogger(__name__)


def take(environ: Environ) -> TakenSocket | None:
    """Return the socket; early bytes are in the unreader of gunicorn's parser."""
    sock = environ.get('gunicorn.socket')
    if sock is None:
        return None
    if environ.get('HTTP_VERSION') == '2':
        raise NoSocketError('gunicorn shares an HTTP/2 connection between requests')
    if not environ.get('wsgi.multithread'):
        _warn_of_sync_worker()
    # NOTE: The reader of a chunked body has no unreader. That does not matter, because
    # a handshake with a body is refused.
    unreader = getattr(environ['wsgi.input'].reader, 'unreader', None)
    early = unreader.buf.getvalue() if unreader is not None else b''
    return TakenSocket(sock, early=early)


def finish(start_response: StartResponse) -> Iterable[bytes]:
    """End the response.

    Raises:
        StopIteration: Always; all workers then close the connection.
    """
    raise StopIteration


@functools.cache
def _warn_of_sync_worker() -> None:
    _logger.warning(
        'gunicorn runs its sync worker: one WebSocket occupies the whole worker, and '
        'both are killed after --timeout (30 s by default). Run gunicorn with '
        '-k gevent, or with -k gthread and --threads.'
    )
