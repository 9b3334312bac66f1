"""All codes of the client protocol. No other module defines one.

Clients treat the three kinds in three ways:

* A `ReplyError` answers one command; the connection stays open.
* An `Unsubscribe` ends one subscription. From code 2500 on, the client subscribes
  again.
* A `Disconnect` ends the connection and is the close code of its WebSocket. **Its range
  decides what the client does next**: after 3500 to 3999 and 4500 to 4999 it does not
  reconnect, after all other codes it does. An application's own codes are 4000 to 4999.

NOTE: Falcon closes a WebSocket with 3000 + HTTP status, but these numbers have another
meaning here. After 3403 a client would reconnect again and again. After 3500 (an
unexpected error) it would never reconnect. `disconnect_for_status` and
`error_for_status` therefore translate every error of the application.
"""

from __future__ import annotations

from typing import Final
from typing import NamedTuple

import msgspec


class ReplyError(NamedTuple):
    """An error in a reply, ``{"code": 103, "message": "permission denied"}``.

    Attributes:
        code: Error code: 100 to 113, or 400 to 1999 for an application's own.
        message: Description of the error.
        temporary: Whether a retry may help; clients then retry automatically.
    """

    code: int
    message: str
    temporary: bool = False


class Unsubscribe(NamedTuple):
    """Reason why the server ended a subscription.

    Attributes:
        code: Unsubscribe code. 2000 to 2499 are final; from 2500 on the client
            subscribes again. This library uses 2400 to 2499. An application may use
            2100 to 2399 and 2600 to 2999.
        reason: Description of the reason.
    """

    code: int
    reason: str

    @property
    def resubscribes(self) -> bool:
        """Whether the client subscribes again automatically."""
        return self.code >= FIRST_RESUBSCRIBE_CODE


class Disconnect(NamedTuple):
    """Reason why the server ended a connection.

    Attributes:
        code: Close code of the WebSocket.
        reason: Text of at most 123 bytes that does not parse as JSON.
    """

    code: int
    reason: str

    @property
    def reconnects(self) -> bool:
        """Whether the client reconnects automatically."""
        return reconnects(self.code)


FIRST_RESUBSCRIBE_CODE: Final = 2500

_MAX_MESSAGE_CHARACTERS: Final = 500
#: Maximum size of the reason in a close frame (RFC 6455 section 5.5).
MAX_REASON_BYTES: Final = 123


def reconnects(code: int) -> bool:
    """Return whether clients reconnect after a connection ended with this code."""
    return not (3500 <= code <= 3999 or 4500 <= code <= 4999)


INTERNAL: Final = ReplyError(100, 'internal server error', temporary=True)
UNAUTHORIZED: Final = ReplyError(101, 'unauthorized')
UNKNOWN_CHANNEL: Final = ReplyError(102, 'unknown channel')
PERMISSION_DENIED: Final = ReplyError(103, 'permission denied')
METHOD_NOT_FOUND: Final = ReplyError(104, 'method not found')
ALREADY_SUBSCRIBED: Final = ReplyError(105, 'already subscribed')
LIMIT_EXCEEDED: Final = ReplyError(106, 'limit exceeded')
BAD_REQUEST: Final = ReplyError(107, 'bad request')
NOT_AVAILABLE: Final = ReplyError(108, 'not available')
TOKEN_EXPIRED: Final = ReplyError(109, 'token expired')
EXPIRED: Final = ReplyError(110, 'expired')
TOO_MANY_REQUESTS: Final = ReplyError(111, 'too many requests', temporary=True)
UNRECOVERABLE_POSITION: Final = ReplyError(112, 'unrecoverable position')
CONCURRENT_PAGINATION: Final = ReplyError(113, 'concurrent pagination', temporary=True)

