"""Records facts about deliveries in the memory of one node.

* Only transitions are recorded, and one number per batch of a channel: see
  `falcon_channels.hub.channel_observer`.
* The recorder observes the hub only while there is something to record: a route with
  ``ChannelOptions(record_deliveries=True)``, or a user of `record_user`.
* All records share one limit in bytes. Above it, the oldest records are forgotten, and
  the recorder remembers up to which time it has forgotten.
* A subscription that still runs can be forgotten, too. Its end then moves that time, so
  that no answer relies on a record that is not there.
"""

from __future__ import annotations

from array import array
import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import time
from typing import Protocol
from typing import TypeVar

import msgspec

from falcon_channels.events import Event
from falcon_channels.explain.facts import ConnectionFacts
from falcon_channels.explain.facts import End
from falcon_channels.explain.facts import ExplainQuestion
from falcon_channels.explain.facts import Lag
from falcon_channels.explain.facts import NodeFacts
from falcon_channels.explain.facts import RefusalFacts
from falcon_channels.explain.facts import RepairFacts
from falcon_channels.explain.facts import SubscriptionFacts
from falcon_channels.filters import TagFilter
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState as State
from falcon_channels.hub.hub import Hub
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.options import ChannelOptions
from falcon_channels.protocol import json_codec
from falcon_channels.protocol.plain_codec import MEDIA
from falcon_channels.publication import first_offset
from falcon_channels.publication import Newest
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.transports.encoders import Item
from falcon_channels.transports.websocket_framing import DEFLATE

#: Largest number of connections in the answer of one node.
MAX_CONNECTIONS = 100
#: Largest number of records of one connection in one channel that are sent.
_MAX_PER_CONNECTION = 50
#: Largest number of lags that a record keeps.
_MAX_LAGS = 16
#: Largest number of characters of a reason.
_MAX_REASON = 200

#: Approximate sizes of records in bytes, measured on CPython 3.12.
_SUBSCRIPTION_BYTES = 1200
_CONNECTION_BYTES = 1000
_LAG_BYTES = 250
_REFUSAL_BYTES = 700
_REPAIR_BYTES = 500
_CHANNEL_BYTES = 900
_BLOCK_BYTES = 600
_WRITE_BYTES = 28
#: Number of batches in one block of times.
_BLOCK_SIZE = 64


_AnyRecord = TypeVar('_AnyRecord')


class _Record(Protocol):
    """A record in the queue of all records, the oldest first."""

    size_bytes: int

    def forget(self) -> float:
        """Remove the record; return the Unix time up to which it is missing."""


class _ConnectionRecord:
    """A connection, as long as there are records of it."""

    __slots__ = ('facts', 'num_records', 'refusals', 'subscriptions', 'users')

    def __init__(self, facts: ConnectionFacts) -> None:
        self.facts = facts
        self.num_records = 0
        self.users: set[str] = set()
        #: Subscriptions and refused requests by channel, oldest first.
        self.subscriptions: dict[str, list[_SubscriptionRecord]] = {}
        self.refusals: dict[str, list[_RefusalRecord]] = {}


class _SubscriptionRecord:
    """A subscription."""

    __slots__ = ('channel', 'connection', 'facts', 'recorder', 'size_bytes')

    def __init__(
        self,
        recorder: DeliveryRecorder,
        connection: _ConnectionRecord,
        channel: str,
        facts: SubscriptionFacts,
    ) -> None:
        self.recorder = recorder
        self.connection = connection
        self.channel = channel
        self.facts = facts
        self.size_bytes = (
            _SUBSCRIPTION_BYTES
            + _filter_bytes(facts.filter)
            + _filter_bytes(facts.client_filter)
        )

    def end(
        self, delivered: int | None, ended_by: End, code: int = 0, reason: str = ''
    ) -> None:
        """Record the end; `delivered` is ``None`` if publications waited then."""
        facts = self.facts
        if delivered is None:
            delivered = facts.lags[-1].after if facts.lags else facts.offset
        facts.ended_at = time.time()
        facts.ended_by = ended_by
        facts.delivered = delivered
        facts.code = code
        facts.reason = reason[:_MAX_REASON]

    def forget(self) -> float:
        """Remove the record; the subscription may still run."""
        _discard(self.connection.subscriptions, self.channel, self)
        self.recorder.release_connection(self.connection)
        if self.facts.ended_at is not None:
            return self.facts.ended_at
        self.recorder.forget_running(self)
        return time.time()


