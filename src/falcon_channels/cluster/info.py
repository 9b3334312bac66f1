"""What there is in all processes together: channels, connections, users."""

from __future__ import annotations

from importlib import metadata
import os
import socket
import time

import msgspec

from falcon_channels.cluster.cluster import Nodes
from falcon_channels.hub.hub import Hub

_CHANNELS, _NODE = 'channels', 'node'


class NodeInfo(msgspec.Struct, frozen=True):
    """One process.

    Attributes:
        uid: Its id, new at every start.
        name: Host name and process id.
        version: Of this package.
        num_clients: How many connections.
        num_users: How many users; all who are anonymous count as one.
        num_channels: How many channels with subscribers.
        num_subs: How many subscriptions.
        uptime: For how many seconds it has been there.
    """

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_channels: int
    num_subs: int
    uptime: int


class Census:
    """Counts channels and processes, in all processes that share the broker.

    A process that does not answer within 3 seconds is left out.

    Args:
        hub: Of this process.
        nodes: Carries questions and answers.
    """

    def __init__(self, hub: Hub, nodes: Nodes) -> None:
        self._hub = hub
        self._nodes = nodes
        self._started_s = time.monotonic()
        nodes.answer(_CHANNELS, lambda _: msgspec.msgpack.encode(hub.channel_counts()))
        nodes.answer(_NODE, lambda _: msgspec.msgpack.encode(self.here()))

    def here(self) -> NodeInfo:
        """Return the facts of this process."""
        counts = self._hub.channel_counts()
        return NodeInfo(
            uid=self._nodes.id,
            name=f'{socket.gethostname()}_{os.getpid()}',
            version=metadata.version('falcon-channels'),
            num_clients=len(self._hub.connections),
            num_users=self._hub.num_users,
            num_channels=len(counts),
            num_subs=sum(counts.values()),
            uptime=int(time.monotonic() - self._started_s),
        )

    async def channels(self) -> dict[str, int]:
        """Return channels with subscribers, and how many these are.

        Raises:
            BrokerUnavailableError: Other processes cannot be asked.
        """
        answers = await self._nodes.survey(_CHANNELS)
        totals: dict[str, int] = {}
        for answer in answers.values():
            for channel, count in msgspec.msgpack.decode(
                answer, type=dict[str, int]
            ).items():
                totals[channel] = totals.get(channel, 0) + count
        return totals

    async def nodes(self) -> list[NodeInfo]:
        """Return all processes.

        Raises:
            BrokerUnavailableError: Other processes cannot be asked.
        """
        answers = await self._nodes.survey(_NODE)
        return [
            msgspec.msgpack.decode(answer, type=NodeInfo)
            for _, answer in sorted(answers.items())
        ]
