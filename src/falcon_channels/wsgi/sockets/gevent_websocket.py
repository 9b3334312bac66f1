"""The handler or worker of gevent-websocket, where a deployment runs it already."""

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
    """Take the socket of its WebSocket, which has answered 101 and is not used on."""
    websocket = environ.get('wsgi.websocket')
    if websocket is None:
        return None
    _log_what_it_lacks()
    try:
        handler = websocket.stream.handler
        reader, sock = handler.rfile, handler.socket
    except AttributeError as ex:
        raise NoSocketError(
            f"environ['wsgi.websocket'] is a {type(websocket).__qualname__}, "
            'not that of gevent-websocket'
        ) from ex
    # Otherwise its handler sends a close frame of its own after ours.
    websocket.closed = True
    return TakenSocket(sock, early=take_buffered(reader, sock), accepted=True)


@functools.cache
def _log_what_it_lacks() -> None:
    _logger.warning(
        'gevent-websocket has done the handshake before the application was asked: a '
        'refusal reaches the client as a close code and not as an HTTP response, and '
        'subprotocols, headers and compression cannot be negotiated. The handler can '
        'be removed: a plain gevent.pywsgi.WSGIServer or gunicorn -k gevent does.'
    )
