"""Channels, connections and users of all nodes together."""

from __future__ import annotations

from functools import cache
from importlib import metadata
import os
import socket
import time

import msgspec

from falcon_channels.cluster.cluster import Cluster
from falcon_channels.hub.hub import Hub

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
        cluster.answer(
            _CHANNELS, lambda _: msgspec.msgpack.encode(hub.channel_counts())
        )
        cluster.answer(_NODE, lambda _: msgspec.msgpack.encode(self.this_node()))

    @property
    def uptime_s(self) -> float:
        """Seconds since this node was created."""
        return time.monotonic() - self._started_s

    def this_node(self) -> NodeInfo:
        """Return the counts of this node."""
        counts = self._hub.channel_counts()
        return NodeInfo(
            uid=self._cluster.id,
            name=process_name(),
            version=package_version(),
            num_clients=len(self._hub.connections),
            num_users=self._hub.num_users,
            num_channels=len(counts),
            num_subs=sum(counts.values()),
            uptime=int(self.uptime_s),
        )

    async def channels(self) -> dict[str, int]:
        """Return the number of subscribers of each channel, over all nodes.

        Raises:
            BrokerUnavailableError: The broker cannot be reached.
        """
        answers = await self._cluster.ask(_CHANNELS, b'', dict[str, int])
        totals: dict[str, int] = {}
        for answer in answers.values():
            for channel, count in answer.items():
                totals[channel] = totals.get(channel, 0) + count
        return totals

    async def nodes(self) -> list[NodeInfo]:
        """Return the counts of each node.

        Raises:
            BrokerUnavailableError: The broker cannot be reached.
        """
        return list((await self._cluster.ask(_NODE, b'', NodeInfo)).values())
