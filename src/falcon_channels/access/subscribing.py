"""Subscribe a connection to a channel, and end a subscription.

`Subscriber.subscribe` is the only function that subscribes a connection. All endpoints
call it. The order of its steps matters:

1. *Find the route.* A channel without a route does not exist. A client whose encoding
   cannot carry the channel's payloads is refused.
2. *Register the subscription* with the connection, in the state JOINING. From now on, a
   command that ends the subscription, such as `revoke_user`, finds it, also while a
   responder runs. A second request for the same channel is refused.
3. *Check the permission*: first the options of the route, then ``on_subscribe``. Both
   are skipped if the application itself subscribes the connection. Revocations are
   always checked.
4. *Call on_authorized*, where a plain WebSocket accepts its handshake. A client that
   may not subscribe is thereby refused before it is accepted.
5. *Join and recover* in the hub.
6. *Answer the client* in `on_joined`, before this coroutine awaits anything. The
   answer is therefore ahead of all publications.
   If the channel has ended, the subscription ends here. If it expires and its client
   cannot refresh it, a timer ends it later.
7. *Check the revocation again.* A revocation that arrived between steps 3 and 5 found
   no joined subscription to end.
8. *Enter presence.* This is last, so that others see only clients that stay.

After any error, the subscription is removed from the connection, the hub and presence.
"""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
import logging
from typing import Any
from typing import NamedTuple

import falcon

from falcon_channels.access.authorization import Authorizer
from falcon_channels.access.authorization import check_client_filter
from falcon_channels.access.authorization import check_encoding
from falcon_channels.access.expiry import SubscriptionExpiry
from falcon_channels.access.refusal_log import log_refusal
from falcon_channels.access.responders import notify
from falcon_channels.access.responders import text_for_client
from falcon_channels.cluster.messages import SubscribeUser
from falcon_channels.errors import AlreadySubscribedError
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import TooManyChannelsError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.filters import TagFilter
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.hub import Hub
from falcon_channels.hub.presence import PresenceKeeper
from falcon_channels.operations import Operation
from falcon_channels.operations import Operations
from falcon_channels.options import NodeOptions
from falcon_channels.protocol.codes import LIMIT_EXCEEDED
from falcon_channels.protocol.codes import UNSUBSCRIBE_INSUFFICIENT
from falcon_channels.protocol.codes import UNSUBSCRIBE_SERVER
from falcon_channels.publication import Newest
from falcon_channels.publication import Position
from falcon_channels.routing import ChannelMatch
from falcon_channels.routing import ChannelRoute

_logger = logging.getLogger('falcon_channels')


class TokenClaims(NamedTuple):
    """Claims of a verified subscription token.

    Attributes:
        info: Public information, any JSON value, or ``None``.
        expires_at: Unix time in seconds at which the subscription ends, or ``None``.
        filter: Condition on the tags of the publications that the client receives, or
            ``None``.
    """

    info: Any
    expires_at: float | None
    filter: TagFilter | None = None


class SubscribeOptions(NamedTuple):
    """How a connection is subscribed.

    Attributes:
        since: Position from which publications are recovered, a request for the newest
            publications, or ``None``.
        data: Data of the client's request for ``on_subscribe``, or ``None``.
        client_filter: Tag filter of the client's request, or ``None``.
        delta: Whether the client can receive deltas. They are sent if the options of
            the route allow them.
        token: Claims of a verified subscription token, or ``None``.
        server_side: Whether the application subscribes the connection, so that
            ``on_subscribe`` is not called.
        approved: Whether the application has allowed this client to subscribe. The
            options of the route then do not refuse the client, but ``on_subscribe`` is
            called.
        info: Public information about a server-side subscription, or ``None``.
        reply: Data for the client of a server-side subscription, or ``None``.
        filter: Tag filter of a server-side subscription, or ``None``.
        expires_at: Unix time in seconds at which a server-side subscription ends, or
            ``None``.
        join_leave: Whether the client wants joins and leaves. The route can send them
            to other clients too.
        presence: Whether the subscription is entered into presence.
        on_authorized: Awaited in step 4; an exception ends the subscription.
    """

    since: Position | Newest | None = None
    data: Any = None
    client_filter: TagFilter | None = None
    delta: bool = False
    token: TokenClaims | None = None
    server_side: bool = False
    approved: bool = False
    info: Any = None
    reply: Any = None
    filter: TagFilter | None = None
    expires_at: float | None = None
    join_leave: bool = True
    presence: bool = True
    on_authorized: Callable[[], Awaitable[None]] | None = None


