"""A client without a network, to test an application.

::

    async def scenario() -> None:
        async with SimulatedClient(channels, user='ann') as ann:
            await ann.subscribe('rooms:lobby')          # calls on_subscribe
            await ann.publish('rooms:lobby', {'text': 'hi'})    # calls on_publish
            publication = await ann.receive()
            assert {'text': 'hi'} == publication.value()

    run_with_fake_clock(scenario())

If a responder refuses the client, its error is raised. A test expects it with
``pytest.raises(falcon.HTTPForbidden)``. A client can stop reading, to test the
channel's policy for slow readers. `SimulatedClient.events` has everything that the
client received, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Sequence
import contextlib
from types import TracebackType
from typing import Any
from typing import NamedTuple
from typing import Self

from falcon import testing

from falcon_channels.access.publication_parts import encode_payload
from falcon_channels.access.subscribing import SubscribeOptions
from falcon_channels.channels import Channels
from falcon_channels.checks import check_duration
from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.protocol.json_codec import is_json
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal
from falcon_channels.testing.clock import check_clock
from falcon_channels.testing.fresh import check_channels
from falcon_channels.transports.base import Receiver
from falcon_channels.transports.encoders import get_encoder
from falcon_channels.transports.encoders import Item


@contextlib.asynccontextmanager
async def arrives_within(timeout_s: float, what: str) -> AsyncIterator[None]:
    """Limit the time of a block that waits for something.

    Args:
        timeout_s: Longest time of the block, in seconds.
        what: Noun for the message of the error, such as ``push``.

    Raises:
        TimeoutError: The block took longer.
        InvalidValueError: `timeout_s` is not a number of seconds.
    """
    # NOTE: with NaN or a negative number, a test would wait for a time that nobody can
    #   predict, or fail although everything arrives.
    timeout = asyncio.timeout(check_duration('timeout_s', timeout_s, zero=True))
    try:
        async with timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise TimeoutError(f'no {what} arrived within {timeout_s} s') from None


class Subscribed(NamedTuple):
    """The start of a subscription: the requested position, and the result."""

    channel: str
    since: Position | None
    joined: Joined


class Received(NamedTuple):
    """A publication, a join or a leave of a subscribed channel."""

    channel: str
    item: Item
    epoch: str


class Unsubscribed(NamedTuple):
    """The end of a subscription; the code is 0 if the client ended it."""

    channel: str
    code: int
    reason: str


#: Everything that a client can receive.
Event = Subscribed | Received | Unsubscribed


class _EventCodec:
    """Encodes items as `Received` objects."""

    binary = False
    carries_binary = True

    def encode_items(
        self, channel: str, items: Sequence[Item], epoch: str
    ) -> list[Any]:
        return [Received(channel, item, epoch) for item in items]


class _ListFraming:
    """Frames events, or messages, as lists."""

    def frame(self, payloads: Sequence[Any], *, binary: bool) -> list[Any]:
        return list(payloads)

    def join(self, blobs: Sequence[list[Any]]) -> list[Any]:
        return [item for blob in blobs for item in blob]


_CODEC = _EventCodec()
_FRAMING = _ListFraming()


class SimulatedTransport:
    """A transport to a client in the same process, which can stop reading.

    Args:
        on_event: Called when the client reads an event, or a message if the client has
            its own codec.
        on_end: Called when the connection has ended.

    Attributes:
        writes: Number of writes.
        backlog_bytes: Bytes that the client has not read. After the end, these are the
            bytes that are lost.
        peak_bytes: Largest backlog so far, in bytes.
        end: Close code and reason, or ``None`` while the connection is open.
    """

    #: There is no socket.
    descriptor = -1

    def __init__(
        self, on_event: Callable[[Any], None], on_end: Callable[[], None]
    ) -> None:
        self.framing = _FRAMING
        self.receiver: Receiver | None = None
        self.writes = 0
        self.backlog_bytes = 0
        self.peak_bytes = 0
        self.end: tuple[int, str] | None = None
        self._on_event = on_event
        self._on_end = on_end
        self._reading = True
        self._unread: deque[list[Any]] = deque()

    def write(self, blob: list[Any]) -> int:
        """Give events to the client, or buffer them while it does not read."""
        if self.end is not None:
            return 0
        self.writes += 1
        if self._reading:
            self._read(blob)
            return 0
        self._unread.append(blob)
        self.backlog_bytes += _size_bytes(blob)
        self.peak_bytes = max(self.peak_bytes, self.backlog_bytes)
        return self.backlog_bytes

    def stop_reading(self) -> None:
        """Stop reading."""
        self._reading = False

    def read_again(self) -> None:
        """Read all pending events, and continue to read."""
        self._reading = True
        had_backlog = bool(self._unread)
        while self._unread:
            self._read(self._unread.popleft())
        self.backlog_bytes = 0
        if had_backlog and self.end is None and self.receiver is not None:
            self.receiver.on_writable()

    def close(self, code: int, reason: str) -> None:
        """End the connection; events that the client has not read are lost."""
        if self.end is not None:
            return
        self.end = (code, reason)
        self._unread.clear()
        if self.receiver is not None:
            loop = asyncio.get_running_loop()
            loop.call_soon(self.receiver.on_closed, code, reason)
        self._on_end()

    def abort(self) -> None:
        """End the connection at once."""
        self.close(1006, '')

    def pause_reading(self) -> None:
        """Ignore the call: a simulated client calls methods instead of sending."""

    def resume_reading(self) -> None:
        """Ignore the call: a simulated client calls methods instead of sending."""

    def _read(self, blob: list[Any]) -> None:
        for event in blob:
            self._on_event(event)


def _size_bytes(blob: list[Any]) -> int:
    size_bytes = 0
    for event in blob:
        if isinstance(event, Received) and isinstance(event.item, Publication):
            size_bytes += len(event.item.data)
        elif isinstance(event, bytes):
            size_bytes += len(event)
        elif isinstance(event, Subscribed):
            size_bytes += sum(len(p.data) for p in event.joined.publications)
    return size_bytes


class _SimulatedConnection(Connection):
    """The server's side of a `SimulatedClient`."""

    __slots__ = ()

    def on_message(self, message: str | bytes) -> None:
        """Ignore the call: a simulated client calls methods instead of sending."""

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        self.send_blob([Unsubscribed(subscription.channel, code, reason)])


