"""Errors that this package raises.

::

    ChannelsError
     +-- OptionsError (ValueError)        an option is out of range or contradictory
     +-- ChannelNameError (ValueError)    a value is not a channel name
     +-- UnknownChannelError              no route matches the channel name
     +-- AlreadySubscribedError (ValueError)  the connection is subscribed already
     +-- TooManyChannelsError             max_channels_per_connection is reached
     +-- TooManyUsersError                max_recorded_users is reached
     +-- PublicationTooLargeError         the payload exceeds max_publication_bytes
     +-- ChannelFinishedError             the channel has ended
     |    +-- StreamAbortedError          a reader has aborted the stream
     +-- StreamConflictError              another writer has written to the stream
     +-- PayloadError (ValueError)        the data cannot be published or sent
     +-- InvalidValueError (ValueError)   a user, info or time cannot be used
     +-- ProtocolError                    a client broke the rules of the protocol
     +-- TokenError                       a token was refused
     |    +-- TokenExpiredError           it was valid; the client gets a new one
     |    +-- TokenInvalidError           it is malformed, forged or for another use
     |    +-- KeysUnavailableError        its key cannot be fetched now; try again
     +-- ExtraMissingError (ImportError)  an optional dependency is not installed
     +-- BrokerError                      the broker failed
     |    +-- BrokerUnavailableError      the store does not answer; try again
     |    +-- CapabilityError             the broker lacks a feature that options need
     |    +-- PositionError               the position is not in this log
     +-- ClosedError                      the Channels object is closed or draining
     +-- EventLoopError (RuntimeError)    the call came from another event loop
     +-- UnsubscribedError                a server-side subscription was ended
"""

from __future__ import annotations


class ChannelsError(Exception):
    """Base class of all errors of this package."""


class OptionsError(ChannelsError, ValueError):
    """An option is out of range, or two options contradict each other.

    Raised when the options object is created. The message names the options.
    """


class ChannelNameError(ChannelsError, ValueError):
    """A channel name is empty, too long, or has characters that are not allowed."""


class UnknownChannelError(ChannelsError):
    """No route matches the name of a channel.

    Attributes:
        channel: The name without a route.
    """

    def __init__(self, channel: str) -> None:
        super().__init__(
            f'no route matches the channel {channel!r}; '
            "add one with channels.add_route('template', resource)"
        )
        self.channel = channel


class AlreadySubscribedError(ChannelsError, ValueError):
    """The connection is subscribed to the channel already.

    Attributes:
        channel: Name of the channel.
    """

    def __init__(self, channel: str) -> None:
        super().__init__(f'{channel!r} is subscribed already')
        self.channel = channel


class TooManyChannelsError(ChannelsError):
    """The connection has reached its maximum number of channels.

    Attributes:
        limit: The maximum, `NodeOptions.max_channels_per_connection`.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            f'the connection has max_channels_per_connection of {limit} channels'
        )
        self.limit = limit


class TooManyUsersError(ChannelsError):
    """A node records its maximum number of users already.

    Attributes:
        limit: The maximum, `NodeOptions.max_recorded_users`.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            f'max_recorded_users of {limit} users are recorded already: end one of '
            'them with for_s=0'
        )
        self.limit = limit


class PublicationTooLargeError(ChannelsError):
    """A payload exceeds the limit of its channel.

    Attributes:
        size_bytes: Size of the payload in bytes.
        limit_bytes: `ChannelOptions.max_publication_bytes` of the channel.
    """

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f'publication of {size_bytes} bytes exceeds '
            f'max_publication_bytes of {limit_bytes}'
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class ChannelFinishedError(ChannelsError):
    """The channel has ended, so that nothing can be published to it.

    `Channels.remove_history` opens it again.

    Attributes:
        channel: Name of the channel.
    """

    def __init__(self, channel: str) -> None:
        super().__init__(self._message(channel))
        self.channel = channel

    def _message(self, channel: str) -> str:
        return (
            f'the channel {channel!r} is finished: nothing can be published to it '
            'until remove_history opens it again'
        )


