"""A client without a network, for tests of resources.

::

    async def scenario() -> None:
        async with SimulatedClient(channels, user='ann') as ann:
            await ann.subscribe('rooms:lobby')          # asks on_subscribe
            await ann.publish('rooms:lobby', {'text': 'hi'})    # asks on_publish
            publication = await ann.receive()
            assert {'text': 'hi'} == publication.value()

    run_with_fake_clock(scenario())

What a responder refuses, it raises here: ``pytest.raises(falcon.HTTPForbidden)``. A
client may stop reading, to see what the channel's slow-reader policy does to it.
Everything that it received stands in `SimulatedClient.events`, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from typing import NamedTuple
from typing import Self

from falcon import testing

from falcon_channels.access import authorization
from falcon_channels.channels import Channels
from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.hub import Joined
from falcon_channels.hub.subscription import Subscription
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal
from falcon_channels.transports.base import Receiver
from falcon_channels.transports.encoders import get_encoder
from falcon_channels.transports.encoders import Item


class Subscribed(NamedTuple):
    """The answer to a subscription: what was asked for, and what became of it."""

    channel: str
    since: Position | None
    joined: Joined


class Received(NamedTuple):
    """A publication, or a join or leave, of a subscribed channel."""

    channel: str
    item: Item
    epoch: str


class Unsubscribed(NamedTuple):
    """The end of a subscription; code 0 where the client asked for it."""

    channel: str
    code: int
    reason: str


#: What a client receives.
Event = Subscribed | Received | Unsubscribed


class _EventCodec:
    """Hands items over as they are."""

    binary = False

    def encode_items(
        self, channel: str, items: Sequence[Item], epoch: str
    ) -> list[Any]:
        return [Received(channel, item, epoch) for item in items]


class _EventFraming:
    """Makes lists of events."""

    def frame(self, payloads: Sequence[Any], *, binary: bool) -> list[Any]:
        return list(payloads)

    def join(self, blobs: Sequence[list[Any]]) -> list[Any]:
        return [event for blob in blobs for event in blob]


_CODEC = _EventCodec()
_FRAMING = _EventFraming()


class SimulatedTransport:
    """A transport to a client in the same process, which may stop reading.

    Args:
        on_event: Called with each event as the client reads it.
        on_end: Called when the connection has ended.

    Attributes:
        writes: How often something was written.
        backlog_bytes: What the client has not read.
        peak_bytes: The largest backlog so far.
        end: Close code and reason, once closed.
    """

    #: There is no socket.
    descriptor = -1

    def __init__(
        self, on_event: Callable[[Event], None], on_end: Callable[[], None]
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
        self._unread: deque[list[Event]] = deque()

    def write(self, blob: list[Event]) -> int:
        """Give events to the client, or keep them while it does not read."""
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
        """Read nothing from now on."""
        self._reading = False

    def read_again(self) -> None:
        """Read what waits, and everything from now on."""
        self._reading = True
        waited = bool(self._unread)
        while self._unread:
            self._read(self._unread.popleft())
        self.backlog_bytes = 0
        if waited and self.end is None and self.receiver is not None:
            self.receiver.on_writable()

    def close(self, code: int, reason: str) -> None:
        """End the connection; what the client has not read is lost."""
        if self.end is not None:
            return
        self.end = (code, reason)
        self._unread.clear()
        self.backlog_bytes = 0
        if self.receiver is not None:
            loop = asyncio.get_running_loop()
            loop.call_soon(self.receiver.on_closed, code, reason)
        self._on_end()

    def abort(self) -> None:
        """End the connection at once."""
        self.close(1006, '')

    def pause_reading(self) -> None:
        """A simulated client sends nothing by itself."""

    def resume_reading(self) -> None:
        """A simulated client sends nothing by itself."""

    def _read(self, blob: list[Event]) -> None:
        for event in blob:
            self._on_event(event)


def _size_bytes(blob: list[Event]) -> int:
    size_bytes = 0
    for event in blob:
        if isinstance(event, Received) and isinstance(event.item, Publication):
            size_bytes += len(event.item.data)
        elif isinstance(event, Subscribed):
            size_bytes += sum(len(p.data) for p in event.joined.publications)
    return size_bytes


class _SimulatedConnection(Connection):
    """The server's side of a `SimulatedClient`."""

    __slots__ = ()

    def on_message(self, message: str | bytes) -> None:
        """A simulated client calls methods instead."""

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        self.send_blob([Unsubscribed(subscription.channel, code, reason)])