class _RefusalRecord:
    """Refused requests to subscribe."""

    __slots__ = ('channel', 'connection', 'facts', 'recorder', 'size_bytes')

    def __init__(
        self,
        recorder: DeliveryRecorder,
        connection: _ConnectionRecord,
        channel: str,
        facts: RefusalFacts,
    ) -> None:
        self.recorder = recorder
        self.connection = connection
        self.channel = channel
        self.facts = facts
        self.size_bytes = _REFUSAL_BYTES

    def forget(self) -> float:
        """Remove the record."""
        _discard(self.connection.refusals, self.channel, self)
        self.recorder.release_connection(self.connection)
        return self.facts.last_at


class _OpenRecord:
    """The start of a connection of a recorded user."""

    __slots__ = ('_connection', '_recorder', 'size_bytes')

    def __init__(
        self, recorder: DeliveryRecorder, connection: _ConnectionRecord
    ) -> None:
        self._recorder = recorder
        self._connection = connection
        self.size_bytes = 100

    def forget(self) -> float:
        """Remove the record."""
        self._recorder.release_connection(self._connection)
        closed_at = self._connection.facts.closed_at
        return time.time() if closed_at is None else closed_at


class _Block:
    """Times of consecutive batches of one channel, in one epoch.

    Attributes:
        offsets: Offset of the last publication of each batch.
        times: Unix time in seconds at which the batch was written.
        sizes: Bytes of payloads of the channel up to and with the batch.
        start: Offset before the first batch.
    """

    __slots__ = (
        '_channel',
        'epoch',
        'offsets',
        'size_bytes',
        'sizes',
        'start',
        'times',
    )

    def __init__(self, channel: _ChannelRecord, epoch: str, start: int) -> None:
        self._channel = channel
        self.epoch = epoch
        self.start = start
        self.offsets = array('q')
        self.times = array('d')
        self.sizes = array('q')
        self.size_bytes = _BLOCK_BYTES

    def forget(self) -> float:
        """Remove the block. Only times are lost, and no answer."""
        self._channel.blocks.popleft()
        self._channel.release()
        return 0.0


class _RepairRecord:
    """A gap that was closed."""

    __slots__ = ('_channel', 'facts', 'size_bytes')

    def __init__(self, channel: _ChannelRecord, facts: RepairFacts) -> None:
        self._channel = channel
        self.facts = facts
        self.size_bytes = _REPAIR_BYTES

    def forget(self) -> float:
        """Remove the record."""
        self._channel.repairs.remove(self)
        self._channel.release()
        return self.facts.at