class StreamAbortedError(ChannelFinishedError):
    """A stream was aborted with `Channels.abort_stream`, so nothing can be written.

    Within the block of the stream, let it pass: the block then ends without an error.

    Attributes:
        channel: Name of the channel.
    """

    def _message(self, channel: str) -> str:
        return f'the stream {channel!r} was aborted: stop writing to it'


class StreamConflictError(ChannelsError):
    """Another writer has written to the stream since this writer opened it.

    This writer has stopped, and the other one continues. If no other writer exists any
    more, open the stream again, and continue after its length.

    Attributes:
        channel: Name of the channel.
    """

    def __init__(self, channel: str) -> None:
        super().__init__(
            f'another writer has written to the stream {channel!r}: let it continue, '
            'or open the stream again and continue after stream.length'
        )
        self.channel = channel


class PayloadError(ChannelsError, ValueError):
    """Data cannot be a publication: it is not JSON, or not of the route's type.

    Also raised if a binary publication must be sent as JSON.
    """


class InvalidValueError(ChannelsError, ValueError):
    """A value that the application gives a connection or subscription cannot be used.

    It is raised where the value is set, so that the traceback shows the line.
    """


class ProtocolError(ChannelsError):
    """A client sent bytes that the client protocol does not allow.

    Close the connection with `code` and `reason`. The message of the error has the
    details; write it to a log, and do not send it to the client.

    Attributes:
        code: Close code for the client, by default 3501.
        reason: Close reason for the client, by default ``'bad request'``.
    """

    def __init__(
        self, detail: str, code: int = 3501, reason: str = 'bad request'
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason


class TokenError(ChannelsError):
    """A token was refused. Do not send the message to the client."""


class TokenExpiredError(TokenError):
    """A valid token has expired. The client should fetch a new one."""


class TokenInvalidError(TokenError):
    """A token is malformed, forged, or meant for another use."""


class KeysUnavailableError(TokenError):
    """The keys of an issuer cannot be fetched now. The client should try again."""


class ExtraMissingError(ChannelsError, ImportError):
    """A feature needs an optional dependency that is not installed.

    Attributes:
        extra: Name of the extra that installs it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs an extra: pip install 'falcon-channels[{extra}]'"
        )
        self.extra = extra


class BrokerError(ChannelsError):
    """A broker could not do its work."""


class BrokerUnavailableError(BrokerError):
    """The broker's store cannot be reached, or did not answer in time.

    If a publish raises this error, the publication may or may not be stored. Publish it
    again with the same idempotency key; it is then stored only once.
    """


class CapabilityError(BrokerError):
    """Options need a feature that this broker lacks. Raised at start-up."""


class PositionError(BrokerError):
    """A position belongs to another log, or its publications are no longer stored.

    Load the state again, and continue from the current position.
    """


class ClosedError(ChannelsError):
    """The `Channels` object is closed, or is draining its connections."""


class EventLoopError(ChannelsError, RuntimeError):
    """The `Channels` object was started in another event loop.

    It works only in the event loop that started it. Threads call it through a
    `falcon_channels.portal.Portal`. A program that runs several event loops one after
    the other writes ``async with channels:`` in each of them.
    """

    def __init__(self) -> None:
        super().__init__(
            'the Channels object was started in another event loop: from a thread, '
            'call it through falcon_channels.portal.Portal(channels); with several '
            'asyncio.run() calls, write "async with channels:" in each'
        )


class UnsubscribedError(ChannelsError):
    """The hub ended a server-side subscription.

    Attributes:
        code: Unsubscribe or disconnect code, such as 2500 (insufficient state).
        reason: The reason as text.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f'unsubscribed with code {code}: {reason}')
        self.code = code
        self.reason = reason
