"""What clients may do: options and the resource's responders decide.

A responder refuses by raising an `HTTPError`; each door tells its client in its own
language. What has no responder is decided by the options, and by whether the client
subscribes to the channel: who may not listen may not ask either. A user whose right to
the channel was revoked may do neither, whatever a responder says.
"""

from __future__ import annotations

from typing import Any

import falcon
import msgspec

from falcon_channels.errors import PayloadError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState
from falcon_channels.publication import Publication
from falcon_channels.routing import ChannelMatch
from falcon_channels.routing import ChannelRoute

#: What encoding raises for values that JSON has not, such as integers over 64 bits.
NOT_JSON = (TypeError, ValueError, OverflowError, RecursionError)


class PublicationDraft:
    """What a client wants to publish; ``on_publish`` may change it.

    Attributes:
        channel: Where.
        connection: Whose it is.
        data: The payload as Python values, decoded when first read, of the route's
            `ChannelOptions.data_type` where it has one. May be set; `bytes` are
            a binary payload.
        tags: Small labels beside the payload, or ``None``.
        idempotency_key: See `Channels.publish`; ``None`` at first.
    """

    __slots__ = (
        '_binary',
        '_data',
        '_decoded',
        '_raw',
        '_type',
        'channel',
        'connection',
        'idempotency_key',
        'tags',
    )

    def __init__(
        self,
        channel: str,
        connection: Connection,
        raw: bytes,
        *,
        binary: bool = False,
        data_type: Any = None,
    ) -> None:
        self.channel = channel
        self.connection = connection
        self.tags: dict[str, str] | None = None
        self.idempotency_key: str | None = None
        self._raw = raw
        self._binary = binary
        self._type = Any if data_type is None else data_type
        self._decoded = False
        self._data: Any = None

    @property
    def user(self) -> str:
        """Id of the connection's user, ``''`` for somebody anonymous."""
        return self.connection.user

    @property
    def data(self) -> Any:
        if not self._decoded:
            self._data = (
                self._raw
                if self._binary
                else msgspec.json.decode(self._raw, type=self._type)
            )
            self._decoded = True
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self._data = value
        self._decoded = True
        self._raw, self._binary = encode_payload(value)

    @property
    def binary(self) -> bool:
        """Whether the payload is not JSON."""
        return self._binary

    def payload(self) -> tuple[bytes, bool]:
        """Return the payload as it is stored, and whether it is binary."""
        if self._decoded and not self._binary:
            # NOTE: the responder may have changed the values in place.
            return encode_payload(self._data)
        return self._raw, self._binary


def encode_payload(data: Any) -> tuple[bytes, bool]:
    """Return `data` as a payload, and whether it is binary.

    Raises:
        PayloadError: It cannot be written as JSON.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), True
    try:
        return msgspec.json.encode(data), False
    except NOT_JSON as ex:
        raise PayloadError(f'data cannot be written as JSON: {ex}') from None


def check_labels(tags: object, idempotency_key: object) -> None:
    """Check what goes with a payload, before it meets those who have to write it.

    Raises:
        PayloadError: Tags that are not text, or a key that is not 1 to 255 bytes of it.
    """
    if tags is not None and not (
        isinstance(tags, dict)
        and all(isinstance(item, str) for pair in tags.items() for item in pair)
    ):
        raise PayloadError('tags are a dict of texts by texts')
    if idempotency_key is not None and not (
        isinstance(idempotency_key, str) and 0 < len(idempotency_key.encode()) < 256
    ):
        raise PayloadError('an idempotency key has 1 to 255 bytes of UTF-8')


def check_size(route: ChannelRoute, payload: bytes) -> None:
    """Check a payload against the channel's limit.

    Raises:
        PublicationTooLargeError: It is larger.
    """
    limit_bytes = route.options.max_publication_bytes
    if len(payload) > limit_bytes:
        raise PublicationTooLargeError(len(payload), limit_bytes)


async def authorize_subscribe(subscription: Subscription) -> None:
    """Ask the resource whether a subscription may be.

    Raises:
        falcon.HTTPError: It may not.
    """
    responder = subscription.route.on_subscribe
    if responder is not None:
        req = subscription.connection.req
        await responder(req, subscription, **subscription.params)


async def authorize_publish(
    match: ChannelMatch, connection: Connection, draft: PublicationDraft
) -> Publication:
    """Decide whether a client may publish, and what.

    Raises:
        falcon.HTTPForbidden: It may not publish here, or its user was revoked.
        BrokerUnavailableError: Whether it was revoked cannot be asked now.
        falcon.HTTPError: The responder refused.
        falcon.HTTPUnprocessableEntity: The data is not of the route's type; the
            description has the path of the field.
        PublicationTooLargeError: The payload is over the channel's limit.
    """
    route = match.route
    publishers = route.publishers
    if publishers == 'nobody':
        raise falcon.HTTPForbidden(description='clients may not publish here')
    if publishers == 'subscribers' and not is_subscribed(connection, draft.channel):
        raise falcon.HTTPForbidden(description='subscribe before publishing')
    await _refuse_revoked(connection, draft.channel)
    check_size(route, draft.payload()[0])
    if route.options.data_type is not None:
        if draft.binary:
            raise falcon.HTTPUnprocessableEntity(
                description='binary data cannot be checked: this channel takes JSON'
            )
        try:
            draft.data  # noqa: B018 - decoding it checks it
        except msgspec.ValidationError as ex:
            raise falcon.HTTPUnprocessableEntity(description=str(ex)) from None
        except (msgspec.DecodeError, RecursionError) as ex:
            raise falcon.HTTPBadRequest(description=f'not JSON: {ex}') from None
    if route.on_publish is not None:
        await route.on_publish(connection.req, draft, **match.params)
    payload, binary = draft.payload()
    check_size(route, payload)
    subscription = connection.subscriptions.get(draft.channel)
    return Publication(
        data=payload,
        binary=binary,
        tags=draft.tags,
        info=connection.client_info(subscription),
    )


async def authorize_presence(
    match: ChannelMatch, connection: Connection, channel: str
) -> None:
    """Decide whether a client may ask who is in a channel.

    Raises:
        falcon.HTTPError: It may not.
    """
    await _authorize_read(match, match.route.on_presence, connection, channel)


async def authorize_history(
    match: ChannelMatch, connection: Connection, channel: str
) -> None:
    """Decide whether a client may read a channel's history.

    Raises:
        falcon.HTTPError: It may not.
    """
    await _authorize_read(match, match.route.on_history, connection, channel)


async def _authorize_read(
    match: ChannelMatch, responder: Any, connection: Connection, channel: str
) -> None:
    if responder is not None:
        await _refuse_revoked(connection, channel)
        await responder(connection.req, connection, **match.params)
    elif not is_subscribed(connection, channel):
        raise falcon.HTTPForbidden(description='subscribe before asking')


async def _refuse_revoked(connection: Connection, channel: str) -> None:
    """Refuse a user whose right to a channel was revoked.

    PERF: the broker is not asked about who subscribes, so that publishing costs what it
    did: a revocation ends the subscription, in whatever process it is.
    """
    user = connection.user
    if (
        user
        and not is_subscribed(connection, channel)
        and await connection.hub.broker.is_revoked(channel, user)  # type: ignore[attr-defined]
    ):
        raise falcon.HTTPForbidden(description='revoked')


def is_subscribed(connection: Connection, channel: str) -> bool:
    """Return whether a connection has joined a channel."""
    subscription = connection.subscriptions.get(channel)
    return (
        subscription is not None and subscription.state is not SubscriptionState.JOINING
    )
