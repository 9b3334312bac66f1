"""The handler or worker of gevent-websocket, for deployments that run it already."""

from __future__ import annotations

import functools
import logging

from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import NoSocketError
from falcon_channels.wsgi.sockets.base import nothing_more
from falcon_channels.wsgi.sockets.base import take_buffered
from falcon_channels.wsgi.sockets.base import TakenSocket

_logger = logging.getLogger(__name__)

finish = nothing_more


def take(environ: Environ) -> TakenSocket | None:
    """Return the socket of its WebSocket, which has already answered 101."""
    websocket = environ.get('wsgi.websocket')
    if websocket is None:
        return None
    _warn_of_missing_features()
    try:
        handler = websocket.stream.handler
        reader, sock = handler.rfile, handler.socket
    except AttributeError as ex:
        raise NoSocketError(
            f"environ['wsgi.websocket'] is a {type(websocket).__qualname__}, "
            'and not the one of gevent-websocket'
        ) from ex
    # NOTE: Otherwise the handler sends its own close frame after ours.
    websocket.closed = True
    return TakenSocket(sock, early=take_buffered(reader, sock), accepted=True)


@functools.cache
def _warn_of_missing_features() -> None:
    _logger.warning(
        'gevent-websocket answers the handshake before it calls the application. A '
        'refusal therefore reaches the client as a close code and not as an HTTP '
        'response, and subprotocols, headers and compression cannot be negotiated. '
        'Remove the handler: a plain gevent.pywsgi.WSGIServer or gunicorn -k gevent '
        'is enough.'
    )
