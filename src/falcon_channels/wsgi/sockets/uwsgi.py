"""uWSGI, by the module that it injects into its processes."""

from __future__ import annotations

import importlib
import os
import socket

from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import nothing_more
from falcon_channels.wsgi.sockets.base import TakenSocket

finish = nothing_more


def take(environ: Environ) -> TakenSocket | None:
    """Take the connection by its descriptor."""
    if 'uwsgi.version' not in environ:
        return None
    descriptor = importlib.import_module('uwsgi').connection_fd()
    return TakenSocket(socket.socket(fileno=os.dup(descriptor)), ours=True)
