"""The connections of this node and of all nodes, for people who look at them.

A process can have 100,000 connections. Each node therefore describes only the first
connections that match, up to a number and a size. It also counts all of them. The count
needs no list, because the hub knows how many there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import msgspec

from falcon_channels.checks import check_id
from falcon_channels.checks import check_integer
from falcon_channels.checks import check_user
from falcon_channels.cluster.cluster import Cluster
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.hub import Hub
from falcon_channels.parts import in_parts
from falcon_channels.routing import check_channel_name

#: Largest number of connections in an answer.
MAX_CONNECTIONS = 1000
#: Largest number of channels that are listed for one connection.
MAX_LISTED_CHANNELS = 100

_NAME = 'connections'

#: Largest answer of one node in bytes. It is a small part of the size that the cluster
#: carries, because many nodes can answer at the same time.
_MAX_ANSWER_BYTES = 256 * 1024
#: Longest name and version of a client library; a client can send any text.
_MAX_APP_CHARACTERS = 64
#: Number of connections that are described without a pause. One connection with
#: `MAX_LISTED_CHANNELS` takes about 0.1 ms.
_DESCRIBED_PART = 20


class ConnectionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Select connections; all fields must match.

    Attributes:
        user: Id of their user, ``''`` for anonymous clients, or ``None`` for all users.
        client: Id of one connection, or ``''``.
        channel: Channel to which they are subscribed, or ``''``.
        limit: Largest number of connections in the answer, from 0 to `MAX_CONNECTIONS`.
    """

    user: str | None = None
    client: str = ''
    channel: str = ''
    limit: int = 100


class SubscriptionSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """One subscription of a connection.

    Attributes:
        state: State of delivery: ``'joining'``, ``'live'``, ``'ahead'``, ``'lagging'``
            or ``'ended'``.
        delivered_offset: Offset of the last publication that was written for the
            client; 0 for none. For a slow reader, the publications after it wait or
            were dropped. ``None`` if the channel has no history, or the subscription is
            ``'joining'``.
        pending_bytes: Size of the items that wait for a slow reader.
        server_side: Whether the application asked for the subscription.
    """

    state: str
    delivered_offset: int | None = None
    pending_bytes: int = 0
    server_side: bool = False


class ListedSubscriptions(msgspec.Struct, frozen=True):
    """The subscriptions of a connection that an answer lists.

    Attributes:
        channels: Its first subscriptions, by channel; at most `MAX_LISTED_CHANNELS`.
    """

    channels: dict[str, SubscriptionSummary]


class ConnectionSummary(msgspec.Struct, frozen=True):
    """One connection.

    Attributes:
        client: Id of the connection.
        user: Id of the user; ``''`` for an anonymous client.
        node: Id of the node.
        transport: Name of the transport, such as ``'websocket'``; see `ClientKind`.
        protocol: Encoding, such as ``'json'``.
        app_name: Name of the client library, as the client gave it.
        app_version: Version of the client, as the client gave it.
        connected_at: Unix time in seconds.
        backlog_bytes: Bytes for the client that are still buffered in its process.
        num_channels: Number of subscriptions.
        state: The subscriptions.
    """

    client: str
    user: str
    node: str
    transport: str
    protocol: str
    app_name: str
    app_version: str
    connected_at: int
    backlog_bytes: int
    num_channels: int
    state: ListedSubscriptions


class _NodeAnswer(NamedTuple):
    """The answer of one node, ``[total, connections]``."""

    total: int
    connections: list[msgspec.Raw]


class _DecodedAnswer(NamedTuple):
    """A `_NodeAnswer` whose connections are decoded."""

    total: int
    connections: list[ConnectionSummary]


class ConnectionList(NamedTuple):
    """Connections of all nodes.

    Attributes:
        connections: The connections, oldest first.
        total: How many connections match, also those that are not in the list.
        num_nodes: How many nodes have answered.
        num_silent: How many known nodes have not answered.
    """

    connections: list[ConnectionSummary]
    total: int
    num_nodes: int
    num_silent: int