#: All errors of the protocol by code.
REPLY_ERRORS: Final[dict[int, ReplyError]] = {
    error.code: error
    for error in (
        INTERNAL,
        UNAUTHORIZED,
        UNKNOWN_CHANNEL,
        PERMISSION_DENIED,
        METHOD_NOT_FOUND,
        ALREADY_SUBSCRIBED,
        LIMIT_EXCEEDED,
        BAD_REQUEST,
        NOT_AVAILABLE,
        TOKEN_EXPIRED,
        EXPIRED,
        TOO_MANY_REQUESTS,
        UNRECOVERABLE_POSITION,
        CONCURRENT_PAGINATION,
    )
}

UNSUBSCRIBE_SERVER: Final = Unsubscribe(2000, 'server unsubscribe')
UNSUBSCRIBE_FINISHED: Final = Unsubscribe(2400, 'channel finished')
UNSUBSCRIBE_FAILED: Final = Unsubscribe(2401, 'channel failed')
UNSUBSCRIBE_INSUFFICIENT: Final = Unsubscribe(2500, 'insufficient state')
UNSUBSCRIBE_EXPIRED: Final = Unsubscribe(2501, 'subscription expired')
UNSUBSCRIBE_INVALIDATED: Final = Unsubscribe(2502, 'state invalidated')

#: All unsubscribe reasons of the protocol by code.
UNSUBSCRIBES: Final[dict[int, Unsubscribe]] = {
    row.code: row
    for row in (
        UNSUBSCRIBE_SERVER,
        UNSUBSCRIBE_FINISHED,
        UNSUBSCRIBE_FAILED,
        UNSUBSCRIBE_INSUFFICIENT,
        UNSUBSCRIBE_EXPIRED,
        UNSUBSCRIBE_INVALIDATED,
    )
}

DISCONNECT_CONNECTION_CLOSED: Final = Disconnect(3000, 'connection closed')
DISCONNECT_SHUTDOWN: Final = Disconnect(3001, 'shutdown')
DISCONNECT_INTERNAL: Final = Disconnect(3004, 'internal server error')
DISCONNECT_EXPIRED: Final = Disconnect(3005, 'connection expired')
DISCONNECT_SUB_EXPIRED: Final = Disconnect(3006, 'subscription expired')
DISCONNECT_SLOW: Final = Disconnect(3008, 'slow')
DISCONNECT_WRITE_ERROR: Final = Disconnect(3009, 'write error')
DISCONNECT_INSUFFICIENT: Final = Disconnect(3010, 'insufficient state')
DISCONNECT_FORCE_RECONNECT: Final = Disconnect(3011, 'force reconnect')
DISCONNECT_NO_PONG: Final = Disconnect(3012, 'no pong')
DISCONNECT_TOO_MANY_REQUESTS: Final = Disconnect(3013, 'too many requests')
DISCONNECT_INVALIDATED: Final = Disconnect(3014, 'state invalidated')
DISCONNECT_INVALID_TOKEN: Final = Disconnect(3500, 'invalid token')
DISCONNECT_BAD_REQUEST: Final = Disconnect(3501, 'bad request')
DISCONNECT_STALE: Final = Disconnect(3502, 'stale')
DISCONNECT_FORCE: Final = Disconnect(3503, 'force disconnect')
DISCONNECT_CONNECTION_LIMIT: Final = Disconnect(3504, 'connection limit')
DISCONNECT_CHANNEL_LIMIT: Final = Disconnect(3505, 'channel limit')
DISCONNECT_INAPPROPRIATE_PROTOCOL: Final = Disconnect(3506, 'inappropriate protocol')
DISCONNECT_PERMISSION_DENIED: Final = Disconnect(3507, 'permission denied')
DISCONNECT_NOT_AVAILABLE: Final = Disconnect(3508, 'not available')
DISCONNECT_TOO_MANY_ERRORS: Final = Disconnect(3509, 'too many errors')

