"""Close codes of RFC 6455 section 7.4, and their relation to HTTP statuses."""

from __future__ import annotations

from websockets.exceptions import ProtocolError
from websockets.frames import Close

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
#: Reported, never sent: the peer's close frame had no code.
NO_STATUS = 1005
#: Reported, never sent: the connection ended without a close frame.
ABNORMAL = 1006
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013

#: Falcon closes with this number plus the HTTP status if a responder raises an
#: `HTTPError`.
HTTP_STATUS_BASE = 3000

#: Maximum size of a close reason in UTF-8. A control frame carries at most 125 bytes,
#: and the close code takes two of them (RFC 6455 section 5.5).
MAX_REASON_BYTES = 123


# NOTE: Falcon closes with 3011 if `ws_options.error_close_code` is not valid.
_STATUS_BY_CODE: dict[int | None, int] = {
    INTERNAL_ERROR: 500,
    SERVICE_RESTART: 503,
    TRY_AGAIN_LATER: 503,
    HTTP_STATUS_BASE + 11: 500,
}


def check_close_code(code: int) -> int:
    """Return `code` if it may be sent.

    Raises:
        ValueError: The code may not be sent (RFC 6455 section 7.4).
    """
    if not isinstance(code, int):
        raise ValueError(f'close code {code!r} is not an int')
    try:
        Close(code, '').check()
    except ProtocolError as ex:
        raise ValueError(
            f'close code {code} must not be sent; use 1000 to 1003, 1007 to 1014, or '
            '3000 to 4999'
        ) from ex
    return code


def refusal_status(code: int | None) -> int:
    """Return the HTTP status of a close before the handshake was accepted.

    NOTE: ASGI says 403. But Falcon closes with 3000 + status if a responder raises an
    `HTTPError`. The statuses 401, 404 or 429 tell the client what to do next. After any
    other exception, Falcon closes with 1011 (``ws_options.error_close_code``). Clients
    and monitoring must be able to distinguish a bug from a refusal.

    Args:
        code: Close code; ``None`` if the application gave none.
    """
    status = (code or 0) - HTTP_STATUS_BASE
    if 400 <= status < 600:
        return status
    return _STATUS_BY_CODE.get(code, 403)
