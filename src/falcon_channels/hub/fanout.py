"""The fan-out: delivers the publications of one event-loop iteration at its end.

* A publication is encoded once per encoder. One loop writes the blob to every
  subscriber with that encoder. No subscriber needs a task, a lock or an event of its
  own.
* Subscribers with a tag filter are grouped by encoder and filter. Each distinct filter
  is evaluated once per publication. Subscribers that receive the same publications
  share the blob.
* Subscribers with delta get deltas if their clients have the same base; see
  `delta_groups`.
* The output of a connection in one iteration leaves in one write: replies first, then
  the publications of all its channels.
* `write` returns the backlog of the connection. A large backlog means that the client
  reads too slowly. The policy of the channel then decides. Either the connection is
  closed, or its subscription leaves the loop (LAGGING) and its pending items have a
  limit. No other subscriber waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import logging
from typing import Any

from falcon_channels.errors import PayloadError
from falcon_channels.events import Event
from falcon_channels.events import Events
from falcon_channels.events import log_event
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState as State
from falcon_channels.hub.groups import Groups
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.metrics import Counters
from falcon_channels.operations import Operation
from falcon_channels.operations import Operations
from falcon_channels.operations import Timing
from falcon_channels.options import NodeOptions
from falcon_channels.protocol.codes import DISCONNECT_INAPPROPRIATE_PROTOCOL
from falcon_channels.protocol.codes import DISCONNECT_SLOW
from falcon_channels.protocol.deltas import with_deltas
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal
from falcon_channels.transports.encoders import blob_bytes
from falcon_channels.transports.encoders import Encoder
from falcon_channels.transports.encoders import Item
from falcon_channels.transports.io_uring import Unsent
from falcon_channels.transports.socket_batch import SocketBatch

_logger = logging.getLogger('falcon_channels')

_Member = tuple[Subscription, Connection]
#: Writes a blob to a group; see `FanOut._write`.
_Write = Callable[
    [LocalChannel, Mapping[Subscription, Connection], Any, list[Subscription]], None
]


class FanOut:
    """Writes publications to subscribers; the module docstring has the rules.

    Args:
        channels: Local channels of the hub by channel name.
        counters: Counters of the hub.
        events: Events of the hub.
        operations: Operations of the process.
        options: Options of the hub.
        on_lost: Called with a local channel whose delivery failed; it ends the
            subscriptions.
        on_ended: Called with a local channel that has ended, after its batch was
            written; it ends the subscriptions.
    """

    def __init__(
        self,
        channels: Mapping[str, LocalChannel],
        counters: Counters,
        events: Events,
        operations: Operations,
        options: NodeOptions,
        on_lost: Callable[[LocalChannel], None],
        on_ended: Callable[[LocalChannel], None],
    ) -> None:
        self._channels = channels
        self._counters = counters
        self._events = events
        self._operations = operations
        self._on_lost = on_lost
        self._on_ended = on_ended
        self._max_backlog_bytes = options.max_backlog_bytes
        self._channels_due: dict[LocalChannel, None] = {}
        self._connections_due: list[Connection] = []
        #: Blobs for sockets, and their subscribers in the same order.
        self._batch = SocketBatch(options.io_uring)
        self._batched: list[tuple[LocalChannel, Sequence[_Member], Any]] = []
        self._flush_planned = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slow_logged: set[str] = set()
        #: Deliveries that end when all their output is written.
        self._timings: list[Timing] = []
        #: Bytes that were written to subscribers while operations were observed.
        self._num_bytes = 0

    def start(self) -> None:
        """Start, in the running event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Release file descriptors and memory of the socket batch."""
        self._batch.close()

    def on_output(self, connection: Connection) -> None:
        """Called when a connection has its first output in this iteration."""
        self._connections_due.append(connection)
        self._plan_flush()

    def forget(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._slow_logged.discard(connection.id)

    def _plan_flush(self) -> None:
        if not self._flush_planned and self._loop is not None:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def mark(self, local_channel: LocalChannel) -> None:
        """Deliver the batch of a local channel at the end of this iteration."""
        if local_channel not in self._channels_due:
            self._channels_due[local_channel] = None
            self._plan_flush()

    def _flush(self) -> None:
        self._flush_planned = False
        channels, self._channels_due = self._channels_due, {}
        several = len(channels) > 1
        ended = []
        for local_channel in channels:
            if local_channel.batch:
                self._deliver_or_end(local_channel, several)
            if local_channel.end is not None:
                ended.append(local_channel)
        self._write_batch()
        for local_channel in ended:
            self._on_ended(local_channel)
        connections, self._connections_due = self._connections_due, []
        for connection in connections:
            try:
                self._flush_connection(connection)
            except Exception:
                self._counters.task_errors += 1
                _logger.exception('writing to %r failed', connection)
                connection.transport.abort()
        if self._timings:
            self._end_timings()

    def _end_timings(self) -> None:
        timings, self._timings = self._timings, []
        for timing in timings:
            timing.end()

    def _flush_connection(self, connection: Connection) -> None:
        if connection.closed:
            return
        if connection.out is not None:
            backlog_bytes = connection.flush()
        else:
            # NOTE: the connection has written its output itself. The client may not
            #   have read it yet.
            backlog_bytes = connection.backlog_bytes
        if backlog_bytes:
            self._check_backlog(connection, backlog_bytes)
        elif connection.granted_bytes:
            # NOTE: the client has read all output, with all recovered publications.
            connection.on_all_read()

    def flush_channel(self, local_channel: LocalChannel) -> None:
        """Deliver the batch of a channel now, before its subscribers change."""
        if local_channel.batch:
            self._deliver_or_end(local_channel, False)
            self._write_batch()
            if self._timings:
                self._end_timings()
        if local_channel.end is not None:
            self._on_ended(local_channel)

    def _deliver_or_end(self, local_channel: LocalChannel, several: bool) -> None:
        """Deliver a batch. After an error, end the subscriptions of this channel only.

        Some clients have received the batch and some have not. All of them therefore
        subscribe again and recover.
        """
        try:
            if self._operations.wanted:
                self._deliver_timed(local_channel, several)
            else:
                self._deliver(local_channel, several)
        except Exception:
            self._counters.task_errors += 1
            _logger.exception('delivery in %r failed', local_channel.channel)
            self._on_lost(local_channel)

    def _deliver_timed(self, local_channel: LocalChannel, several: bool) -> None:
        """Deliver a batch as an operation, which ends when the batch is written."""
        publications = [p for p in local_channel.batch if isinstance(p, Publication)]
        num_deliveries, num_bytes = self._counters.deliveries, self._num_bytes
        operation = Operation(
            'deliver',
            channel=local_channel.channel,
            route=local_channel.route,
            num_publications=len(publications),
        )
        operation.times_ms = [p.time_ms for p in publications if p.time_ms]
        operation.traces = [p.trace for p in publications if p.trace]
        timing = self._operations.begin(operation)
        try:
            self._deliver(local_channel, several)
        except BaseException as ex:
            timing.end(ex)
            raise
        operation.num_deliveries = self._counters.deliveries - num_deliveries
        operation.num_bytes = self._num_bytes - num_bytes
        self._timings.append(timing)

    def _deliver(self, local_channel: LocalChannel, several: bool) -> None:
        """Write the batch of a local channel to its subscribers.

        Args:
            local_channel: The local channel.
            several: Whether several channels deliver in this iteration. The output of
                connections with more than one subscription is then queued.
        """
        items = local_channel.take_batch()
        write = self._write_collecting if several else self._write
        slow: list[Subscription] = []
        unsupported: list[Subscription] = []
        if local_channel.groups:
            unsupported += self._deliver_to(
                local_channel, local_channel.groups, items, write, slow
            )
        if local_channel.deltas is not None:
            for groups, batch in local_channel.deltas.batches(items):
                unsupported += self._deliver_to(
                    local_channel, groups, batch, write, slow
                )
            local_channel.deltas.move_on(items)
        if local_channel.filtered:
            unsupported += self._deliver_filtered(local_channel, items, write, slow)
        for subscription in local_channel.lagging:
            dropped = local_channel.add_pending(subscription, items)
            if dropped:
                self._counters.dropped += dropped
                self._log_slow(subscription.connection, local_channel)
                if self._events.wants('publications_dropped'):
                    self._tell_dropped(subscription, dropped)
        if local_channel.ahead:
            self._deliver_ahead(local_channel, items)
        # PERF: once per batch, and not per delivery (benchmarks/explain.py).
        if local_channel.observer is not None:
            local_channel.observer.on_written(items, local_channel.position)
        for subscription in slow:
            self._on_slow(local_channel, subscription)
        for subscription in unsupported:
            subscription.connection.disconnect(*DISCONNECT_INAPPROPRIATE_PROTOCOL)

    def _deliver_to(
        self,
        local_channel: LocalChannel,
        groups: Groups,
        items: Sequence[Item],
        write: _Write,
        slow: list[Subscription],
    ) -> list[Subscription]:
        """Write items to LIVE subscribers without a filter.

        Returns:
            Subscribers whose encoding cannot carry an item.
        """
        epoch = local_channel.position.epoch
        unsupported: list[Subscription] = []
        # NOTE: encoders with different framings share payloads.
        payloads: dict[Any, list[bytes]] | None = {} if len(groups) > 1 else None
        for encoder, group in groups.items():
            self._counters.encodings += 1
            try:
                blob = encoder.encode(local_channel.channel, items, epoch, payloads)
            except PayloadError:
                unsupported += group
                continue
            if blob is not None:
                self._counters.deliveries += len(group) * len(items)
                if self._operations.wanted:
                    self._num_bytes += len(group) * blob_bytes(blob)
                write(local_channel, group, blob, slow)
        return unsupported

    def _deliver_filtered(
        self,
        local_channel: LocalChannel,
        items: Sequence[Item],
        write: _Write,
        slow: list[Subscription],
    ) -> list[Subscription]:
        """Write items to the LIVE subscribers with a filter.

        Returns:
            Subscribers whose encoding cannot carry an item that they should receive.
        """
        epoch = local_channel.position.epoch
        unsupported: list[Subscription] = []
        # PERF: filters often select the same items. These are encoded once
        #   (benchmarks/filters.py).
        payloads: dict[tuple[int, ...], dict[Any, list[bytes]]] = {}
        blobs: dict[tuple[Encoder, tuple[int, ...]], Any] = {}
        for selection, groups in local_channel.filtered.items():
            selected = selection.select(items)
            if not selected:
                continue
            which = tuple(map(id, selected))
            for encoder, group in groups.items():
                blob = blobs.get((encoder, which))
                if blob is None:
                    self._counters.encodings += 1
                    try:
                        blob = encoder.encode(
                            local_channel.channel,
                            selected,
                            epoch,
                            payloads.setdefault(which, {}),
                        )
                    except PayloadError:
                        unsupported += group
                        continue
                    blobs[encoder, which] = blob
                if blob is not None:
                    self._counters.deliveries += len(group) * len(selected)
                    if self._operations.wanted:
                        self._num_bytes += len(group) * blob_bytes(blob)
                    write(local_channel, group, blob, slow)
        return unsupported

    def _write(
        self,
        local_channel: LocalChannel,
        group: Mapping[Subscription, Connection],
        blob: Any,
        slow: list[Subscription],
    ) -> None:
        """Write a blob to a group, if possible with one system call for all sockets."""
        # PERF: nothing but the write is called per subscriber (benchmarks/fanout.py).
        descriptors = [
            connection.transport.descriptor if connection.out is None else -1
            for connection in group.values()
        ]
        # PERF: if more than one in eight connections cannot be in the batch, one write
        #   per connection is cheaper than a second pass over the group.
        if descriptors.count(-1) * 8 <= len(descriptors):
            self._batch.add(descriptors, blob)
            # NOTE: the group is copied. An AHEAD subscription can enter it before the
            #   unsent rest of the blob is passed to its connection.
            self._batched.append((local_channel, list(group.items()), blob))
            return
        limit_bytes = local_channel.limit_bytes
        for subscription, connection in group.items():
            if connection.out is not None:
                connection.out.append(blob)
            elif connection.write(blob) > limit_bytes:
                slow.append(subscription)

    def _write_collecting(
        self,
        local_channel: LocalChannel,
        group: Mapping[Subscription, Connection],
        blob: Any,
        slow: list[Subscription],
    ) -> None:
        """Write a blob to a group in an iteration in which several channels deliver.

        The output of a connection with more than one subscription is queued, so that it
        leaves in one write.
        """
        limit_bytes = local_channel.limit_bytes
        descriptors: list[int] = []
        members: list[_Member] = []
        for member in group.items():
            subscription, connection = member
            if connection.out is not None:
                connection.out.append(blob)
            elif len(connection.subscriptions) > 1:
                connection.queue(blob)
                self._connections_due.append(connection)
            elif (descriptor := connection.transport.descriptor) >= 0:
                descriptors.append(descriptor)
                members.append(member)
            elif connection.write(blob) > limit_bytes:
                slow.append(subscription)
        if members:
            self._batch.add(descriptors, blob)
            self._batched.append((local_channel, members, blob))

    def _write_batch(self) -> None:
        """Write the blobs for sockets in the batch."""
        if self._batched:
            batched, self._batched = self._batched, []
            unsent = self._batch.write()
            if unsent:
                self._write_rest(batched, unsent)

    def _write_rest(
        self,
        batched: Sequence[tuple[LocalChannel, Sequence[_Member], Any]],
        unsent: Sequence[Unsent],
    ) -> None:
        """Pass the bytes that sockets did not accept to their transports."""
        written = [
            (local_channel, subscription, connection, blob)
            for local_channel, members, blob in batched
            for subscription, connection in members
        ]
        slow = []
        for number, sent in unsent:
            local_channel, subscription, connection, blob = written[number]
            # NOTE: a connection with queued output has no socket in the batch. The blob
            #   was not sent to it, and must follow the queued output.
            if sent < 0:
                connection.transport.abort()
            elif not sent and connection.out is not None:
                connection.out.append(blob)
            elif connection.write(blob[sent:]) > local_channel.limit_bytes:
                slow.append((local_channel, subscription))
        for local_channel, subscription in slow:
            self._on_slow(local_channel, subscription)

    def _deliver_ahead(
        self, local_channel: LocalChannel, items: Sequence[Item]
    ) -> None:
        for subscription in list(local_channel.ahead):
            ahead = subscription.select(
                [
                    item
                    for item in items
                    if isinstance(item, Signal)
                    or not item.offset
                    or item.offset > subscription.offset
                ]
            )
            self.write_items(
                local_channel, subscription, ahead, local_channel.position.epoch
            )
            local_channel.note_received(subscription, ahead)
        local_channel.pass_ahead()

    def write_items(
        self,
        local_channel: LocalChannel,
        subscription: Subscription,
        items: Sequence[Item],
        epoch: str,
    ) -> None:
        """Write items to one subscriber; the first publication is not a delta."""
        if not items:
            return
        if subscription.delta:
            items = with_deltas(items, None)
        connection = subscription.connection
        try:
            blob = subscription.encoder.encode(local_channel.channel, items, epoch)
        except PayloadError:
            connection.disconnect(*DISCONNECT_INAPPROPRIATE_PROTOCOL)
            return
        if blob is not None:
            self._counters.deliveries += len(items)
            if self._operations.wanted:
                self._num_bytes += blob_bytes(blob)
            connection.send_blob(blob)

    def _check_backlog(self, connection: Connection, backlog_bytes: int) -> None:
        """Apply the limits to a connection whose output was queued."""
        backlog_bytes -= connection.granted_bytes
        if backlog_bytes > self._max_backlog_bytes:
            self._log_slow(connection, None)
            self._counters.slow_disconnects += 1
            connection.disconnect(*DISCONNECT_SLOW)
            return
        for subscription in list(connection.subscriptions.values()):
            local_channel = self._channels.get(subscription.channel)
            if local_channel is not None and backlog_bytes > local_channel.limit_bytes:
                self._on_slow(local_channel, subscription)

    def _on_slow(self, local_channel: LocalChannel, subscription: Subscription) -> None:
        connection = subscription.connection
        if subscription.state is not State.LIVE:
            return
        backlog_bytes = connection.backlog_bytes
        if backlog_bytes - connection.granted_bytes <= local_channel.limit_bytes:
            return
        if local_channel.options.slow_reader == 'close':
            self._log_slow(connection, local_channel)
            self._counters.slow_disconnects += 1
            connection.disconnect(*DISCONNECT_SLOW)
        else:
            local_channel.lag(subscription)
            if local_channel.observer is not None:
                local_channel.observer.on_lagging(
                    subscription, local_channel.delivered_offset
                )

    def _tell_dropped(self, subscription: Subscription, dropped: int) -> None:
        self._events.tell(
            Event(
                'publications_dropped',
                connection=subscription.connection.id,
                user=subscription.user,
                channel=subscription.channel,
                route=subscription.route.template,
                facts={'dropped': dropped},
            )
        )

    def _log_slow(
        self, connection: Connection, local_channel: LocalChannel | None
    ) -> None:
        """Log and tell the policy applied to a slow reader, once per connection."""
        if connection.id in self._slow_logged:
            return
        self._slow_logged.add(connection.id)
        policy = 'close' if local_channel is None else local_channel.options.slow_reader
        event = Event(
            'reader_slow',
            connection=connection.id,
            user=connection.user,
            channel='' if local_channel is None else local_channel.channel,
            facts={'policy': policy, 'backlog_bytes': connection.backlog_bytes},
        )
        log_event(
            event,
            # NOTE: with the policy "latest", dropped publications are expected.
            logging.INFO if policy == 'latest' else logging.WARNING,
            '%r reads too slowly: backlog of %d bytes, channel %r at %s, policy %r',
            connection,
            connection.backlog_bytes,
            None if local_channel is None else local_channel.channel,
            None if local_channel is None else local_channel.position,
            policy,
        )
        self._events.tell(event)
