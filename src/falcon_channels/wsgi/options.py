"""Settings of an app's WebSockets."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import MutableMapping
from functools import partial
from http import HTTPStatus
import importlib.util
from typing import Any

from falcon import media
from falcon import WebSocketPayloadType

from falcon_channels.checks import check_number
from falcon_channels.checks import check_seconds
from falcon_channels.checks import check_type
from falcon_channels.origin import check_allowed_origins
from falcon_channels.websocket import limits
from falcon_channels.websocket.close_codes import check_close_code
from falcon_channels.websocket.close_codes import HTTP_STATUS_BASE
from falcon_channels.websocket.close_codes import INTERNAL_ERROR
from falcon_channels.websocket.close_codes import NORMAL


def _default_close_reasons() -> dict[int, str]:
    reasons = {HTTP_STATUS_BASE + status.value: status.phrase for status in HTTPStatus}
    reasons[NORMAL] = 'Normal Closure'
    reasons[INTERNAL_ERROR] = 'Internal Server Error'
    return reasons


def _binary_handler() -> media.BinaryBaseHandlerWS:
    if importlib.util.find_spec('msgpack') is not None:
        return media.MessagePackHandlerWS()
    return media.MissingDependencyHandler(
        'default WebSocket media handler for BINARY payloads', 'msgpack'
    )


#: The check of each setting, which gets the name and the value.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    'close_timeout_s': partial(check_seconds, zero=True),
    'compression': partial(check_type, kind=bool),
    'default_close_reasons': partial(check_type, kind=Mapping),
    'max_fragments': partial(check_number, lowest=1),
    'max_message_bytes': partial(check_number, lowest=1),
    'media_handlers': partial(check_type, kind=Mapping),
    'ping_interval_s': partial(check_seconds, optional=True),
    'ping_timeout_s': check_seconds,
    'send_timeout_s': check_seconds,
}


class WebSocketOptions:
    """Settings of the WebSockets of one app, at `App.ws_options`.

    Set them before the first request; each connection reads them when it begins. A
    wrong value raises `falcon_channels.errors.OptionsError` where it is set.
    """

    close_timeout_s: float
    """Time in which the client has to answer our close frame and to end the TCP
    connection, before the connection is aborted (default ``5.0`` seconds).
    """
    compression: bool
    """Whether to compress messages with permessage-deflate (RFC 7692) if the client
    offers it (default ``False``: it costs CPU and about 50 KiB of memory per
    connection).
    `max_message_bytes` limits the decompressed size.
    """
    default_close_reasons: dict[int, str]
    """Reason that is sent with a close code if `WebSocket.close` gets none. The default
    has 1000, 1011 and the codes of HTTP errors, 3000 + status.
    """
    max_fragments: int
    """Maximum number of frames of one message (default ``1024``); a message with more
    is refused with close code 1009.
    """
    max_message_bytes: int
    """Maximum size of a received message in bytes (default ``1048576``). A larger one
    is refused with close code 1009 before it is read.
    """
    media_handlers: MutableMapping[WebSocketPayloadType, Any]
    """Media handlers of `WebSocket.receive_media` and `WebSocket.send_media` by payload
    type, as on `falcon.asgi.App`.
    """
    ping_interval_s: float | None
    """Seconds of silence of the client before a ping is sent (default ``20.0``;
    ``None`` for no pings).
    """
    ping_timeout_s: float
    """Seconds of silence after a ping that mean that the client is gone: code 1006
    (default ``20.0`` seconds).
    """
    send_timeout_s: float
    """Time for which one send may wait for a client that does not read (default
    ``30.0`` seconds). Then the connection is aborted.
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
        self._error_close_code = INTERNAL_ERROR
        self.max_fragments = limits.MAX_FRAGMENTS
        self.max_message_bytes = limits.MAX_MESSAGE_BYTES
        self.media_handlers = {
            WebSocketPayloadType.TEXT: media.JSONHandlerWS(),
            WebSocketPayloadType.BINARY: _binary_handler(),
        }
        self.ping_interval_s = 20.0
        self.ping_timeout_s = 20.0
        self.send_timeout_s = 30.0

    def __setattr__(self, name: str, value: Any) -> None:
        check = _CHECKS.get(name)
        super().__setattr__(name, value if check is None else check(name, value))

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """Origins of other sites whose pages may connect (default: none).

        For example ``['https://example.com', 'https://*.example.com']``. ``['*']``
        switches the check off. Setting it raises
        `falcon_channels.errors.OptionsError` for an entry that can never match.
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
