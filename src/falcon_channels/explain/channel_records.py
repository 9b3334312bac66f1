"""Records the deliveries of each channel.

* Only transitions are recorded, and one number per batch: see
  `falcon_channels.hub.channel_observer`.
* The channel is observed while a recorded subscription runs.
* A subscription that still runs can be forgotten. Its end then moves the time up to
  which records are missing.
* If the channel continues in another log, each subscription gets a new record.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import time

from falcon_channels.explain.batch_times import BatchTimes
from falcon_channels.explain.connection_records import ConnectionRecords
from falcon_channels.explain.facts import End
from falcon_channels.explain.facts import RecordedRepair
from falcon_channels.explain.facts import RecordedSubscription
from falcon_channels.explain.record_queue import Record
from falcon_channels.explain.record_queue import RecordQueue
from falcon_channels.explain.subscription_record import facts_of
from falcon_channels.explain.subscription_record import SubscriptionRecord
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState as State
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.protocol.json_codec import remove_line_breaks
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.transports.encoders import Item

_CHANNEL_BYTES = 900
_REPAIR_BYTES = 500


class ChannelRecord:
    """Observes the deliveries of one channel; see `ChannelObserver`.

    Args:
        channel: Name of the channel.
        queue: Holds the records.
        connections: Recorded connections of the node.
        on_empty: Called when nothing runs and no record of the channel is left.

    Attributes:
        channel: Name of the channel.
        batch_times: Times and sizes of batches.
    """

    __slots__ = (
        '_connections',
        '_local_channel',
        '_on_empty',
        '_queue',
        '_repairs',
        '_running',
        'batch_times',
        'channel',
    )

    def __init__(
        self,
        channel: str,
        queue: RecordQueue,
        connections: ConnectionRecords,
        on_empty: Callable[[ChannelRecord], None],
    ) -> None:
        self.channel = channel
        self._queue = queue
        self._connections = connections
        self._on_empty = on_empty
        self._local_channel: LocalChannel | None = None
        #: Recorded subscriptions that have not ended. The record is ``None`` if it was
        #: forgotten.
        self._running: dict[Subscription, SubscriptionRecord | None] = {}
        #: Gaps that were closed, oldest first.
        self._repairs: list[RecordedRepair] = []
        self.batch_times = BatchTimes(queue, self._release)

    # --- subscriptions ---------------------------------------------------------------

    def attach(self, local_channel: LocalChannel) -> None:
        """Observe a channel until no recorded subscription runs."""
        if self._local_channel is not local_channel:
            self._local_channel = local_channel
            local_channel.observe(self)

    def start(self, subscription: Subscription, facts: RecordedSubscription) -> None:
        """Add the record of a subscription that has joined."""
        connection = self._connections.get_or_add(subscription.connection)
        record = SubscriptionRecord(
            self._connections, connection, subscription, facts, self._forget_running
        )
        self._running[subscription] = record
        self._queue.keep(record)

    def stop(self, subscription: Subscription) -> None:
        """End the record of a subscription that goes on."""
        local_channel = self._local_channel
        delivered = None
        if local_channel is not None and subscription.state is not State.LAGGING:
            delivered = local_channel.delivered_offset
        self._end(subscription, delivered, End.RECORDING)

    def is_running(self, subscription: Subscription) -> bool:
        """Return whether a subscription is recorded, or its record was forgotten."""
        return subscription in self._running

    def record_of(self, subscription: Subscription) -> SubscriptionRecord | None:
        """Return the record of a subscription that runs, if it is not forgotten."""
        return self._running.get(subscription)

    def subscriptions_of(self, user: str) -> list[Subscription]:
        """Return the recorded subscriptions of a user that run."""
        return [
            subscription for subscription in self._running if subscription.user == user
        ]

    def _end(
        self,
        subscription: Subscription,
        delivered: int | None,
        ended_by: End,
        code: int = 0,
        reason: str = '',
    ) -> None:
        record = self._running.pop(subscription)
        if record is None:
            self._queue.note_forgotten(time.time())
        else:
            record.end(delivered, ended_by, code, reason)
        self._release()

    def _forget_running(self, subscription: Subscription) -> None:
        """Remember that a subscription runs whose record was forgotten."""
        self._running[subscription] = None

    def _release(self) -> None:
        """Stop to observe if no recorded subscription runs; drop an empty record."""
        if self._running:
            return
        if self._local_channel is not None:
            self._local_channel.observe(None)
            self._local_channel = None
        if self.batch_times.empty and not self._repairs:
            self._on_empty(self)

    # --- ChannelObserver -------------------------------------------------------------

    def on_written(self, items: Sequence[Item], position: Position) -> None:
        """Record when a batch was written."""
        size_bytes = first = 0
        for item in items:
            if isinstance(item, Publication) and item.offset:
                # NOTE: an encoding may omit line breaks.
                size_bytes += len(remove_line_breaks(item.data))
                first = first or item.offset
        if first:
            self.batch_times.add(first, position, size_bytes)

    def on_repaired(
        self, before: Position, after: Position, first: int | None, lost: bool
    ) -> None:
        """Record a gap, and the move of all subscriptions to another log."""
        now = time.time()
        same = before.epoch == after.epoch
        facts = RecordedRepair(
            at=now,
            epoch=after.epoch,
            after=before.offset if same else 0,
            until=after.offset,
            first=first,
            lost=lost,
        )
        self._repairs.append(facts)
        self._queue.keep(_RepairRecord(self))
        if same or lost:
            return
        for subscription, record in list(self._running.items()):
            if record is None:
                continue
            lagging = subscription.state is State.LAGGING
            record.end(None if lagging else before.offset, End.EPOCH)
            start = Position(0, after.epoch)
            self.start(subscription, facts_of(subscription, now, start))
            if lagging:
                self.on_lagging(subscription, 0)

    def on_lagging(self, subscription: Subscription, delivered: int) -> None:
        """Record that publications wait for a client."""
        record = self._running.get(subscription)
        if record is not None:
            grown_bytes = record.add_lag(delivered)
            if grown_bytes:
                self._queue.grow(record, grown_bytes)

    def on_caught_up(
        self, subscription: Subscription, first: int | None, delivered: int
    ) -> None:
        """Record that the pending publications were written."""
        record = self._running.get(subscription)
        if record is not None:
            record.end_lag(first, delivered)

    def on_ended(self, subscription: Subscription, delivered: Position | None) -> None:
        """Record the end of a subscription."""
        if subscription not in self._running:
            return
        code, reason = subscription.end or (0, '')
        if subscription.connection.closed:
            ended_by = End.CONNECTION
        else:
            ended_by = End.SERVER if subscription.end else End.CLIENT
        offset = None if delivered is None else delivered.offset
        self._end(subscription, offset, ended_by, code, reason)

    # --- repairs ---------------------------------------------------------------------

    def repair_of(self, offset: int, epoch: str) -> RecordedRepair | None:
        """Return the last gap that a publication was in, or ``None``."""
        for facts in reversed(self._repairs):
            if facts.epoch == epoch and facts.after < offset <= facts.until:
                return facts
        return None

    def remove_repair(self) -> RecordedRepair:
        """Remove the oldest gap, and return its facts."""
        facts = self._repairs.pop(0)
        self._release()
        return facts


class ChannelRecords:
    """The recorded channels of a node.

    Args:
        queue: Holds the records.
        connections: Recorded connections of the node.
    """

    def __init__(self, queue: RecordQueue, connections: ConnectionRecords) -> None:
        self._queue = queue
        self._connections = connections
        self._by_name: dict[str, ChannelRecord] = {}

    def get(self, channel: str) -> ChannelRecord | None:
        """Return a recorded channel, or ``None``."""
        return self._by_name.get(channel)

    def all(self) -> list[ChannelRecord]:
        """Return all recorded channels."""
        return list(self._by_name.values())

    def get_or_add(self, channel: str) -> ChannelRecord:
        """Return the record of a channel; add it first if there is none."""
        record = self._by_name.get(channel)
        if record is None:
            record = ChannelRecord(channel, self._queue, self._connections, self._drop)
            self._by_name[channel] = record
            self._queue.count(_CHANNEL_BYTES)
        return record

    def _drop(self, record: ChannelRecord) -> None:
        if self._by_name.get(record.channel) is record:
            del self._by_name[record.channel]
            self._queue.count(-_CHANNEL_BYTES)


class _RepairRecord(Record):
    """A gap that was closed."""

    __slots__ = ('_channel',)

    def __init__(self, channel: ChannelRecord) -> None:
        super().__init__(_REPAIR_BYTES)
        self._channel = channel

    def forget(self) -> float:
        """Remove the record."""
        return self._channel.remove_repair().at
