"""Errors and close codes.

::

    ChannelsError
     +-- OptionsError (ValueError)        options contradict each other
     +-- ChannelNameError (ValueError)    not a channel name
     +-- UnknownChannelError              no route matches the name
     +-- AlreadySubscribedError (ValueError)
     +-- TooManyChannelsError
     +-- PublicationTooLargeError
     +-- PayloadError (ValueError)        the data cannot be a publication
     +-- InvalidValueError (ValueError)   a user, info or time cannot be used
     +-- ProtocolError                    a client broke the rules of its protocol
     +-- TokenError
     |    +-- TokenExpiredError           it was valid; fetch a new one
     |    +-- TokenInvalidError           it is none of ours
     +-- ExtraMissingError (ImportError)  an optional dependency is not installed
     +-- BrokerError
     |    +-- BrokerUnavailableError      the store cannot be reached; try again
     |    +-- CapabilityError             the broker cannot do what options ask
     |    +-- PositionError               the position is of another log
     +-- ClosedError                      the Channels object is closed or draining
     +-- EventLoopError (RuntimeError)    it belongs to another event loop
     +-- UnsubscribedError                a server-side subscription was ended
"""

from __future__ import annotations


class ChannelsError(Exception):
    """Base of every error that this package raises by itself."""


class OptionsError(ChannelsError, ValueError):
    """Options that contradict each other, or a value out of range."""


class ChannelNameError(ChannelsError, ValueError):
    """A channel name that is empty, too long or has control characters."""


class UnknownChannelError(ChannelsError):
    """No route matches this channel.

    Attributes:
        channel: The name that was asked for.
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
    """The connection is subscribed to as many channels as it may be.

    Attributes:
        limit: `NodeOptions.max_channels_per_connection`.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            f'the connection has max_channels_per_connection of {limit} channels'
        )
        self.limit = limit


class PublicationTooLargeError(ChannelsError):
    """A publication over the limit of its channel.

    Attributes:
        size_bytes: What the payload measures.
        limit_bytes: ``max_publication_bytes`` of the channel.
    """

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f'publication of {size_bytes} bytes exceeds '
            f'max_publication_bytes of {limit_bytes}'
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class PayloadError(ChannelsError, ValueError):
    """Data that cannot be a publication: not JSON, or not of the route's type."""


class InvalidValueError(ChannelsError, ValueError):
    """A value that the application gives a connection or subscription cannot be used.

    It is raised where the value is set, so that the traceback shows the line.
    """


class ProtocolError(ChannelsError):
    """Bytes that are not what the client protocol allows.

    Close the connection with `code` and `reason`. The error's own text has details;
    it is for a log and not for the client.

    Attributes:
        code: The close code, 3501 where nothing more fitting is known.
        reason: What to tell the client.
    """

    def __init__(
        self, detail: str, code: int = 3501, reason: str = 'bad request'
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason


class TokenError(ChannelsError):
    """A token that does not let its bearer in. The text is not for the client."""


class TokenExpiredError(TokenError):
    """A token whose time is over; its client should fetch a new one."""


class TokenInvalidError(TokenError):
    """A token that is malformed, forged, or meant for something else."""


class ExtraMissingError(ChannelsError, ImportError):
    """Something was asked for that needs an optional dependency.

    Attributes:
        extra: Name of the extra that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs an extra: pip install 'falcon-channels[{extra}]'"
        )
        self.extra = extra


class BrokerError(ChannelsError):
    """A broker could not do what it was asked."""


class BrokerUnavailableError(BrokerError):
    """The store of the broker cannot be reached or did not answer in time.

    A publish that raises this may have been stored or not. Publish again with the
    same idempotency key: it is then stored once.
    """


class CapabilityError(BrokerError):
    """Options ask for something that this broker cannot do; raised at start-up."""


class PositionError(BrokerError):
    """A position of another log, or one that the log no longer reaches back to."""


class ClosedError(ChannelsError):
    """The Channels object is closed, or drains its connections."""


class EventLoopError(ChannelsError, RuntimeError):
    """The Channels object was started in another event loop, and is used there only.

    From threads call it through a `falcon_channels.portal.Portal`. A program that runs
    one event loop after the other closes it in each: ``async with channels:``.
    """

    def __init__(self) -> None:
        super().__init__(
            'these channels were started in another event loop: from a thread call '
            'them through falcon_channels.portal.Portal(channels); with one '
            'asyncio.run() after the other write "async with channels:" in each'
        )


class UnsubscribedError(ChannelsError):
    """A server-side subscription was ended by the hub.

    Attributes:
        code: Why: an unsubscribe code such as 2500 (insufficient state).
        reason: The same in words.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f'unsubscribed with code {code}: {reason}')
        self.code = code
        self.reason = reason
