"""What a client may do: the route's options and the resource's responders decide.

A responder refuses by raising an `HTTPError`. Each endpoint translates it for its
client. If a route has no responder, its options decide. By default, they then let no
client subscribe or publish. Presence and history require a subscription. A client that
may not subscribe may therefore not read them either. If the right of a user to a
channel was revoked, the user can do nothing there, even if a responder allows it.
"""

from __future__ import annotations

from typing import Any

import falcon
import msgspec

from falcon_channels.access.publication_parts import check_labels
from falcon_channels.access.publication_parts import check_size
from falcon_channels.access.publication_parts import encode_publication
from falcon_channels.brokers.base import Broker
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import PayloadError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState
from falcon_channels.json_decoding import decode_json
from falcon_channels.operations import Operations
from falcon_channels.options import ChannelOptions
from falcon_channels.publication import Publication
from falcon_channels.routing import ChannelMatch
from falcon_channels.routing import ChannelRoute


class PublicationDraft:
    """A publication of a client; ``on_publish`` receives it and may change it.

    Attributes:
        channel: Name of the channel.
        connection: Connection of the client.
        tags: Labels beside the payload, a dict from text to text, or ``None``.
        delta: Whether it may be sent as a delta; ``True`` by default.
        idempotency_key: See `Channels.publish`; ``None`` by default.
    """

    __slots__ = (
        '_binary',
        '_data',
        '_decoded',
        '_options',
        '_raw',
        'channel',
        'connection',
        'delta',
        'idempotency_key',
        'tags',
    )

    def __init__(
        self,
        channel: str,
        connection: Connection,
        raw: bytes,
        *,
        binary: bool,
        options: ChannelOptions,
    ) -> None:
        self.channel = channel
        self.connection = connection
        self.tags: dict[str, str] | None = None
        self.delta = True
        self.idempotency_key: str | None = None
        self._raw = raw
        self._binary = binary
        self._options = options
        self._decoded = False
        self._data: Any = None

    @property
    def user(self) -> str:
        """Id of the connection's user, ``''`` for an anonymous client."""
        return self.connection.user

    @property
    def data(self) -> Any:
        """Payload as Python values, decoded when it is first read.

        It has the type `ChannelOptions.data_type` if the route sets one. It can be set;
        `bytes` must be JSON text, unless the channel has
        ``ChannelOptions(binary=True)``.

        Raises:
            InvalidValueError: A new value cannot be sent.
        """
        if not self._decoded:
            data_type = self._options.data_type
            self._data = (
                self._raw
                if self._binary
                else decode_json(self._raw)
                if data_type is None
                else msgspec.json.decode(self._raw, type=data_type)
            )
            self._decoded = True
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self._data = value
        self._decoded = True
        self._raw, self._binary = self._encode(value)

    @property
    def binary(self) -> bool:
        """Whether the payload is binary, and not JSON."""
        return self._binary

    def payload(self) -> tuple[bytes, bool]:
        """Return the payload as it is stored, and whether it is binary."""
        if self._decoded and not self._binary:
            # NOTE: `on_publish` may have changed the values in place.
            return self._encode(self._data)
        return self._raw, self._binary

    def _encode(self, data: Any) -> tuple[bytes, bool]:
        """Encode data that ``on_publish`` has set or changed.

        Raises:
            InvalidValueError: The data cannot be sent. This is not the client's fault.
        """
        try:
            return encode_publication(self._options, self.channel, data)
        except PayloadError as ex:
            raise InvalidValueError(f'publication.data: {ex}') from None


def check_encoding(route: ChannelRoute, connection: Connection, channel: str) -> None:
    """Check that a client can receive the publications of a channel.

    Raises:
        falcon.HTTPUnsupportedMediaType: The channel may carry payloads that are not
            JSON, and the client uses JSON or text.
    """
    if route.options.binary and not connection.encoder.carries_binary:
        raise falcon.HTTPUnsupportedMediaType(
            description=f'channel {channel!r} carries binary payloads: use Protobuf'
        )


def check_client_filter(route: ChannelRoute, channel: str) -> None:
    """Check that a client may send a tag filter for a channel.

    Raises:
        falcon.HTTPBadRequest: The route does not allow it. If the filter were ignored,
            the client would receive publications that it did not ask for.
    """
    if not route.options.client_filters:
        raise falcon.HTTPBadRequest(
            description=f'channel {channel!r} accepts no tag filter of a client'
        )


