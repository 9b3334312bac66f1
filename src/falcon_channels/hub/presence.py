"""Presence: which connections are subscribed, in all processes.

* Each process adds the entries of its own subscriptions at the broker, and refreshes
  them well before they expire. The entries of a process that died expire. The process
  that finds an expired entry announces the leave.
* The broker decides whether an entry is the first or the last one of its user. It does
  so in the same step that changes the entry. Two processes therefore never both
  announce it.
* A join or leave is announced in a second step. Within a process, the changes of one
  user in one channel are serialized. Between two processes, a leave can be overtaken
  by the join of the same user. The process that announces a leave therefore checks
  presence again, and announces a join if the user is present. A wrong state does not
  last, but a join or leave may be announced twice.
* The entry of a lost connection may stay for a grace period. If the user reconnects
  within it, the new entry is not the first and the old one is not the last. Other
  clients therefore see no leave and no join.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Sequence
import contextlib
from functools import partial

import msgspec

from falcon_channels.brokers.base import PresenceAdded
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.burst_log import BurstLog
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.hub import Hub
from falcon_channels.options import ChannelOptions
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Signal

#: Number of entries that are refreshed or expired in one call of the broker.
_BATCH = 500
#: Longest time in seconds between two searches for expired entries.
_EXPIRE_S = 5.0
#: Longest time in seconds before a failed refresh is repeated.
_RETRY_S = 2.0
#: Seconds after a failure of the broker in which no expired entries are removed. All
#: processes refresh their entries in this time.
_SETTLE_S = 10.0
#: How often presence is checked again for a user who leaves and returns.
_ATTEMPTS = 5
#: Largest number of leaves, and of removals, that wait after the broker failed. One
#: batch of expired entries may exceed it.
_MAX_UNANNOUNCED = 10_000


class PresenceKeeper:
    """Keeps the presence entries of this process's subscriptions.

    Args:
        hub: The hub of this process.
        options_of: Returns the options of a channel, or ``None`` if no route matches.
    """

    def __init__(
        self, hub: Hub, options_of: Callable[[str], ChannelOptions | None]
    ) -> None:
        self._hub = hub
        self._options_of = options_of
        #: Subscriptions with an entry, by the lifetime of the entry in seconds. The
        #: value of a subscription is the id of the store. It is ``None`` if the join
        #: was not announced yet.
        self._entered: dict[float, dict[Subscription, str | None]] = {}
        self._leaving: deque[Subscription] = deque()
        self._graces: dict[Subscription, asyncio.TimerHandle] = {}
        self._abandoned = False
        self._wake = asyncio.Event()
        # NOTE: a refresh in the middle of a removal would add the entry again, and
        #   nothing would remove it.
        self._lock = asyncio.Lock()
        self._user_locks: dict[tuple[str, str], _UserLock] = {}
        self._errors = BurstLog()
        #: Entries that have ended, and whose leave could not be announced yet.
        self._unannounced: deque[PresenceChange] = deque()
        #: Entries by channel and connection id that the broker may have removed,
        #: although its call has failed.
        self._unremoved: dict[tuple[str, str], PresenceChange] = {}

    def start(self) -> None:
        """Start the tasks that remove and expire entries."""
        self._hub.tasks.run_forever(self._remove_leaving, 'presence removal')
        self._hub.tasks.run_forever(self._expire, 'presence expiry')

    async def enter(self, subscription: Subscription) -> None:
        """Add the entry of a subscription that has joined, and announce the join.

        If the broker cannot be reached, the next refresh adds the entry.
        """
        options = subscription.route.options
        if not options.presence and options.join_leave == 'off':
            return
        # NOTE: the caller may be cancelled with its client. If that cancelled this task
        #   as well, an entry could exist whose join was never announced.
        task = self._hub.tasks.spawn(self._enter(subscription), 'presence entry')
        if task is not None:
            await asyncio.wait([task])
            # NOTE: a closing hub cancels the task, but nobody has cancelled the caller.
            if not task.cancelled():
                task.result()

    async def _enter(self, subscription: Subscription) -> None:
        options = subscription.route.options
        info = subscription.connection.client_info(subscription)
        store: str | None = None
        try:
            async with self._user_lock(subscription.channel, info.user):
                # NOTE: the connection has returned, and its entry must stay.
                self._unremoved.pop((subscription.channel, info.client), None)
                added = await self._add(subscription, info)
                if _is_announced(options.join_leave, added.first):
                    await self._announce(subscription.channel, Signal('join', info))
                store = added.store
        except BrokerUnavailableError as ex:
            self._on_error('%r not added to presence: %s', subscription, ex)
        finally:
            # NOTE: the broker may have added the entry although the call failed. It is
            #   therefore refreshed and removed like any other.
            subscription.set_present(info)
            if options.presence:
                self._keep_refreshed(subscription, store)
            if subscription.ended:
                # NOTE: it ended before its entry was set. `on_left` removed nothing.
                self.on_left(subscription)

    def on_left(self, subscription: Subscription) -> None:
        """Called when a subscription has ended; remove its entry, maybe after a grace.

        Only a subscription that ended with its connection has a grace period.
        """
        if subscription.present is None or self._abandoned:
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

    def abandon(self) -> None:
        """Stop refreshing and removing entries, so that they expire.

        Called before this process ends and its clients reconnect to other processes. If
        a user reconnects before the entry expires, no leave is announced.
        """
        self._abandoned = True
        for handle in self._graces.values():
            handle.cancel()
        self._graces.clear()
        self._leaving.clear()
        for entered in self._entered.values():
            entered.clear()

    # --- adding and removing entries -------------------------------------------------

    async def _add(self, subscription: Subscription, info: ClientInfo) -> PresenceAdded:
        options = subscription.route.options
        if not options.presence:
            return PresenceAdded(True, True)
        entry = PresenceEntry(subscription.channel, info)
        (added,) = await self._hub.broker.add_presence([entry], options.presence_ttl_s)
        return added

    @contextlib.asynccontextmanager
    async def _user_lock(self, channel: str, user: str) -> AsyncIterator[None]:
        """Serialize the changes of one user in one channel.

        Otherwise, the leave of a user could overtake the join that follows it. Others
        would then not see a user who is present.
        """
        key = channel, user
        user_lock = self._user_locks.get(key)
        if user_lock is None:
            user_lock = self._user_locks[key] = _UserLock()
        user_lock.num_tasks += 1
        try:
            async with user_lock.lock:
                yield
        finally:
            user_lock.num_tasks -= 1
            if not user_lock.num_tasks:
                del self._user_locks[key]

    def _keep_refreshed(self, subscription: Subscription, store: str | None) -> None:
        if self._abandoned:
            return
        ttl_s = subscription.route.options.presence_ttl_s
        entered = self._entered.get(ttl_s)
        if entered is None:
            # NOTE: one task for each lifetime, which is at most one for each route.
            entered = self._entered[ttl_s] = {}
            self._hub.tasks.run_forever(
                partial(self._refresh, ttl_s, entered), 'presence refresh'
            )
        entered[subscription] = store

    def _queue_leave(self, subscription: Subscription) -> None:
        self._graces.pop(subscription, None)
        entered = self._entered.get(subscription.route.options.presence_ttl_s)
        if entered is not None:
            entered.pop(subscription, None)
        self._leaving.append(subscription)
        self._wake.set()

    async def _remove_leaving(self) -> None:
        """Remove the entries of subscriptions that have ended, until cancelled."""
        while True:
            # NOTE: some may wait already, if this task starts again after an error.
            while self._leaving:
                subscription = self._leaving.popleft()
                try:
                    async with self._lock:
                        await self._remove(subscription)
                except BrokerUnavailableError as ex:
                    # NOTE: `_expire_all` removes the entry again.
                    self._on_error('presence of %r not removed: %s', subscription, ex)
            self._wake.clear()
            await self._wake.wait()

    async def _remove(self, subscription: Subscription) -> None:
        info = subscription.take_present()
        if info is None:
            return
        options = subscription.route.options
        channel = subscription.channel
        async with self._user_lock(channel, info.user):
            change: PresenceChange | None = PresenceChange(channel, info, True)
            if options.presence:
                try:
                    change = await self._hub.broker.remove_presence(
                        channel, info.client
                    )
                except BrokerUnavailableError:
                    if len(self._unremoved) < _MAX_UNANNOUNCED:
                        unremoved = PresenceChange(channel, info, True)
                        self._unremoved[channel, info.client] = unremoved
                    raise
            if change is None:
                return
            try:
                await self._announce_leave(change)
            except BrokerUnavailableError:
                if len(self._unannounced) < _MAX_UNANNOUNCED:
                    self._unannounced.append(change)
                raise

    # --- refreshing ------------------------------------------------------------------

    async def _refresh(
        self, ttl_s: float, entered: dict[Subscription, str | None]
    ) -> None:
        """Refresh the entries of one lifetime, until cancelled or abandoned."""
        # NOTE: the interval is a third of the lifetime. Two consecutive refreshes may
        #   therefore fail.
        interval_s = ttl_s / 3
        delay_s = interval_s
        while not self._abandoned:
            await asyncio.sleep(delay_s)
            delay_s = interval_s
            try:
                await self._refresh_all(list(entered), ttl_s)
            except BrokerUnavailableError as ex:
                # NOTE: the entries may have expired. They must be refreshed before
                #   another process removes them.
                delay_s = min(interval_s, _RETRY_S)
                self._on_error('presence not refreshed: %s', ex)

    async def _refresh_all(
        self, subscriptions: Sequence[Subscription], ttl_s: float
    ) -> None:
        """Refresh all entries, and then announce the joins that are due."""
        unannounced: list[tuple[PresenceEntry, Subscription, str]] = []
        for start in range(0, len(subscriptions), _BATCH):
            unannounced += await self._refresh_batch(
                subscriptions[start : start + _BATCH], ttl_s
            )
        for entry, subscription, store in unannounced:
            await self._announce_again(entry, subscription, store, self._entered[ttl_s])

    async def _refresh_batch(
        self, subscriptions: Sequence[Subscription], ttl_s: float
    ) -> list[tuple[PresenceEntry, Subscription, str]]:
        """Refresh entries; return those whose join must be announced."""
        async with self._lock:
            batch = [s for s in subscriptions if s.present is not None]
            entries = [PresenceEntry(s.channel, s.present) for s in batch if s.present]
            if not entries:
                return []
            results = await self._hub.broker.add_presence(entries, ttl_s)
        entered = self._entered[ttl_s]
        unannounced = []
        for subscription, entry, added in zip(batch, entries, results, strict=True):
            if subscription not in entered:
                continue
            if entered[subscription] is None or _was_removed(
                added, entered[subscription], subscription.route.options.join_leave
            ):
                # NOTE: if the announcement fails, the next refresh tries again.
                entered[subscription] = None
                unannounced.append((entry, subscription, added.store))
            else:
                entered[subscription] = added.store
        return unannounced

    async def _announce_again(
        self,
        entry: PresenceEntry,
        subscription: Subscription,
        store: str,
        entered: dict[Subscription, str | None],
    ) -> None:
        """Announce the join of a subscription, unless it has ended meanwhile."""
        async with self._user_lock(entry.channel, entry.info.user):
            if subscription not in entered:
                return
            if subscription.route.options.join_leave != 'off':
                await self._announce(entry.channel, Signal('join', entry.info))
            if subscription in entered:
                entered[subscription] = store

    # --- expiry ----------------------------------------------------------------------

    async def _expire(self) -> None:
        """Remove expired entries of all processes, until cancelled."""
        loop = asyncio.get_running_loop()
        counters = self._hub.counters
        settled_s = 0.0
        links_lost = counters.links_lost
        while True:
            await asyncio.sleep(
                min([_EXPIRE_S, *(ttl_s / 3 for ttl_s in self._entered)])
            )
            if self._hub.receiver.link_lost or counters.links_lost != links_lost:
                links_lost = counters.links_lost
                settled_s = loop.time() + _SETTLE_S
            if loop.time() < settled_s:
                continue
            try:
                await self._expire_all()
            except BrokerUnavailableError as ex:
                settled_s = loop.time() + _SETTLE_S
                self._on_error('presence not expired: %s', ex)

    async def _remove_again(self) -> None:
        """Repeat the removals of entries that have failed.

        NOTE: the broker may have removed an entry after the call had failed. No process
        then finds the entry when it expires, and its leave would never be announced.
        """
        broker = self._hub.broker
        while self._unremoved:
            key, change = next(iter(self._unremoved.items()))
            channel, user = change.channel, change.info.user
            async with self._user_lock(channel, user):
                if key not in self._unremoved:
                    continue
                removed = await broker.remove_presence(*key)
                if removed is None and await broker.has_user(channel, user):
                    removed = change._replace(last=False)
                self._unremoved.pop(key, None)
            self._unannounced.append(removed or change)

    async def _expire_all(self) -> None:
        await self._remove_again()
        unannounced = self._unannounced
        while True:
            while unannounced:
                # NOTE: removed only after its announcement, so that a failure of the
                #   broker loses no leave.
                await self._announce_leave(unannounced[0])
                unannounced.popleft()
            changes = await self._hub.broker.expire_presence(_BATCH)
            unannounced.extend(changes)
            if not changes:
                return

    # --- announcements ---------------------------------------------------------------

    async def _announce_leave(self, change: PresenceChange) -> None:
        options = self._options_of(change.channel)
        join_leave = 'off' if options is None else options.join_leave
        if not _is_announced(join_leave, change.last):
            return
        await self._announce(change.channel, Signal('leave', change.info))
        if join_leave == 'user':
            await self._announce_if_back(change.channel, change.info.user)

    async def _announce_if_back(self, channel: str, user: str) -> None:
        """Announce a join if a user whose leave was announced is present.

        If another process changes an entry after the last check here, it also announces
        the change later. The last announcement is therefore always correct.
        """
        broker = self._hub.broker
        for _ in range(_ATTEMPTS):
            if not await broker.has_user(channel, user):
                return
            entries = await broker.presence(channel)
            info = next((info for info in entries.values() if info.user == user), None)
            if info is None:
                # NOTE: the entry has expired. The process that finds it announces the
                #   leave.
                return
            await self._announce(channel, Signal('join', info))
            if await broker.has_user(channel, user):
                return
            await self._announce(channel, Signal('leave', info))

    async def _announce(self, channel: str, signal: Signal) -> None:
        await self._hub.broker.signal(channel, msgspec.msgpack.encode(signal))

    def _on_error(self, message: str, *arguments: object) -> None:
        """Count an error of the broker, and log the first one of a burst."""
        self._hub.counters.presence_errors += 1
        self._errors.warning(message, *arguments)


class _UserLock:
    """A lock for the changes of one user in one channel.

    Attributes:
        num_tasks: How many tasks hold the lock or wait for it.
    """

    __slots__ = ('lock', 'num_tasks')

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.num_tasks = 0


def _is_announced(join_leave: str, first_or_last: bool) -> bool:
    """Return whether the option `join_leave` asks for an announcement."""
    return join_leave == 'connection' or (join_leave == 'user' and first_or_last)


def _was_removed(added: PresenceAdded, store: str | None, join_leave: str) -> bool:
    """Return whether the leave of a refreshed entry was announced.

    If the store has lost its data, the entry is also missing, but no process has
    announced its leave.
    """
    is_missing = added.first if join_leave == 'user' else added.new
    return is_missing and added.store == store
