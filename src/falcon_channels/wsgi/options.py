"""What an app can set about its WebSockets."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import MutableMapping
from http import HTTPStatus
import importlib.util
from typing import Any

from falcon import media
from falcon import WebSocketPayloadType

from falcon_channels.origin import check_allowed_origins
from falcon_channels.wsgi.close_codes import check_close_code


def _default_close_reasons() -> dict[int, str]:
    reasons = {3000 + status.value: status.phrase for status in HTTPStatus}
    reasons[1000] = 'Normal Closure'
    reasons[1011] = 'Internal Server Error'
    return reasons


def _binary_handler() -> media.BinaryBaseHandlerWS:
    if importlib.util.find_spec('msgpack') is not None:
        return media.MessagePackHandlerWS()
    return media.MissingDependencyHandler(
        'default WebSocket media handler for BINARY payloads', 'msgpack'
    )


class WebSocketOptions:
    """Settings of the WebSockets of one app, at `App.ws_options`.

    Set them before the first request; every connection reads them as it begins.
    """

    close_timeout_s: float
    """How long the client may take to answer our close frame and to end the TCP
    connection, before it is cut (default ``5.0`` seconds).
    """
    compression: bool
    """Whether to compress messages with permessage-deflate (RFC 7692) where the client
    offers it (default ``False``: it costs CPU and some 50 KiB of memory a connection).
    `max_message_bytes` counts what a message inflates to.
    """
    default_close_reasons: dict[int, str]
    """Close code to the reason that is sent when `WebSocket.close` gets none. Holds
    1000, 1011 and the codes of HTTP errors, 3000 + status.
    """
    max_fragments: int
    """How many frames one message may come in (default ``1024``); more are refused with
    close code 1009.
    """
    max_message_bytes: int
    """The size of the largest message that is received, in bytes (default ``1048576``);
    a larger one is refused with close code 1009 before it is read.
    """
    media_handlers: MutableMapping[WebSocketPayloadType, Any]
    """Media handlers of `WebSocket.receive_media` and `WebSocket.send_media` by payload
    type, as on `falcon.asgi.App`.
    """
    ping_interval_s: float | None
    """After so many seconds in which the client sent nothing, a ping asks whether it is
    still there (default ``20.0``; ``None`` for no pings).
    """
    ping_timeout_s: float
    """A client that sends nothing for so many seconds after a ping is gone: code 1006
    (default ``20.0`` seconds).
    """
    send_timeout_s: float
    """How long one send may wait for a client that does not read (default ``30.0``
    seconds). Then the connection is cut.
    """

    __slots__ = (
        '_allowed_origins',
        '_error_close_code',
        'close_timeout_s',
        'compression',
        'default_close_reasons',
        'max_fragments',
        'max_message_bytes',
        'media_handlers',
        'ping_interval_s',
        'ping_timeout_s',
        'send_timeout_s',
    )

    def __init__(self) -> None:
        self._allowed_origins: tuple[str, ...] = ()
        self.close_timeout_s = 5.0
        self.compression = False
        self.default_close_reasons = _default_close_reasons()
        self._error_close_code = 1011
        self.max_fragments = 1024
        self.max_message_bytes = 1_048_576
        self.media_handlers = {
            WebSocketPayloadType.TEXT: media.JSONHandlerWS(),
            WebSocketPayloadType.BINARY: _binary_handler(),
        }
        self.ping_interval_s = 20.0
        self.ping_timeout_s = 20.0
        self.send_timeout_s = 30.0

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """Origins besides the app's own whose pages may connect (default: none).

        Such as ``['https://example.com', 'https://*.example.com']``, or ``['*']`` to
        switch the check off. Setting it raises `falcon_channels.errors.OptionsError`
        for an entry that can never match.
        """
        return self._allowed_origins

    @allowed_origins.setter
    def allowed_origins(self, allowed: Collection[str]) -> None:
        self._allowed_origins = check_allowed_origins(allowed)

    @property
    def error_close_code(self) -> int:
        """The close code after an unexpected exception (default ``1011``).

        Setting it raises `ValueError` for a code that may not be sent.
        """
        return self._error_close_code

    @error_close_code.setter
    def error_close_code(self, code: int) -> None:
        self._error_close_code = check_close_code(code)
