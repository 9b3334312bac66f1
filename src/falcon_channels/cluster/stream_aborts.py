"""Messages to the writers of a stream, on all nodes, that it was aborted.

The log already has the end of the channel. The message only interrupts a writer that is
waiting for its producer. If the message is lost, the next publish of the writer fails.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from falcon_channels.cluster.cluster import Cluster
from falcon_channels.publication import Position

_KIND = 'stream abort'


class _Abort(msgspec.Struct, frozen=True, array_like=True):
    """The message ``[channel, offset, epoch]``, with the position of the end."""

    channel: str
    offset: int
    epoch: str


class StreamAborts:
    """Sends abort messages to all nodes, and calls the writers of this node.

    Args:
        cluster: The cluster, which carries the messages.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._listeners: dict[str, list[Callable[[Position], None]]] = {}
        cluster.add_handler(_KIND, self._on_message)

    def listen(self, channel: str, listener: Callable[[Position], None]) -> None:
        """Call `listener` with the position of the end when a channel is aborted."""
        self._listeners.setdefault(channel, []).append(listener)

    def ignore(self, channel: str, listener: Callable[[Position], None]) -> None:
        """Stop calling `listener`; the opposite of `listen`."""
        listeners = self._listeners[channel]
        listeners.remove(listener)
        if not listeners:
            del self._listeners[channel]

    async def send(self, channel: str, end: Position) -> None:
        """Send an abort message to all nodes.

        Args:
            channel: Name of the channel.
            end: Position of its end.

        Raises:
            BrokerUnavailableError: The message may or may not have been sent.
        """
        message = _Abort(channel, end.offset, end.epoch)
        await self._cluster.send('', _KIND, msgspec.msgpack.encode(message))

    def _on_message(self, body: bytes) -> None:
        abort = msgspec.msgpack.decode(body, type=_Abort)
        for listener in list(self._listeners.get(abort.channel, ())):
            listener(Position(abort.offset, abort.epoch))
