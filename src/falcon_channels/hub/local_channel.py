"""The state of one channel in this process.

A local channel has no task and never calls the broker: `Hub` does both. Its rules:

* `position` is the position of the last publication for the subscribers. They have
  received it, or it is in `batch` for the end of this event-loop iteration.
* Publications enter by `take`, which accepts only the next offset. A publication at or
  before `position` is a repeat, and is ignored. A later one means a gap: the channel
  becomes REPAIRING and buffers everything until the hub has read the log and calls
  `repair`.
* A LIVE subscription is at `position`. A delivery therefore compares no offsets. Code
  that changes the set of LIVE subscriptions flushes the channel's batch first.
* An AHEAD subscription has recovered beyond `position`, because the log was read before
  the announcements arrived. It is skipped until `position` has reached its offset.
* `end` is set while the publication at `position` is the last one of the channel. The
  hub delivers the batch, and then ends all subscriptions.
* For a JOINING subscription that recovers, publications are buffered until the hub has
  read the log for it.

ARCHITECTURE.md lists all places where a publication can wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from enum import IntEnum

from falcon_channels.hub.channel_observer import ChannelObserver
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState as State
from falcon_channels.hub.delta_groups import DeltaGroups
from falcon_channels.hub.groups import add_to_group
from falcon_channels.hub.groups import Groups
from falcon_channels.hub.groups import remove_from_group
from falcon_channels.hub.selection import Selection
from falcon_channels.options import ChannelOptions
from falcon_channels.protocol import recovery
from falcon_channels.protocol.deltas import last_publication
from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import new_named_tuple
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal
from falcon_channels.transports.encoders import Item


class ChannelState(IntEnum):
    """The state of a local channel, which decides what it does with publications."""

    #: It buffers them, until the broker has returned the position of the channel.
    OPENING = 0
    #: It delivers them.
    LIVE = 1
    #: It buffers them, until the log was read.
    REPAIRING = 2


class SubscriptionTotals:
    """Counts over all channels of a hub, which are then known without reading them.

    Attributes:
        num_channels: Number of channels with subscribers.
        num_subscriptions: Number of subscriptions that have joined and not ended.
    """

    __slots__ = ('num_channels', 'num_subscriptions')

    def __init__(self) -> None:
        self.num_channels = 0
        self.num_subscriptions = 0

    def add(self, first: bool) -> None:
        """Count a new subscription, which may be the first one of its channel."""
        self.num_subscriptions += 1
        self.num_channels += first

    def remove(self, last: bool) -> None:
        """Undo one `add` for a subscription, which may be the last one."""
        self.num_subscriptions -= 1
        self.num_channels -= last


class LocalChannel:
    """The state of one channel in this process.

    Args:
        channel: Name of the channel.
        options: Options of the channel.
        max_buffered_bytes: Largest size of the publications that are buffered while
            the channel does not deliver. The same limit applies to the publications
            that are buffered for each JOINING subscription.
        max_backlog_bytes: Backlog of a connection above which it is slow; the
            channel's own limit applies if it is lower.
        totals: Counts over all channels, where the subscriptions are counted.

    Attributes:
        state: The state of the channel; see `ChannelState`.
        position: Position of the last publication that was taken.
        members: How many subscriptions have joined and not ended.
        route: Template of the route, from the first subscription on.
        groups: LIVE subscriptions without a filter and without delta, and their
            connections, by encoder.
        deltas: Subscriptions with delta, or ``None`` if there are none.
        filtered: Groups like `groups` of the LIVE subscriptions with a filter, by their
            selection.
        ahead: AHEAD subscriptions.
        joining: JOINING subscriptions for which publications are buffered.
        lagging: LAGGING subscriptions.
        batch: Items taken in this event-loop iteration.
        end: The end of the channel if it has ended at `position`, else ``None``.
        limit_bytes: Backlog of a connection above which its subscription is slow.
        buffered_bytes: Size of the publications that are buffered.
        observer: Is told about deliveries, or ``None``; see `observe`.
    """

    __slots__ = (
        '_buffer_overflow',
        '_buffered',
        '_max_backlog_bytes',
        '_max_buffered_bytes',
        '_num_acquired',
        '_totals',
        'ahead',
        'batch',
        'buffered_bytes',
        'channel',
        'deltas',
        'end',
        'filtered',
        'groups',
        'joining',
        'lagging',
        'limit_bytes',
        'members',
        'observer',
        'options',
        'position',
        'route',
        'state',
    )

    def __init__(
        self,
        channel: str,
        options: ChannelOptions,
        max_buffered_bytes: int,
        max_backlog_bytes: int,
        totals: SubscriptionTotals,
    ) -> None:
        self.channel = channel
        self.options = options
        self.state = ChannelState.OPENING
        self.position = Position(0, '')
        self.end: ChannelEnd | None = None
        self.members = 0
        self._totals = totals
        self.route = ''
        self.groups: Groups = {}
        self.deltas: DeltaGroups | None = None
        self.filtered: dict[Selection, Groups] = {}
        self.ahead: dict[Subscription, None] = {}
        self.joining: dict[Subscription, None] = {}
        self.lagging: dict[Subscription, None] = {}
        self.batch: list[Item] = []
        #: Number of joins in progress.
        self._num_acquired = 0
        self._buffered: list[tuple[Publication, str]] = []
        self._buffer_overflow = False
        self.buffered_bytes = 0
        self.observer: ChannelObserver | None = None
        self._max_buffered_bytes = max_buffered_bytes
        self._max_backlog_bytes = min(options.max_backlog_bytes, max_backlog_bytes)
        self.limit_bytes = {
            'close': self._max_backlog_bytes,
            'drop_oldest': self._max_backlog_bytes // 2,
            'latest': 0,
        }[options.slow_reader]

    # --- life ------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether there is no subscription, and no join in progress."""
        return not self.members and not self._num_acquired

    def acquire(self) -> None:
        """Keep the channel open while a join is in progress; see `release`."""
        self._num_acquired += 1

    def release(self) -> None:
        """Undo one `acquire`."""
        self._num_acquired -= 1

    def observe(self, observer: ChannelObserver | None) -> None:
        """Call an observer for each delivery from now on; ``None`` ends this."""
        self.observer = observer

    # --- publications ----------------------------------------------------------------

    def take(self, publication: Publication, epoch: str) -> bool:
        """Take the next publication; return whether there is a gap before it."""
        if self.state is not ChannelState.LIVE:
            self._buffer(publication, epoch)
            return False
        offset = publication.offset
        if offset:
            position = self.position
            if epoch != position.epoch or offset > position.offset + 1:
                self.state = ChannelState.REPAIRING
                self._buffer(publication, epoch)
                return True
            if offset <= position.offset:
                return False
            self.position = new_named_tuple(Position, (offset, epoch))
            self.end = publication.end
        self._add(publication, epoch)
        return False

    def _add(self, publication: Publication, epoch: str) -> None:
        """Add a publication to the batch, and to the buffers of JOINING subscribers."""
        # PERF: this is `only_ends`, without a call (benchmarks/centrifugo.py).
        if publication.end is None or publication.data:
            self.batch.append(publication)
        if self.joining:
            self._buffer_for_joining(publication, epoch)

    def take_signal(self, signal: Signal) -> None:
        """Take a join or leave, which has no offset."""
        self.batch.append(signal)

    def take_batch(self) -> list[Item]:
        """Return the items taken in this event-loop iteration, and start anew."""
        batch, self.batch = self.batch, []
        return batch

    @property
    def delivered_offset(self) -> int:
        """Offset up to which publications were written to LIVE subscriptions."""
        for item in self.batch:
            if isinstance(item, Publication) and item.offset:
                return item.offset - 1
        return self.position.offset

    def open(self, page: HistoryPage) -> bool:
        """Start at the position of a page without publications.

        Returns:
            Whether the buffered publications have a gap.
        """
        self.position = page.position
        self.end = page.end
        self.state = ChannelState.LIVE
        return self._take_buffered()

    def start_repair(self) -> None:
        """Buffer publications until `repair` is called."""
        self.state = ChannelState.REPAIRING

    def repair(self, page: HistoryPage) -> bool | None:
        """Continue with the publications in the log after `position`.

        With ``recovery_mode='latest'`` the channel continues with the latest
        publication, even if the log no longer has the ones before it.

        Returns:
            ``True``: repaired. ``False``: more publications arrived meanwhile; read
            the log again. ``None``: the log no longer reaches back to `position`. The
            channel is now at the end of the log, and the caller ends all subscriptions.
        """
        if self._buffer_overflow or self._has_buffered_other(page.position.epoch):
            # NOTE: the buffered publications are in the log by now, so that the next
            #   page has them.
            self._drop_buffered_of_logs()
            return False
        publications = recovery.missed_publications(self.position, page)
        if publications is None and self.options.recovery_mode == 'latest':
            if page.position.epoch != self.position.epoch:
                self._begin_anew(page.position.epoch)
                return False
            # NOTE: the latest publication may match no filter. Filtered subscriptions
            #   continue with the latest one that matches.
            filtering = any(s.selection for s in [*self.subscriptions(), *self.joining])
            publications = page.publications if filtering else _latest(page)
        if publications is not None:
            for publication in publications:
                self._add(publication, page.position.epoch)
        self.position = page.position
        self.end = page.end
        self.state = ChannelState.LIVE
        gap = self._take_buffered()
        if publications is None:
            return None
        return not gap

    def _begin_anew(self, epoch: str) -> None:
        """Move to the start of another log, with all subscriptions."""
        self.position = Position(0, epoch)
        self.end = None
        for subscription in list(self.ahead):
            self.ahead.pop(subscription, None)
            self._make_live(subscription)

    def confirm_end(self, page: HistoryPage) -> None:
        """Update the end from a page of the same log that was just read.

        `remove_history` opens a channel again, and the broker does not announce that.
        """
        if page.position.offset == self.position.offset:
            self.end = page.end
        elif page.position.offset > self.position.offset:
            self.end = None

    def _take_buffered(self) -> bool:
        """Take the buffered publications; return whether there is a gap."""
        if self._buffer_overflow or self._has_buffered_other(self.position.epoch):
            # NOTE: the buffered publications belong to the former log or to a newer
            #   one. This is known only after the log was read.
            self.state = ChannelState.REPAIRING
            self._drop_buffered_of_logs()
            return True
        buffered = self._buffered
        self._clear_buffer()
        gap = False
        for publication, epoch in buffered:
            if publication.offset and epoch != self.position.epoch:
                continue
            # NOTE: after a gap, `take` buffers all others again.
            if self.take(publication, epoch):
                gap = True
        return gap

    def _has_buffered_other(self, epoch: str) -> bool:
        """Return whether the newest buffered publication of a log has another epoch."""
        # NOTE: publications that are in no log may follow it.
        for publication, buffered_epoch in reversed(self._buffered):
            if publication.offset:
                return buffered_epoch != epoch
        return False

    def _drop_buffered_of_logs(self) -> None:
        """Drop the buffered publications that can be read from a log."""
        without_log = [item for item in self._buffered if not item[0].offset]
        self._clear_buffer()
        for publication, epoch in without_log:
            self._buffer(publication, epoch)

    def _clear_buffer(self) -> None:
        self._buffered = []
        self.buffered_bytes = 0
        self._buffer_overflow = False

    def _buffer(self, publication: Publication, epoch: str) -> None:
        if self._buffer_overflow:
            return
        self._buffered.append((publication, epoch))
        self.buffered_bytes += approximate_size_bytes(publication)
        if self.buffered_bytes > self._max_buffered_bytes:
            self._buffered.clear()
            self._buffer_overflow = True

    def _buffer_for_joining(self, publication: Publication, epoch: str) -> None:
        for subscription in self.joining:
            subscription.buffer(publication, epoch, self._max_buffered_bytes)

    # --- subscriptions ---------------------------------------------------------------

    def start_buffering(self, subscription: Subscription) -> None:
        """Buffer publications for a JOINING subscription from now on."""
        subscription.start_buffering()
        self.joining[subscription] = None

    def stop_buffering(self, subscription: Subscription) -> None:
        """Stop buffering for a subscription, if it has not joined yet."""
        self.joining.pop(subscription, None)

    def add(self, subscription: Subscription, offset: int | None = None) -> None:
        """Add a subscription; the caller has flushed the channel's batch.

        Args:
            subscription: A JOINING subscription.
            offset: Offset of the last publication that the client has recovered.
                ``None`` means the position of the channel.
        """
        self.joining.pop(subscription, None)
        self.members += 1
        self._totals.add(self.members == 1)
        self.route = subscription.route.template
        if subscription.delta:
            if self.deltas is None:
                self.deltas = DeltaGroups()
            self.deltas.add_member()
        if offset is not None and offset > self.position.offset:
            subscription.go_ahead(offset)
            self.ahead[subscription] = None
        else:
            self._make_live(subscription)

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription in any state, and end it."""
        state = subscription.state
        if state is State.ENDED:
            return
        subscription.finish()
        if state is State.JOINING:
            self.joining.pop(subscription, None)
            return
        self.members -= 1
        self._totals.remove(not self.members)
        if state is State.LIVE:
            self._leave_group(subscription)
        elif state is State.AHEAD:
            self.ahead.pop(subscription, None)
        else:
            self.lagging.pop(subscription, None)
        if self.deltas is not None and subscription.delta:
            self.deltas.remove_member(subscription)
            if not self.deltas.num_members:
                self.deltas = None

    def note_received(self, subscription: Subscription, items: Sequence[Item]) -> None:
        """Called when items are written to one subscription, and not to a group."""
        if self.deltas is not None and subscription.delta:
            last = last_publication(items)
            if last is not None:
                self.deltas.set_base(subscription, last)

    def subscriptions(self) -> list[Subscription]:
        """Return all subscriptions that have joined."""
        return list(self.iter_subscriptions())

    def iter_subscriptions(self) -> Iterator[Subscription]:
        """Iterate over all subscriptions that have joined, without a copy of them."""
        yield from self.lagging
        yield from self.ahead
        all_groups = [self.groups, *self.filtered.values()]
        if self.deltas is not None:
            all_groups += self.deltas.in_step, self.deltas.out_of_step
        for groups in all_groups:
            for group in groups.values():
                yield from group

    def _make_live(self, subscription: Subscription) -> None:
        subscription.go_live()
        self._enter_group(subscription)

    def _enter_group(self, subscription: Subscription) -> None:
        selection = subscription.selection
        if self.deltas is not None and subscription.delta:
            self.deltas.enter(subscription)
        elif selection is None:
            add_to_group(self.groups, subscription)
        else:
            add_to_group(self.filtered.setdefault(selection, {}), subscription)

    def _leave_group(self, subscription: Subscription) -> None:
        selection = subscription.selection
        if self.deltas is not None and subscription.delta:
            self.deltas.leave(subscription)
        elif selection is None:
            remove_from_group(self.groups, subscription)
        else:
            groups = self.filtered[selection]
            remove_from_group(groups, subscription)
            if not groups:
                del self.filtered[selection]

    # --- slow readers ----------------------------------------------------------------

    def lag(self, subscription: Subscription) -> None:
        """Make a slow LIVE subscription LAGGING: its items wait from now on."""
        self._leave_group(subscription)
        subscription.start_lagging(Position(self.delivered_offset, self.position.epoch))
        self.lagging[subscription] = None

    def add_pending(self, subscription: Subscription, items: list[Item]) -> int:
        """Add items for a LAGGING subscription; return how many were dropped.

        NOTE: an item that the client does not receive must not replace or drop one that
        it receives. Such items are therefore removed first.
        """
        if self.deltas is not None and last_publication(items) is not None:
            self.deltas.set_base(subscription, None)
        items = subscription.select(items)
        if not subscription.join_leave:
            items = [item for item in items if isinstance(item, Publication)]
        return subscription.add_pending(
            items,
            self.position.epoch,
            self._max_backlog_bytes - self.limit_bytes,
            self.options.slow_reader == 'latest',
        )

    def catch_up(self, subscription: Subscription) -> tuple[list[Item], str]:
        """Make a LAGGING subscription LIVE; return its items and their epoch."""
        self.lagging.pop(subscription, None)
        items, epoch = subscription.stop_lagging()
        self.note_received(subscription, items)
        self._enter_group(subscription)
        return items, epoch

    def pass_ahead(self) -> None:
        """Make the AHEAD subscriptions LIVE whose offset the channel has reached."""
        offset = self.position.offset
        for subscription in [s for s in self.ahead if s.offset <= offset]:
            self.ahead.pop(subscription, None)
            self._make_live(subscription)


def _latest(page: HistoryPage) -> list[Publication]:
    """Return the newest publication with data, and an end without data after it."""
    start = len(page.publications) - 1
    while start > 0 and page.publications[start].only_ends:
        start -= 1
    return page.publications[max(start, 0) :]