class _ChannelRecord:
    """Observes the deliveries of one channel; see `ChannelObserver`.

    Attributes:
        running: Recorded subscriptions that have not ended. The record is ``None`` if
            it was forgotten.
        blocks: Times of batches, oldest first.
        repairs: Gaps that were closed, oldest first.
    """

    __slots__ = (
        '_channel',
        '_local_channel',
        '_recorder',
        '_size_bytes',
        'blocks',
        'repairs',
        'running',
    )

    def __init__(self, recorder: DeliveryRecorder, channel: str) -> None:
        self._recorder = recorder
        self._channel = channel
        self._local_channel: LocalChannel | None = None
        self._size_bytes = 0
        self.running: dict[Subscription, _SubscriptionRecord | None] = {}
        self.blocks: deque[_Block] = deque()
        self.repairs: list[_RepairRecord] = []

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return self._channel

    def attach(self, local_channel: LocalChannel) -> None:
        """Observe a channel until no recorded subscription runs."""
        if self._local_channel is not local_channel:
            self._local_channel = local_channel
            local_channel.observe(self)

    def release(self) -> None:
        """Stop to observe if no recorded subscription runs; drop an empty record."""
        if self.running:
            return
        if self._local_channel is not None:
            self._local_channel.observe(None)
            self._local_channel = None
        if not self.blocks and not self.repairs:
            self._recorder.drop_channel(self)

    # --- ChannelObserver -------------------------------------------------------------

    def on_written(self, items: Sequence[Item], position: Position) -> None:
        """Record when a batch was written."""
        size_bytes = first = 0
        for item in items:
            if isinstance(item, Publication) and item.offset:
                size_bytes += len(item.data)
                first = first or item.offset
        if not first:
            return
        blocks = self.blocks
        block = blocks[-1] if blocks else None
        if (
            block is None
            or len(block.offsets) >= _BLOCK_SIZE
            or block.epoch != position.epoch
        ):
            block = _Block(self, position.epoch, first - 1)
            blocks.append(block)
            self._recorder.keep(block)
        self._size_bytes += size_bytes
        block.offsets.append(position.offset)
        block.times.append(time.time())
        block.sizes.append(self._size_bytes)
        block.size_bytes += _WRITE_BYTES
        self._recorder.grow(_WRITE_BYTES)

    def on_repaired(
        self, before: Position, after: Position, first: int | None, lost: bool
    ) -> None:
        """Record a gap, and the move of all subscriptions to another log."""
        now = time.time()
        same = before.epoch == after.epoch
        facts = RepairFacts(
            at=now,
            epoch=after.epoch,
            after=before.offset if same else 0,
            until=after.offset,
            first=first,
            lost=lost,
        )
        record = _RepairRecord(self, facts)
        self.repairs.append(record)
        self._recorder.keep(record)
        if same or lost:
            return
        for subscription, running in list(self.running.items()):
            if running is None:
                continue
            lagging = subscription.state is State.LAGGING
            running.end(None if lagging else before.offset, End.EPOCH)
            start = Position(0, after.epoch)
            self._recorder.start(
                self, subscription, _facts_of(subscription, now, start)
            )
            if lagging:
                self.on_lagging(subscription, 0)

    def on_lagging(self, subscription: Subscription, delivered: int) -> None:
        """Record that publications wait for a client."""
        running = self.running.get(subscription)
        if running is None:
            return
        lags = running.facts.lags
        if len(lags) >= _MAX_LAGS:
            running.facts.lags_after = lags.pop(0).until or 0
        else:
            running.size_bytes += _LAG_BYTES
            self._recorder.grow(_LAG_BYTES)
        lags.append(Lag(time.time(), delivered))

    def on_caught_up(
        self, subscription: Subscription, first: int | None, delivered: int
    ) -> None:
        """Record that the pending publications were written."""
        running = self.running.get(subscription)
        if running is None or not running.facts.lags:
            return
        lag = running.facts.lags[-1]
        if lag.until is None:
            lag.until = delivered
            lag.caught_up_at = time.time()
            lag.first = first

    def on_ended(self, subscription: Subscription, delivered: Position | None) -> None:
        """Record the end of a subscription."""
        if subscription not in self.running:
            return
        code, reason = subscription.end or (0, '')
        if subscription.connection.closed:
            ended_by = End.CONNECTION
        else:
            ended_by = End.SERVER if subscription.end else End.CLIENT
        offset = None if delivered is None else delivered.offset
        self._end(subscription, offset, ended_by, code, reason)

    def _end(
        self,
        subscription: Subscription,
        delivered: int | None,
        ended_by: End,
        code: int = 0,
        reason: str = '',
    ) -> None:
        record = self.running.pop(subscription)
        if record is None:
            self._recorder.note_forgotten(time.time())
        else:
            record.end(delivered, ended_by, code, reason)
        self.release()

    def stop(self, subscription: Subscription) -> None:
        """End the record of a subscription that goes on."""
        local_channel = self._local_channel
        delivered = None
        if local_channel is not None and subscription.state is not State.LAGGING:
            delivered = local_channel.delivered_offset
        self._end(subscription, delivered, End.RECORDING)

    # --- questions -------------------------------------------------------------------

    def written_at(self, offset: int, epoch: str) -> float | None:
        """Return when a publication was written to subscribers, or ``None``."""
        for block, number in self._batches(offset, epoch):
            return block.times[number]
        return None

    def written_until(self, epoch: str) -> int | None:
        """Return the last offset whose time is known, or ``None``."""
        for block in reversed(self.blocks):
            if block.epoch == epoch:
                return block.offsets[-1]
        return None

    def bytes_until(self, offset: int, epoch: str) -> int | None:
        """Return the bytes of payloads up to and with a batch, or ``None``."""
        for block, number in self._batches(offset, epoch):
            return block.sizes[number]
        return None

    def repair_of(self, offset: int, epoch: str) -> RepairFacts | None:
        """Return the last gap that a publication was in, or ``None``."""
        for record in reversed(self.repairs):
            facts = record.facts
            if facts.epoch == epoch and facts.after < offset <= facts.until:
                return facts
        return None

    def _batches(self, offset: int, epoch: str) -> Iterator[tuple[_Block, int]]:
        """Yield the block and the number of the batch with a publication, if known."""
        for block in reversed(self.blocks):
            if block.epoch == epoch and block.start < offset <= block.offsets[-1]:
                yield block, bisect_left(block.offsets, offset)
                return


