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
from collections.abc import Mapping
from collections.abc import Sequence
from itertools import repeat
import logging
from os import write as write_descriptor
from typing import Any

from falcon_channels.connection import Connection
from falcon_channels.errors import PayloadError
from falcon_channels.feed import Feed
from falcon_channels.metrics import Counters
from falcon_channels.publication import Signal
from falcon_channels.subscription import Subscription
from falcon_channels.subscription import SubscriptionState as State
from falcon_channels.transports.encodings import Item

_logger = logging.getLogger('falcon_channels')

#: Disconnect codes; see the table in docs/protocol.md.
SLOW = 3008
INAPPROPRIATE_PROTOCOL = 3506


class FanOut:
    """Writes to subscribers; see the module's page.

    Args:
        feeds: The hub's, by channel.
        counters: The hub's.
        max_backlog_bytes: `ChannelsOptions.max_backlog_bytes`.
    """

    def __init__(
        self, feeds: Mapping[str, Feed], counters: Counters, max_backlog_bytes: int
    ) -> None:
        self._feeds = feeds
        self.counters = counters
        self._max_backlog_bytes = max_backlog_bytes
        self._feeds_due: list[Feed] = []
        self._connections_due: list[Connection] = []
        self._planned = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slow_logged: set[str] = set()

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop = asyncio.get_running_loop()

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

    def mark(self, feed: Feed) -> None:
        """Deliver what a feed took at the end of this turn."""
        if not feed.dirty:
            feed.dirty = True
            self._feeds_due.append(feed)
            self._plan_flush()

    def _flush(self) -> None:
        self._planned = False
        feeds, self._feeds_due = self._feeds_due, []
        several = len(feeds) > 1
        for feed in feeds:
            feed.dirty = False
            if feed.turn:
                self._deliver(feed, several)
        connections, self._connections_due = self._connections_due, []
        for connection in connections:
            backlog_bytes = connection.flush()
            if backlog_bytes:
                self._check_backlog(connection, backlog_bytes)
            elif connection.granted_bytes:
                # NOTE: it took all at once, what it recovered as well.
                connection.granted_bytes = 0

    def flush_feed(self, feed: Feed) -> None:
        """Deliver what a feed took now: who subscribes is about to change."""
        if feed.turn:
            self._deliver(feed, False)

    def _deliver(self, feed: Feed, several: bool) -> None:
        """Write what a feed took in this turn to its subscribers.

        Args:
            feed: Which.
            several: Whether other feeds of this turn follow, so that a connection with
                more than one subscription gathers what it gets.
        """
        items, feed.turn = feed.turn, []
        epoch = feed.position.epoch
        limit_bytes = feed.limit_bytes
        slow: list[Subscription] = []
        unfit: list[Subscription] = []
        payloads: dict[Any, list[bytes]] = {}
        for encoder, group in feed.groups.items():
            self.counters.encodings += 1
            try:
                blob = encoder.encode(feed.channel, items, epoch, payloads)
            except PayloadError:
                unfit += group
                continue
            if blob is None:
                continue
            self.counters.deliveries += len(group) * len(items)
            if several or not _write_at_once(group, blob, limit_bytes, slow):
                self._write_in_turn(group, blob, limit_bytes, slow, several)
        for subscription in feed.lagging:
            dropped = feed.keep_pending(subscription, items)
            if dropped:
                self.counters.dropped += dropped
                self._log_slow(subscription.connection, feed)
        if feed.ahead:
            self._deliver_ahead(feed, items)
        for subscription in slow:
            self._on_slow(feed, subscription)
        for subscription in unfit:
            subscription.connection.disconnect(
                INAPPROPRIATE_PROTOCOL, 'inappropriate protocol'
            )

    def _write_in_turn(
        self,
        group: Mapping[Subscription, Connection],
        blob: Any,
        limit_bytes: int,
        slow: list[Subscription],
        several: bool,
    ) -> None:
        """Hand a blob to each transport; see `_deliver`."""
        # PERF: no call but the write itself (benchmarks/fanout.py).
        for subscription, connection in group.items():
            if connection.out:
                connection.out.append(blob)
            elif several and len(connection.subscriptions) > 1:
                connection.out.append(blob)
                self._connections_due.append(connection)
            elif connection.write(blob) > limit_bytes:
                slow.append(subscription)

    def _deliver_ahead(self, feed: Feed, items: Sequence[Item]) -> None:
        for subscription in list(feed.ahead):
            ahead = [
                item
                for item in items
                if isinstance(item, Signal) or item.offset > subscription.offset
            ]
            self.write_items(feed, subscription, ahead, feed.position.epoch)
        feed.pass_ahead()

    def write_items(
        self,
        feed: Feed,
        subscription: Subscription,
        items: Sequence[Item],
        epoch: str,
    ) -> None:
        """Write items to one subscriber only."""
        if not items:
            return
        connection = subscription.connection
        try:
            blob = connection.encoder.encode(feed.channel, items, epoch)
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
            feed = self._feeds.get(subscription.channel)
            if feed is not None and backlog_bytes > feed.limit_bytes:
                self._on_slow(feed, subscription)

    def _on_slow(self, feed: Feed, subscription: Subscription) -> None:
        connection = subscription.connection
        if subscription.state is not State.LIVE:
            return
        backlog_bytes = connection.backlog_bytes
        if backlog_bytes - connection.granted_bytes <= feed.limit_bytes:
            return
        if feed.options.slow_reader == 'close':
            self._log_slow(connection, feed)
            self.counters.slow_disconnects += 1
            connection.disconnect(SLOW, 'slow')
        else:
            feed.lag(subscription)

    def _log_slow(self, connection: Connection, feed: Feed | None) -> None:
        """Log what is done to a slow reader, once for each connection."""
        if connection.id in self._slow_logged:
            return
        self._slow_logged.add(connection.id)
        policy = 'close' if feed is None else feed.options.slow_reader
        _logger.log(
            # NOTE: whoever asks for the latest expects that others are left out.
            logging.INFO if policy == 'latest' else logging.WARNING,
            '%r reads too slowly: %d bytes wait, channel %r at %s, policy %r',
            connection,
            connection.backlog_bytes,
            None if feed is None else feed.channel,
            None if feed is None else feed.position,
            policy,
        )


def _write_at_once(
    group: Mapping[Subscription, Connection],
    blob: Any,
    limit_bytes: int,
    slow: list[Subscription],
) -> bool:
    """Write a blob to the sockets of a group, as far as they have nothing before it.

    PERF: the loop over the sockets runs in C; a tenth of a delivery
    (benchmarks/fanout.py).

    Returns:
        False where too few are like that; then nothing has been written.
    """
    descriptors = [
        -1 if connection.out else connection.transport.descriptor
        for connection in group.values()
    ]
    # NOTE: an exception for each of the others costs more than a call.
    if descriptors.count(-1) * 8 > len(descriptors):
        return False
    size = len(blob)
    members = iter(group.items())
    writes = map(write_descriptor, descriptors, repeat(blob))
    while True:
        try:
            for sent, (subscription, connection) in zip(writes, members, strict=False):
                if sent != size and connection.write(blob[sent:]) > limit_bytes:
                    slow.append(subscription)
            return True
        except OSError:
            # NOTE: nothing fits in, or the link is broken: the transport knows what
            #   to do in either case. `zip` has not taken the member yet.
            subscription, connection = next(members)
            if connection.out:
                connection.out.append(blob)
            elif connection.write(blob) > limit_bytes:
                slow.append(subscription)
