"""uWSGI, through the module that it adds to its processes."""

from __future__ import annotations

import importlib
import os
import socket

from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import nothing_more
from falcon_channels.wsgi.sockets.base import TakenSocket

finish = nothing_more


def take(environ: Environ) -> TakenSocket | None:
    """Return a duplicate of the connection's descriptor as a socket."""
    if 'uwsgi.version' not in environ:
        return None
    descriptor = importlib.import_module('uwsgi').connection_fd()
    return TakenSocket(socket.socket(fileno=os.dup(descriptor)), ours=True)
