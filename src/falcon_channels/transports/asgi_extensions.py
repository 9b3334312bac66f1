"""The ASGI extension ``falcon_channels.direct``: a WebSocket without a coroutine.

A server that offers the extension puts an object that fulfils `DirectWebSocket` in
``scope['extensions']['falcon_channels.direct']['websocket']`` of each WebSocket scope.
ASGI's own events go on working; the extension adds two things:

* `write` takes finished frames and puts them into the socket at once, with no task,
  lock or event for each recipient, and says what is left behind;
* `attach` gives the messages to callbacks. From then on the ASGI application may
  return: its ``websocket.close`` is ignored and the connection lives on until `close`,
  `abort` or the peer ends it. An idle connection then holds no coroutine.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import Protocol

from falcon_channels.transports.base import Receiver
from falcon_channels.transports.base import Transport

__all__ = [
    'CUT_EXTENSION',
    'DRAIN_HOOKS',
    'EXTENSION',
    'START_ERROR',
    'WORKERS',
    'DirectWebSocket',
    'cut_of',
    'direct_websocket',
]

#: The extension's name in ``scope['extensions']``.
EXTENSION = 'falcon_channels.direct'

#: The key in the lifespan's ``scope['state']`` of a list of coroutine functions that a
#: server with the extension calls when it stops, before it closes connections.
DRAIN_HOOKS = 'falcon_channels.drain'

#: The key in the lifespan's ``scope['state']`` of why the application cannot start, in
#: words for people: such a server logs them, and not the traceback that Falcon sends.
START_ERROR = 'falcon_channels.start_error'

#: The key in the lifespan's ``scope['state']`` of how many processes serve the
#: application.
WORKERS = 'falcon_channels.workers'

#: Name of an extension in the scope of an HTTP request: ``cut`` ends its connection at
#: once, also where the client does not read.
CUT_EXTENSION = 'falcon_channels.cut'


class DirectWebSocket(Transport, Protocol):
    """What the server offers for one WebSocket connection."""

    def attach(self, receiver: Receiver) -> None:
        """Deliver messages to `receiver` instead of ASGI ``receive``.

        Legal once, after ``websocket.accept`` was sent. Messages that wait for
        ``receive`` are given to the receiver first, in order. ``receive`` called
        afterwards waits for the end of the connection.

        Raises:
            RuntimeError: Not accepted yet, or attached already.
        """


def direct_websocket(scope: Mapping[str, Any]) -> DirectWebSocket | None:
    """Return the server's object for a connection, where it offers one."""
    extension = (scope.get('extensions') or {}).get(EXTENSION)
    return None if extension is None else extension['websocket']


def cut_of(scope: Mapping[str, Any]) -> Callable[[], None] | None:
    """Return what cuts the connection of an HTTP request, where a server offers it."""
    extension = (scope.get('extensions') or {}).get(CUT_EXTENSION)
    return None if extension is None else extension['cut']