#: All disconnect reasons of the protocol by code.
DISCONNECTS: Final[dict[int, Disconnect]] = {
    row.code: row
    for row in (
        DISCONNECT_CONNECTION_CLOSED,
        DISCONNECT_SHUTDOWN,
        DISCONNECT_INTERNAL,
        DISCONNECT_EXPIRED,
        DISCONNECT_SUB_EXPIRED,
        DISCONNECT_SLOW,
        DISCONNECT_WRITE_ERROR,
        DISCONNECT_INSUFFICIENT,
        DISCONNECT_FORCE_RECONNECT,
        DISCONNECT_NO_PONG,
        DISCONNECT_TOO_MANY_REQUESTS,
        DISCONNECT_INVALIDATED,
        DISCONNECT_INVALID_TOKEN,
        DISCONNECT_BAD_REQUEST,
        DISCONNECT_STALE,
        DISCONNECT_FORCE,
        DISCONNECT_CONNECTION_LIMIT,
        DISCONNECT_CHANNEL_LIMIT,
        DISCONNECT_INAPPROPRIATE_PROTOCOL,
        DISCONNECT_PERMISSION_DENIED,
        DISCONNECT_NOT_AVAILABLE,
        DISCONNECT_TOO_MANY_ERRORS,
    )
}

# The client's reaction decides the code. A client without permission must not reconnect
# again and again. After an error of the server, clients must reconnect.
_DISCONNECT_BY_STATUS: Final[dict[int, Disconnect]] = {
    401: DISCONNECT_INVALID_TOKEN,
    403: DISCONNECT_PERMISSION_DENIED,
    415: DISCONNECT_INAPPROPRIATE_PROTOCOL,
    429: DISCONNECT_TOO_MANY_REQUESTS,
    503: DISCONNECT_SHUTDOWN,
}
_ERROR_BY_STATUS: Final[dict[int, ReplyError]] = {
    401: UNAUTHORIZED,
    403: PERMISSION_DENIED,
    404: UNKNOWN_CHANNEL,
    405: NOT_AVAILABLE,
    413: LIMIT_EXCEEDED,
    429: TOO_MANY_REQUESTS,
    501: NOT_AVAILABLE,
}


def unsubscribe_for_end(error: str) -> Unsubscribe:
    """Return the reason for the subscribers of a channel that has ended.

    Args:
        error: Why the channel has failed, or ``''`` if it ended with success.
    """
    if not error:
        return UNSUBSCRIBE_FINISHED
    return UNSUBSCRIBE_FAILED._replace(reason=error)


def error_with_message(error: ReplyError, message: str | None) -> ReplyError:
    """Return the error with the application's message, if there is one."""
    if not message:
        return error
    return error._replace(message=message[:_MAX_MESSAGE_CHARACTERS])


def disconnect_with_reason(disconnect: Disconnect, reason: str | None) -> Disconnect:
    """Return the disconnect with the application's reason, if it is usable.

    NOTE: SDKs parse a reason that is JSON, so such a reason is not used. A reason
    of more than 123 bytes is truncated (RFC 6455 section 5.5).
    """
    if not reason:
        return disconnect
    reason = reason.encode()[:MAX_REASON_BYTES].decode(errors='ignore')
    try:
        msgspec.json.decode(reason)
    except msgspec.DecodeError:
        return disconnect._replace(reason=reason)
    return disconnect


def disconnect_for_status(status: int) -> Disconnect:
    """Return the disconnect for an HTTP status that the application raised.

    401 is 3500, 403 is 3507, 415 is 3506, 429 is 3013, 503 is 3001, other 4xx are 3501.
    Any other status is a server error, 3004, after which clients reconnect.
    """
    row = _DISCONNECT_BY_STATUS.get(status)
    if row is not None:
        return row
    return DISCONNECT_BAD_REQUEST if 400 <= status <= 499 else DISCONNECT_INTERNAL


def error_for_status(status: int) -> ReplyError:
    """Return the error reply for an HTTP status that the application raised.

    401 is 101, 403 is 103, 404 is 102, 405 and 501 are 108, 413 is 106, 429 is 111,
    other 4xx are 107. Any other status is 100, which is temporary.
    """
    row = _ERROR_BY_STATUS.get(status)
    if row is not None:
        return row
    return BAD_REQUEST if 400 <= status <= 499 else INTERNAL