_DEFAULT = SubscribeOptions()


class Subscriber:
    """Subscribes the connections of this process; see the module's docstring.

    Args:
        hub: Hub of this process.
        authorizer: Decides what a client may subscribe to.
        operations: Operations of this process.
        presence: Presence of this process's subscriptions.
        options: Limits; `max_channels_per_connection` is used here.
        match: Starts the node and finds the route of a channel.
    """

    def __init__(
        self,
        hub: Hub,
        authorizer: Authorizer,
        operations: Operations,
        presence: PresenceKeeper,
        options: NodeOptions,
        match: Callable[[str], Awaitable[ChannelMatch]],
    ) -> None:
        self._hub = hub
        self._authorizer = authorizer
        self._operations = operations
        self._presence = presence
        self._options = options
        self._match = match
        self._expiry = SubscriptionExpiry(hub)
        self._closed_routes: set[ChannelRoute] = set()
        #: `SubscribeUser` commands that have not begun, in order.
        self._pending: dict[Connection, list[SubscribeUser]] = {}
        #: Templates of the binary routes that refused a client.
        self._encoding_warned: set[str] = set()

    async def subscribe(
        self,
        connection: Connection,
        channel: str,
        on_joined: Callable[[Subscription, Joined], None],
        options: SubscribeOptions = _DEFAULT,
    ) -> Subscription:
        """Subscribe a connection to a channel.

        Args:
            connection: The connection; it is in the hub when step 5 begins.
            channel: Name of the channel.
            on_joined: Called with the subscription and its start. It answers the
                client, and must not await.
            options: See `SubscribeOptions`.

        Returns:
            The subscription. It may have ended already.

        Raises:
            ChannelNameError: The name is not a channel name.
            UnknownChannelError: No route matches.
            AlreadySubscribedError: The connection has a subscription to the channel.
            falcon.HTTPUnsupportedMediaType: The channel carries binary payloads, and
                the client uses JSON or text.
            falcon.HTTPBadRequest: The client sent a filter, and the route allows none.
            TooManyChannelsError: `max_channels_per_connection` is reached.
            falcon.HTTPForbidden: The user's right was revoked.
            falcon.HTTPServiceUnavailable: This process is draining.
            falcon.HTTPError: The responder refused.
            UnsubscribedError: The subscription was ended while it was made.
            BrokerUnavailableError: The client may try again.
            ClosedError: The hub is closed.
        """
        subscription = await self._register(connection, channel, options)
        try:
            await self._authorize(subscription, options)
            subscription.forget_data()
            if options.on_authorized is not None:
                # PERF: a channel that is open at the broker is joined without waiting,
                #   so that an accepted client is subscribed at once.
                await self._hub.joiner.prepare(channel, subscription.route.options)
                await options.on_authorized()
            joined = await self._join(subscription, options.since)
            on_joined(subscription, joined)
            self._expiry.start(subscription)
            if joined.end is not None:
                self._hub.finish(subscription, joined.end, joined.position)
            elif await self._may_stay(subscription) and options.presence:
                await self._presence.enter(subscription)
        except BaseException:
            self._hub.leave(subscription)
            raise
        return subscription

    def subscribe_for_application(
        self, connection: Connection, command: SubscribeUser
    ) -> None:
        """Begin to carry out a `SubscribeUser` command for one connection.

        A connection is skipped if its client cannot be subscribed by the server, or if
        it already has the subscription. It is also skipped if it has too many channels,
        or if its user was revoked.
        """
        if connection.closed or not connection.takes_subscriptions:
            return
        self._pending.setdefault(connection, []).append(command)
        task = self._hub.tasks.spawn(
            self._carry_out(connection, command),
            'subscribe by the server',
            context=connection.context,
        )
        if task is None:
            self._take(connection, command)

    def withdraw(self, connection: Connection, channel: str) -> None:
        """Called when the application ends the subscriptions of a connection.

        Subscriptions that have not begun are not made. The others are in
        `Connection.subscriptions`, and the caller ends them.

        Args:
            connection: The connection.
            channel: Name of the channel, or ``''`` for all channels.
        """
        connection.forget_channel(channel)
        for command in list(self._pending.get(connection, ())):
            if channel in ('', command.channel):
                self._take(connection, command)

    def _take(self, connection: Connection, command: SubscribeUser) -> bool:
        """Remove a command that has not begun; return whether it was there."""
        pending = self._pending.get(connection, [])
        for number, other in enumerate(pending):
            if other is command:
                del pending[number]
                if not pending:
                    del self._pending[connection]
                return True
        return False

    async def _carry_out(self, connection: Connection, command: SubscribeUser) -> None:
        try:
            # NOTE: an SDK drops a push that arrives before the connect reply.
            await connection.wait_until_connected()
        finally:
            wanted = self._take(connection, command)
        if not wanted or connection.closed:
            return
        options = SubscribeOptions(
            since=command.since,
            server_side=True,
            info=command.info,
            reply=command.data,
            filter=command.filter,
            expires_at=command.expires_at,
        )
        try:
            await self.subscribe(
                connection, command.channel, connection.on_subscribed, options
            )
        except (AlreadySubscribedError, UnsubscribedError) as ex:
            _logger.debug('%r was not subscribed by the server: %s', connection, ex)
        except (TooManyChannelsError, falcon.HTTPError) as ex:
            # NOTE: the caller of `subscribe_user` does not see this error, and may be
            #   on another node.
            if isinstance(ex, falcon.HTTPError):
                code, text = ex.status_code, text_for_client(ex)
            else:
                code, text = LIMIT_EXCEEDED.code, str(ex)
            log_refusal(connection, 'subscribe_user', command.channel, code, text)
        except (
            BrokerUnavailableError,
            ChannelNameError,
            ClosedError,
            UnknownChannelError,
        ) as ex:
            # NOTE: the command may come from a node that has other routes.
            _logger.warning('cannot subscribe %r by the server: %s', connection, ex)
        except (InvalidValueError, PayloadError) as ex:
            # NOTE: the log has a binary publication, which a process with other options
            #   has published.
            _logger.warning('cannot subscribe %r by the server: %s', connection, ex)

    def on_left(self, subscription: Subscription) -> None:
        """Called when a subscription has ended: leave presence, call the responder."""
        self._expiry.stop(subscription)
        self._presence.on_left(subscription)
        responder = subscription.route.on_unsubscribe
        connection = subscription.connection
        # NOTE: a local subscription has no request. The responder is not called for it.
        is_local = connection.req is None
        if responder is not None and subscription.joined and not is_local:
            notify(
                self._hub,
                self._operations,
                responder,
                'on_unsubscribe',
                connection,
                subscription,
                connection.req,
                subscription,
                **subscription.params,
            )

    def on_expiry_changed(self, subscription: Subscription) -> None:
        """Called when `Subscription.expires_at` was set after the join."""
        self._expiry.start(subscription)

    # --- the steps -------------------------------------------------------------------

    async def _register(
        self, connection: Connection, channel: str, options: SubscribeOptions
    ) -> Subscription:
        if channel in connection.subscriptions:
            raise AlreadySubscribedError(channel)
        match = await self._match(channel)
        if channel in connection.subscriptions:
            raise AlreadySubscribedError(channel)
        self._check_encoding(match.route, connection, channel)
        if options.client_filter is not None:
            check_client_filter(match.route, channel)
        limit = self._options.max_channels_per_connection
        if len(connection.subscriptions) >= limit:
            raise TooManyChannelsError(limit)
        subscription = Subscription(
            connection,
            channel,
            match.route,
            # NOTE: the application may change the values of a subscription.
            match.params.copy(),
            data=options.data,
            info=options.info,
            reply=options.reply,
            expires_at=options.expires_at,
            server_side=options.server_side,
            tag_filter=options.filter,
            client_filter=options.client_filter,
            delta=options.delta and match.route.options.delta,
            join_leave=options.join_leave or match.route.options.force_join_leave,
        )
        if options.token is not None:
            subscription.apply_token(
                info=options.token.info, expires_at=options.token.expires_at
            )
            subscription.set_token_filter(options.token.filter)
        connection.add_subscription(subscription)
        return subscription

    async def _join(
        self, subscription: Subscription, since: Position | Newest | None
    ) -> Joined:
        if since is None or not self._operations.wanted:
            return await self._hub.joiner.join(subscription, since)
        operation = Operation(
            'recovery',
            channel=subscription.channel,
            route=subscription.route.template,
        )
        with self._operations.time(operation):
            joined = await self._hub.joiner.join(subscription, since)
            operation.num_publications = len(joined.publications)
            operation.num_bytes = joined.size_bytes
            return joined

    def _check_encoding(
        self, route: ChannelRoute, connection: Connection, channel: str
    ) -> None:
        try:
            check_encoding(route, connection, channel)
        except falcon.HTTPUnsupportedMediaType as ex:
            # NOTE: every client can cause this refusal. It is therefore logged once per
            #   route.
            if route.template not in self._encoding_warned:
                self._encoding_warned.add(route.template)
                _logger.warning(
                    'cannot subscribe %r: %s. Its route %r has '
                    'ChannelOptions(binary=True). Without this option, the channel '
                    'carries JSON for all clients',
                    connection,
                    ex.description,
                    route.template,
                )
            raise

    async def _authorize(
        self, subscription: Subscription, options: SubscribeOptions
    ) -> None:
        if subscription.server_side:
            return
        if self._hub.draining:
            raise falcon.HTTPServiceUnavailable(description='shutting down')
        await self._authorizer.refuse_revoked(subscription.user, subscription.channel)
        approved = options.approved or options.token is not None
        route = subscription.route
        if route.subscribers == 'nobody' and not approved:
            self._warn_of_closed_route(route)
        await self._authorizer.authorize_subscribe(subscription, approved=approved)

    def _warn_of_closed_route(self, route: ChannelRoute) -> None:
        """Log once for each route that it is closed, because this may be a mistake."""
        if route in self._closed_routes:
            return
        self._closed_routes.add(route)
        _logger.warning(
            'route %r has no on_subscribe, so clients may not subscribe to its '
            'channels. If its channels are private, nothing is wrong. Otherwise, add '
            'on_subscribe to its resource, or open it to clients with a user with '
            "ChannelOptions(subscribers='users'), or to all clients with "
            "subscribers='anybody'",
            route.template,
        )

    async def _may_stay(self, subscription: Subscription) -> bool:
        user = subscription.user
        try:
            if not await self._authorizer.is_revoked(user, subscription.channel):
                return True
            self._hub.unsubscribe(subscription, *UNSUBSCRIBE_SERVER)
        except BrokerUnavailableError:
            # SECURITY: a revoked user would stay while the broker cannot be reached.
            #   The subscription ends, and the client subscribes again.
            self._hub.unsubscribe(subscription, *UNSUBSCRIBE_INSUFFICIENT)
        return False
