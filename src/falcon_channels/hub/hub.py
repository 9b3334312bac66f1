"""The hub: connections and subscriptions of this process, and the fan-out.

Its rules:

* Announced publications wait in the batch of their local channel until the end of this
  event-loop iteration (`AnnouncementReceiver`). Then `FanOut` encodes each batch once
  per encoder and writes it to every subscriber. A publisher never waits for a
  subscriber.
* Replies wait in `Connection.out` until the same moment, and leave before publications.
  Code that changes the subscriptions of a channel flushes its batch first. The client
  therefore receives exactly the publications that follow its reply.
* Only `Joiner.join` adds a subscription to a channel, and only `leave` removes it.
* Publications can be lost between the broker and the hub. `repair` has the rules by
  which the hub notices the loss and reads them from the log.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from functools import partial
import logging
from typing import Protocol

from falcon_channels.brokers.base import Broker
from falcon_channels.errors import ClosedError
from falcon_channels.events import Event
from falcon_channels.events import Events
from falcon_channels.hub.channel_registry import ChannelRegistry
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState as State
from falcon_channels.hub.connection_registry import ConnectionRegistry
from falcon_channels.hub.fanout import FanOut
from falcon_channels.hub.joining import Joiner
from falcon_channels.hub.joining import JoinObserver
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.hub.loss_log import LossLog
from falcon_channels.hub.receiver import AnnouncementReceiver
from falcon_channels.hub.repair import Repairs
from falcon_channels.hub.shared_encodings import SharedEncodings
from falcon_channels.hub.tasks import Tasks
from falcon_channels.metrics import Counters
from falcon_channels.operations import Operations
from falcon_channels.options import NodeOptions
from falcon_channels.protocol.codes import UNSUBSCRIBE_EXPIRED
from falcon_channels.protocol.codes import unsubscribe_for_end
from falcon_channels.protocol.codes import UNSUBSCRIBE_INSUFFICIENT
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import first_offset
from falcon_channels.publication import Position
from falcon_channels.transports.base import UNKNOWN_BACKLOG

_logger = logging.getLogger('falcon_channels')


class HubObserver(JoinObserver, Protocol):
    """Observes connections and the starts of subscriptions.

    No method may raise or block.
    """

    def on_drained(self, connection: Connection) -> None:
        """Called when a client has read all pending output."""


class Hub:
    """Connections and subscriptions of this process; see the module docstring.

    Args:
        broker: The broker. The owner of the hub starts and closes it.
        options: Options of the hub.
        events: Tells what happens in the process.
        operations: Operations of the process.

    Attributes:
        counters: Counters for metrics.
        events: Tells what happens to the connections and subscriptions.
        tasks: The background tasks, also those of other objects of the process.
        receiver: Receives what the broker announces.
        joiner: Joins subscriptions to their channels.
        connections: All connections. Use `add` and `remove` to change it.
        shared_encodings: Encoded publications that many clients recover together.
        on_output: Called by a connection that has its first output in this iteration.
    """

    def __init__(
        self,
        broker: Broker,
        options: NodeOptions,
        events: Events,
        operations: Operations,
    ) -> None:
        self.broker = broker
        self.options = options
        self.counters = Counters()
        self.events = events
        self.tasks = Tasks(self.counters)
        self.connections = ConnectionRegistry()
        self._on_left: Callable[[Subscription], None] = _ignore
        self._on_expiry_changed: Callable[[Subscription], None] = _ignore
        self._observer: HubObserver | None = None
        self._loss_log = LossLog()
        self._draining = False
        self._registry = ChannelRegistry(
            broker, options, self._on_open, lambda: self._repairs.links
        )
        self._channels = self._registry.by_channel
        self.shared_encodings = SharedEncodings()
        self._fan_out = FanOut(
            self._channels,
            self.counters,
            events,
            operations,
            options,
            self._on_lost,
            self._on_ended,
        )
        self._repairs = Repairs(
            self._channels,
            broker,
            self._fan_out,
            self.counters,
            self.tasks.spawn,
            self._on_lost,
        )
        self.receiver = AnnouncementReceiver(
            self._channels,
            self._fan_out,
            self._repairs,
            self._loss_log,
            self.counters,
            self.events,
        )
        self.joiner = Joiner(
            broker,
            self._registry,
            self._fan_out,
            self._repairs,
            self.shared_encodings,
            self.counters,
            self.events,
            options.max_backlog_bytes,
        )
        # PERF: a stored bound method saves a call for each reply.
        self.on_output = self._fan_out.on_output
        self._closed = False

    # --- life ------------------------------------------------------------------------

    def listen(
        self,
        on_left: Callable[[Subscription], None],
        on_expiry_changed: Callable[[Subscription], None],
    ) -> None:
        """Call functions with subscriptions, from now on.

        Args:
            on_left: Called with each subscription that has ended.
            on_expiry_changed: Called with a subscription whose
                `Subscription.expires_at` was set after it had joined.
        """
        self._on_left = on_left
        self._on_expiry_changed = on_expiry_changed

    def observe(self, observer: HubObserver | None) -> None:
        """Set the only observer of this hub, or end its observation with ``None``."""
        self._observer = observer
        self.joiner.observe(observer)

    def local_channel(self, channel: str) -> LocalChannel | None:
        """Return a channel of this process, or ``None`` if it is not open."""
        return self._channels.get(channel)

    def start(self) -> None:
        """Start the tasks of the hub in the running event loop."""
        self.tasks.start()
        self._fan_out.start()
        self.tasks.run_forever(self._registry.run_housekeeping, 'housekeeping')
        interval_s = self.options.position_check_s
        if interval_s is not None:
            self.tasks.run_forever(
                partial(self._repairs.check_positions, interval_s), 'position check'
            )

    def start_draining(self) -> None:
        """Refuse new connections from now on."""
        self._draining = True

    @property
    def draining(self) -> bool:
        """Whether new connections are refused."""
        return self._draining

    async def close(self) -> None:
        """Cancel all tasks of the hub. The owner closes the connections.

        Graceful tasks, such as responders that are called at the end of a subscription,
        get a few seconds.
        """
        self._closed = True
        self.tasks.close()
        self._registry.close()
        await self.tasks.finish_graceful()
        await self.joiner.close()
        self.shared_encodings.clear()
        await self.tasks.cancel(self._registry.tasks())
        self._fan_out.close()
        self._loss_log.close()

    # --- connections -----------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        """Register a connection.

        Raises:
            ClosedError: The hub is closed or drains, or the connection has ended.
        """
        if self._closed or self._draining:
            raise ClosedError('the hub is closed')
        if connection.closed:
            raise ClosedError('the connection has ended already')
        self.connections.add(connection)
        if self.events.wants('connection_opened'):
            self.events.tell(
                Event(
                    'connection_opened',
                    connection=connection.id,
                    user=connection.user,
                    facts={'kind': type(connection).__name__},
                )
            )

    def remove(
        self,
        connection: Connection,
        code: int = 0,
        reason: str = '',
        *,
        by_client: bool = False,
        backlog_bytes: int | None = None,
    ) -> None:
        """Unregister a connection that has ended, and end its subscriptions.

        Args:
            connection: The connection.
            code: Close code, or 0 if there is none.
            reason: Close reason, or ``''``.
            by_client: Whether the client ended the connection, or was lost.
            backlog_bytes: Backlog before the end; ``None`` if the connection still
                has it.
        """
        if connection.closed:
            return
        if backlog_bytes is None:
            backlog_bytes = connection.backlog_bytes
            if not backlog_bytes and connection.out is not None:
                # NOTE: queued output is dropped. Its size is not known here.
                backlog_bytes = UNKNOWN_BACKLOG
        connection.mark_closed()
        added = self.connections.discard(connection)
        self._fan_out.forget(connection)
        for subscription in list(connection.subscriptions.values()):
            self.leave(subscription)
        if added and self.events.wants('connection_closed'):
            self.events.tell(
                Event(
                    'connection_closed',
                    connection=connection.id,
                    user=connection.user,
                    code=code,
                    reason=reason,
                    facts={
                        'by_client': by_client,
                        'backlog_bytes': (
                            None if backlog_bytes == UNKNOWN_BACKLOG else backlog_bytes
                        ),
                    },
                )
            )
        connection.on_end()

    @property
    def num_channels(self) -> int:
        """Number of channels with subscribers in this process."""
        return self._registry.totals.num_channels

    @property
    def num_subscriptions(self) -> int:
        """Number of subscriptions in this process."""
        return self._registry.totals.num_subscriptions

    def local_channels(self) -> list[LocalChannel]:
        """Return all channels that are open in this process, also without subscribers.

        PERF: a copy of 100,000 references takes a millisecond. The caller can then read
        the channels in parts (`parts.in_parts`).
        """
        return list(self._channels.values())

    def iter_subscribers(self, channel: str) -> Iterator[Connection]:
        """Iterate over the connections that are subscribed to a channel.

        The caller changes nothing meanwhile, and awaits nothing.
        """
        local_channel = self._channels.get(channel)
        if local_channel is not None:
            for subscription in local_channel.iter_subscriptions():
                yield subscription.connection

    def count_subscribers(self, channel: str) -> int:
        """Return how many connections of this process are subscribed to a channel."""
        local_channel = self._channels.get(channel)
        return 0 if local_channel is None else local_channel.members

    def on_writable(self, connection: Connection) -> None:
        """Called when a client has read all pending output."""
        connection.on_all_read()
        if self._observer is not None:
            self._observer.on_drained(connection)
        self.catch_up(connection)

    def catch_up(self, connection: Connection) -> None:
        """Write the pending items of a connection's LAGGING subscriptions."""
        for subscription in list(connection.subscriptions.values()):
            self._catch_up(subscription)

    def _catch_up(self, subscription: Subscription) -> None:
        """Write the pending items of a subscription if it is LAGGING."""
        if subscription.state is State.LAGGING:
            local_channel = self._channels[subscription.channel]
            items, epoch = local_channel.catch_up(subscription)
            if local_channel.observer is not None:
                local_channel.observer.on_caught_up(
                    subscription, first_offset(items), local_channel.delivered_offset
                )
            if self.events.wants('reader_caught_up'):
                facts = {'num_publications': len(items)}
                self.events.tell(subscription.event('reader_caught_up', facts=facts))
            self._fan_out.write_items(local_channel, subscription, items, epoch)

    def on_user_changed(self, connection: Connection, before: str) -> None:
        """Called when `Connection.user` was set; `before` is the user until then."""
        moved = self.connections.move(connection, before)
        if (
            moved
            and connection.user != before
            and self.events.wants('connection_identified')
        ):
            self.events.tell(
                Event(
                    'connection_identified',
                    connection=connection.id,
                    user=connection.user,
                    facts={'before': before},
                )
            )

    # --- ends of subscriptions -------------------------------------------------------

    def leave(self, subscription: Subscription) -> None:
        """End a subscription without telling the client."""
        subscription.connection.discard_subscription(subscription)
        if subscription.ended:
            return
        local_channel = self._channels.get(subscription.channel)
        if local_channel is None:
            subscription.finish()
        else:
            if local_channel.observer is not None and subscription.joined:
                local_channel.observer.on_ended(
                    subscription, self.delivered(subscription)
                )
            local_channel.remove(subscription)
            self._registry.note_idle(local_channel)
        if subscription.joined and self.events.wants('subscription_ended'):
            code, reason = subscription.end or (0, '')
            self.events.tell(subscription.event('subscription_ended', code, reason))
        self._on_left(subscription)

    def unsubscribe(self, subscription: Subscription, code: int, reason: str) -> None:
        """End a subscription, and tell the client if it has joined.

        For a JOINING subscription, `Joiner.join` raises `UnsubscribedError` instead.
        """
        if subscription.ended:
            return
        joining = subscription.state is State.JOINING
        subscription.end_with(code, reason)
        self.leave(subscription)
        if not joining:
            subscription.connection.on_unsubscribed(subscription, code, reason)

    def on_expiry_changed(self, subscription: Subscription) -> None:
        """Called when `Subscription.expires_at` was set after the join."""
        self._on_expiry_changed(subscription)

    def expire(self, subscription: Subscription) -> None:
        """End a subscription whose `Subscription.expires_at` has passed."""
        if not subscription.ended:
            subscription.connection.note_expiry()
            self.unsubscribe(subscription, *UNSUBSCRIBE_EXPIRED)

    def finish(
        self, subscription: Subscription, end: ChannelEnd, position: Position
    ) -> None:
        """End a subscription that has received the last publication of its channel.

        Args:
            subscription: A subscription that has joined.
            end: How the channel has ended.
            position: Position of the end.
        """
        if subscription.ended:
            return
        subscription.end_with(*unsubscribe_for_end(end.error))
        self.leave(subscription)
        subscription.connection.on_finished(subscription, end, position)

    def delivered(self, subscription: Subscription) -> Position | None:
        """Return the position up to which publications were delivered.

        Returns:
            ``None`` for a subscription that is JOINING or has ended.
        """
        local_channel = self._channels.get(subscription.channel)
        if local_channel is None:
            return None
        position, state = local_channel.position, subscription.state
        if state is State.AHEAD:
            return Position(subscription.offset, position.epoch)
        if state is State.LAGGING:
            offset = subscription.delivered_offset_in(position.epoch)
            return Position(offset, position.epoch)
        if state is not State.LIVE:
            return None
        return Position(local_channel.delivered_offset, position.epoch)

    def _on_open(self, local_channel: LocalChannel, gap: bool, links: int) -> None:
        """Called when a channel was opened; see `ChannelRegistry`."""
        if local_channel.batch:
            self._fan_out.mark(local_channel)
        # NOTE: if the link was lost meanwhile, publications after the position may have
        #   been missed. No gap shows that.
        if gap or (links != self._repairs.links and local_channel.options.history_size):
            self._repairs.begin(local_channel)

    def _on_ended(self, local_channel: LocalChannel) -> None:
        """End all subscriptions of a local channel that has ended."""
        end = local_channel.end
        assert end is not None
        for subscription in local_channel.subscriptions():
            # NOTE: the pending items of a slow client are limited, and no others
            #   follow. They do not count towards the backlog limit.
            connection = subscription.connection
            try:
                connection.grant(subscription.pending_bytes)
                self._catch_up(subscription)
                self.finish(subscription, end, local_channel.position)
            except Exception:
                self._on_failed_end(subscription)

    def _on_lost(self, local_channel: LocalChannel) -> None:
        """End all subscriptions of a local channel whose publications are lost."""
        subscriptions = local_channel.subscriptions()
        local_channel.take_batch()
        self.counters.insufficient_state += len(subscriptions)
        self._loss_log.on_publications_lost(local_channel.channel, len(subscriptions))
        facts = {'num_subscriptions': len(subscriptions)}
        self.events.tell(
            Event('publications_lost', channel=local_channel.channel, facts=facts)
        )
        for subscription in subscriptions:
            try:
                self.unsubscribe(subscription, *UNSUBSCRIBE_INSUFFICIENT)
            except Exception:
                self._on_failed_end(subscription)

    def _on_failed_end(self, subscription: Subscription) -> None:
        """Called in the handler of an error; the other subscriptions end, too."""
        connection = subscription.connection
        self.counters.task_errors += 1
        _logger.exception('ending %r of %r failed', subscription, connection)
        connection.transport.abort()


def _ignore(*arguments: object) -> None:
    """Ignore an event; the default listener."""
