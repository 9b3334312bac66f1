"""One channel in this process: where it stands, and who gets what.

A local_channel has no coroutine and calls no broker; `Hub` does both for it. Its rules:

* `position` is the last publication that was given to the subscribers (or is about to
  be, at the end of this turn of the event loop). Publications come in by `take`, which
  accepts only the next one. Anything else is a repeat, and ignored, or a gap. At a gap
  the channel keeps what comes (`REPAIRING`) until the hub has read the log and calls
  `repair`.
* A LIVE subscription stands at `position`, by construction, so that a delivery compares
  no offsets. Whoever changes the set of LIVE subscriptions calls the hub's flush first.
* A subscription that recovered further than `position`, because the log was ahead of
  its announcements, is AHEAD: it is skipped until the local_channel has passed it.
* A JOINING subscription that recovers keeps what is taken, until the hub has read for
  it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import IntEnum

from falcon_channels.brokers.base import StreamSettings
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.subscription import Subscription
from falcon_channels.hub.subscription import SubscriptionState as State
from falcon_channels.options import ChannelOptions
from falcon_channels.protocol import recovery
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.transports.encoders import Encoder
from falcon_channels.transports.encoders import Item


class ChannelState(IntEnum):
    """What a local_channel does with publications; see the module's page."""

    OPENING = 0
    LIVE = 1
    REPAIRING = 2


def stream_settings(options: ChannelOptions) -> StreamSettings:
    """Return what a broker needs to know of a channel's options."""
    return StreamSettings(
        size=options.history_size,
        ttl_s=options.history_ttl_s,
        meta_ttl_s=options.meta_ttl_s,
        idempotency_ttl_s=options.idempotency_ttl_s,
    )


