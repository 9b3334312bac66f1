"""Read history and presence: for the application, and for clients."""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Mapping

from falcon_channels.access import authorization
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import PositionError
from falcon_channels.hub.connection import Connection
from falcon_channels.options import NodeOptions
from falcon_channels.protocol.recovery import check_position
from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import PresenceStats
from falcon_channels.routing import ChannelMatch


class Reader:
    """Reads from the broker of this process.

    Args:
        broker: Broker of this process.
        options: Limits; `history_limit` is used here.
        match: Starts the node and finds the route of a channel.
    """

    def __init__(
        self,
        broker: Broker,
        options: NodeOptions,
        match: Callable[[str], Awaitable[ChannelMatch]],
    ) -> None:
        self._broker = broker
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
        match = await self._match(channel)
        page = await self._broker.history(
            channel,
            StreamSettings.of(match.route.options),
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

    async def remove_history(self, channel: str) -> None:
        """Implement `Channels.remove_history`."""
        await self._match(channel)
        await self._broker.remove_history(channel)

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        """Implement `Channels.presence`."""
        match = await self._match(channel)
        if not match.route.options.presence:
            raise CapabilityError(
                f'channel {channel!r} has no presence: add its route with '
                'ChannelOptions(presence=True)'
            )
        return await self._broker.presence(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        """Implement `Channels.presence_stats`."""
        return _count(await self.presence(channel))

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

        Raises:
            CapabilityError: The channel keeps no history.
            falcon.HTTPError: The client may not read it.
            PositionError: `since` belongs to another log.
        """
        match = await self._match(channel)
        if not match.route.options.history_size:
            raise CapabilityError(f'channel {channel!r} keeps no history')
        authorization.check_encoding(match.route, connection, channel)
        num_commands = connection.num_commands
        await authorization.authorize_history(self._broker, match, connection, channel)
        most = self._options.history_limit
        page = await self.history(
            channel,
            since=since,
            limit=most if limit is None else min(limit, most),
            reverse=reverse,
        )
        await authorization.check_reader_again(
            self._broker, match.route.on_history, connection, channel, num_commands
        )
        return _cut(page, match.route.options.recovery_limit_bytes)

    async def presence_for_client(
        self, connection: Connection, channel: str
    ) -> Mapping[str, ClientInfo]:
        """Read the presence of a channel for a client, if it may.

        Raises:
            falcon.HTTPError: The client may not read it.
            CapabilityError: The channel has no presence.
        """
        match = await self._match(channel)
        num_commands = connection.num_commands
        await authorization.authorize_presence(self._broker, match, connection, channel)
        entries = await self.presence(channel)
        await authorization.check_reader_again(
            self._broker, match.route.on_presence, connection, channel, num_commands
        )
        return entries

    async def presence_stats_for_client(
        self, connection: Connection, channel: str
    ) -> PresenceStats:
        """Count the presence of a channel for a client; see `presence_for_client`."""
        entries = await self.presence_for_client(connection, channel)
        return _count(entries)


def _count(entries: Mapping[str, ClientInfo]) -> PresenceStats:
    """Return the numbers of connections and of users in presence."""
    return PresenceStats(len(entries), len({info.user for info in entries.values()}))


def _cut(page: HistoryPage, limit_bytes: int) -> HistoryPage:
    """Cut a page to its first publications within a size limit, but at least one.

    SECURITY: a client that requests history and does not read it would otherwise fill
    the memory with a page of the largest publications.
    """
    size_bytes = 0
    for number, publication in enumerate(page.publications):
        size_bytes += approximate_size_bytes(publication)
        if number and size_bytes > limit_bytes:
            return HistoryPage(page.publications[:number], page.position)
    return page
