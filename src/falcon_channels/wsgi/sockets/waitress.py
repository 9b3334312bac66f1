"""waitress."""

from __future__ import annotations

from collections.abc import Iterable
import importlib

from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import NoSocketError
from falcon_channels.wsgi.sockets.base import StartResponse
from falcon_channels.wsgi.sockets.base import TakenSocket


def take(environ: Environ) -> TakenSocket | None:
    """Return the socket of the channel, which waitress does not read now."""
    bound_method = environ.get('waitress.client_disconnected')
    if bound_method is None:
        return None
    channel = bound_method.__self__
    if channel.adj.channel_request_lookahead > 0:
        raise NoSocketError(
            'waitress reads the connection during a request if '
            'channel_request_lookahead is not 0'
        )
    early: bytes | None = b''
    with channel.requests_lock:
        # NOTE: Bytes after the handshake went to the parser of the next request. The
        # parser still has all of them, unless it found an apparent end of headers.
        following = channel.request
        if len(channel.requests) > 1 or (following and following.headers_finished):
            early = None
        elif following is not None:
            early = following.header_plus
    return TakenSocket(channel.socket, early=early)


def finish(start_response: StartResponse) -> Iterable[bytes]:
    """End the response; waitress closes the channel and forgets its requests.

    Raises:
        waitress.channel.ClientDisconnected: Always; the server closes the channel.
    """
    raise importlib.import_module('waitress.channel').ClientDisconnected
