"""Translate the errors of a command to codes of the protocol.

A command raises `RefusedError` to be answered with an error, and `EndedError` to end
the connection. `refusal_for` translates all other errors.
"""

from __future__ import annotations

import falcon

from falcon_channels.access.responders import description_for_client
from falcon_channels.errors import AlreadySubscribedError
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ChannelsError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import KeysUnavailableError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import PositionError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.errors import TokenExpiredError
from falcon_channels.errors import TokenInvalidError
from falcon_channels.errors import TooManyChannelsError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.protocol import codes


class RefusedError(ChannelsError):
    """Raised to answer a command with an error."""

    def __init__(self, error: codes.ReplyError) -> None:
        super().__init__(error.message)
        self.error = error


class EndedError(ChannelsError):
    """Raised by a command to end the connection."""

    def __init__(self, disconnect: codes.Disconnect) -> None:
        super().__init__(disconnect.reason)
        self.disconnect = disconnect


#: Errors whose text is meant for the client that sent the payload.
_FOR_CLIENTS = (PublicationTooLargeError, PayloadError)

_REFUSALS: tuple[tuple[type[Exception], codes.ReplyError], ...] = (
    (UnknownChannelError, codes.UNKNOWN_CHANNEL),
    (ChannelNameError, codes.BAD_REQUEST),
    (AlreadySubscribedError, codes.ALREADY_SUBSCRIBED),
    (TooManyChannelsError, codes.LIMIT_EXCEEDED),
    (PublicationTooLargeError, codes.LIMIT_EXCEEDED),
    (PayloadError, codes.BAD_REQUEST),
    (CapabilityError, codes.NOT_AVAILABLE),
    (
        ChannelFinishedError,
        codes.error_with_message(codes.NOT_AVAILABLE, 'the channel is finished'),
    ),
    (PositionError, codes.UNRECOVERABLE_POSITION),
    (TokenExpiredError, codes.TOKEN_EXPIRED),
    (TokenInvalidError, codes.PERMISSION_DENIED),
    (KeysUnavailableError, codes.INTERNAL),
    (BrokerUnavailableError, codes.INTERNAL),
    (ClosedError, codes.INTERNAL),
)


def refusal_for(ex: Exception) -> codes.ReplyError | None:
    """Return the protocol error for a command that raised `ex`.

    Returns:
        ``None`` if `ex` is unexpected: a bug, in the application or in this package.
    """
    if isinstance(ex, RefusedError):
        return ex.error
    if isinstance(ex, falcon.HTTPError):
        error = codes.error_for_status(ex.status_code)
        return codes.error_with_message(error, description_for_client(ex))
    for kind, error in _REFUSALS:
        if isinstance(ex, kind):
            # NOTE: other texts can hold details of the server and go to the log only.
            description = str(ex) if isinstance(ex, _FOR_CLIENTS) else None
            return codes.error_with_message(error, description)
    return None


def disconnect_for_unsubscribe(code: int) -> codes.Disconnect:
    """Return the disconnect that replaces an unsubscribe from a server-side channel.

    A client cannot subscribe to such a channel by itself. It must connect again.

    Args:
        code: Unsubscribe code of 2500 or above.
    """
    if code == codes.UNSUBSCRIBE_EXPIRED.code:
        return codes.DISCONNECT_SUB_EXPIRED
    if code == codes.UNSUBSCRIBE_INVALIDATED.code:
        return codes.DISCONNECT_INVALIDATED
    return codes.DISCONNECT_INSUFFICIENT