class LocalChannel:
    """One channel in this process."""

    __slots__ = (
        'ahead',
        'batch',
        'channel',
        'dirty',
        'groups',
        'holds',
        'joining',
        'kept',
        'kept_bytes',
        'kept_overflow',
        'lagging',
        'limit_bytes',
        'max_backlog_bytes',
        'max_kept_bytes',
        'members',
        'options',
        'position',
        'state',
    )

    def __init__(
        self,
        channel: str,
        options: ChannelOptions,
        max_kept_bytes: int,
        max_backlog_bytes: int,
    ) -> None:
        self.channel = channel
        self.options = options
        self.max_kept_bytes = max_kept_bytes
        self.state = ChannelState.OPENING
        self.position = Position(0, '')
        self.members = 0
        #: Whether the hub has `turn` on its list.
        self.dirty = False
        #: How many joins are under way: a local_channel with any of them stays open.
        self.holds = 0
        self.groups: dict[Encoder, dict[Subscription, Connection]] = {}
        self.ahead: dict[Subscription, None] = {}
        self.joining: dict[Subscription, None] = {}
        self.lagging: dict[Subscription, None] = {}
        #: What was taken in this turn of the event loop.
        self.batch: list[Item] = []
        self.kept: list[tuple[Publication, str]] = []
        self.kept_bytes = 0
        self.kept_overflow = False
        # A subscriber with a backlog above this is slow.
        self.max_backlog_bytes = min(options.max_backlog_bytes, max_backlog_bytes)
        half = self.max_backlog_bytes // 2
        self.limit_bytes = {
            'close': self.max_backlog_bytes,
            'drop_oldest': half,
            'latest': 0,
        }[options.slow_reader]

    @property
    def idle(self) -> bool:
        """Whether nobody subscribes, and nobody is about to."""
        return not self.members and not self.holds

    # --- publications ----------------------------------------------------------------

    def take(self, publication: Publication, epoch: str) -> bool:
        """Take the next publication; return whether there is a gap before it."""
        if self.state is not ChannelState.LIVE:
            self._keep(publication, epoch)
            return False
        offset = publication.offset
        if offset:
            position = self.position
            if epoch != position.epoch or offset > position.offset + 1:
                self.state = ChannelState.REPAIRING
                self._keep(publication, epoch)
                return True
            if offset <= position.offset:
                return False
            self.position = Position(offset, epoch)
        self.batch.append(publication)
        if self.joining:
            self._keep_for_joining(publication, epoch)
        return False

    def open(self, position: Position) -> bool:
        """Begin at `position`; return whether what came meanwhile has a gap."""
        self.position = position
        self.state = ChannelState.LIVE
        return self._take_kept()

    def repair(self, page: HistoryPage) -> bool | None:
        """Go on from what the log holds after `position`.

        A channel that recovers the latest goes on from that, whatever was missed.

        Returns:
            True: repaired. False: more came meanwhile, read again. ``None``: the log
            no longer reaches back to `position`; the channel now stands at the log's
            top, and no subscriber may stay.
        """
        if self.kept_overflow or (
            self.kept and self.kept[-1][1] != page.position.epoch
        ):
            # NOTE: what was kept is stored by now, so that the next page has it.
            self._drop_kept()
            return False
        publications = recovery.missed_publications(self.position, page)
        if publications is None and self.options.recovery_mode == 'latest':
            if page.position.epoch != self.position.epoch:
                self._begin_anew(page.position.epoch)
                return False
            publications = page.publications[-1:]
        if publications is not None:
            for publication in publications:
                self.batch.append(publication)
                if self.joining:
                    self._keep_for_joining(publication, page.position.epoch)
        self.position = page.position
        self.state = ChannelState.LIVE
        gap = self._take_kept()
        if publications is None:
            return None
        return not gap

    def _begin_anew(self, epoch: str) -> None:
        """Stand at the beginning of another log, with all subscribers."""
        self.position = Position(0, epoch)
        for subscription in list(self.ahead):
            self.ahead.pop(subscription, None)
            self._make_live(subscription)

    def _take_kept(self) -> bool:
        kept, overflow = self.kept, self.kept_overflow
        self._drop_kept()
        if overflow or (
            kept and kept[-1][0].offset and kept[-1][1] != self.position.epoch
        ):
            # NOTE: of the log before this one, or of the next: the log tells.
            self.state = ChannelState.REPAIRING
            return True
        for publication, epoch in kept:
            if publication.offset and epoch != self.position.epoch:
                continue
            if self.take(publication, epoch):
                return True
        return False

    def _drop_kept(self) -> None:
        self.kept = []
        self.kept_bytes = 0
        self.kept_overflow = False

    def _keep(self, publication: Publication, epoch: str) -> None:
        if self.kept_overflow:
            return
        self.kept.append((publication, epoch))
        self.kept_bytes += len(publication.data)
        if self.kept_bytes > self.max_kept_bytes:
            self.kept.clear()
            self.kept_overflow = True

    def _keep_for_joining(self, publication: Publication, epoch: str) -> None:
        for subscription in self.joining:
            if subscription.kept is None:
                continue
            subscription.kept.append((publication, epoch))
            subscription.kept_bytes += len(publication.data)
            if subscription.kept_bytes > self.max_kept_bytes:
                subscription.kept = None

    # --- subscriptions ---------------------------------------------------------------

    def keep_for(self, subscription: Subscription) -> None:
        """Keep for a JOINING subscription what is taken from now on."""
        subscription.kept = []
        subscription.kept_bytes = 0
        self.joining[subscription] = None

    def add(self, subscription: Subscription, offset: int | None = None) -> None:
        """Add a subscription that stands at `offset`, or where the channel stands.

        The caller has flushed `turn`.
        """
        self.joining.pop(subscription, None)
        subscription.kept = None
        subscription.joined = True
        self.members += 1
        if offset is not None and offset > self.position.offset:
            subscription.state = State.AHEAD
            subscription.offset = offset
            self.ahead[subscription] = None
        else:
            self._make_live(subscription)

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription, in whatever state it is."""
        state, subscription.state = subscription.state, State.ENDED
        if state is State.ENDED:
            return
        if state is State.JOINING:
            self.joining.pop(subscription, None)
            subscription.kept = None
            return
        self.members -= 1
        if state is State.LIVE:
            self._leave_group(subscription)
        elif state is State.AHEAD:
            self.ahead.pop(subscription, None)
        else:
            self.lagging.pop(subscription, None)
            subscription.pending = None

    def subscriptions(self) -> list[Subscription]:
        """Return all that have joined."""
        live = [s for group in self.groups.values() for s in group]
        return [*live, *self.ahead, *self.lagging]

    def _make_live(self, subscription: Subscription) -> None:
        subscription.state = State.LIVE
        connection = subscription.connection
        group = self.groups.get(connection.encoder)
        if group is None:
            group = self.groups[connection.encoder] = {}
        group[subscription] = connection

    def _leave_group(self, subscription: Subscription) -> None:
        encoder = subscription.connection.encoder
        group = self.groups[encoder]
        del group[subscription]
        if not group:
            del self.groups[encoder]

    # --- slow readers ----------------------------------------------------------------

    def lag(self, subscription: Subscription) -> None:
        """Keep publications for a slow LIVE subscription instead of writing them."""
        self._leave_group(subscription)
        subscription.state = State.LAGGING
        subscription.pending = deque()
        subscription.pending_bytes = 0
        subscription.pending_epoch = self.position.epoch
        self.lagging[subscription] = None

    def keep_pending(self, subscription: Subscription, items: Iterable[Item]) -> int:
        """Keep `items` for a LAGGING subscription; return how many were dropped."""
        pending = subscription.pending
        assert pending is not None
        limit_bytes = self.max_backlog_bytes - self.limit_bytes
        only_latest = self.options.slow_reader == 'latest'
        dropped = 0
        if subscription.pending_epoch != self.position.epoch:
            # NOTE: an offset of one log with the epoch of another is no position.
            dropped += _drop_publications(subscription, pending)
            subscription.pending_epoch = self.position.epoch
        for item in items:
            if only_latest and isinstance(item, Publication):
                # NOTE: joins and leaves are no newer state, and stay.
                dropped += _drop_publications(subscription, pending)
            pending.append(item)
            subscription.pending_bytes += _size_bytes(item)
            while len(pending) > 1 and subscription.pending_bytes > limit_bytes:
                subscription.pending_bytes -= _size_bytes(pending.popleft())
                dropped += 1
        return dropped

    def catch_up(self, subscription: Subscription) -> tuple[list[Item], str]:
        """Make a LAGGING subscription LIVE again; return what waits, and its epoch."""
        items = list(subscription.pending or ())
        subscription.pending = None
        subscription.pending_bytes = 0
        self.lagging.pop(subscription, None)
        self._make_live(subscription)
        return items, subscription.pending_epoch

    def pass_ahead(self) -> None:
        """Make those AHEAD subscriptions LIVE that the local_channel has reached."""
        offset = self.position.offset
        for subscription in [s for s in self.ahead if s.offset <= offset]:
            self.ahead.pop(subscription, None)
            self._make_live(subscription)


def _drop_publications(subscription: Subscription, pending: deque[Item]) -> int:
    """Drop waiting publications, but no joins and leaves; return how many."""
    old = [item for item in pending if isinstance(item, Publication)]
    for item in old:
        pending.remove(item)
        subscription.pending_bytes -= _size_bytes(item)
    return len(old)


def _size_bytes(item: Item) -> int:
    return len(item.data) if isinstance(item, Publication) else 128