class ClusterConnections:
    """Describes the connections of this node and of all nodes.

    A node that does not answer within 3 seconds is left out.

    Args:
        hub: Hub of this node.
        cluster: Carries questions and answers.
    """

    def __init__(self, hub: Hub, cluster: Cluster) -> None:
        self._hub = hub
        self._cluster = cluster
        cluster.add_answerer(_NAME, self._answer)

    async def find(self, query: ConnectionQuery) -> ConnectionList:
        """Return the connections of all nodes that match a query.

        Raises:
            InvalidValueError: The limit is out of range, or an id is too long.
            ChannelNameError: The channel is not a channel name.
            BrokerUnavailableError: The broker cannot be reached.
        """
        if query.user is not None:
            check_user(query.user)
        check_id('client', query.client)
        if query.channel:
            check_channel_name(query.channel, self._hub.options.max_channel_bytes)
        check_integer('limit', query.limit, 0, MAX_CONNECTIONS)
        answers = await self._cluster.ask(
            _NAME, msgspec.msgpack.encode(query), _DecodedAnswer
        )
        found: list[ConnectionSummary] = []
        total = 0
        for answer in answers:
            total += answer.total
            found += answer.connections
        found.sort(key=lambda one: (one.connected_at, one.client))
        return ConnectionList(
            found[: query.limit], total, len(answers), len(answers.silent)
        )

    async def _answer(self, body: bytes) -> bytes:
        query = msgspec.msgpack.decode(body, type=ConnectionQuery)
        connections, total = await self._find(query)
        encoded: list[msgspec.Raw] = []
        size_bytes = 0
        async for part in in_parts(connections, _DESCRIBED_PART):
            for connection in part:
                if connection.closed or query.user not in (None, connection.user):
                    continue  # since the last pause
                raw = msgspec.msgpack.encode(self.describe(connection))
                size_bytes += len(raw)
                if size_bytes > _MAX_ANSWER_BYTES:
                    return msgspec.msgpack.encode(_NodeAnswer(total, encoded))
                encoded.append(msgspec.Raw(raw))
        return msgspec.msgpack.encode(_NodeAnswer(total, encoded))

    async def _find(self, query: ConnectionQuery) -> tuple[list[Connection], int]:
        """Return the first connections that match, and the number of all of them."""
        hub, user, channel = self._hub, query.user, query.channel
        limit = min(max(query.limit, 0), MAX_CONNECTIONS)
        if query.client:
            connection = hub.connections.get(query.client)
            if (
                connection is None
                or user not in (None, connection.user)
                or (channel and channel not in connection.subscriptions)
            ):
                return [], 0
            return [connection][:limit], 1
        if user is not None and channel:
            return await self._find_in_parts(user, channel, limit)
        found: Iterable[Connection]
        if channel:
            found, total = hub.iter_subscribers(channel), hub.count_subscribers(channel)
        elif user is not None:
            found = hub.connections.iter_of_user(user)
            total = hub.connections.count_of_user(user)
        else:
            found, total = hub.connections, len(hub.connections)
        return list(islice(found, limit)), total

    async def _find_in_parts(
        self, user: str, channel: str, limit: int
    ) -> tuple[list[Connection], int]:
        """Find subscribers among the connections of a user, who may be anonymous."""
        found: list[Connection] = []
        total = 0
        async for part in in_parts(self._hub.connections.of_user(user)):
            matching = [c for c in part if channel in c.subscriptions]
            total += len(matching)
            found += matching[: limit - len(found)]
        return found, total

    def describe(self, connection: Connection) -> ConnectionSummary:
        """Return a summary of a connection of this node."""
        kind = connection.kind
        channels: dict[str, SubscriptionSummary] = {}
        for channel, subscription in connection.subscriptions.items():
            if len(channels) == MAX_LISTED_CHANNELS:
                break
            delivered = self._hub.delivered(subscription)
            channels[channel] = SubscriptionSummary(
                state=subscription.state.name.lower(),
                delivered_offset=(
                    delivered.offset if delivered and delivered.epoch else None
                ),
                pending_bytes=subscription.pending_bytes,
                server_side=subscription.server_side,
            )
        return ConnectionSummary(
            client=connection.id,
            user=connection.user,
            node=self._cluster.id,
            transport=kind.transport,
            protocol=kind.protocol,
            app_name=kind.app_name[:_MAX_APP_CHARACTERS],
            app_version=kind.app_version[:_MAX_APP_CHARACTERS],
            connected_at=int(connection.connected_at),
            backlog_bytes=connection.backlog_bytes,
            num_channels=len(connection.subscriptions),
            state=ListedSubscriptions(channels),
        )