class SimulatedClient:
    """A client of a `Channels` object without a network; see the module's docstring.

    Args:
        channels: The channels under test.
        user: Id of the user; ``None`` or ``''`` for an anonymous client.
        info: Public information about the connection.
        req: Request for the responders; a request for ``/`` by default. Tests set
            ``req.context`` in place of the application's middleware.
        on_event: Called with each event, which is also in `events`.

    Raises:
        OptionsError: `channels` is not a `Channels` object.
        InvalidValueError: `user` is not text, or `info` is not a JSON value.

    Attributes:
        events: Everything that was received, in order. A test may clear it.
        transport: The transport, with its counters.
        connection: The connection on the server's side.
    """

    def __init__(
        self,
        channels: Channels,
        *,
        user: str | None = '',
        info: Any = None,
        req: Any = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        check_channels(channels)
        self.events: deque[Event] = deque()
        self.req = testing.create_asgi_req() if req is None else req
        self._channels = channels
        self._node = channels.node
        self._on_event = on_event
        self._publications: deque[Publication] = deque()
        self._signals: deque[Signal] = deque()
        self._wake = asyncio.Event()
        self.transport = SimulatedTransport(self._take, self._wake.set)
        self.connection: Connection = _SimulatedConnection(
            channels.node.hub,
            self.transport,
            get_encoder(_CODEC, _FRAMING),
            self.req,
            user=user,
            info=info,
        )
        self.transport.receiver = self.connection

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ClosedError: The channels are closed.
            ChannelsError: The test has a fake clock, and the broker is not in memory.
            falcon.HTTPServiceUnavailable: The channels are draining, or the limit
                `max_connections` is reached.
        """
        check_clock(self._channels)
        await self._channels.start()
        self._node.handshake.add(self.connection)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disconnect()

    # --- requests of a client --------------------------------------------------------

    async def subscribe(
        self, channel: str, since: Position | None = None, data: Any = None
    ) -> Joined:
        """Subscribe; return the position of the start and the recovered publications.

        Args:
            channel: Name of the channel.
            since: Position from which the client recovers.
            data: Value of `Subscription.data` for ``on_subscribe``.

        Raises:
            falcon.HTTPError: The client was refused.
            UnknownChannelError: No route matches.
            AlreadySubscribedError: The client is subscribed to the channel.
            UnsubscribedError: The subscription was ended before it was complete.
            BrokerUnavailableError: The broker cannot be reached. Try again.
        """
        starts: list[Joined] = []

        def on_joined(subscription: Subscription, joined: Joined) -> None:
            starts.append(joined)
            self.connection.send_blob([Subscribed(channel, since, joined)])

        try:
            await self._node.subscriber.subscribe(
                self.connection,
                channel,
                on_joined,
                self._options(since, data),
            )
        except BaseException:
            if starts:
                self.connection.send_blob([Unsubscribed(channel, 0, '')])
            raise
        return starts[0]

    def _options(self, since: Position | None, data: Any) -> SubscribeOptions:
        return SubscribeOptions(since=since, data=data)

    def unsubscribe(self, channel: str) -> None:
        """End a subscription; do nothing if there is none."""
        subscription = self.connection.subscriptions.get(channel)
        if subscription is not None:
            self._leave(subscription)

    def _leave(self, subscription: Subscription) -> None:
        was_live = subscription.joined and not subscription.ended
        self._node.hub.leave(subscription)
        if was_live:
            self.connection.send_blob([Unsubscribed(subscription.channel, 0, '')])

    async def publish(self, channel: str, data: Any) -> None:
        """Publish as a client; the options and ``on_publish`` decide if it may.

        Args:
            channel: Name of the channel.
            data: Any JSON value, or `bytes`. Only a channel with
                ``ChannelOptions(binary=True)`` accepts bytes that are not JSON.

        Raises:
            falcon.HTTPError: The client was refused.
            PayloadError: The bytes are not JSON, and the channel carries JSON.
            PublicationTooLargeError: The payload exceeds the channel's limit.
            UnknownChannelError: No route matches.
        """
        payload, binary = encode_payload(data)
        binary = binary and not is_json(payload)
        await self._node.publisher.publish_for_client(
            self.connection, channel, payload, binary=binary
        )

    async def receive(self, timeout_s: float = 5.0) -> Publication:
        """Wait for the next publication, and return it.

        Args:
            timeout_s: How long to wait, in seconds. A fake clock does not really wait.

        Raises:
            InvalidValueError: `timeout_s` is not a number of seconds.
            TimeoutError: No publication arrived in time.
            UnsubscribedError: The connection is closed. Its `code` is the close code.
        """
        async with arrives_within(timeout_s, 'publication'):
            while not self._publications:
                if self.transport.end is not None:
                    raise UnsubscribedError(*self.transport.end)
                self._wake.clear()
                await self._wake.wait()
        return self._publications.popleft()

    async def receive_signal(self, timeout_s: float = 5.0) -> Signal:
        """Wait for the next join or leave, and return it; see `receive`."""
        async with arrives_within(timeout_s, 'join or leave'):
            while not self._signals:
                if self.transport.end is not None:
                    raise UnsubscribedError(*self.transport.end)
                self._wake.clear()
                await self._wake.wait()
        return self._signals.popleft()

    def stop_reading(self) -> None:
        """Stop reading, like a client with a stalled network."""
        self.transport.stop_reading()

    def read_again(self) -> None:
        """Read all pending events, and continue to read."""
        self.transport.read_again()

    def disconnect(self) -> None:
        """Disconnect without a close frame, like a client that lost its network."""
        self.connection.on_closed(1006, '')
        self.transport.close(1006, '')

    @property
    def end(self) -> tuple[int, str] | None:
        """Close code and reason, or ``None`` while the connection is open."""
        return self.transport.end

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Received):
            if isinstance(event.item, Publication):
                self._publications.append(event.item)
            else:
                self._signals.append(event.item)
        elif isinstance(event, Subscribed):
            self._publications.extend(event.joined.publications)
        if self._on_event is not None:
            self._on_event(event)
        self._wake.set()