class Authorizer:
    """Decides what a client may do.

    Args:
        broker: Broker that knows revocations.
        operations: Operations of this process.
    """

    def __init__(self, broker: Broker, operations: Operations) -> None:
        self._broker = broker
        self._operations = operations

    async def authorize_subscribe(
        self, subscription: Subscription, *, approved: bool = False
    ) -> None:
        """Decide whether a client may subscribe.

        Args:
            subscription: The requested subscription.
            approved: Whether the application has allowed this client to subscribe, by
                a subscription token or by `Channels.serve`. The route's options then do
                not refuse the client.

        Raises:
            falcon.HTTPForbidden: The route's options do not let this client subscribe.
            falcon.HTTPError: The responder refused.
        """
        route = subscription.route
        if not approved:
            if route.subscribers == 'nobody':
                raise falcon.HTTPForbidden(description='clients may not subscribe here')
            if route.subscribers == 'users' and not subscription.user:
                raise falcon.HTTPForbidden(description='only users may subscribe here')
        responder = route.on_subscribe
        if responder is not None:
            connection = subscription.connection
            await self._operations.responder(
                'on_subscribe',
                responder(connection.req, subscription, **subscription.params),
                channel=subscription.channel,
                route=route.template,
            )

    async def authorize_publish(
        self,
        match: ChannelMatch,
        connection: Connection,
        channel: str,
        data: bytes,
        *,
        binary: bool,
    ) -> tuple[Publication, str | None]:
        """Decide whether a client may publish.

        Args:
            match: The route of the channel.
            connection: Connection of the client.
            channel: Name of the channel.
            data: Payload: valid JSON text in UTF-8, or any bytes if `binary`.
            binary: Whether the payload is not JSON.

        Returns:
            The publication, and its idempotency key or ``None``.

        Raises:
            falcon.HTTPForbidden: Clients may not publish here, or the user was revoked.
            falcon.HTTPError: ``on_publish`` refused.
            falcon.HTTPUnprocessableEntity: The data does not have the route's
                `data_type`; the description has the path of the field.
            BrokerUnavailableError: The broker cannot say whether the user was revoked.
            InvalidValueError: ``on_publish`` set data, tags or a key that cannot be
                sent.
            PayloadError: The payload is not JSON, and the channel carries JSON.
            PublicationTooLargeError: The payload exceeds the channel's limit.
        """
        route, options = match.route, match.route.options
        num_changes = connection.num_rights_changes
        if _check_publisher(route, connection, channel):
            await self.refuse_revoked(connection.user, channel)
        check_size(route, data)
        if binary and not options.binary:
            raise PayloadError(
                f'channel {channel!r} carries JSON, and these {len(data)} bytes are '
                'not JSON: publish JSON'
            )
        # PERF: without a responder and a type, the publication is the message of the
        #   client (benchmarks/centrifugo.py).
        draft = None
        if route.on_publish is not None or options.data_type is not None:
            draft = PublicationDraft(
                channel, connection, data, binary=binary, options=options
            )
        if draft is not None and options.data_type is not None:
            _check_type(draft)
        if draft is not None and route.on_publish is not None:
            await self._operations.responder(
                'on_publish',
                route.on_publish(connection.req, draft, **match.params),
                channel=channel,
                route=route.template,
            )
        while connection.num_rights_changes != num_changes:
            # SECURITY: a right was taken away, or has expired, while the responder
            #   waited.
            num_changes = connection.num_rights_changes
            _refuse_disconnected(connection)
            if _check_publisher(route, connection, channel):
                await self.refuse_revoked(connection.user, channel)
        info = connection.client_info(connection.subscriptions.get(channel))
        if draft is None:
            return Publication(data=data, binary=binary, info=info), None
        payload, binary = draft.payload()
        try:
            check_labels(draft.tags, draft.idempotency_key)
        except PayloadError as ex:
            raise InvalidValueError(f'on_publish: {ex}') from None
        check_size(route, payload, draft.tags)
        publication = Publication(
            data=payload, binary=binary, tags=draft.tags, info=info, delta=draft.delta
        )
        return publication, draft.idempotency_key

    async def authorize_presence(
        self, match: ChannelMatch, connection: Connection, channel: str
    ) -> None:
        """Decide whether a client may read the presence of a channel.

        Raises:
            falcon.HTTPError: It may not.
        """
        responder = match.route.on_presence
        await self._authorize_read(match, 'on_presence', responder, connection, channel)

    async def authorize_history(
        self, match: ChannelMatch, connection: Connection, channel: str
    ) -> None:
        """Decide whether a client may read the history of a channel.

        Raises:
            falcon.HTTPError: It may not.
        """
        responder = match.route.on_history
        await self._authorize_read(match, 'on_history', responder, connection, channel)

    async def _authorize_read(
        self,
        match: ChannelMatch,
        name: str,
        responder: Any,
        connection: Connection,
        channel: str,
    ) -> None:
        await self._check_reader(responder, connection, channel)
        if responder is not None:
            await self._operations.responder(
                name,
                responder(connection.req, connection, **match.params),
                channel=channel,
                route=match.route.template,
            )

    async def check_reader_again(
        self,
        responder: Any,
        connection: Connection,
        channel: str,
        num_changes: int,
    ) -> None:
        """Raise an error if the client has lost the right to read in the meantime.

        SECURITY: the application can take the right away, or it can expire, while the
        responder or the broker works. The result may then contain publications from
        after that time.

        Args:
            responder: ``on_presence`` or ``on_history`` of the route, or ``None``.
            connection: Connection of the client.
            channel: Name of the channel.
            num_changes: `Connection.num_rights_changes` before the client was
                authorized.

        Raises:
            falcon.HTTPForbidden: The client has lost the right.
            BrokerUnavailableError: The broker cannot say whether the user was revoked.
        """
        while connection.num_rights_changes != num_changes:
            num_changes = connection.num_rights_changes
            _refuse_disconnected(connection)
            await self._check_reader(responder, connection, channel)

    async def _check_reader(
        self, responder: Any, connection: Connection, channel: str
    ) -> None:
        if responder is not None:
            if _may_be_revoked(connection, channel):
                await self.refuse_revoked(connection.user, channel)
        elif not is_subscribed(connection, channel):
            raise falcon.HTTPForbidden(description='subscribe before asking')

    async def refuse_revoked(self, user: str, channel: str) -> None:
        """Refuse a user whose right to a channel was revoked.

        Raises:
            falcon.HTTPForbidden: The right was revoked.
            BrokerUnavailableError: The broker cannot be asked.
        """
        if await self.is_revoked(user, channel):
            raise falcon.HTTPForbidden(description='revoked')

    async def is_revoked(self, user: str, channel: str) -> bool:
        """Return whether the right of a user to a channel was revoked.

        Raises:
            BrokerUnavailableError: The broker cannot be asked.
        """
        return bool(user) and await self._broker.is_revoked(channel, user)