class DeliveryRecorder:
    """Records the deliveries of one node; see the module docstring.

    Args:
        hub: Hub of this node.
        max_bytes: Largest size of all records, in approximate bytes.
        max_users: Largest number of users that are recorded at the same time.
        find_options: Returns the options of a channel, or ``None``.

    Attributes:
        forgotten_until: Unix time in seconds up to which records were forgotten, or
            ``None``.
    """

    def __init__(
        self,
        hub: Hub,
        max_bytes: int,
        max_users: int,
        find_options: Callable[[str], ChannelOptions | None],
    ) -> None:
        self._hub = hub
        self._max_bytes = max_bytes
        self._max_users = max_users
        self._find_options = find_options
        #: Timers that end the recording of users.
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._routes_since: float | None = None
        #: Recorded users, and the Unix times of the starts.
        self._users: dict[str, float] = {}
        self._stop_listening: Callable[[], None] | None = None
        self._records: deque[_Record] = deque()
        self._size_bytes = 0
        self._connections: dict[str, _ConnectionRecord] = {}
        self._by_user: dict[str, dict[str, _ConnectionRecord]] = {}
        self._channels: dict[str, _ChannelRecord] = {}
        self.forgotten_until: float | None = None

    # --- switching it on and off -----------------------------------------------------

    def record_routes(self) -> None:
        """Record the channels whose route has ``record_deliveries=True``."""
        if self._routes_since is None:
            self._routes_since = time.time()
            self._switch()

    def record_user(self, user: str, for_s: float) -> bool:
        """Record a user for a number of seconds; 0 ends this.

        Returns:
            ``False`` if too many users are recorded.
        """
        if for_s <= 0:
            self._stop_user(user)
            return True
        if user not in self._users and len(self._users) >= self._max_users:
            return False
        new = user not in self._users
        self._users.setdefault(user, time.time())
        self._set_timer(user, for_s)
        self._switch()
        if new:
            for connection in self._hub.connections_of_user(user):
                self._record_connection(connection, opened_at=None)
        return True

    def close(self) -> None:
        """Stop to record. Nothing is observed any more."""
        self._routes_since = None
        for user in list(self._users):
            self._stop_user(user)
        self._switch()

    def _set_timer(self, user: str, for_s: float) -> None:
        before = self._timers.pop(user, None)
        if before is not None:
            before.cancel()
        loop = asyncio.get_running_loop()
        self._timers[user] = loop.call_later(for_s, self._stop_user, user)

    def _stop_user(self, user: str) -> None:
        if self._users.pop(user, None) is None:
            return
        self._timers.pop(user).cancel()
        for channel in list(self._channels.values()):
            for subscription in list(channel.running):
                if subscription.user == user and not self._wants(subscription):
                    channel.stop(subscription)
        self._switch()

    def _switch(self) -> None:
        """Observe the hub if there is something to record."""
        wanted = self._routes_since is not None or bool(self._users)
        if wanted and self._stop_listening is None:
            self._hub.observe(self)
            self._stop_listening = self._hub.events.listen(self._on_event)
        elif not wanted and self._stop_listening is not None:
            self._hub.observe(None)
            self._stop_listening()
            self._stop_listening = None

    def _wants(self, subscription: Subscription) -> bool:
        options = subscription.route.options
        if not options.history_size:
            # NOTE: publications without an offset cannot be told apart.
            return False
        return options.record_deliveries or subscription.user in self._users

    def _record_connection(
        self, connection: Connection, opened_at: float | None
    ) -> None:
        """Record a connection of a recorded user, with its subscriptions."""
        record = self._connection_record(connection, opened_at)
        record.num_records += 1
        self.keep(_OpenRecord(self, record))
        for subscription in list(connection.subscriptions.values()):
            local_channel = self._hub.local_channel(subscription.channel)
            if (
                local_channel is None
                or not subscription.joined
                or not self._wants(subscription)
            ):
                continue
            channel = self._channel_record(subscription.channel)
            channel.attach(local_channel)
            if subscription in channel.running:
                continue
            delivered = self._hub.delivered(subscription)
            lagging = delivered is None
            if delivered is None:
                delivered = Position(
                    local_channel.delivered_offset, local_channel.position.epoch
                )
            facts = _facts_of(subscription, time.time(), delivered, from_start=False)
            self.start(channel, subscription, facts)
            if lagging:
                channel.on_lagging(subscription, delivered.offset)

    # --- called by the hub -----------------------------------------------------------

    def on_joined(
        self,
        local_channel: LocalChannel,
        subscription: Subscription,
        since: Position | Newest | None,
        joined: Joined,
    ) -> None:
        """Record the start of a subscription."""
        if not self._wants(subscription):
            return
        channel = self._channel_record(subscription.channel)
        channel.attach(local_channel)
        facts = _facts_of(subscription, time.time(), joined.position)
        if isinstance(since, Position):
            facts.since = since.offset
            facts.since_epoch = since.epoch or joined.position.epoch
        facts.recovered = joined.recovered
        facts.first = first_offset(joined.publications)
        self.start(channel, subscription, facts)

    def on_drained(self, connection: Connection) -> None:
        """Record that a client has read all pending output."""
        record = self._connections.get(connection.id)
        if record is not None:
            record.facts.drained_at = time.time()

    def _on_event(self, event: Event) -> None:
        """Record what happens to connections, and refused requests."""
        if event.name == 'connection_opened':
            self._on_identified(event, time.time())
        elif event.name == 'connection_identified':
            record = self._connections.get(event.connection)
            if record is not None:
                self._index(record, event.user)
            self._on_identified(event, None)
        elif event.name == 'connection_closed':
            record = self._connections.get(event.connection)
            if record is not None:
                facts = record.facts
                facts.closed_at = time.time()
                facts.code = event.code
                facts.reason = event.reason[:_MAX_REASON]
                facts.by_client = bool(event.facts.get('by_client'))
                facts.backlog_bytes = int(event.facts.get('backlog_bytes') or 0)
        elif event.name == 'command_refused':
            self._on_refused(event)

    def _on_identified(self, event: Event, opened_at: float | None) -> None:
        if event.user not in self._users:
            return
        connection = self._hub.connections.get(event.connection)
        if connection is not None:
            self._record_connection(connection, opened_at)

    def _on_refused(self, event: Event) -> None:
        if event.facts.get('command') != 'subscribe' or not event.channel:
            return
        options = self._find_options(event.channel)
        if options is None or not options.history_size:
            return
        if not options.record_deliveries and event.user not in self._users:
            return
        record = self._connections.get(event.connection)
        if record is None:
            facts = ConnectionFacts(id=event.connection)
            connection = self._hub.connections.get(event.connection)
            if connection is not None:
                facts.kind = type(connection).__name__
            record = self._add_connection(facts)
        self._index(record, event.user)
        now = time.time()
        refusals = record.refusals.setdefault(event.channel, [])
        reason = event.reason[:_MAX_REASON]
        if refusals:
            last = refusals[-1].facts
            if (last.code, last.reason) == (event.code, reason):
                last.count += 1
                last.last_at = now
                return
        refusal = RefusalFacts(at=now, last_at=now, code=event.code, reason=reason)
        refused = _RefusalRecord(self, record, event.channel, refusal)
        refusals.append(refused)
        record.num_records += 1
        self.keep(refused)

    # --- the records -----------------------------------------------------------------

    def start(
        self,
        channel: _ChannelRecord,
        subscription: Subscription,
        facts: SubscriptionFacts,
    ) -> None:
        """Add the record of a subscription that has joined."""
        connection = self._connection_record(subscription.connection, None)
        record = _SubscriptionRecord(self, connection, channel.channel, facts)
        connection.subscriptions.setdefault(channel.channel, []).append(record)
        connection.num_records += 1
        channel.running[subscription] = record
        self.keep(record)

    def keep(self, record: _Record) -> None:
        """Keep a new record, and forget the oldest ones above the limit."""
        self._records.append(record)
        self.grow(record.size_bytes)

    def grow(self, size_bytes: int) -> None:
        """Count bytes of a record, and forget the oldest ones above the limit."""
        self._size_bytes += size_bytes
        while self._size_bytes > self._max_bytes and self._records:
            oldest = self._records.popleft()
            self._size_bytes -= oldest.size_bytes
            self.note_forgotten(oldest.forget())

    def note_forgotten(self, until: float) -> None:
        """Remember up to which Unix time records are missing."""
        if until > (self.forgotten_until or 0.0):
            self.forgotten_until = until

    def forget_running(self, record: _SubscriptionRecord) -> None:
        """Remember that a subscription runs whose record was forgotten."""
        channel = self._channels[record.channel]
        for subscription, other in channel.running.items():
            if other is record:
                channel.running[subscription] = None
                return

    def release_connection(self, record: _ConnectionRecord) -> None:
        """Undo one count of a connection's records; drop it after the last one."""
        record.num_records -= 1
        if not record.num_records:
            del self._connections[record.facts.id]
            self._size_bytes -= _CONNECTION_BYTES
            for user in record.users:
                connections = self._by_user[user]
                del connections[record.facts.id]
                if not connections:
                    del self._by_user[user]

    def drop_channel(self, channel: _ChannelRecord) -> None:
        """Drop a channel without records."""
        if self._channels.get(channel.channel) is channel:
            del self._channels[channel.channel]
            self._size_bytes -= _CHANNEL_BYTES

    def _channel_record(self, channel: str) -> _ChannelRecord:
        record = self._channels.get(channel)
        if record is None:
            record = self._channels[channel] = _ChannelRecord(self, channel)
            self._size_bytes += _CHANNEL_BYTES
        return record

    def _connection_record(
        self, connection: Connection, opened_at: float | None
    ) -> _ConnectionRecord:
        record = self._connections.get(connection.id)
        if record is None:
            facts = ConnectionFacts(
                id=connection.id, kind=type(connection).__name__, opened_at=opened_at
            )
            record = self._add_connection(facts)
        self._index(record, connection.user)
        return record

    def _add_connection(self, facts: ConnectionFacts) -> _ConnectionRecord:
        record = self._connections[facts.id] = _ConnectionRecord(facts)
        self._size_bytes += _CONNECTION_BYTES
        return record

    def _index(self, record: _ConnectionRecord, user: str) -> None:
        if user not in record.users:
            record.users.add(user)
            self._by_user.setdefault(user, {})[record.facts.id] = record

    # --- questions -------------------------------------------------------------------

    def facts(self, question: ExplainQuestion, node: str) -> NodeFacts:
        """Return what this node knows about a publication and a user."""
        channel = self._channels.get(question.channel)
        facts = NodeFacts(
            node=node,
            now=time.time(),
            recorded_since=self._recorded_since(question),
            forgotten_until=self.forgotten_until,
        )
        if channel is not None:
            offset, epoch = question.offset, question.epoch
            facts.written_at = channel.written_at(offset, epoch)
            facts.written_until = channel.written_until(epoch)
            facts.repair = channel.repair_of(offset, epoch)
        known = self._by_user.get(question.user, {})
        running = {
            connection.id: connection
            for connection in self._hub.connections_of_user(question.user)
        }
        ids = list(dict.fromkeys([*known, *running]))
        if question.client:
            ids = [id for id in ids if id == question.client]
        # NOTE: connections with records of this channel come last, and stay.
        recorded = [
            id for id in ids if id in known and _has(known[id], question.channel)
        ]
        others = dict.fromkeys(ids)
        for id in recorded:
            del others[id]
        ids = [*others, *recorded]
        facts.more = max(0, len(ids) - MAX_CONNECTIONS)
        sizes = _Sizes(channel, question)
        facts.connections = [
            self._connection_facts(
                known.get(id), running.get(id), channel, question, sizes
            )
            for id in ids[facts.more :]
        ]
        return facts

    def _recorded_since(self, question: ExplainQuestion) -> float | None:
        times = []
        if question.user in self._users:
            times.append(self._users[question.user])
        options = self._find_options(question.channel)
        if (
            options is not None
            and options.record_deliveries
            and self._routes_since is not None
        ):
            times.append(self._routes_since)
        return min(times) if times else None

    def _connection_facts(
        self,
        record: _ConnectionRecord | None,
        connection: Connection | None,
        channel: _ChannelRecord | None,
        question: ExplainQuestion,
        sizes: _Sizes,
    ) -> ConnectionFacts:
        subscriptions: list[SubscriptionFacts] = []
        refusals: list[RefusalFacts] = []
        if record is not None:
            known = record.facts
            kept = record.subscriptions.get(question.channel, ())
            subscriptions = [one.facts for one in kept]
            refused = record.refusals.get(question.channel, ())
            refusals = [one.facts for one in refused][-_MAX_PER_CONNECTION:]
        else:
            assert connection is not None
            known = ConnectionFacts(id=connection.id, kind=type(connection).__name__)
        backlog_bytes = known.backlog_bytes
        if connection is not None:
            backlog_bytes = connection.backlog_bytes
            subscription = connection.subscriptions.get(question.channel)
            if subscription is not None and channel is not None:
                self._add_state(subscription, channel, subscriptions)
        relevant, left_out = _relevant(subscriptions, question)
        return msgspec.structs.replace(
            known,
            backlog_bytes=backlog_bytes,
            subscriptions=[_for_sending(facts, question, sizes) for facts in relevant],
            left_out=left_out,
            refusals=refusals,
        )

    def _add_state(
        self,
        subscription: Subscription,
        channel: _ChannelRecord,
        subscriptions: list[SubscriptionFacts],
    ) -> None:
        """Add the present state of a subscription that runs."""
        record = channel.running.get(subscription)
        local_channel = self._hub.local_channel(subscription.channel)
        if local_channel is None or subscription not in channel.running:
            return
        position = self._hub.delivered(subscription)
        if position is None:
            position = Position(
                local_channel.delivered_offset, local_channel.position.epoch
            )
        if record is None:
            facts = _facts_of(subscription, time.time(), position, from_start=False)
            facts.forgotten = True
            subscriptions.append(facts)
        else:
            facts = record.facts
            facts.first_pending = first_offset(subscription.pending or ())
        facts.delivered = position.offset


