"""Read history and presence: for the application, and for clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Mapping
import inspect
from typing import Any
from typing import TypeVar

from falcon_channels.access.authorization import Authorizer
from falcon_channels.access.authorization import check_encoding
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.checks import check_integer
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import PositionError
from falcon_channels.filters import TagFilter
from falcon_channels.hub.connection import Connection
from falcon_channels.options import NodeOptions
from falcon_channels.protocol.recovery import check_position
from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import approximate_total_bytes
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import PresenceStats
from falcon_channels.publication import Publication
from falcon_channels.publication import Snapshot
from falcon_channels.publication import without_end
from falcon_channels.routing import ChannelMatch

_Read = TypeVar('_Read')

#: Largest number of publications that a request can name; ``None`` reads all of them.
_MAX_LIMIT = 2**31


class Reader:
    """Reads from the broker of this process.

    Args:
        broker: Broker of this process.
        authorizer: Decides what a client may read.
        options: Limits; `history_limit` is used here.
        match: Starts the node and finds the route of a channel.
    """

    def __init__(
        self,
        broker: Broker,
        authorizer: Authorizer,
        options: NodeOptions,
        match: Callable[[str], Awaitable[ChannelMatch]],
    ) -> None:
        self._broker = broker
        self._authorizer = authorizer
        self._options = options
        self._match = match

    # --- for the application ---------------------------------------------------------

    async def history(
        self,
        channel: str,
        *,
        since: Position | None = None,
        limit: int | None = 100,
        reverse: bool = False,
    ) -> HistoryPage:
        """Implement `Channels.history`."""
        check_position(since)
        if limit is not None:
            check_integer('limit', limit, 0, _MAX_LIMIT)
        match = await self._match(channel)
        page = await self._broker.history(
            channel,
            LogSettings.of(match.route.options),
            since=None if since is None else since.offset,
            limit=limit,
            reverse=reverse,
        )
        if since is not None and since.epoch and since.epoch != page.position.epoch:
            raise PositionError(
                f'{since} belongs to another log than {page.position}: '
                'read again without since'
            )
        return page

    async def snapshot(
        self, channel: str, load: Callable[[], Awaitable[Any] | Any]
    ) -> Snapshot:
        """Implement `Channels.snapshot`."""
        if not callable(load):
            raise InvalidValueError(f'load is a function, not {load!r:.40}')
        position = await self.position_to_follow(channel)
        # NOTE: the state is read after the position. With the other order, a change
        #   between the two reads would be neither in the state nor after the position.
        state = load()
        if inspect.isawaitable(state):
            state = await state
        return Snapshot(state, position)

    async def position_to_follow(self, channel: str) -> Position:
        """Return the position of a channel, from which a client can follow it.

        Raises:
            CapabilityError: Clients of the channel cannot recover.
        """
        options = (await self._match(channel)).route.options
        if options.recovery_mode == 'off':
            raise CapabilityError(
                f'clients of channel {channel!r} cannot recover, so they cannot follow '
                f'it from a position: its route has history_size={options.history_size}'
                f' and recovery={options.recovery!r}, and needs for example '
                'ChannelOptions(history_size=100)'
            )
        return (await self.history(channel, limit=0)).position

    async def remove_history(self, channel: str) -> None:
        """Implement `Channels.remove_history`."""
        await self._match(channel)
        await self._broker.remove_history(channel)

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        """Implement `Channels.presence`."""
        _require_presence(await self._match(channel), channel)
        return await self._broker.presence(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        """Implement `Channels.presence_stats`."""
        _require_presence(await self._match(channel), channel)
        return await self._broker.presence_stats(channel)

    # --- for clients -----------------------------------------------------------------

    async def history_for_client(
        self,
        connection: Connection,
        channel: str,
        *,
        since: Position | None,
        limit: int | None,
        reverse: bool,
    ) -> HistoryPage:
        """Read the history of a channel for a client, if it may.

        Args:
            connection: Connection of the client.
            channel: Name of the channel.
            since: Position after which to read, or before which if `reverse`.
            limit: Largest number of publications; `NodeOptions.history_limit` at most
                and for ``None``. Fewer are returned if they exceed
                `ChannelOptions.recovery_limit_bytes`.
            reverse: Whether the newest publication is first.

        If ``on_subscribe`` has set a filter, only publications that match it are
        returned. A client without a subscription has no filter.

        Raises:
            CapabilityError: The channel keeps no history.
            falcon.HTTPError: The client may not read it.
            PositionError: `since` belongs to another log.
        """
        match = await self._match(channel)
        if not match.route.options.history_size:
            raise CapabilityError(f'channel {channel!r} keeps no history')
        check_encoding(match.route, connection, channel)
        num_changes = connection.num_rights_changes
        subscription = connection.subscriptions.get(channel)
        await self._authorizer.authorize_history(match, connection, channel)
        most = self._options.history_limit
        limit = most if limit is None else min(limit, most)
        # SECURITY: the subscription can end while `on_history` waits, for example
        #   because it expires. Its filter still applies.
        subscription = connection.subscriptions.get(channel, subscription)
        tag_filter = None if subscription is None else subscription.filter
        if tag_filter is None:
            page = await self.history(
                channel, since=since, limit=limit, reverse=reverse
            )
        else:
            page = await self._filtered_history(
                channel, tag_filter, since=since, limit=limit, reverse=reverse
            )
        await self._authorizer.check_reader_again(
            match.route.on_history, connection, channel, num_changes
        )
        page = page._replace(publications=without_end(page.publications))
        return _cut(page, match.route.options.recovery_limit_bytes)

    async def _filtered_history(
        self,
        channel: str,
        tag_filter: TagFilter,
        *,
        since: Position | None,
        limit: int,
        reverse: bool,
    ) -> HistoryPage:
        """Read publications that match a filter, until there are `limit` of them.

        The client cannot see whether publications that it does not receive follow. A
        page with fewer publications is therefore always the last one.
        """
        matches = tag_filter.predicate()
        found: list[Publication] = []
        position: Position | None = None
        end: ChannelEnd | None = None
        while True:
            # NOTE: a page of no publications would not show how far it was read.
            size = self._options.history_limit if limit else 0
            page = await self.history(channel, since=since, limit=size, reverse=reverse)
            found += [p for p in page.publications if matches(p.tags or {})]
            # NOTE: a page of newer publications was read later, and has a new position.
            if position is None or not reverse:
                position, end = page.position, page.end
            if len(found) >= limit or len(page.publications) < size:
                return HistoryPage(found[:limit], position, end)
            # NOTE: a log in memory is read without waiting. Other tasks of the event
            #   loop run between two pages.
            await asyncio.sleep(0)
            since = Position(page.publications[-1].offset, position.epoch)

    async def presence_for_client(
        self, connection: Connection, channel: str
    ) -> Mapping[str, ClientInfo]:
        """Read the presence of a channel for a client, if it may.

        Raises:
            falcon.HTTPError: The client may not read it.
            CapabilityError: The channel has no presence.
        """
        return await self._read_presence(connection, channel, self._broker.presence)

    async def presence_stats_for_client(
        self, connection: Connection, channel: str
    ) -> PresenceStats:
        """Count the presence of a channel for a client; see `presence_for_client`."""
        return await self._read_presence(
            connection, channel, self._broker.presence_stats
        )

    async def _read_presence(
        self,
        connection: Connection,
        channel: str,
        read: Callable[[str], Awaitable[_Read]],
    ) -> _Read:
        """Call `read` for a client, if it may read the presence of the channel."""
        match = await self._match(channel)
        num_changes = connection.num_rights_changes
        await self._authorizer.authorize_presence(match, connection, channel)
        _require_presence(match, channel)
        found = await read(channel)
        await self._authorizer.check_reader_again(
            match.route.on_presence, connection, channel, num_changes
        )
        return found


def _require_presence(match: ChannelMatch, channel: str) -> None:
    """Raise an error if the channel has no presence."""
    if not match.route.options.presence:
        raise CapabilityError(
            f'channel {channel!r} has no presence: add its route with '
            'ChannelOptions(presence=True)'
        )


def _cut(page: HistoryPage, limit_bytes: int) -> HistoryPage:
    """Cut a page to its first publications within a size limit, but at least one.

    SECURITY: a client that requests history and does not read it would otherwise fill
    the memory with a page of the largest publications.
    """
    if approximate_total_bytes(page.publications) <= limit_bytes:
        return page
    size_bytes = 0
    for number, publication in enumerate(page.publications):
        size_bytes += approximate_size_bytes(publication)
        if number and size_bytes > limit_bytes:
            return page._replace(publications=page.publications[:number])
    return page
