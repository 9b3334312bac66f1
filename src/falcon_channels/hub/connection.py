"""A client of this process, and its subscriptions.

A `Connection` writes to its client, and reports events of the client to the hub. It
knows the hub only as a `ConnectionOwner`. Each kind of client (plain WebSocket, client
protocol, code of the application) has a subclass. The subclass sends the decisions of
the hub in the format of its client.

A `Subscription` holds the state of delivery of one channel to one connection. Only
`LocalChannel`, `Joiner` and `Hub` call the methods that change this state:

* JOINING: The subscription is being authorized, or its missed publications are being
  read. New publications are buffered for it once `start_buffering` was called.
* LIVE: It has received everything up to the position of its local channel.
* AHEAD: It has received more than its local channel. It is skipped until the local
  channel has reached its offset.
* LAGGING: Its client reads too slowly. New items are pending, up to a limit.
* ENDED: It has ended and never changes again.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Mapping
from contextvars import Context
from contextvars import copy_context
from enum import IntEnum
import secrets
import time
from types import MappingProxyType
from typing import Any
from typing import NamedTuple
from typing import Protocol
from typing import TypeVar

from falcon_channels.checks import check_time
from falcon_channels.checks import check_user
from falcon_channels.errors import InvalidValueError
from falcon_channels.events import Event
from falcon_channels.events import Events
from falcon_channels.events import Fact
from falcon_channels.filters import check_filter
from falcon_channels.filters import TagFilter
from falcon_channels.hub.selection import combined_selection
from falcon_channels.hub.selection import Selection
from falcon_channels.metrics import Counters
from falcon_channels.protocol.codes import DISCONNECT_EXPIRED
from falcon_channels.protocol.codes import DISCONNECT_SHUTDOWN
from falcon_channels.protocol.codes import unsubscribe_for_end
from falcon_channels.protocol.json_values import encode_json
from falcon_channels.protocol.json_values import NOT_JSON
from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.routing import ChannelRoute
from falcon_channels.transports.base import Transport
from falcon_channels.transports.encoders import Encoder
from falcon_channels.transports.encoders import Item

_AnyItem = TypeVar('_AnyItem', bound=Item)


class ConnectionOwner(Protocol):
    """Declares what a connection uses of the hub."""

    counters: Counters
    events: Events

    def on_output(self, connection: Connection) -> None:
        """Called when a connection has its first output in this iteration."""

    def remove(
        self,
        connection: Connection,
        code: int = 0,
        reason: str = '',
        *,
        by_client: bool = False,
        backlog_bytes: int | None = None,
    ) -> None:
        """Called when a connection has ended; see `Hub.remove`."""

    def on_user_changed(self, connection: Connection, before: str) -> None:
        """Called when `Connection.user` was set; `before` is the user until then."""

    def on_expiry_changed(self, subscription: Subscription) -> None:
        """Called when the time at which a subscription ends was set after its join."""

    def on_writable(self, connection: Connection) -> None:
        """Called when the client has read all pending output."""


class SubscriptionState(IntEnum):
    """The state of a subscription; the module docstring explains each one."""

    JOINING = 0
    LIVE = 1
    AHEAD = 2
    LAGGING = 3
    ENDED = 4


class ClientKind(NamedTuple):
    """How a client is connected.

    Attributes:
        transport: Name of the transport, such as ``'websocket'`` or ``'event_stream'``.
        protocol: Encoding: ``'json'``, ``'protobuf'``, ``'text'``, or ``''`` for none.
        app_name: Name that the client library gave, or ``''``.
        app_version: Version that the client gave, or ``''``.
    """

    transport: str
    protocol: str = ''
    app_name: str = ''
    app_version: str = ''


class Joined(NamedTuple):
    """The start of a subscription.

    Attributes:
        position: Position of the subscription, after `publications`.
        publications: Publications that the client missed, in order.
        recovered: Whether the client gets all publications that it missed. ``None``
            if it did not ask for recovery.
        size_bytes: Approximate size of `publications` when sent to a client.
        end: The end of the channel if it has ended at `position`, else ``None``. The
            subscription then ends after `publications`.
    """

    position: Position
    publications: list[Publication]
    recovered: bool | None
    size_bytes: int = 0
    end: ChannelEnd | None = None


class Subscription:
    """The subscription of a connection to a channel; ``on_subscribe`` receives it.

    Attributes:
        channel: Name of the channel.
        params: Fields of the channel's template, converted.
        connection: The subscribed connection.
        route: The route of the channel.
        data: Data that the client sent with its request, as Python values, or ``None``.
        reply: Data for the client, any JSON value, or ``None``. ``on_subscribe`` may
            set it.
        info: Public facts about this subscription, any JSON value, or ``None``. Other
            clients see it in presence, joins, leaves and publications.
        server_side: Whether the application, and not the client, asked for the
            subscription.
        filter: Condition on the tags of the publications that the client receives, made
            by `falcon_channels.filters`, or ``None``. ``on_subscribe`` may set it. The
            client can neither see nor remove it.
        client_filter: Filter that the client sent with its request, or ``None``. The
            client receives what matches both filters.
        delta: Whether the client receives publications as deltas. Never with a filter.
        join_leave: Whether the client receives joins and leaves, if the route has them.
            Initially ``True``, except for a client of an SDK that did not ask for them.
            ``on_subscribe`` may set it.
        token_verified: Whether the client sent a valid token for this channel.
        token_filter: Filter of this token, or ``None``.
        expires_at: Unix time in seconds at which the subscription ends if it is not
            refreshed, or ``None``. ``on_subscribe`` may set it, and so may later code.
            Only a client of an SDK can refresh a subscription. Other clients connect
            again.
        state: The state of delivery.
        joined: Whether the subscription has ever been LIVE or AHEAD.
        end: Unsubscribe code and reason if this process ended it, else ``None``.
        offset: In the states AHEAD and LAGGING, the offset of the last publication
            delivered to it.
        buffered: In the state JOINING, the publications taken since `start_buffering`,
            each with its epoch. ``None`` if they are not buffered or were too many.
        selection: The effect of both filters, or ``None`` if there is none.
        pending: In the state LAGGING, the items that wait for the client, else
            ``None``.
        pending_bytes: Size of the pending items.
        present: Its entry in the presence of the channel, or ``None``.
    """

    __slots__ = (
        '_buffered_bytes',
        '_delta',
        '_expires_at',
        '_filter',
        '_info',
        '_join_leave',
        '_pending_epoch',
        'buffered',
        'channel',
        'client_filter',
        'connection',
        'data',
        'end',
        'joined',
        'offset',
        'params',
        'pending',
        'pending_bytes',
        'present',
        'reply',
        'route',
        'selection',
        'server_side',
        'state',
        'token_filter',
        'token_verified',
    )

    def __init__(
        self,
        connection: Connection,
        channel: str,
        route: ChannelRoute,
        params: dict[str, Any],
        *,
        data: Any = None,
        info: Any = None,
        reply: Any = None,
        expires_at: float | None = None,
        server_side: bool = False,
        tag_filter: TagFilter | None = None,
        client_filter: TagFilter | None = None,
        delta: bool = False,
        join_leave: bool = True,
    ) -> None:
        self.connection = connection
        self._delta = delta
        self.channel = channel
        self.route = route
        self.params = params
        self.data = data
        self.reply = reply
        self.info = info
        self._expires_at = check_time('subscription.expires_at', expires_at)
        self.server_side = server_side
        self.token_verified = False
        self.token_filter: TagFilter | None = None
        self.state = SubscriptionState.JOINING
        self.client_filter = client_filter
        self.selection: Selection | None = None
        self.filter = tag_filter
        self.join_leave = join_leave
        self.joined = False
        self.end: tuple[int, str] | None = None
        self.offset = 0
        self.buffered: list[tuple[Publication, str]] | None = None
        self._buffered_bytes = 0
        self.pending: deque[Item] | None = None
        self.pending_bytes = 0
        self._pending_epoch = ''
        self.present: ClientInfo | None = None

    @property
    def user(self) -> str:
        """Id of the connection's user, ``''`` for an anonymous user."""
        return self.connection.user

    @property
    def info(self) -> Any:
        """Public facts about this subscription, any JSON value, or ``None``.

        Raises:
            InvalidValueError: A new value cannot be written as JSON.
        """
        return self._info

    @info.setter
    def info(self, info: Any) -> None:
        self._info = check_json('subscription.info', info)

    @property
    def expires_at(self) -> float | None:
        """Unix time in seconds at which the subscription ends, or ``None``.

        Raises:
            InvalidValueError: A new value is not a finite number.
        """
        return self._expires_at

    @expires_at.setter
    def expires_at(self, expires_at: float | None) -> None:
        self._expires_at = check_time('subscription.expires_at', expires_at)
        if self.joined and not self.ended:
            self.connection.on_expiry_changed(self)

    @property
    def filter(self) -> TagFilter | None:
        """Condition on the tags of the publications that the client receives.

        Raises:
            InvalidValueError: A new value is not a filter. Or the client receives
                publications already, which the new filter might not allow.
        """
        return self._filter

    @filter.setter
    def filter(self, tag_filter: TagFilter | None) -> None:
        tag_filter = check_filter('subscription.filter', tag_filter)
        self._check_joining('filter')
        self._filter = tag_filter
        self.selection = combined_selection(tag_filter, self.client_filter)

    @property
    def join_leave(self) -> bool:
        """Whether the client receives joins and leaves, if the route has them.

        Raises:
            InvalidValueError: A new value is not a bool, or the subscription has
                joined.
        """
        return self._join_leave

    @join_leave.setter
    def join_leave(self, join_leave: bool) -> None:
        if not isinstance(join_leave, bool):
            raise InvalidValueError(
                f'subscription.join_leave must be True or False, not {join_leave!r}'
            )
        self._check_joining('join_leave')
        self._join_leave = join_leave

    @property
    def encoder(self) -> Encoder:
        """Encoder of the items of the channel, for this client."""
        encoder = self.connection.encoder
        # PERF: without joins in the channel, all subscribers share one encoding.
        if self._join_leave or self.route.options.join_leave == 'off':
            return encoder
        return encoder.without_signals()

    def _check_joining(self, name: str) -> None:
        if self.state is not SubscriptionState.JOINING:
            raise InvalidValueError(
                f'subscription.{name} can be set by on_subscribe only, and not in the '
                f'state {self.state.name}: let the client subscribe again with '
                'channels.unsubscribe_user(user, channel, code=2500)'
            )

    @property
    def delta(self) -> bool:
        """Whether the client receives publications as deltas.

        NOTE: a publication that does not match a filter is not sent. The client would
        then lack the base of the next delta. Subscriptions with a filter therefore get
        no deltas.
        """
        return self._delta and self.selection is None

    @property
    def ended(self) -> bool:
        """Whether the subscription has ended."""
        return self.state is SubscriptionState.ENDED

    def forget_data(self) -> None:
        """Forget what the client sent to subscribe, after ``on_subscribe``."""
        self.data = None

    def apply_token(self, *, info: Any, expires_at: float | None) -> None:
        """Set the facts of a valid subscription token.

        Args:
            info: Public facts about the subscription, any JSON value, or ``None``.
            expires_at: Unix time in seconds at which the token expires, or ``None``.
        """
        self.info = info
        self.expires_at = expires_at
        self.token_verified = True

    def set_token_filter(self, tag_filter: TagFilter | None) -> None:
        """Set the filter of the token with which the client subscribes."""
        self.token_filter = self.filter = tag_filter

    # --- state of delivery -----------------------------------------------------------

    def select(self, items: list[_AnyItem]) -> list[_AnyItem]:
        """Return the items that match the filters; all of them without a filter."""
        return items if self.selection is None else self.selection.select(items)

    def start_buffering(self) -> None:
        """Start with an empty buffer for publications that arrive while JOINING."""
        self.buffered = []
        self._buffered_bytes = 0

    def buffer(self, publication: Publication, epoch: str, limit_bytes: int) -> None:
        """Buffer a publication; drop the whole buffer if it exceeds the limit."""
        if self.buffered is None:
            return
        self.buffered.append((publication, epoch))
        self._buffered_bytes += approximate_size_bytes(publication)
        if self._buffered_bytes > limit_bytes:
            self.buffered = None

    def go_live(self) -> None:
        """Enter the state LIVE."""
        self.state = SubscriptionState.LIVE
        self.joined = True
        self.buffered = None

    def go_ahead(self, offset: int) -> None:
        """Enter the state AHEAD: everything up to `offset` was delivered."""
        self.state = SubscriptionState.AHEAD
        self.offset = offset
        self.joined = True
        self.buffered = None

    def start_lagging(self, position: Position) -> None:
        """Enter the state LAGGING: everything up to `position` was delivered."""
        self.state = SubscriptionState.LAGGING
        self.offset = position.offset
        self.pending = deque()
        self.pending_bytes = 0
        self._pending_epoch = position.epoch

    def delivered_offset_in(self, epoch: str) -> int:
        """Return the last offset of a log that a LAGGING subscription received."""
        return self.offset if epoch == self._pending_epoch else 0

    def add_pending(
        self, items: Iterable[Item], epoch: str, limit_bytes: int, only_latest: bool
    ) -> int:
        """Add items for a LAGGING subscription; drop old ones above the limit.

        Args:
            items: The items, in order.
            epoch: Epoch of the log that they belong to.
            limit_bytes: Largest size of all pending items. The newest is never dropped.
            only_latest: Whether only the latest publication stays pending.

        Returns:
            How many items were dropped.
        """
        pending = self.pending
        assert pending is not None
        dropped = 0
        if self._pending_epoch != epoch:
            # NOTE: an offset is a position only with the epoch of its own log.
            #   Publications of the former log are therefore dropped.
            dropped += self._drop_pending_publications(pending)
            self._pending_epoch = epoch
            self.offset = 0
        for item in items:
            if only_latest and isinstance(item, Publication):
                if epoch and not item.offset:
                    # NOTE: a publication that is not stored is not a state of the
                    #   channel. It must not replace one.
                    dropped += 1
                    continue
                # NOTE: a publication does not replace joins and leaves. They stay.
                dropped += self._drop_pending_publications(pending)
            pending.append(item)
            self.pending_bytes += approximate_size_bytes(item)
            while len(pending) > 1 and self.pending_bytes > limit_bytes:
                self.pending_bytes -= approximate_size_bytes(pending.popleft())
                dropped += 1
        return dropped

    def stop_lagging(self) -> tuple[list[Item], str]:
        """Leave LAGGING for LIVE; return the pending items and their epoch."""
        items = list(self.pending or ())
        self.pending = None
        self.pending_bytes = 0
        self.go_live()
        return items, self._pending_epoch

    def end_with(self, code: int, reason: str) -> None:
        """Set the unsubscribe code and reason, before the subscription is removed."""
        self.end = code, reason

    def finish(self) -> None:
        """Enter the state ENDED."""
        self.state = SubscriptionState.ENDED
        self.buffered = None
        self.pending = None

    def _drop_pending_publications(self, pending: deque[Item]) -> int:
        """Drop publications, but no joins and leaves; return how many."""
        old = [item for item in pending if isinstance(item, Publication)]
        for item in old:
            pending.remove(item)
            self.pending_bytes -= approximate_size_bytes(item)
        return len(old)

    # --- events ----------------------------------------------------------------------

    def event(
        self,
        name: str,
        code: int = 0,
        reason: str = '',
        facts: Mapping[str, Fact] = MappingProxyType({}),
    ) -> Event:
        """Return an event about this subscription."""
        connection = self.connection
        return Event(
            name,
            connection=connection.id,
            user=connection.user,
            channel=self.channel,
            route=self.route.template,
            code=code,
            reason=reason,
            facts=facts,
        )

    # --- presence --------------------------------------------------------------------

    def set_present(self, info: ClientInfo) -> None:
        """Set the entry in presence, after the broker was asked to add it."""
        self.present = info

    def take_present(self) -> ClientInfo | None:
        """Return the entry in presence for its removal, at most once."""
        info, self.present = self.present, None
        return info

    def __repr__(self) -> str:
        return (
            f'<Subscription {self.channel!r} of {self.connection.id} '
            f'{self.state.name.lower()}>'
        )


