"""Joining: the start of the delivery of a channel to a subscription.

A client that has missed publications receives them before any others:

* The log is read while the subscription buffers the publications that are announced.
  `falcon_channels.protocol.recovery` merges both.
* If the subscription or its connection ends during a join, the join has no effect.
* If the missed publications cannot be read, the subscription joins at the position of
  its channel. A client that asked for recovery is told that it did not recover.
"""

from __future__ import annotations

from typing import NamedTuple
from typing import Protocol

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.errors import UnsubscribedError
from falcon_channels.events import Events
from falcon_channels.hub.channel_registry import ChannelRegistry
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.fanout import FanOut
from falcon_channels.hub.local_channel import ChannelState
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.hub.repair import Repairs
from falcon_channels.hub.shared_encodings import SharedEncodings
from falcon_channels.hub.shared_reads import SharedReads
from falcon_channels.metrics import Counters
from falcon_channels.options import ChannelOptions
from falcon_channels.protocol import recovery
from falcon_channels.publication import approximate_total_bytes
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Newest
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.publication import without_end

#: How often a join reads the log before it joins without recovery.
_ATTEMPTS = 5
#: How long a join waits for the repair of its channel before it reads again.
_REPAIR_TIMEOUT_S = 5.0


class _LogRead(NamedTuple):
    """A page of a log, and the publications that were announced during the read.

    Attributes:
        page: The page.
        live: Announced publications of the epoch of the page, oldest first.
    """

    page: HistoryPage
    live: list[Publication]

    def end_at(self, position: Position) -> ChannelEnd | None:
        """Return the end of the channel if it has ended at a position of this read."""
        if position.offset == self.page.position.offset:
            return self.page.end
        ends = [p.end for p in self.live if p.offset == position.offset]
        return ends[0] if ends else None


class JoinObserver(Protocol):
    """Observes the starts of subscriptions. The method may not raise or block."""

    def on_joined(
        self,
        local_channel: LocalChannel,
        subscription: Subscription,
        since: Position | Newest | None,
        joined: Joined,
    ) -> None:
        """Called with each subscription that has joined, before its client is told.

        Args:
            local_channel: The channel; `LocalChannel.observe` observes its deliveries.
            subscription: The subscription.
            since: The position that the client asked for; see `Joiner.join`.
            joined: The start of the subscription.
        """


