"""ASGI extensions of our server: its connection objects, and a few keys of the scope.

A server may share its own WebSocket object with the application. The server puts an
object that implements `ServerWebSocket` into the scope of each WebSocket, under
``scope['extensions']['falcon_channels.websocket']['websocket']``. All ASGI events
still work. The object adds two methods that bypass ASGI events:

* `write` hands finished frames to the socket at once, and returns how many bytes are
  still buffered. It needs no task, lock or event per recipient.
* `attach` delivers messages to callbacks. The ASGI application may return afterwards.
  The server then ignores its ``websocket.close``, and the connection stays open until
  `close`, `abort` or the peer ends it. An idle connection then needs no coroutine.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import Protocol

from falcon_channels.transports.base import Receiver
from falcon_channels.transports.base import Transport

__all__ = [
    'DRAIN_HOOKS',
    'MAX_MESSAGE_BYTES',
    'SERVER_HTTP_EXTENSION',
    'SERVER_WEBSOCKET_EXTENSION',
    'START_ERROR',
    'ServerHttpConnection',
    'ServerWebSocket',
    'server_http_connection',
    'server_websocket',
]

#: Name of the extension in ``scope['extensions']`` of a WebSocket.
SERVER_WEBSOCKET_EXTENSION = 'falcon_channels.websocket'

#: Key in the lifespan's ``scope['state']``: a list of coroutine functions. A server
#: with the extension calls them when it stops, before it closes connections.
DRAIN_HOOKS = 'falcon_channels.drain'

#: Key in the lifespan's ``scope['state']``: a message that says why the application
#: cannot start. Our server logs it instead of the traceback that Falcon sends.
START_ERROR = 'falcon_channels.start_error'

#: Key in the lifespan's ``scope['state']``: maximum size in bytes of a WebSocket
#: message that the server passes on.
MAX_MESSAGE_BYTES = 'falcon_channels.max_message_bytes'

#: Name of the extension in ``scope['extensions']`` of an HTTP request.
SERVER_HTTP_EXTENSION = 'falcon_channels.http'


class ServerWebSocket(Transport, Protocol):
    """One WebSocket connection, as our server shares it with the application."""

    def attach(self, receiver: Receiver) -> None:
        """Deliver messages to `receiver` instead of ASGI ``receive``.

        Allowed once, after ``websocket.accept`` was sent. Messages that are buffered
        for ``receive`` are delivered to the receiver first, in order. A later call of
        ``receive`` waits for the end of the connection.

        Raises:
            RuntimeError: Not accepted yet, or already attached.
        """


class BodyWriter(Protocol):
    """Writes the body of a response; see `ServerHttpConnection.take_body`."""

    def on_writable(self) -> None:
        """Called when the whole backlog has been written."""


class ServerHttpConnection(Protocol):
    """The connection of an HTTP request, as our server shares it with the application.

    It is for a response that lasts long, such as an event stream. After `take_body`,
    the application writes the body to the connection, and not through ASGI events.
    """

    @property
    def descriptor(self) -> int:
        """File descriptor for direct writes of the body, or -1; see `Transport`."""

    @property
    def backlog_bytes(self) -> int:
        """Bytes for the client that are still buffered in this process."""

    def take_body(self, writer: BodyWriter) -> bool:
        """Give the rest of the body to a writer. This is allowed once.

        The application still sends the last ``http.response.body`` event through ASGI.

        Args:
            writer: Object that writes the body.

        Returns:
            Whether `write` can be used. It cannot be used before the response has
            begun, or if its body has no chunks. It also cannot be used if other code
            sees the events of the application.
        """

    def write(self, chunks: bytes) -> int:
        """Send or buffer HTTP chunks; return the backlog in bytes.

        Args:
            chunks: Whole chunks (RFC 9112 section 7.1).
        """

    def abort(self) -> None:
        """End the connection at once, even if the client does not read."""

    def watch(self, on_disconnect: Callable[[], None]) -> None:
        """Call a function when the client has left; allowed once.

        The application then needs no task that waits for ``http.disconnect``.
        """


def server_websocket(scope: Mapping[str, Any]) -> ServerWebSocket | None:
    """Return the server's WebSocket object, or ``None`` if the server has none."""
    extension = (scope.get('extensions') or {}).get(SERVER_WEBSOCKET_EXTENSION)
    return None if extension is None else extension['websocket']


def server_http_connection(scope: Mapping[str, Any]) -> ServerHttpConnection | None:
    """Return the server's connection of a request, or ``None`` if it shares none."""
    extension = (scope.get('extensions') or {}).get(SERVER_HTTP_EXTENSION)
    return None if extension is None else extension['connection']