class Connection(abc.ABC):
    """A client of this process.

    Args:
        hub: Owner of the connection, usually the hub.
        transport: Writes to the client.
        encoder: Encodes publications for the client.
        req: The request of the handshake, or ``None``.
        user: Id of the user, ``''`` for an anonymous user.
        info: Public facts about the connection, any JSON value, or ``None``.

    Attributes:
        id: Unique id, 128 random bits.
        info: Public facts about the connection, any JSON value, or ``None``.
        req: The request of the handshake, or ``None``.
        subscriptions: Subscriptions by channel name. Read only: see
            `add_subscription`.
        closed: Whether the connection has ended.
        connected_at: Unix time in seconds at which the object was made.
        takes_subscriptions: Whether the application can subscribe the connection
            (`on_subscribed`).
        refreshes_subscriptions: Whether the client can refresh a subscription before it
            expires. The subclass then ends expired subscriptions.
        out: Blobs that leave in one write at the end of this event-loop iteration.
            ``None`` if there are none; never empty.
        granted_bytes: Bytes that the client asked for. They do not count towards the
            backlog limit until the client has read all output once.
        context: Context variables of the handshake, for responders.
        num_commands: Number of commands of the application that changed this connection
            or ended a part of it.
    """

    takes_subscriptions = False
    refreshes_subscriptions = False

    #: Maximum number of reasons per connection that are logged above DEBUG.
    MAX_LOGGED_REFUSALS = 8

    __slots__ = (
        '_info',
        '_refusals',
        '_user',
        'closed',
        'connected_at',
        'context',
        'encoder',
        'granted_bytes',
        'hub',
        'id',
        'num_commands',
        'num_expiries',
        'out',
        'req',
        'subscriptions',
        'transport',
        'write',
    )

    hub: ConnectionOwner

    def __init__(
        self,
        hub: ConnectionOwner,
        transport: Transport,
        encoder: Encoder,
        req: Any = None,
        *,
        user: str | None = '',
        info: Any = None,
    ) -> None:
        self.hub = hub
        self.transport = transport
        self.encoder = encoder
        self.req = req
        self.id = secrets.token_urlsafe(16)
        self._user = check_user(user)
        self.info = info
        self.subscriptions: dict[str, Subscription] = {}
        self.closed = False
        self.connected_at = time.time()
        self.out: list[Any] | None = None
        self.granted_bytes = 0
        self.context: Context = copy_context()
        #: Hashes of the reasons of logged refusals.
        self._refusals: tuple[int, ...] = ()
        self.num_commands = 0
        #: Number of times that this connection or one of its subscriptions expired.
        self.num_expiries = 0
        # PERF: a stored bound method saves two look-ups for each delivery.
        self.write = transport.write

    @property
    def session(self) -> str:
        """Id of an emulated connection in its HTTP requests, else ``''``."""
        return ''

    @property
    def user(self) -> str:
        """Id of the user, ``''`` for an anonymous user. ``None`` is stored as ``''``.

        Raises:
            InvalidValueError: A new value is not text.
        """
        return self._user

    @user.setter
    def user(self, user: str | None) -> None:
        before, self._user = self._user, check_user(user)
        self.hub.on_user_changed(self, before)

    @property
    def num_rights_changes(self) -> int:
        """Number of commands and expiries, each of which can take a right away.

        Code that waits for a responder compares the number before and after the wait.
        If it has changed, the code checks the rights of the client again.
        """
        return self.num_commands + self.num_expiries

    @property
    def info(self) -> Any:
        """Public facts about the connection, any JSON value, or ``None``.

        Raises:
            InvalidValueError: A new value cannot be written as JSON.
        """
        return self._info

    @info.setter
    def info(self, info: Any) -> None:
        self._info = check_json('connection.info', info)

    @property
    def connected(self) -> bool:
        """Whether the client has been identified and accepted."""
        return True

    @property
    def backlog_bytes(self) -> int:
        """Bytes for the client that are still buffered in this process."""
        return self.transport.backlog_bytes

    @property
    def kind(self) -> ClientKind:
        """How the client is connected, for people who look at the connection."""
        return ClientKind('other')

    # --- messages to the client, by the subclass -------------------------------------

    @abc.abstractmethod
    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        """Called when the server has ended a subscription; tell the client.

        Args:
            subscription: The subscription, which has ended already.
            code: Unsubscribe code. With 2500 and above the client may subscribe again.
            reason: Text for logs.
        """

    def on_finished(
        self, subscription: Subscription, end: ChannelEnd, position: Position
    ) -> None:
        """Called when a channel has ended, after all its publications.

        Args:
            subscription: The subscription, which has ended already.
            end: How the channel has ended.
            position: Position of the end.
        """
        self.on_unsubscribed(subscription, *unsubscribe_for_end(end.error))

    def on_subscribed(self, subscription: Subscription, joined: Joined) -> None:
        """Called when the application has subscribed the connection; tell the client.

        Args:
            subscription: The subscription; `reply` has data for the client.
            joined: Its start, with publications to send at once.
        """
        raise NotImplementedError(
            f'{type(self).__name__} cannot be subscribed by the server: '
            'takes_subscriptions is False'
        )

    def on_refresh(self, expired: bool, expires_at: float | None, info: Any) -> None:
        """Called when the application calls `UserCommands.refresh_user`.

        Args:
            expired: Whether to close the connection as expired.
            expires_at: Unix time in seconds at which the connection expires. ``None``
                changes nothing. Subclasses whose connections expire store it.
            info: New public facts. ``None`` changes nothing.
        """
        if info is not None:
            self.info = info
        if expired:
            self.disconnect(*DISCONNECT_EXPIRED)

    def note_command(self) -> None:
        """Count a command of the application; see `num_rights_changes`."""
        self.num_commands += 1

    def note_expiry(self) -> None:
        """Count an expiry, just before its consequences; see `num_rights_changes`."""
        self.num_expiries += 1

    def on_expiry_changed(self, subscription: Subscription) -> None:
        """Called when `Subscription.expires_at` was set after the join."""
        self.hub.on_expiry_changed(subscription)

    def forget_channel(self, channel: str) -> None:
        """Called when the application ends the subscriptions to a channel.

        Args:
            channel: Name of the channel, or ``''`` for all channels. A subclass drops
                subscriptions that it has not started yet.
        """
        return

    async def wait_until_connected(self) -> None:
        """Wait until the client can be told about a subscription by the server."""
        return

    def on_end(self) -> None:
        """Called when the connection has ended; release resources of the subclass."""
        return

    def keep_context(self) -> None:
        """Store the current context variables for responders that are called later."""
        self.context = copy_context()

    # --- subscriptions ---------------------------------------------------------------

    def add_subscription(self, subscription: Subscription) -> None:
        """Register a subscription, so that it ends with the connection."""
        self.subscriptions[subscription.channel] = subscription

    def discard_subscription(self, subscription: Subscription) -> None:
        """Unregister a subscription, unless another one has taken its channel."""
        if self.subscriptions.get(subscription.channel) is subscription:
            del self.subscriptions[subscription.channel]

    # --- output ----------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Queue one message for the end of this event-loop iteration."""
        encoder = self.encoder
        self.send_blob(encoder.framing.frame([payload], binary=encoder.codec.binary))

    def send_blob(self, blob: Any) -> None:
        """Queue a blob in this connection's framing."""
        if self.closed:
            return
        if self.out is None:
            self.out = [blob]
            self.hub.on_output(self)
        else:
            self.out.append(blob)

    def queue(self, blob: Any) -> None:
        """Queue the first blob of this iteration; the caller calls `flush` later."""
        self.out = [blob]

    def flush(self) -> int:
        """Write all queued blobs; return the transport's backlog in bytes."""
        out = self.out
        if out is None:
            return 0
        self.out = None
        return self.write(out[0] if len(out) == 1 else self.encoder.framing.join(out))

    def grant(self, size_bytes: int) -> None:
        """Exempt bytes that the client asked for from the backlog limit."""
        self.granted_bytes += size_bytes

    def disconnect(self, code: int, reason: str) -> None:
        """Write all queued blobs, then close with a code.

        Args:
            code: Close code from 3000 to 4999.
            reason: Text, at most 123 bytes of UTF-8.
        """
        if self.closed:
            return
        self.flush()
        # NOTE: a transport may drop its backlog when it is closed.
        backlog_bytes = self.backlog_bytes
        self.transport.close(code, reason)
        self.hub.remove(self, code, reason, backlog_bytes=backlog_bytes)

    def shutdown(self) -> None:
        """Close because this process is about to end; the client reconnects."""
        self.disconnect(*DISCONNECT_SHUTDOWN)

    def mark_closed(self) -> None:
        """Mark the connection as ended, and drop queued output."""
        self.closed = True
        self.out = None

    def client_info(self, subscription: Subscription | None = None) -> ClientInfo:
        """Return the facts about this connection that other clients may see."""
        conn_info = None if self.info is None else encode_json(self.info)
        chan_info = None
        if subscription is not None and subscription.info is not None:
            chan_info = encode_json(subscription.info)
        return ClientInfo(
            user=self.user, client=self.id, conn_info=conn_info, chan_info=chan_info
        )

    def is_new_refusal(self, reason: Hashable) -> bool:
        """Remember why the client was refused; return whether to log the refusal.

        Returns:
            Whether the reason is new, and one of the first `MAX_LOGGED_REFUSALS`.
        """
        # PERF: a tuple of numbers, because most connections are never refused.
        mark = hash(reason)
        if mark in self._refusals or len(self._refusals) >= self.MAX_LOGGED_REFUSALS:
            return False
        self._refusals += (mark,)
        return True

    def on_all_read(self) -> None:
        """Called when the client has read all pending output."""
        self.granted_bytes = 0

    # --- Receiver: called by the transport -------------------------------------------

    def on_writable(self) -> None:
        """Called when the transport has no backlog any more."""
        self.hub.on_writable(self)

    def on_closed(self, code: int, reason: str) -> None:
        """Called when the transport was closed by the client or was lost."""
        self.hub.remove(self, code, reason, by_client=True)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.id} user={self.user!r}>'


def check_json(name: str, value: Any) -> Any:
    """Return a value that can be written as JSON.

    Raises:
        InvalidValueError: The value cannot be written as JSON.
    """
    if value is not None:
        try:
            encode_json(value)
        except NOT_JSON as ex:
            raise InvalidValueError(f'{name} cannot be written as JSON: {ex}') from None
    return value