class Joiner:
    """Joins subscriptions to the channels of a hub; see the module docstring.

    Args:
        broker: Broker whose logs are read.
        registry: Opens the channels.
        fan_out: Delivers the publications that were announced before a join.
        repairs: Moves a channel to the log that the broker has now.
        shared_encodings: Knows the size of recovered publications.
        counters: Counters of the hub.
        events: Tells which subscriptions have started.
        max_backlog_bytes: Option of the hub.
    """

    def __init__(
        self,
        broker: Broker,
        registry: ChannelRegistry,
        fan_out: FanOut,
        repairs: Repairs,
        shared_encodings: SharedEncodings,
        counters: Counters,
        events: Events,
        max_backlog_bytes: int,
    ) -> None:
        self._reads = SharedReads(broker)
        self._registry = registry
        self._fan_out = fan_out
        self._repairs = repairs
        self._shared_encodings = shared_encodings
        self._counters = counters
        self._events = events
        self._max_backlog_bytes = max_backlog_bytes
        self._observer: JoinObserver | None = None

    def observe(self, observer: JoinObserver | None) -> None:
        """Call an observer for each join from now on; ``None`` ends this."""
        self._observer = observer

    async def close(self) -> None:
        """End the reads of logs."""
        await self._reads.close()

    async def prepare(self, channel: str, options: ChannelOptions) -> None:
        """Open a channel at the broker, so that the next join need not wait.

        Raises:
            BrokerUnavailableError: The channel cannot be opened now; try again.
            ClosedError: The hub is closed.
        """
        self._registry.release(await self._registry.acquire(channel, options))

    async def join(
        self, subscription: Subscription, since: Position | Newest | None
    ) -> Joined:
        """Start the delivery of a channel to a subscription, after recovery.

        Nothing is written to the connection. The caller writes the result before it
        awaits anything. The result therefore precedes all publications.

        Args:
            subscription: A JOINING subscription that its connection has registered.
            since: Last position of the client, a request for the newest publications,
                or ``None`` for neither.

        Raises:
            UnsubscribedError: The subscription was ended meanwhile.
            BrokerUnavailableError: The channel cannot be opened or read now. The
                caller calls `Hub.leave`.
        """
        options = subscription.route.options
        local_channel = await self._registry.acquire(subscription.channel, options)
        try:
            mode = options.recovery_mode
            if isinstance(since, Newest):
                joined = await self._join_newest(local_channel, subscription, since)
            elif mode == 'latest' and (since is not None or options.send_latest):
                joined = await self._join_latest(local_channel, subscription, since)
            elif since is None or mode == 'off':
                if local_channel.end is not None:
                    await self._confirm_end(local_channel, subscription)
                joined = self._join_live(local_channel, subscription, since is not None)
            else:
                joined = await self._join_recovering(local_channel, subscription, since)
        finally:
            local_channel.stop_buffering(subscription)
            self._registry.release(local_channel)
        if joined.publications:
            visible = without_end(joined.publications)
            if visible is not joined.publications:
                joined = joined._replace(publications=visible)
        if subscription.selection is not None:
            # SECURITY: each kind of join passes here, so that a new one cannot send
            #   publications that the filter excludes.
            joined = joined._replace(
                publications=subscription.select(joined.publications)
            )
        local_channel.note_received(subscription, joined.publications)
        # NOTE: the client asked for the recovered publications and has to read them
        #   first. They do not count towards the backlog limit.
        subscription.connection.grant(joined.size_bytes)
        if joined.recovered is not None:
            if joined.recovered:
                self._counters.recovered += 1
            else:
                self._counters.not_recovered += 1
        if self._observer is not None:
            self._observer.on_joined(local_channel, subscription, since, joined)
        if self._events.wants('subscription_started'):
            self._tell_started(subscription, joined)
        return joined

    def _tell_started(self, subscription: Subscription, joined: Joined) -> None:
        self._events.tell(
            subscription.event(
                'subscription_started',
                facts={
                    'offset': joined.position.offset,
                    'epoch': joined.position.epoch,
                    'recovered': joined.recovered,
                    'num_publications': len(joined.publications),
                    'server_side': subscription.server_side,
                },
            )
        )

    def _join_live(
        self, local_channel: LocalChannel, subscription: Subscription, asked: bool
    ) -> Joined:
        """Join at the channel's position; `asked`: the client asked for recovery."""
        _check_not_ended(subscription)
        self._fan_out.flush_channel(local_channel)
        local_channel.add(subscription)
        return Joined(
            local_channel.position,
            [],
            False if asked else None,
            end=local_channel.end,
        )

    async def _join_latest(
        self,
        local_channel: LocalChannel,
        subscription: Subscription,
        since: Position | None,
    ) -> Joined:
        """Join with the latest publication that matches, unless the client has it."""
        limit = 1
        if subscription.selection is not None:
            limit = local_channel.options.recovery_limit
        for _ in range(_ATTEMPTS):
            read = await self._read_log(
                local_channel, subscription, limit=limit, reverse=True
            )
            if read is None:
                continue
            recovered, newest, position = recovery.recover_latest(read.page, read.live)
            visible = without_end(newest)
            if newest and not visible and len(newest) == limit:
                # NOTE: the end has no data. The publication before it has the latest
                #   state.
                limit += 1
                continue
            matching = subscription.select(visible)[:1]
            if not matching and len(read.page.publications) == limit:
                # NOTE: an older publication may match, but no more are read.
                recovered = False
            if recovery.has_latest(since, position, matching):
                recovered, matching = True, []
            local_channel.add(subscription, position.offset)
            size_bytes = approximate_total_bytes(matching)
            return Joined(
                position,
                matching,
                None if since is None else recovered,
                size_bytes,
                read.end_at(position),
            )
        return self._join_live(local_channel, subscription, since is not None)

    async def _join_newest(
        self, local_channel: LocalChannel, subscription: Subscription, newest: Newest
    ) -> Joined:
        """Join with the newest publications, within the limits of a recovery."""
        options = local_channel.options
        limit = options.recovery_limit
        if newest.limit is not None and subscription.selection is None:
            limit = min(limit, newest.limit)
        for _ in range(_ATTEMPTS):
            read = await self._read_log(
                local_channel, subscription, limit=limit, reverse=True
            )
            if read is None:
                continue
            merged = recovery.recover_newest(
                read.page, read.live, options.recovery_limit_bytes
            )
            if merged is None or merged.position.offset < local_channel.position.offset:
                continue
            local_channel.add(subscription, merged.position.offset)
            publications = subscription.select(without_end(merged.publications))
            if newest.limit is not None:
                first = max(0, len(publications) - newest.limit)
                publications = publications[first:]
            size_bytes = approximate_total_bytes(publications)
            end = read.end_at(merged.position)
            return Joined(merged.position, publications, None, size_bytes, end)
        return self._join_live(local_channel, subscription, False)

    async def _join_recovering(
        self, local_channel: LocalChannel, subscription: Subscription, since: Position
    ) -> Joined:
        """Join with all publications after `since`, if the log still has them."""
        options = local_channel.options
        for _ in range(_ATTEMPTS):
            read = await self._read_log(
                local_channel,
                subscription,
                since=since.offset,
                limit=options.recovery_limit,
            )
            if read is None:
                continue
            found = recovery.recover(since, read.page, read.live)
            if found is None or found.position.offset < local_channel.position.offset:
                continue
            # NOTE: whether the client recovers is judged before the filter. It has
            #   then missed nothing, although its offsets have gaps.
            publications = subscription.select(found.publications)
            size_bytes = self._shared_encodings.size_bytes(publications)
            limit_bytes = options.recovery_limit_bytes
            # SECURITY: a client may recover again and again without reading. Without
            #   this limit, its recovered publications would fill the memory.
            too_much = size_bytes > limit_bytes or (
                subscription.connection.granted_bytes
                > max(limit_bytes, self._max_backlog_bytes)
            )
            if not found.recovered or too_much:
                return self._join_live(local_channel, subscription, True)
            local_channel.add(subscription, found.position.offset)
            end = read.end_at(found.position)
            return Joined(found.position, publications, True, size_bytes, end)
        return self._join_live(local_channel, subscription, True)

    async def _read_log(
        self,
        local_channel: LocalChannel,
        subscription: Subscription,
        *,
        since: int | None = None,
        limit: int,
        reverse: bool = False,
    ) -> _LogRead | None:
        """Read a log, and buffer the publications that are announced meanwhile.

        Args:
            local_channel: The channel.
            subscription: A JOINING subscription, for which they are buffered.
            since: Offset after which the log is read, or ``None``.
            limit: Maximum number of publications in the page.
            reverse: Whether the newest publications are read, newest first.

        Returns:
            ``None`` if the channel was in another log than the page, or if too much
            was announced. The caller then reads again.

        Raises:
            UnsubscribedError: The subscription was ended meanwhile.
            BrokerUnavailableError: The log cannot be read now.
        """
        self._fan_out.flush_channel(local_channel)
        local_channel.start_buffering(subscription)
        page = await self._reads.history(
            local_channel.channel,
            LogSettings.of(local_channel.options),
            since=since,
            limit=limit,
            reverse=reverse,
        )
        _check_not_ended(subscription)
        if page.position.epoch != local_channel.position.epoch:
            # NOTE: the local channel moves to the log that the broker has now.
            if local_channel.state is ChannelState.LIVE:
                self._repairs.begin(local_channel)
            await self._repairs.wait(local_channel, _REPAIR_TIMEOUT_S)
            return None
        local_channel.confirm_end(page)
        self._fan_out.flush_channel(local_channel)
        buffered = subscription.buffered
        if buffered is None:
            return None
        epoch = page.position.epoch
        return _LogRead(page, [item for item, e in buffered if e == epoch])

    async def _confirm_end(
        self, local_channel: LocalChannel, subscription: Subscription
    ) -> None:
        """Ask the broker whether a channel that has ended is open again."""
        for _ in range(_ATTEMPTS):
            if await self._read_log(local_channel, subscription, limit=0) is not None:
                return


def _check_not_ended(subscription: Subscription) -> None:
    if subscription.ended or subscription.connection.closed:
        code, reason = subscription.end or (0, 'the connection has ended')
        raise UnsubscribedError(code, reason)
