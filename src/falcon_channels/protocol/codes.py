"""Every code of the client protocol, as data.

Three kinds, which a client treats in three ways:

* a `ReplyError` answers one command; the connection goes on;
* an `Unsubscribe` ends one subscription; from 2500 up the client subscribes again;
* a `Disconnect` ends the connection and is the close code of its WebSocket. **The
  range says what the client does next**: 3500 to 3999 and 4500 to 4999 are final,
  all others bring it back. An application's own codes are 4000 to 4999.

NOTE: Falcon closes a WebSocket with 3000 + HTTP status, and those numbers mean other
things here: 3403 would make a client come back for ever, 3500 (an unexpected error)
would send it away for good. So no error of the application reaches a client of this
protocol as it is: `disconnect_for_status` and `error_for_status` translate.
"""

from __future__ import annotations

from typing import Final
from typing import NamedTuple

import msgspec


class ReplyError(NamedTuple):
    """An error in a reply, ``{"code": 103, "message": "permission denied"}``.

    Attributes:
        code: 100 to 113, or 400 to 1999 for an application's own.
        message: The same in words.
        temporary: Whether trying again may help; clients then do so by themselves.
    """

    code: int
    message: str
    temporary: bool = False


class Unsubscribe(NamedTuple):
    """Why the server ended a subscription.

    Attributes:
        code: 2000 to 2499 are final, from 2500 up the client subscribes again.
            An application's own: 2100 to 2499 and 2600 to 2999.
        reason: The same in words.
    """

    code: int
    reason: str

    @property
    def resubscribes(self) -> bool:
        """Whether the client comes back by itself."""
        return self.code >= FIRST_RESUBSCRIBE_CODE


class Disconnect(NamedTuple):
    """Why the server ended a connection.

    Attributes:
        code: The close code of the WebSocket.
        reason: Plain words, under 124 bytes, and not something that parses as JSON.
    """

    code: int
    reason: str

    @property
    def reconnects(self) -> bool:
        """Whether the client comes back by itself."""
        return reconnects(self.code)


FIRST_RESUBSCRIBE_CODE: Final = 2500

_MAX_MESSAGE_CHARACTERS: Final = 500
#: What a close frame has room for (RFC 6455 section 5.5).
MAX_REASON_BYTES: Final = 123


def reconnects(code: int) -> bool:
    """Return whether clients come back after a connection ended with this code."""
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

#: All errors of the protocol by their codes.
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
UNSUBSCRIBE_INSUFFICIENT: Final = Unsubscribe(2500, 'insufficient state')
UNSUBSCRIBE_EXPIRED: Final = Unsubscribe(2501, 'subscription expired')
UNSUBSCRIBE_INVALIDATED: Final = Unsubscribe(2502, 'state invalidated')

#: All unsubscribe codes of the protocol.
UNSUBSCRIBES: Final[dict[int, Unsubscribe]] = {
    row.code: row
    for row in (
        UNSUBSCRIBE_SERVER,
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

#: All disconnect codes of the protocol.
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

# What a client does after each is the point: somebody without rights must not come
# back for ever, and a broken server must not lose its clients for good.
_DISCONNECT_BY_STATUS: Final[dict[int, Disconnect]] = {
    401: DISCONNECT_INVALID_TOKEN,
    403: DISCONNECT_PERMISSION_DENIED,
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


def error_in_words(error: ReplyError, words: str | None) -> ReplyError:
    """Return an error whose message is the application's own, if it has one."""
    return error._replace(message=words[:_MAX_MESSAGE_CHARACTERS]) if words else error


def disconnect_in_words(disconnect: Disconnect, words: str | None) -> Disconnect:
    """Return a disconnect whose reason is the application's own, if it can be one.

    NOTE: RFC 6455 section 5.5 leaves 123 bytes for it, and SDKs look for JSON in it.
    """
    if not words:
        return disconnect
    reason = words.encode()[:MAX_REASON_BYTES].decode(errors='ignore')
    try:
        msgspec.json.decode(reason)
    except msgspec.DecodeError:
        return disconnect._replace(reason=reason)
    return disconnect


def disconnect_for_status(status: int) -> Disconnect:
    """Return how a connection ends where the application raised an HTTP status.

    401 is 3500, 403 is 3507, 429 is 3013, 503 is 3001, other 4xx are 3501; all else
    is a fault of the server's side, 3004, after which clients come back.
    """
    row = _DISCONNECT_BY_STATUS.get(status)
    if row is not None:
        return row
    return DISCONNECT_BAD_REQUEST if 400 <= status <= 499 else DISCONNECT_INTERNAL


def error_for_status(status: int) -> ReplyError:
    """Return what a command is answered where the application raised an HTTP status.

    401 is 101, 403 is 103, 404 is 102, 405 and 501 are 108, 413 is 106, 429 is 111,
    other 4xx are 107; all else is 100, which is temporary.
    """
    row = _ERROR_BY_STATUS.get(status)
    if row is not None:
        return row
    return BAD_REQUEST if 400 <= status <= 499 else INTERNAL
