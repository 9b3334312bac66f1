"""A connection's interest in one channel."""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Any
from typing import TYPE_CHECKING

from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication

if TYPE_CHECKING:
    from falcon_channels.hub.connection import Connection
    from falcon_channels.routing import ChannelRoute
    from falcon_channels.transports.encoders import Item


class SubscriptionState(IntEnum):
    """Where a subscription is in its life; see `channel` for what follows from it."""

    #: It is being authorised, or reads what it missed.
    JOINING = 0
    #: It stands where its channel stands.
    LIVE = 1
    #: It has read further than its channel, and waits for the channel to catch up.
    AHEAD = 2
    #: Its client reads too slowly; what is published is kept or dropped for it.
    LAGGING = 3
    #: It is over.
    ENDED = 4


class Subscription:
    """A connection's interest in one channel; ``on_subscribe`` receives it.

    Attributes:
        channel: Name of the channel.
        params: Fields of the channel's template, converted.
        connection: Whose it is.
        data: What the client sent with its request, as Python values, or ``None``;
            ``on_subscribe`` may set what the client gets back in `reply`.
        reply: Data for the client, any JSON value, or ``None``.
        info: Public facts about this subscription, any JSON value, shown to others
            in presence, joins, leaves and publications; or ``None``.
        server_side: Whether the application subscribed the connection, and not the
            client.
        token_verified: Whether the client brought a valid token for this channel.
        expires_at: Unix time in seconds after which it ends unless it is refreshed, or
            ``None``.
    """

    __slots__ = (
        'channel',
        'connection',
        'data',
        'end',
        'expires_at',
        'info',
        'joined',
        'kept',
        'kept_bytes',
        'offset',
        'params',
        'pending',
        'pending_bytes',
        'pending_epoch',
        'present',
        'reply',
        'route',
        'server_side',
        'state',
        'token_verified',
    )

    def __init__(
        self,
        connection: Connection,
        channel: str,
        route: ChannelRoute,
        params: dict[str, Any],
        data: Any = None,
    ) -> None:
        self.connection = connection
        self.channel = channel
        self.route = route
        self.params = params
        self.data = data
        self.reply: Any = None
        self.info: Any = None
        self.expires_at: float | None = None
        self.server_side = False
        self.token_verified = False
        self.state = SubscriptionState.JOINING
        #: Code and reason, where it was ended from this side.
        self.end: tuple[int, str] | None = None
        #: Whether it ever was more than JOINING.
        self.joined = False
        #: The last offset it was given; true only while it is not LIVE.
        self.offset = 0
        #: While JOINING: what is published meanwhile, and its bytes; ``None``: not yet.
        self.kept: list[tuple[Publication, str]] | None = None
        self.kept_bytes = 0
        #: While LAGGING: what waits for the client, its bytes, and of which log it is.
        self.pending: deque[Item] | None = None
        self.pending_bytes = 0
        self.pending_epoch = ''
        #: Its entry in the channel's presence, once that is made.
        self.present: ClientInfo | None = None

    @property
    def user(self) -> str:
        """Id of the connection's user, ``''`` for somebody anonymous."""
        return self.connection.user

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state is SubscriptionState.ENDED

    def __repr__(self) -> str:
        return (
            f'<Subscription {self.channel!r} of {self.connection.id} '
            f'{self.state.name.lower()}>'
        )
