"""Presence: who is subscribed, across processes, and word of who comes and goes.

Each process enters its own subscriptions at the broker and refreshes them well before
they expire; entries of a process that died expire by themselves, and whichever process
finds them announces that they left. Whether somebody is the first or the last
connection of a user is decided by the broker, in the same step that changes the
entries, so that two processes never both announce it.

What is announced follows in a step of its own. Within a process each user of a channel
is dealt with in turn. Between two processes the word that a user left can be overtaken
by the word that they are back; so who says that somebody left looks again afterwards,
and says that they are there if they are. Nobody is told something wrong for long, and
in that moment one thing may be told twice.

A lost connection may stay for a time of grace. Its user who is back within that time
was never away for the others: the new entry is not the first, the old one not the last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import logging

import msgspec

from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.hub import Hub
from falcon_channels.options import ChannelOptions
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Signal

_logger = logging.getLogger('falcon_channels')

#: Entries refreshed or expired in one call of the broker.
_BATCH = 500
#: How often, in seconds, expired entries are looked for, at least.
_EXPIRE_S = 5.0
#: How often it is looked again whether a user who comes and goes is there.
_ATTEMPTS = 5
#: How many entries that have ended are told of later, where that fails, beyond a batch.
_MAX_UNTOLD = 10_000


class PresenceKeeper:
    """Keeps the presence of this process's subscriptions.

    Args:
        hub: Whose subscriptions.
        options_of: Returns the options of a channel, or ``None`` where no route has it.
    """

    def __init__(
        self, hub: Hub, options_of: Callable[[str], ChannelOptions | None]
    ) -> None:
        self._hub = hub
        self._options_of = options_of
        #: Subscriptions with an entry and whether they were announced, by the lifetime
        #: of the entry in seconds.
        self._kept: dict[float, dict[Subscription, bool]] = {}
        self._leaving: deque[Subscription] = deque()
        self._graces: dict[Subscription, asyncio.TimerHandle] = {}
        self._held = False
        self._wake = asyncio.Event()
        # NOTE: a refresh between the two halves of a removal would leave a ghost.
        self._lock = asyncio.Lock()
        self._turns: dict[tuple[str, str], _Turn] = {}
        #: Entries that have ended, and nobody could be told yet.
        self._untold: deque[PresenceChange] = deque()

    def start(self) -> None:
        """Begin to expire and remove."""
        self._hub.spawn(self._remove_leaving(), 'presence removal')
        self._hub.spawn(self._expire(), 'presence expiry')

    async def enter(self, subscription: Subscription) -> None:
        """Enter a subscription that has joined, and announce it.

        Where the broker cannot be reached, the next refresh enters it.
        """
        options = subscription.route.options
        if not options.presence and options.join_leave == 'off':
            return
        # NOTE: who is entered but not announced would be missed by the others, so that
        #   a client that is cancelled here does not cancel this.
        task = self._hub.spawn(self._enter(subscription), 'presence entry')
        if task is not None:
            await asyncio.shield(task)

    async def _enter(self, subscription: Subscription) -> None:
        options = subscription.route.options
        info = subscription.connection.client_info(subscription)
        announced = False
        try:
            async with self._in_turn(subscription.channel, info.user):
                first = await self._add(subscription, info)
                if _is_told(options.join_leave, first):
                    await self._announce(subscription.channel, Signal('join', info))
                announced = True
        except BrokerUnavailableError as ex:
            self._hub.counters.presence_errors += 1
            _logger.warning('%r not entered into presence: %s', subscription, ex)
        finally:
            # NOTE: whatever became of it, it is taken out again.
            subscription.set_present(info)
            if options.presence:
                self._keep(subscription, announced)
            if subscription.ended:
                # NOTE: it left meanwhile; `on_left` saw no entry.
                self.on_left(subscription)

    def on_left(self, subscription: Subscription) -> None:
        """Take out a subscription that has ended, at once or after its grace."""
        if subscription.present is None or self._held:
            return
        options = subscription.route.options
        grace_s = options.leave_grace_s if subscription.connection.closed else 0.0
        if grace_s:
            loop = asyncio.get_running_loop()
            self._graces[subscription] = loop.call_later(
                grace_s, self._queue_leave, subscription
            )
        else:
            self._queue_leave(subscription)

    def hold(self) -> None:
        """Let entries be from now on: they expire unless their users come back.

        For a process that is about to end while its clients reconnect elsewhere.
        """
        self._held = True
        for handle in self._graces.values():
            handle.cancel()
        self._graces.clear()
        self._leaving.clear()
        for kept in self._kept.values():
            kept.clear()

    # --- inside ----------------------------------------------------------------------

    async def _add(self, subscription: Subscription, info: ClientInfo) -> bool:
        """Make the entry; return whether it is the first of its user."""
        options = subscription.route.options
        if not options.presence:
            return True
        entry = PresenceEntry(subscription.channel, info)
        (first,) = await self._hub.broker.add_presence([entry], options.presence_ttl_s)
        return first

    @contextlib.asynccontextmanager
    async def _in_turn(self, channel: str, user: str) -> AsyncIterator[None]:
        """Do one thing after the other for one user of a channel.

        Otherwise the word that somebody left could overtake the word that they are
        back, and the others would miss somebody who is there.
        """
        key = channel, user
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = _Turn()
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    def _keep(self, subscription: Subscription, announced: bool) -> None:
        if self._held:
            return
        ttl_s = subscription.route.options.presence_ttl_s
        kept = self._kept.get(ttl_s)
        if kept is None:
            # NOTE: one task for each lifetime, that is at most one for each route.
            kept = self._kept[ttl_s] = {}
            self._hub.spawn(self._refresh(ttl_s, kept), 'presence refresh')
        kept[subscription] = announced

    def _queue_leave(self, subscription: Subscription) -> None:
        self._graces.pop(subscription, None)
        kept = self._kept.get(subscription.route.options.presence_ttl_s)
        if kept is not None:
            kept.pop(subscription, None)
        self._leaving.append(subscription)
        self._wake.set()

    async def _remove_leaving(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._leaving:
                subscription = self._leaving.popleft()
                try:
                    async with self._lock:
                        await self._remove(subscription)
                except BrokerUnavailableError as ex:
                    # NOTE: the entry expires, and is announced then.
                    self._hub.counters.presence_errors += 1
                    _logger.warning('presence of %r not removed: %s', subscription, ex)

    async def _remove(self, subscription: Subscription) -> None:
        info = subscription.take_present()
        if info is None:
            return
        options = subscription.route.options
        channel = subscription.channel
        async with self._in_turn(channel, info.user):
            change: PresenceChange | None = PresenceChange(channel, info, True)
            if options.presence:
                change = await self._hub.broker.remove_presence(channel, info.client)
            if change is None:
                return
            try:
                await self._announce_change(change)
            except BrokerUnavailableError:
                if len(self._untold) < _MAX_UNTOLD:
                    self._untold.append(change)
                raise

    async def _refresh(self, ttl_s: float, kept: dict[Subscription, bool]) -> None:
        loop = asyncio.get_running_loop()
        refreshed_s = loop.time()
        while not self._held:
            # NOTE: a third, so that two refreshes may fail.
            await asyncio.sleep(ttl_s / 3)
            begun_s = loop.time()
            if begun_s - refreshed_s >= ttl_s:
                # NOTE: they have expired, and another process may have said so.
                kept.update(dict.fromkeys(kept, False))
            try:
                subscriptions = list(kept)
                for start in range(0, len(subscriptions), _BATCH):
                    await self._refresh_batch(
                        subscriptions[start : start + _BATCH], ttl_s
                    )
                refreshed_s = begun_s
            except BrokerUnavailableError as ex:
                self._hub.counters.presence_errors += 1
                _logger.warning('presence not refreshed: %s', ex)

    async def _refresh_batch(
        self, subscriptions: Sequence[Subscription], ttl_s: float
    ) -> None:
        async with self._lock:
            batch = [s for s in subscriptions if s.present is not None]
            entries = [PresenceEntry(s.channel, s.present) for s in batch if s.present]
            if not entries:
                return
            firsts = await self._hub.broker.add_presence(entries, ttl_s)
        kept = self._kept[ttl_s]
        for subscription, entry, first in zip(batch, entries, firsts, strict=True):
            # NOTE: it could not be entered before, or was held to be dead meanwhile.
            again = first and subscription.route.options.join_leave == 'user'
            if subscription in kept and (again or not kept[subscription]):
                await self._announce_again(entry, subscription, kept)

    async def _announce_again(
        self,
        entry: PresenceEntry,
        subscription: Subscription,
        kept: dict[Subscription, bool],
    ) -> None:
        """Announce who is there, unless it has left meanwhile."""
        async with self._in_turn(entry.channel, entry.info.user):
            if subscription not in kept:
                return
            # NOTE: the next refresh tries again if this fails.
            kept[subscription] = False
            if subscription.route.options.join_leave != 'off':
                await self._announce(entry.channel, Signal('join', entry.info))
            if subscription in kept:
                kept[subscription] = True

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min([_EXPIRE_S, *(ttl_s / 3 for ttl_s in self._kept)]))
            try:
                await self._expire_all()
            except BrokerUnavailableError as ex:
                self._hub.counters.presence_errors += 1
                _logger.warning('presence not expired: %s', ex)

    async def _expire_all(self) -> None:
        untold = self._untold
        while True:
            while untold:
                # NOTE: taken off when it was told, so that a failure loses nothing.
                await self._announce_change(untold[0])
                untold.popleft()
            changes = await self._hub.broker.expire_presence(_BATCH)
            untold.extend(changes)
            if not changes:
                return

    async def _announce_change(self, change: PresenceChange) -> None:
        options = self._options_of(change.channel)
        join_leave = 'off' if options is None else options.join_leave
        if not _is_told(join_leave, change.last):
            return
        await self._announce(change.channel, Signal('leave', change.info))
        if join_leave == 'user':
            await self._announce_if_back(change.channel, change.info.user)

    async def _announce_if_back(self, channel: str, user: str) -> None:
        """Have the last word on a user who was said to have left.

        Who changes an entry after the last look here announces it after that as well.
        """
        broker = self._hub.broker
        for _ in range(_ATTEMPTS):
            if not await broker.has_user(channel, user):
                return
            there = await broker.presence(channel)
            info = next((info for info in there.values() if info.user == user), None)
            if info is None:
                # NOTE: it has expired; who finds it says so.
                return
            await self._announce(channel, Signal('join', info))
            if await broker.has_user(channel, user):
                return
            await self._announce(channel, Signal('leave', info))

    async def _announce(self, channel: str, signal: Signal) -> None:
        await self._hub.broker.signal(channel, msgspec.msgpack.encode(signal))


class _Turn:
    """Who waits to change the presence of one user in one channel."""

    __slots__ = ('lock', 'users')

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


def _is_told(join_leave: str, first_or_last: bool) -> bool:
    return join_leave == 'connection' or (join_leave == 'user' and first_or_last)