class _Sizes:
    """Bytes that were written after a publication; each number is computed once.

    Args:
        channel: The channel, or ``None`` if nothing is known about it.
        question: The question that names the publication.
    """

    def __init__(
        self, channel: _ChannelRecord | None, question: ExplainQuestion
    ) -> None:
        self._channel = channel
        self._epoch = question.epoch
        self._known: dict[int, int | None] = {}
        self._start = self._until(question.offset)

    def after(self, offset: int) -> int | None:
        """Return the bytes after the publication up to an offset, or ``None``."""
        until = self._until(offset)
        if self._start is None or until is None:
            return None
        return until - self._start

    def _until(self, offset: int) -> int | None:
        if offset not in self._known:
            self._known[offset] = (
                None
                if self._channel is None
                else self._channel.bytes_until(offset, self._epoch)
            )
        return self._known[offset]


def _relevant(
    subscriptions: list[SubscriptionFacts], question: ExplainQuestion
) -> tuple[list[SubscriptionFacts], int]:
    """Return the subscriptions that decide about a publication.

    These are all that can have sent it, the last one before it, and the first one
    after it.

    Returns:
        The subscriptions, oldest first, and how many were too many.
    """
    offset = question.offset
    same_log = [facts for facts in subscriptions if facts.epoch == question.epoch]
    before = [f for f in same_log if offset > f.offset and not _covers(f, offset)]
    after = [f for f in same_log if offset <= f.offset and not _covers(f, offset)]
    covering = [facts for facts in same_log if _covers(facts, offset)]
    half = _MAX_PER_CONNECTION // 2
    left_out = max(0, len(covering) - 2 * half)
    if left_out:
        covering = [*covering[:half], *covering[-half:]]
    wanted = {id(facts) for facts in [*before[-1:], *covering, *after[:1]]}
    return [facts for facts in same_log if id(facts) in wanted], left_out


