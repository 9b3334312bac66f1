"""The fan-out: what channels gathered in one turn of the event loop leaves at its end.

A publication is encoded once per encoder, and the blob goes to every subscriber with
that encoder in one loop without a task, a lock or an event for each. What a connection
gets from several channels in one turn, and the replies before it, leave in one write.

A subscriber that reads too slowly shows in the backlog that `write` returns. The policy
of the channel decides: it is disconnected, or it is taken out of the loop (LAGGING) and
what it may keep is bounded. Nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import logging
from typing import Any

from falcon_channels.errors import PayloadError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.hub.subscription import Subscription
from falcon_channels.hub.subscription import SubscriptionState as State
from falcon_channels.metrics import Counters
from falcon_channels.options import NodeOptions
from falcon_channels.publication import Signal
from falcon_channels.transports.encoders import Item
from falcon_channels.transports.io_uring import Unsent
from falcon_channels.transports.socket_batch import SocketBatch

_logger = logging.getLogger('falcon_channels')

#: Disconnect codes; see the table in docs/protocol.md.
SLOW = 3008
INAPPROPRIATE_PROTOCOL = 3506

_Member = tuple[Subscription, Connection]


class FanOut:
    """Writes to subscribers; see the module's page.

    Args:
        channels: The hub's, by channel.
        counters: The hub's.
        options: Of the hub.
    """

    def __init__(
        self,
        channels: Mapping[str, LocalChannel],
        counters: Counters,
        options: NodeOptions,
    ) -> None:
        self._channels = channels
        self.counters = counters
        self._max_backlog_bytes = options.max_backlog_bytes
        self._channels_due: list[LocalChannel] = []
        self._connections_due: list[Connection] = []
        #: Blobs for sockets, and whose they are, in the same order.
        self._batch = SocketBatch(options.io_uring)
        self._batched: list[tuple[LocalChannel, Iterable[_Member], Any]] = []
        self._planned = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slow_logged: set[str] = set()

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Give back what the system lent."""
        self._batch.close()

    def on_output(self, connection: Connection) -> None:
        """Learn that a connection has something to write."""
        self._connections_due.append(connection)
        self._plan_flush()

    def forget(self, connection: Connection) -> None:
        """Learn that a connection has ended."""
        self._slow_logged.discard(connection.id)

    def _plan_flush(self) -> None:
        if not self._planned and self._loop is not None:
            self._planned = True
            self._loop.call_soon(self._flush)

    def mark(self, local_channel: LocalChannel) -> None:
        """Deliver what a local_channel took at the end of this turn."""
        if not local_channel.dirty:
            local_channel.dirty = True
            self._channels_due.append(local_channel)
            self._plan_flush()

    def _flush(self) -> None:
        self._planned = False
        channels, self._channels_due = self._channels_due, []
        several = len(channels) > 1
        for local_channel in channels:
            local_channel.dirty = False
            if local_channel.batch:
                self._deliver(local_channel, several)
        self._write_batch()
        connections, self._connections_due = self._connections_due, []
        for connection in connections:
            backlog_bytes = connection.flush()
            if backlog_bytes:
                self._check_backlog(connection, backlog_bytes)
            elif connection.granted_bytes:
                # NOTE: it took all at once, what it recovered as well.
                connection.on_all_read()

    def flush_channel(self, local_channel: LocalChannel) -> None:
        """Deliver what a local_channel took now: who subscribes is about to change."""
        if local_channel.batch:
            self._deliver(local_channel, False)
            self._write_batch()

    def _deliver(self, local_channel: LocalChannel, several: bool) -> None:
        """Write what a local_channel took in this turn to its subscribers.

        Args:
            local_channel: Which.
            several: Whether other channels of this turn follow, so that a connection
                with more than one subscription gathers what it gets.
        """
        items, local_channel.batch = local_channel.batch, []
        epoch = local_channel.position.epoch
        slow: list[Subscription] = []
        unfit: list[Subscription] = []
        payloads: dict[Any, list[bytes]] = {}
        for encoder, group in local_channel.groups.items():
            self.counters.encodings += 1
            try:
                blob = encoder.encode(local_channel.channel, items, epoch, payloads)
            except PayloadError:
                unfit += group
                continue
            if blob is None:
                continue
            self.counters.deliveries += len(group) * len(items)
            if several:
                self._write_apart(local_channel, group, blob, slow)
            else:
                self._write(local_channel, group, blob, slow)
        for subscription in local_channel.lagging:
            dropped = local_channel.keep_pending(subscription, items)
            if dropped:
                self.counters.dropped += dropped
                self._log_slow(subscription.connection, local_channel)
        if local_channel.ahead:
            self._deliver_ahead(local_channel, items)
        for subscription in slow:
            self._on_slow(local_channel, subscription)
        for subscription in unfit:
            subscription.connection.disconnect(
                INAPPROPRIATE_PROTOCOL, 'inappropriate protocol'
            )

    def _write(
        self,
        local_channel: LocalChannel,
        group: Mapping[Subscription, Connection],
        blob: Any,
        slow: list[Subscription],
    ) -> None:
        """Write a blob to a group, with one call for all where sockets are lent."""
        # PERF: no call for each but the write itself (benchmarks/fanout.py).
        descriptors = [
            connection.transport.descriptor if connection.out is None else -1
            for connection in group.values()
        ]
        # NOTE: to go back to each of the others costs more than a call.
        if descriptors.count(-1) * 8 <= len(descriptors):
            self._batch.add(descriptors, blob)
            self._batched.append((local_channel, group.items(), blob))
            return
        limit_bytes = local_channel.limit_bytes
        for subscription, connection in group.items():
            if connection.out is not None:
                connection.out.append(blob)
            elif connection.write(blob) > limit_bytes:
                slow.append(subscription)

    def _write_apart(
        self,
        local_channel: LocalChannel,
        group: Mapping[Subscription, Connection],
        blob: Any,
        slow: list[Subscription],
    ) -> None:
        """Write a blob to a group, where other channels write in this turn as well.

        A connection with more than one subscription gathers what it gets.
        """
        limit_bytes = local_channel.limit_bytes
        descriptors: list[int] = []
        members: list[_Member] = []
        for member in group.items():
            subscription, connection = member
            if connection.out is not None:
                connection.out.append(blob)
            elif len(connection.subscriptions) > 1:
                connection.out = [blob]
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
        """Write what the channels of this turn have for lent sockets."""
        if self._batched:
            batched, self._batched = self._batched, []
            unsent = self._batch.write()
            if unsent:
                self._write_rest(batched, unsent)

    def _write_rest(
        self,
        batched: Sequence[tuple[LocalChannel, Iterable[_Member], Any]],
        unsent: Sequence[Unsent],
    ) -> None:
        """Hand what sockets did not take to their transports."""
        written = [
            (local_channel, subscription, connection, blob)
            for local_channel, members, blob in batched
            for subscription, connection in members
        ]
        slow = []
        for number, sent in unsent:
            local_channel, subscription, connection, blob = written[number]
            if sent < 0:
                connection.transport.abort()
            elif connection.out is not None:
                connection.out.append(blob)
            elif connection.write(blob[sent:]) > local_channel.limit_bytes:
                slow.append((local_channel, subscription))
        for local_channel, subscription in slow:
            self._on_slow(local_channel, subscription)

    def _deliver_ahead(
        self, local_channel: LocalChannel, items: Sequence[Item]
    ) -> None:
        for subscription in list(local_channel.ahead):
            ahead = [
                item
                for item in items
                if isinstance(item, Signal) or item.offset > subscription.offset
            ]
            self.write_items(
                local_channel, subscription, ahead, local_channel.position.epoch
            )
        local_channel.pass_ahead()

    def write_items(
        self,
        local_channel: LocalChannel,
        subscription: Subscription,
        items: Sequence[Item],
        epoch: str,
    ) -> None:
        """Write items to one subscriber only."""
        if not items:
            return
        connection = subscription.connection
        try:
            blob = connection.encoder.encode(local_channel.channel, items, epoch)
        except PayloadError:
            connection.disconnect(INAPPROPRIATE_PROTOCOL, 'inappropriate protocol')
            return
        if blob is not None:
            self.counters.deliveries += len(items)
            connection.send_blob(blob)

    def _check_backlog(self, connection: Connection, backlog_bytes: int) -> None:
        """Treat a connection that gathered its output as the fan-out would have."""
        backlog_bytes -= connection.granted_bytes
        if backlog_bytes > self._max_backlog_bytes:
            self._log_slow(connection, None)
            self.counters.slow_disconnects += 1
            connection.disconnect(SLOW, 'slow')
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
            self.counters.slow_disconnects += 1
            connection.disconnect(SLOW, 'slow')
        else:
            local_channel.lag(subscription)

    def _log_slow(
        self, connection: Connection, local_channel: LocalChannel | None
    ) -> None:
        """Log what is done to a slow reader, once for each connection."""
        if connection.id in self._slow_logged:
            return
        self._slow_logged.add(connection.id)
        policy = 'close' if local_channel is None else local_channel.options.slow_reader
        _logger.log(
            # NOTE: whoever asks for the latest expects that others are left out.
            logging.INFO if policy == 'latest' else logging.WARNING,
            '%r reads too slowly: %d bytes wait, channel %r at %s, policy %r',
            connection,
            connection.backlog_bytes,
            None if local_channel is None else local_channel.channel,
            None if local_channel is None else local_channel.position,
            policy,
        )
