"""Server-side subscriptions: code of the application that listens to a channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from typing import Self
from typing import TYPE_CHECKING

from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.subscription import Subscription
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.transports.encoders import get_encoder
from falcon_channels.transports.encoders import Item

if TYPE_CHECKING:
    from falcon_channels.channels import Channels


class _ItemsCodec:
    """Hands items over as they are."""

    binary = False

    def encode_items(
        self, channel: str, items: Sequence[Item], epoch: str
    ) -> list[Any]:
        return [item for item in items if isinstance(item, Publication)]


class _ListFraming:
    """Makes lists."""

    def frame(self, payloads: Sequence[Any], *, binary: bool) -> list[Any]:
        return list(payloads)

    def join(self, blobs: Sequence[list[Any]]) -> list[Any]:
        return [item for blob in blobs for item in blob]


_CODEC = _ItemsCodec()
_FRAMING = _ListFraming()


class _QueueTransport:
    """A queue that somebody iterates over; its bytes are the backlog."""

    #: There is no socket.
    descriptor = -1

    def __init__(self) -> None:
        self.framing = _FRAMING
        self.backlog_bytes = 0
        self.queue: deque[Publication] = deque()
        self.wake = asyncio.Event()
        self.end: tuple[int, str] | None = None

    def write(self, blob: list[Publication]) -> int:
        for publication in blob:
            self.queue.append(publication)
            self.backlog_bytes += len(publication.data)
        self.wake.set()
        return self.backlog_bytes

    def close(self, code: int, reason: str) -> None:
        if self.end is None:
            self.end = (code, reason)
        self.wake.set()

    def abort(self) -> None:
        self.close(1006, 'aborted')

    def pause_reading(self) -> None:
        """There is nobody to read from."""

    def resume_reading(self) -> None:
        """There is nobody to read from."""


class _LocalConnection(Connection):
    """The connection of a server-side subscription."""

    __slots__ = ()

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        self.transport.close(code, reason)
        self.hub.remove(self)


class LocalSubscription:
    """A server-side subscription: an async context manager and iterator.

    ::

        async with channels.subscribe('rooms:lobby') as subscription:
            async for publication in subscription:
                print(publication.value())

    Attributes:
        position: Where it began; set on entering.
        recovered: Whether everything since the given position follows; ``None`` where
            none was given.
    """

    def __init__(
        self, channels: Channels, channel: str, since: Position | None
    ) -> None:
        self._channels = channels
        self._channel = channel
        self._since = since
        self._transport: _QueueTransport | None = None
        self._connection: _LocalConnection | None = None
        self.position = Position(0, '')
        self.recovered: bool | None = None

    async def __aenter__(self) -> Self:
        """Subscribe.

        Raises:
            UnknownChannelError: No route matches.
            BrokerUnavailableError: Try again.
        """
        channels = self._channels
        match = await channels.match(self._channel)
        transport = self._transport = _QueueTransport()
        connection = _LocalConnection(
            channels.hub, transport, get_encoder(_CODEC, _FRAMING)
        )
        self._connection = connection
        channels.hub.add(connection)
        subscription = Subscription(
            connection, self._channel, match.route, match.params
        )
        connection.subscriptions[self._channel] = subscription
        try:
            joined = await channels.hub.join(subscription, self._since)
        except BaseException:
            channels.hub.remove(connection)
            raise
        self.position = joined.position
        self.recovered = joined.recovered
        if joined.publications:
            transport.write(joined.publications)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._channels.hub.remove(self._connection)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Publication:
        """Return the next publication.

        Raises:
            UnsubscribedError: The subscription was ended: it was too slow (code 3008),
                missed something (2500), or the application shuts down (3001).
            RuntimeError: Not entered.
        """
        transport, connection = self._transport, self._connection
        if transport is None or connection is None:
            raise RuntimeError('enter the subscription first: "async with"')
        while not transport.queue:
            if transport.end is not None:
                raise UnsubscribedError(*transport.end)
            transport.wake.clear()
            await transport.wake.wait()
        publication = transport.queue.popleft()
        transport.backlog_bytes -= len(publication.data)
        if not transport.queue:
            connection.on_writable()
        return publication
