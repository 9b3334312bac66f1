"""Local subscriptions: code of the application listens to a channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from typing import Self

from falcon_channels.access.subscribing import SubscribeOptions
from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.connection import ClientKind
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.node import Node
from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.transports.encoders import get_encoder
from falcon_channels.transports.encoders import Item
from falcon_channels.websocket.close_codes import ABNORMAL


class _ItemsCodec:
    """Passes publications on as objects."""

    binary = False
    carries_binary = True

    def encode_items(
        self, channel: str, items: Sequence[Item], epoch: str
    ) -> list[Any]:
        return [item for item in items if isinstance(item, Publication)]


class _ListFraming:
    """Makes lists of publications."""

    def frame(self, payloads: Sequence[Any], *, binary: bool) -> list[Any]:
        return list(payloads)

    def join(self, blobs: Sequence[list[Any]]) -> list[Any]:
        return [item for blob in blobs for item in blob]


_CODEC = _ItemsCodec()
_FRAMING = _ListFraming()


class _QueueTransport:
    """A queue of publications; their bytes are the backlog."""

    #: There is no socket.
    descriptor = -1

    def __init__(self) -> None:
        self.framing = _FRAMING
        self.backlog_bytes = 0
        self.end: tuple[int, str] | None = None
        self.channel_end: ChannelEnd | None = None
        self._left = False
        self._queue: deque[Publication] = deque()
        self._wake = asyncio.Event()

    def write(self, blob: list[Publication]) -> int:
        for publication in blob:
            self._queue.append(publication)
            self.backlog_bytes += approximate_size_bytes(publication)
        self._wake.set()
        return self.backlog_bytes

    def close(self, code: int, reason: str) -> None:
        if self.end is None:
            self.end = (code, reason)
        self._wake.set()

    def finish(self, end: ChannelEnd) -> None:
        """Store how the channel has ended; `close` follows."""
        self.channel_end = end

    def leave(self) -> None:
        """Drop all publications; each call of `next` raises an error from now on."""
        self._left = True
        self._queue.clear()
        self.backlog_bytes = 0
        self._wake.set()

    def abort(self) -> None:
        self.close(ABNORMAL, 'aborted')

    def pause_reading(self) -> None:
        """Ignore the call: a queue sends no messages."""

    def resume_reading(self) -> None:
        """Ignore the call: a queue sends no messages."""

    async def next(self) -> Publication:
        """Return the next publication.

        Raises:
            StopAsyncIteration: The queue is empty, and the channel has ended with
                success.
            UnsubscribedError: The queue is empty, and the subscription has ended.
            RuntimeError: `leave` was called.
        """
        while not self._queue:
            if self._left:
                raise RuntimeError(
                    'the block of the subscription has ended: read within it'
                )
            if self.channel_end is not None and not self.channel_end.error:
                raise StopAsyncIteration
            if self.end is not None:
                raise UnsubscribedError(*self.end)
            self._wake.clear()
            await self._wake.wait()
        publication = self._queue.popleft()
        self.backlog_bytes -= approximate_size_bytes(publication)
        return publication

    @property
    def is_empty(self) -> bool:
        """Whether no publication waits."""
        return not self._queue


class _LocalConnection(Connection):
    """The connection of a local subscription."""

    __slots__ = ()

    transport: _QueueTransport

    @property
    def kind(self) -> ClientKind:
        """How the client is connected."""
        return ClientKind('local')

    def on_finished(
        self, subscription: Subscription, end: ChannelEnd, position: Position
    ) -> None:
        # NOTE: some publications may still be queued for the end of the iteration.
        self.flush()
        self.transport.finish(end)
        super().on_finished(subscription, end, position)

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        self.transport.close(code, reason)
        self.hub.remove(self)


class LocalSubscription:
    """A subscription of the application: an async context manager and iterator.

    ::

        async with channels.subscribe('rooms:lobby') as subscription:
            async for publication in subscription:
                print(publication.value())

    The loop ends when the channel has ended with success; see `Channels.finish`.
    ``on_subscribe`` is not called, because the application itself subscribes. The
    subscription is not in presence.

    Attributes:
        position: Position at which the subscription began; set on entering.
        recovered: Whether all publications since the given position are delivered
            first; ``None`` if no position was given.
        end: The end of the channel if it has ended, else ``None``. There may still be
            publications to read.
    """

    def __init__(self, node: Node, channel: str, since: Position | None) -> None:
        self._node = node
        self._channel = channel
        self._since = since
        self._transport: _QueueTransport | None = None
        self._connection: _LocalConnection | None = None
        self.position = Position(0, '')
        self.recovered: bool | None = None

    async def __aenter__(self) -> Self:
        """Subscribe.

        Raises:
            ChannelNameError: The name is not a channel name.
            UnknownChannelError: No route matches.
            BrokerUnavailableError: Try again.
            ClosedError: The channels drain or are closed.
            RuntimeError: It was entered, and its block has not ended.
        """
        await self._node.match(self._channel)
        if self._connection is not None and not self._connection.closed:
            raise RuntimeError(
                'a subscription has one block at a time: call channels.subscribe again'
            )
        hub = self._node.hub
        self._transport = _QueueTransport()
        self._connection = _LocalConnection(
            hub, self._transport, get_encoder(_CODEC, _FRAMING)
        )
        hub.add(self._connection)
        try:
            await self._node.subscriber.subscribe(
                self._connection,
                self._channel,
                self._on_joined,
                SubscribeOptions(since=self._since, server_side=True, presence=False),
            )
        except BaseException:
            hub.remove(self._connection)
            raise
        return self

    @property
    def end(self) -> ChannelEnd | None:
        """The end of the channel if it has ended, else ``None``."""
        return None if self._transport is None else self._transport.channel_end

    def _on_joined(self, subscription: Subscription, joined: Joined) -> None:
        self.position = joined.position
        self.recovered = joined.recovered
        if joined.publications and self._transport is not None:
            self._transport.write(joined.publications)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._node.hub.remove(self._connection)
        if self._transport is not None:
            # NOTE: another task may wait for the next publication.
            self._transport.leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Publication:
        """Return the next publication.

        Raises:
            StopAsyncIteration: The channel has ended with success.
            UnsubscribedError: The subscription has ended. Its code says why: it was too
                slow (3008), publications were lost (2500), or the application shuts
                down (3001). With 2401, the channel has failed, and the reason is its
                error.
            RuntimeError: The subscription was not entered, or its block has ended.
        """
        transport, connection = self._transport, self._connection
        if transport is None or connection is None:
            raise RuntimeError('enter the subscription first: "async with"')
        publication = await transport.next()
        if transport.is_empty:
            connection.on_writable()
        return publication
