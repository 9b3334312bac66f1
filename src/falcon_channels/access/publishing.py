"""Publish to channels: for the application, and for clients.

`Publisher.publish_for_client` is the only function that publishes for a client. The
order of its steps matters:

1. *Find the route.* A channel without a route does not exist.
2. *Authorize*: the route's `publishers`, revocations, the size and the type of the
   data, then ``on_publish``, which may change the publication. After ``on_publish``,
   the size is checked again. If the application has taken a right away in the meantime,
   or if it has expired, the options and the revocations are checked again, too.
3. *Give it to the broker*, which assigns the offset. The broker sends the publication
   to all nodes with subscribers, also to this one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterable
from collections.abc import Sequence
from contextvars import Context
from functools import partial
from typing import Any
from typing import NamedTuple
from typing import Protocol
from typing import TypeVar

import msgspec

from falcon_channels.access import publication_parts
from falcon_channels.access.authorization import Authorizer
from falcon_channels.brokers.base import Append
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import ChannelNameError
from falcon_channels.hub.connection import Connection
from falcon_channels.operations import call_at_end
from falcon_channels.operations import Operation
from falcon_channels.operations import Operations
from falcon_channels.publication import Publication
from falcon_channels.routing import ChannelMatch
from falcon_channels.routing import ChannelRoute

_T = TypeVar('_T')

#: Number of calls that `call_in_batches` has pending at the same time. Publications of
#: 64 KiB then take a tenth of what a broker accepts.
_BATCH = 100


async def call_in_batches(
    function: Callable[..., Coroutine[Any, Any, _T]], rows: Sequence[tuple[Any, ...]]
) -> list[_T]:
    """Call a function for each row; many calls share one round trip to the broker.

    The calls begin in the order of the rows. If one raises an error, the others are
    executed nevertheless.

    Args:
        function: The function.
        rows: The arguments of each call.

    Returns:
        The result of each call.

    Raises:
        Exception: The first error of a call, after all calls have ended.
    """
    results: list[_T | BaseException] = []
    for start in range(0, len(rows), _BATCH):
        calls = [function(*row) for row in rows[start : start + _BATCH]]
        results += await asyncio.gather(*calls, return_exceptions=True)
    values: list[_T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        values.append(result)
    return values


class StreamAppend(NamedTuple):
    """A publication of a stream writer for `Publisher.append_all`.

    Attributes:
        append: The publication, as the broker needs it.
        route: Route of the channel.
        context: Context variables of the stream, for tracing.
    """

    append: Append
    route: ChannelRoute
    context: Context


class BrokerPublish(Protocol):
    """Publishes to a log, like `Broker.publish`."""

    def __call__(
        self,
        channel: str,
        publication: Publication,
        settings: LogSettings,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
        version: Version | None = None,
        skip_history: bool = False,
    ) -> Coroutine[Any, Any, PublishResult]:
        """Append a publication to the log and announce it; see `Broker.publish`."""


class Publisher:
    """Publishes through the broker of this process.

    Args:
        broker: Broker of this process.
        match: Starts the node and finds the route of a channel.
        match_now: Finds the route of a channel; ``None`` if the node must start first.
        operations: Operations of this process.
        authorizer: Decides what a client may publish.
        publish: Gives a publication to the broker; ``broker.publish`` by default.
    """

    def __init__(
        self,
        broker: Broker,
        match: Callable[[str], Awaitable[ChannelMatch]],
        match_now: Callable[[str], ChannelMatch | None],
        operations: Operations,
        authorizer: Authorizer,
        *,
        publish: BrokerPublish | None = None,
    ) -> None:
        self._broker = broker
        self._broker_publish = publish
        self._match = match
        self._match_now = match_now
        self._operations = operations
        self._authorizer = authorizer
        self._settings: dict[ChannelRoute, LogSettings] = {}

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
        delta: bool = True,
        skip_history: bool = False,
        connection: Any = None,
        version: int | None = None,
        version_epoch: str = '',
    ) -> PublishResult:
        """Implement `Channels.publish`."""
        match = self._match_now(channel) or await self._match(channel)
        payload, binary = publication_parts.encode_publication(
            match.route.options, channel, data
        )
        publication_parts.check_labels(tags, idempotency_key)
        checked_version = publication_parts.make_version(
            version, version_epoch, skip_history
        )
        if checked_version is not None:
            publication_parts.check_log(match.route, 'version')
        publication_parts.check_size(match.route, payload, tags)
        if connection is not None:
            self._check_transactions()
        return await self._give_to_broker(
            match,
            channel,
            Publication(data=payload, binary=binary, tags=tags, delta=delta),
            idempotency_key,
            connection,
            checked_version,
            skip_history=skip_history,
        )

    async def finish(
        self,
        channel: str,
        data: Any = None,
        *,
        error: str = '',
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
        connection: Any = None,
    ) -> PublishResult:
        """Implement `Channels.finish`."""
        match = await self._match(channel)
        payload, binary = b'', False
        if data is not None:
            payload, binary = publication_parts.encode_publication(
                match.route.options, channel, data
            )
        end = publication_parts.make_end(error)
        publication_parts.check_labels(tags, idempotency_key)
        publication_parts.check_log(match.route, 'finish')
        publication_parts.check_size(match.route, payload, tags)
        if connection is not None:
            self._check_transactions()
        return await self._give_to_broker(
            match,
            channel,
            Publication(data=payload, binary=binary, tags=tags, end=end),
            idempotency_key,
            connection,
        )

    async def append(
        self,
        channel: str,
        publication: Publication,
        version: Version,
        *,
        idempotency_key: str | None = None,
    ) -> PublishResult:
        """Append a publication that a stream writer has already encoded and checked.

        Args:
            channel: Name of a channel with history.
            publication: The publication.
            version: Version of the publication. If the log already has this version or
                a newer one, nothing is stored.
            idempotency_key: See `Channels.publish`.
        """
        match = await self._match(channel)
        return await self._give_to_broker(
            match, channel, publication, idempotency_key, version=version
        )

    @property
    def can_append_all(self) -> bool:
        """Whether the broker of this process has `Broker.append_all`."""
        return self._broker.capabilities.append_all

    def append_all(
        self, items: Sequence[StreamAppend]
    ) -> asyncio.Future[list[PublishResult | None]]:
        """Append publications of several stream writers with one call of the broker.

        Args:
            items: The publications; see `append`.

        Returns:
            See `Broker.append_all`.

        Raises:
            BrokerUnavailableError: Nothing was stored.
        """
        if self._operations.wanted:
            return self._append_all_timed(items)
        return self._broker.append_all([item.append for item in items])

    def _append_all_timed(
        self, items: Sequence[StreamAppend]
    ) -> asyncio.Future[list[PublishResult | None]]:
        appends = []
        ends = []
        for append, route, context in items:
            operation = _publish_operation(route, append.channel, append.publication)
            ends.append(self._operations.begin_in(context, operation))
            publication = _with_trace(append.publication, operation)
            appends.append(append._replace(publication=publication))

        def end_all(error: BaseException | None) -> None:
            for end in ends:
                end(error)

        return call_at_end(lambda: self._broker.append_all(appends), end_all)

    async def broadcast(
        self,
        channels: Iterable[str],
        data: Any,
        *,
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
        delta: bool = True,
        skip_history: bool = False,
        version: int | None = None,
        version_epoch: str = '',
    ) -> list[PublishResult]:
        """Implement `Channels.broadcast`."""
        if isinstance(channels, str) or not isinstance(channels, Iterable):
            raise ChannelNameError(
                f'broadcast takes several channels: [{channels!r:.80}]'
            )
        publication_parts.check_labels(tags, idempotency_key)
        checked_version = publication_parts.make_version(
            version, version_epoch, skip_history
        )
        matches = [(channel, await self._match(channel)) for channel in channels]
        #: By `ChannelOptions.binary`, because bytes are JSON in some channels only.
        publications: dict[bool, Publication] = {}
        for channel, match in matches:
            options = match.route.options
            if options.binary not in publications:
                payload, binary = publication_parts.encode_publication(
                    options, channel, data
                )
                publications[options.binary] = Publication(
                    data=payload, binary=binary, tags=tags, delta=delta
                )
            if checked_version is not None:
                publication_parts.check_log(match.route, 'version')
            publication_parts.check_size(
                match.route, publications[options.binary].data, tags
            )
        return await call_in_batches(
            partial(
                self._give_to_broker,
                version=checked_version,
                skip_history=skip_history,
            ),
            [
                (
                    match,
                    channel,
                    publications[match.route.options.binary],
                    idempotency_key,
                )
                for channel, match in matches
            ],
        )

    async def publish_for_client(
        self, connection: Connection, channel: str, data: bytes, *, binary: bool = False
    ) -> PublishResult:
        """Authorize and publish a message of a client.

        Args:
            connection: Connection of the client.
            channel: Name of the channel.
            data: Payload: valid JSON text in UTF-8, or any bytes if `binary`.
            binary: Whether the payload is not JSON.

        Raises:
            ChannelNameError: The name is not a channel name.
            UnknownChannelError: No route matches.
            falcon.HTTPError: The client may not publish this; see
                `Authorizer.authorize_publish`.
            PayloadError: The payload is not JSON, and the channel carries JSON.
            PublicationTooLargeError: The payload exceeds the channel's limit.
            InvalidValueError: ``on_publish`` set data, tags or a key that cannot be
                sent.
            BrokerUnavailableError: The publication may or may not be stored.
        """
        match = self._match_now(channel) or await self._match(channel)
        publication, idempotency_key = await self._authorizer.authorize_publish(
            match, connection, channel, data, binary=binary
        )
        return await self._give_to_broker(match, channel, publication, idempotency_key)

    def _give_to_broker(
        self,
        match: ChannelMatch,
        channel: str,
        publication: Publication,
        idempotency_key: str | None = None,
        connection: Any = None,
        version: Version | None = None,
        *,
        skip_history: bool = False,
    ) -> Coroutine[Any, Any, PublishResult]:
        settings = self.settings_of(match.route)
        publish = self._broker_publish or self._broker.publish
        if self._operations.wanted:
            publish = partial(self._publish_timed, match.route, publish)
        return publish(
            channel,
            publication,
            settings,
            idempotency_key=idempotency_key,
            connection=connection,
            version=version,
            skip_history=skip_history,
        )

    def settings_of(self, route: ChannelRoute) -> LogSettings:
        """Return the settings of the logs of a route."""
        settings = self._settings.get(route)
        if settings is None:
            settings = self._settings[route] = LogSettings.of(route.options)
        return settings

    async def _publish_timed(
        self,
        route: ChannelRoute,
        publish: BrokerPublish,
        channel: str,
        publication: Publication,
        settings: LogSettings,
        **options: Any,
    ) -> PublishResult:
        operation = _publish_operation(route, channel, publication)
        with self._operations.time(operation):
            publication = _with_trace(publication, operation)
            return await publish(channel, publication, settings, **options)

    def _check_transactions(self) -> None:
        """Refuse a database connection if the broker cannot publish with it."""
        if not self._broker.capabilities.transactions:
            raise CapabilityError(
                'connection is set, but this broker cannot publish within a '
                'transaction: publish after the commit without connection, or give '
                'Channels the URL of a PostgreSQL database'
            )


def _publish_operation(
    route: ChannelRoute, channel: str, publication: Publication
) -> Operation:
    return Operation(
        'publish',
        channel=channel,
        route=route.template,
        num_publications=1,
        num_bytes=len(publication.data),
    )


def _with_trace(publication: Publication, operation: Operation) -> Publication:
    """Return the publication with the trace context that an observer has set."""
    if not operation.trace:
        return publication
    return msgspec.structs.replace(publication, trace=operation.trace)
