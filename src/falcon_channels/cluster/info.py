"""Channels, connections and users of all nodes together."""

from __future__ import annotations

import fnmatch
from functools import cache
from importlib import metadata
import os
import re
import socket
import time

import msgspec

from falcon_channels.cluster.chunks import MAX_MESSAGE_BYTES
from falcon_channels.cluster.cluster import Cluster
from falcon_channels.errors import InvalidValueError
from falcon_channels.hub.hub import Hub
from falcon_channels.parts import in_parts

_CHANNELS, _NODE = 'channels', 'node'


class NodeInfo(msgspec.Struct, frozen=True):
    """One node.

    Attributes:
        uid: Id of the node, new at every start.
        name: Host name and process id.
        version: Version of this package.
        num_clients: Number of connections.
        num_users: Number of users; all anonymous clients count as one user.
        num_channels: Number of channels with subscribers.
        num_subs: Number of subscriptions.
        uptime: Seconds since the node started.
    """

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_channels: int
    num_subs: int
    uptime: int


def process_name() -> str:
    """Return the host name and the process id."""
    return f'{socket.gethostname()}_{os.getpid()}'


@cache
def package_version() -> str:
    """Return the version of this package."""
    return metadata.version('falcon-channels')


class ClusterInfo:
    """Counts channels, connections and users of this node and of all nodes.

    A node that does not answer within 3 seconds is left out.

    Args:
        hub: Hub of this node.
        cluster: Carries questions and answers.
    """

    def __init__(self, hub: Hub, cluster: Cluster) -> None:
        self._hub = hub
        self._cluster = cluster
        self._started_s = time.monotonic()
        cluster.add_answerer(_CHANNELS, self._answer_channels)
        cluster.add_answerer(_NODE, lambda _: msgspec.msgpack.encode(self.this_node()))

    @property
    def uptime_s(self) -> float:
        """Seconds since this node was created."""
        return time.monotonic() - self._started_s

    def this_node(self) -> NodeInfo:
        """Return the counts of this node."""
        return NodeInfo(
            uid=self._cluster.id,
            name=process_name(),
            version=package_version(),
            num_clients=len(self._hub.connections),
            num_users=self._hub.connections.num_users,
            num_channels=self._hub.num_channels,
            num_subs=self._hub.num_subscriptions,
            uptime=int(self.uptime_s),
        )

    async def channels(self, pattern: str = '*') -> dict[str, int]:
        """Return the number of subscribers of channels, over all nodes.

        Args:
            pattern: Pattern of the names, such as ``'rooms:*'``.

        Raises:
            BrokerUnavailableError: The broker cannot be reached.
            InvalidValueError: A node has more matching channels than it can send.
        """
        answers = await self._cluster.ask_for_parts(
            _CHANNELS, msgspec.msgpack.encode(pattern), dict[str, int]
        )
        if answers.too_large:
            raise InvalidValueError(
                f'pattern {pattern!r:.80} matches too many channels: their names in '
                f'one process exceed {MAX_MESSAGE_BYTES} bytes. Ask with several '
                'patterns that match fewer channels'
            )
        totals: dict[str, int] = {}
        for parts in answers:
            async for (part,) in in_parts(parts, 1):
                for channel, count in part.items():
                    totals[channel] = totals.get(channel, 0) + count
        return totals

    async def _answer_channels(self, body: bytes) -> bytes:
        """Return the channels that match, as a list of MessagePack maps."""
        matches = re.compile(
            fnmatch.translate(msgspec.msgpack.decode(body, type=str))
        ).match
        parts: list[msgspec.Raw] = []
        async for part in in_parts(self._hub.local_channels()):
            counts = {
                local_channel.channel: local_channel.members
                for local_channel in part
                if local_channel.members and matches(local_channel.channel)
            }
            parts.append(msgspec.Raw(msgspec.msgpack.encode(counts)))
        return msgspec.msgpack.encode(parts)

    async def nodes(self) -> list[NodeInfo]:
        """Return the counts of each node.

        Raises:
            BrokerUnavailableError: The broker cannot be reached.
        """
        return list(await self._cluster.ask(_NODE, b'', NodeInfo))
