"""The WebSocket object of a responder: falcon.asgi.WebSocket without await."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import json

import falcon
from falcon import WebSocketPayloadType

from falcon_channels.websocket.close_codes import check_close_code
from falcon_channels.websocket.close_codes import HTTP_STATUS_BASE
from falcon_channels.websocket.close_codes import MAX_REASON_BYTES
from falcon_channels.websocket.close_codes import NORMAL
from falcon_channels.websocket.close_codes import refusal_status
from falcon_channels.websocket.handshake import header_name
from falcon_channels.websocket.handshake import refusal_response
from falcon_channels.wsgi.connection import WebSocketConnection
from falcon_channels.wsgi.errors import WebSocketError
from falcon_channels.wsgi.options import WebSocketOptions

#: Headers of the 101 that belong to the handshake itself.
_RESERVED_HEADERS = frozenset(
    ['connection', 'sec-websocket-accept', 'sec-websocket-extensions', 'upgrade']
)


class WebSocket:
    """One WebSocket connection with a client.

    Several threads or greenlets may use it at once. Messages are sent whole, one after
    the other. Each received message goes to one of the receivers. The connection ends
    when the responder returns.

    The app creates it; a responder gets it as ``ws``.
    """

    __slots__ = ('_accepted', '_connection', '_options', 'subprotocols')

    subprotocols: tuple[str, ...]
    """The subprotocols that the client offers, in its order of preference."""

    def __init__(
        self,
        connection: WebSocketConnection,
        options: WebSocketOptions,
        subprotocols: tuple[str, ...] = (),
    ) -> None:
        self.subprotocols = subprotocols
        self._connection = connection
        self._options = options
        self._accepted = False

    @property
    def unaccepted(self) -> bool:
        """Whether the handshake has been neither accepted nor refused."""
        return self._connection.connecting

    @property
    def ready(self) -> bool:
        """Whether messages can be sent and received."""
        return self._connection.open

    @property
    def closed(self) -> bool:
        """Whether the connection is known to have ended.

        The next receive or send detects that a client has left.
        """
        return not self._connection.connecting and not self._connection.open

    @property
    def close_code(self) -> int | None:
        """The close code of a connection that has ended, otherwise None."""
        end = self._connection.closed
        return end and end[0]

    @property
    def close_reason(self) -> str | None:
        """The reason that came with the close code, otherwise None."""
        end = self._connection.closed
        return end and end[1]

    def accept(
        self,
        subprotocol: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Accept the handshake.

        Args:
            subprotocol: The selected subprotocol, one of `subprotocols`.
            headers: Additional headers of the 101 response, names and values in ASCII.

        Raises:
            falcon.OperationNotAllowed: It was accepted or refused before.
            ValueError: The client did not offer the subprotocol, or a header may not be
                set here.
            WebSocketError: The client has disconnected.
        """
        if self.closed:
            raise falcon.OperationNotAllowed(
                'accept() may not be called on a closed WebSocket connection'
            )
        if self._accepted:
            raise falcon.OperationNotAllowed(
                'accept() may only be called once on an open WebSocket connection'
            )
        # NOTE: The handler of gevent-websocket has sent the 101 before it calls the
        # application. Subprotocol and headers cannot be sent any more then.
        if self._connection.connecting:
            if subprotocol is not None and subprotocol not in self.subprotocols:
                raise ValueError(
                    f'subprotocol {subprotocol!r} was not offered by the client, which '
                    f'offers {self.subprotocols}'
                )
            self._connection.accept(subprotocol, tuple(_header_items(headers)))
        self._accepted = True

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Close the connection; refuse the handshake if it was not accepted.

        Before `accept` the client gets an HTTP response: a code of 3000 + status gives
        that status; 1011 gives 500, 1012 and 1013 give 503, any other code 403. After
        `accept` it gets a close frame. This method then returns when the client has
        answered the close frame, or after `WebSocketOptions.close_timeout_s`. Closing
        again does nothing.

        Args:
            code: Close code; 1000 by default.
            reason: Close reason of up to 123 bytes; by default the one in
                `WebSocketOptions.default_close_reasons`.

        Raises:
            ValueError: The code may not be sent, or the reason is too long.
        """
        code = NORMAL if code is None else code
        check_close_code(code)
        reason = reason or self._options.default_close_reasons.get(code, '')
        if (size := len(reason.encode())) > MAX_REASON_BYTES:
            raise ValueError(f'close reason of {size} bytes exceeds {MAX_REASON_BYTES}')
        if self._connection.connecting:
            status = refusal_status(code)
            if code != HTTP_STATUS_BASE + status:
                reason = ''
            self._connection.respond(refusal_response(status, reason))
        else:
            self._connection.close(code, reason)

    def send(self, payload: str | bytes | bytearray | memoryview) -> None:
        """Send a message: a str as text, bytes as binary.

        Accepts the handshake if it is not accepted yet.

        Raises:
            WebSocketError: The connection has ended, or the client did not read for
                `WebSocketOptions.send_timeout_s`.
        """
        self._accept_if_connecting()
        if isinstance(payload, str):
            self.send_text(payload)
        else:
            self.send_data(payload)

    def send_text(self, payload: str) -> None:
        """Send a text message.

        Raises:
            TypeError: The payload is not a str.
            falcon.OperationNotAllowed: The handshake was not accepted.
            WebSocketError: As `send`.
        """
        self._require_accepted()
        if not isinstance(payload, str):
            raise TypeError('payload must be a string')
        self._connection.send(payload.encode(), text=True)

    def send_data(self, payload: bytes | bytearray | memoryview) -> None:
        """Send a binary message.

        Raises:
            TypeError: The payload is not bytes-like.
            falcon.OperationNotAllowed: The handshake was not accepted.
            WebSocketError: As `send`.
        """
        self._require_accepted()
        if not isinstance(payload, bytes | bytearray | memoryview):
            raise TypeError('payload must be a byte string')
        self._connection.send(bytes(payload), text=False)

    def send_media(
        self,
        media: object,
        payload_type: WebSocketPayloadType = WebSocketPayloadType.TEXT,
    ) -> None:
        """Send an object, serialized by the media handler of the payload type.

        Raises:
            falcon.OperationNotAllowed: The handshake was not accepted.
            WebSocketError: As `send`.
        """
        self._require_accepted()
        serialize = self._options.media_handlers[payload_type].serialize
        self.send(serialize(media))

    def receive(self, timeout_s: float | None = None) -> str | bytes:
        """Wait for a message of either kind: text is a str, binary is bytes.

        Accepts the handshake if it is not accepted yet.

        Args:
            timeout_s: Maximum wait in seconds; None, the default, for no limit.

        Raises:
            TimeoutError: No message came in time. The connection stays open.
            WebSocketError: The connection has ended.
        """
        self._accept_if_connecting()
        return self._connection.receive(timeout_s)

    def receive_text(self, timeout_s: float | None = None) -> str:
        """Wait for a text message.

        Raises:
            falcon.PayloadTypeError: The message was binary. Uncaught, it closes the
                connection with code 1003.
            falcon.OperationNotAllowed: The handshake was not accepted.
            TimeoutError: As `receive`.
            WebSocketError: As `receive`.
        """
        self._require_accepted()
        message = self._connection.receive(timeout_s)
        if not isinstance(message, str):
            raise falcon.PayloadTypeError('Missing TEXT (0x01) payload')
        return message

    def receive_data(self, timeout_s: float | None = None) -> bytes:
        """Wait for a binary message.

        Raises:
            falcon.PayloadTypeError: The message was text. Uncaught, it closes the
                connection with code 1003.
            falcon.OperationNotAllowed: The handshake was not accepted.
            TimeoutError: As `receive`.
            WebSocketError: As `receive`.
        """
        self._require_accepted()
        message = self._connection.receive(timeout_s)
        if isinstance(message, str):
            raise falcon.PayloadTypeError('Missing BINARY (0x02) payload')
        return message

    def receive_media(self, timeout_s: float | None = None) -> object:
        """Wait for a message, and deserialize it with the media handler of its kind.

        Raises:
            falcon.MediaMalformedError: The handler cannot read the message. Uncaught,
                it closes the connection with code 3400.
            falcon.OperationNotAllowed: The handshake was not accepted.
            TimeoutError: As `receive`.
            WebSocketError: As `receive`.
        """
        self._require_accepted()
        message = self._connection.receive(timeout_s)
        kind = WebSocketPayloadType.BINARY
        if isinstance(message, str):
            kind = WebSocketPayloadType.TEXT
        try:
            value: object = self._options.media_handlers[kind].deserialize(message)
        except (ValueError, RecursionError) as ex:
            # NOTE: Falcon's own WebSocket does not catch this: each malformed message
            # of a client writes a traceback to the log. Falcon's HTTP requests raise
            # the same error as here.
            name = 'JSON' if isinstance(ex, json.JSONDecodeError) else kind.name
            raise falcon.MediaMalformedError(name) from ex
        return value

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over the messages until either side ends the connection."""
        while True:
            try:
                message = self.receive()
            except WebSocketError:
                return
            yield message

    def _accept_if_connecting(self) -> None:
        if self._connection.connecting:
            self.accept()

    def _require_accepted(self) -> None:
        if self._connection.connecting:
            raise falcon.OperationNotAllowed(
                'WebSocket connection has not yet been accepted'
            )


def _header_items(
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None,
) -> Iterator[tuple[str, str]]:
    items = headers.items() if isinstance(headers, Mapping) else headers or ()
    for name, value in items:
        if name.lower() == 'sec-websocket-protocol':
            raise ValueError('the subprotocol is an argument of accept(), not a header')
        if name.lower() in _RESERVED_HEADERS:
            raise ValueError(f'header {name} belongs to the handshake')
        # SECURITY: A value with a line end could add headers of its own.
        if not value.isascii() or '\r' in value or '\n' in value:
            raise ValueError(f'header {name!r} is not one line of ASCII')
        yield header_name(name), value