def _covers(facts: SubscriptionFacts, offset: int) -> bool:
    """Return whether a subscription can have sent a publication, or should have."""
    if offset <= facts.offset:
        return (
            not facts.from_start or facts.since is not None or facts.first is not None
        )
    return facts.ended_at is None or offset <= facts.delivered


def _for_sending(
    facts: SubscriptionFacts, question: ExplainQuestion, sizes: _Sizes
) -> SubscriptionFacts:
    """Return facts with the effect of the filters, and without the filters.

    SECURITY: filters can be large. Other nodes get only their effect.
    """
    filters = {'application': facts.filter, 'client': facts.client_filter}
    excluded_by = [
        name
        for name, tag_filter in filters.items()
        if tag_filter is not None
        and question.tags is not None
        and not tag_filter.matches(question.tags)
    ]
    return msgspec.structs.replace(
        facts,
        filter=None,
        client_filter=None,
        filtered=any(filters.values()),
        excluded_by=excluded_by,
        bytes_after=sizes.after(facts.delivered) if facts.countable else None,
    )


def _facts_of(
    subscription: Subscription,
    at: float,
    position: Position,
    *,
    from_start: bool = True,
) -> SubscriptionFacts:
    options = subscription.route.options
    encoder = subscription.connection.encoder
    codec = encoder.codec
    return SubscriptionFacts(
        at=at,
        epoch=position.epoch,
        offset=position.offset,
        delivered=position.offset,
        from_start=from_start,
        latest=options.recovery_mode == 'latest',
        slow_reader=options.slow_reader,
        server_side=subscription.server_side,
        filter=subscription.filter,
        client_filter=subscription.client_filter,
        # NOTE: a payload can only grow in these encodings. It shrinks if it is
        #   compressed, sent as a delta, or sent as the text in its JSON.
        countable=not subscription.delta
        and subscription.selection is None
        and encoder.framing is not DEFLATE
        and (codec in (json_codec, MEDIA) or codec.binary),
    )


def _has(record: _ConnectionRecord, channel: str) -> bool:
    return channel in record.subscriptions or channel in record.refusals


def _discard(lists: dict[str, list[_AnyRecord]], key: str, record: _AnyRecord) -> None:
    kept = lists[key]
    kept.remove(record)
    if not kept:
        del lists[key]


def _filter_bytes(tag_filter: TagFilter | None) -> int:
    """Return the approximate size of a filter in memory."""
    if tag_filter is None:
        return 0
    texts = [tag_filter.key, tag_filter.val, *tag_filter.vals]
    return (
        200
        + sum(60 + 4 * len(text) for text in texts)
        + sum(map(_filter_bytes, tag_filter.nodes))
    )