def _check_publisher(route: ChannelRoute, connection: Connection, channel: str) -> bool:
    """Check that the options of a route let a client publish.

    Returns:
        Whether the caller must ask the broker about a revocation.

    Raises:
        falcon.HTTPForbidden: They do not.
    """
    publishers = route.publishers
    if publishers == 'nobody':
        raise falcon.HTTPForbidden(description='clients may not publish here')
    if publishers == 'subscribers' and not is_subscribed(connection, channel):
        raise falcon.HTTPForbidden(description='subscribe before publishing')
    return _may_be_revoked(connection, channel)


def _may_be_revoked(connection: Connection, channel: str) -> bool:
    """Return whether only the broker knows if a user was revoked.

    PERF: a revocation ends the user's subscriptions on all nodes. A subscriber is
    therefore not revoked, and the broker is not asked again for each publication. An
    anonymous client cannot be revoked.
    """
    return bool(connection.user) and not is_subscribed(connection, channel)


def _refuse_disconnected(connection: Connection) -> None:
    """Refuse a client that was disconnected by a command, or that has expired."""
    if connection.closed:
        raise falcon.HTTPForbidden(description='disconnected')


def _check_type(draft: PublicationDraft) -> None:
    try:
        draft.data  # noqa: B018 - decoding it checks it
    except msgspec.ValidationError as ex:
        raise falcon.HTTPUnprocessableEntity(description=str(ex)) from None
    except (msgspec.DecodeError, RecursionError) as ex:
        raise falcon.HTTPBadRequest(description=f'not JSON: {ex}') from None


def is_subscribed(connection: Connection, channel: str) -> bool:
    """Return whether a connection has a subscription that is no longer JOINING."""
    subscription = connection.subscriptions.get(channel)
    return (
        subscription is not None and subscription.state is not SubscriptionState.JOINING
    )