class SimulatedClient:
    """A client of a `Channels` object without a network; see the module's page.

    Args:
        channels: Whose client.
        user: Who it is.
        info: Public facts about the connection.
        req: The request that responders get; one for ``/`` by default. What middleware
            would have put into ``req.context``, the test puts there.
        on_event: Called with each event, beside being kept in `events`.

    Attributes:
        events: What it received, in order; a test may clear it.
        transport: Its way in, with counters.
        connection: The server's side.
    """

    def __init__(
        self,
        channels: Channels,
        *,
        user: str = '',
        info: Any = None,
        req: Any = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.events: deque[Event] = deque()
        self.req = testing.create_asgi_req() if req is None else req
        self._channels = channels
        self._on_event = on_event
        self._waiting: deque[Publication] = deque()
        self._signals: deque[Signal] = deque()
        self._wake = asyncio.Event()
        self.transport = SimulatedTransport(self._take, self._wake.set)
        self.connection: Connection = _SimulatedConnection(
            channels.hub, self.transport, get_encoder(_CODEC, _FRAMING), self.req
        )
        self.connection.user = user
        self.connection.info = info
        self.transport.receiver = self.connection

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ClosedError: The channels drain or are closed.
            falcon.HTTPServiceUnavailable: `max_connections` are here already.
        """
        await self._channels.start()
        self._channels.admission.check_room()
        self._channels.hub.add(self.connection)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disconnect()

    # --- what a client does ----------------------------------------------------------

    async def subscribe(
        self, channel: str, since: Position | None = None, data: Any = None
    ) -> Joined:
        """Subscribe, and return where it begins and what was missed.

        Args:
            channel: Which.
            since: Where the client stands, to recover from there.
            data: What `Subscription.data` shows to ``on_subscribe``.

        Raises:
            falcon.HTTPError: Refused.
            UnknownChannelError: No route matches.
            UnsubscribedError: Ended while it was being subscribed.
            BrokerUnavailableError: Try again.
        """
        match = await self._channels.match(channel)
        connection = self.connection
        if channel in connection.subscriptions:
            raise ValueError(f'{channel!r} is subscribed already')
        subscription = Subscription(
            connection, channel, match.route, match.params, data
        )
        connection.subscriptions[channel] = subscription
        joined: Joined | None = None

        def on_joined(outcome: Joined) -> None:
            nonlocal joined
            joined = outcome
            connection.send_blob([Subscribed(channel, since, outcome)])

        try:
            await self._channels.admission.authorize(subscription)
            await self._channels.admission.admit(subscription, since, on_joined)
        except BaseException:
            self._leave(subscription)
            raise
        assert joined is not None
        return joined

    def unsubscribe(self, channel: str) -> None:
        """End a subscription; one that is not there is none."""
        subscription = self.connection.subscriptions.get(channel)
        if subscription is not None:
            self._leave(subscription)

    def _leave(self, subscription: Subscription) -> None:
        known = subscription.joined and not subscription.ended
        self._channels.hub.leave(subscription)
        if known:
            self.connection.send_blob([Unsubscribed(subscription.channel, 0, '')])

    async def publish(self, channel: str, data: Any) -> None:
        """Publish as a client: options and ``on_publish`` decide.

        Args:
            channel: Where.
            data: Any JSON value, or `bytes` for a binary payload.

        Raises:
            falcon.HTTPError: Refused.
            PublicationTooLargeError: It is over the channel's limit.
            UnknownChannelError: No route matches.
        """
        match = await self._channels.match(channel)
        raw, binary = authorization.encode_payload(data)
        draft = authorization.PublicationDraft(
            channel,
            self.connection,
            raw,
            binary=binary,
            data_type=match.route.options.data_type,
        )
        publication = await authorization.authorize_publish(
            match, self.connection, draft
        )
        await self._channels.publish_checked(
            match, channel, publication, idempotency_key=draft.idempotency_key
        )

    async def receive(self, timeout_s: float = 5.0) -> Publication:
        """Return the next publication.

        Args:
            timeout_s: How long to wait for it; no time at all on a fake clock.

        Raises:
            TimeoutError: None came.
            UnsubscribedError: The connection was closed; `code` says why.
        """
        async with asyncio.timeout(timeout_s):
            while not self._waiting:
                if self.transport.end is not None:
                    raise UnsubscribedError(*self.transport.end)
                self._wake.clear()
                await self._wake.wait()
        return self._waiting.popleft()

    async def receive_signal(self, timeout_s: float = 5.0) -> Signal:
        """Return the next join or leave; see `receive`."""
        async with asyncio.timeout(timeout_s):
            while not self._signals:
                if self.transport.end is not None:
                    raise UnsubscribedError(*self.transport.end)
                self._wake.clear()
                await self._wake.wait()
        return self._signals.popleft()

    def stop_reading(self) -> None:
        """Read nothing from now on, as a client whose network is stuck."""
        self.transport.stop_reading()

    def read_again(self) -> None:
        """Read what waits, and everything from now on."""
        self.transport.read_again()

    def disconnect(self) -> None:
        """Be gone, as a client whose network broke."""
        self.transport.close(1006, '')
        self._channels.hub.remove(self.connection)

    @property
    def end(self) -> tuple[int, str] | None:
        """Close code and reason, once the connection is closed."""
        return self.transport.end

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Received):
            if isinstance(event.item, Publication):
                self._waiting.append(event.item)
            else:
                self._signals.append(event.item)
        elif isinstance(event, Subscribed):
            self._waiting.extend(event.joined.publications)
        if self._on_event is not None:
            self._on_event(event)
        self._wake.set()
