"""Presence: who is subscribed, across processes, and word of who comes and goes.

Each process enters its own subscriptions at the broker and refreshes them well before
they expire; entries of a process that died expire by themselves, and whichever process
finds them announces that they left. Whether somebody is the first or the last
connection of a user is decided by the broker, in the same step that changes the
entries, so that two processes never both announce it.

A lost connection may stay for a time of grace. Its user who is back within that time
was never away for the others: the new entry is not the first, the old one not the last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence
import logging

import msgspec

from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.hub import Hub
from falcon_channels.options import ChannelOptions
from falcon_channels.publication import Signal
from falcon_channels.subscription import Subscription

_logger = logging.getLogger('falcon_channels')

#: Entries refreshed or expired in one call of the broker.
_BATCH = 500


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
        #: Subscriptions with an entry, by the lifetime of the entry in seconds.
        self._kept: dict[float, set[Subscription]] = {}
        self._leaving: deque[Subscription] = deque()
        self._held = False
        self._wake = asyncio.Event()
        # NOTE: a refresh between the two halves of a removal would leave a ghost.
        self._lock = asyncio.Lock()

    def start(self) -> None:
        """Begin to refresh, expire and remove."""
        self._hub.spawn(self._remove_leaving(), 'presence removal')
        self._hub.spawn(self._refresh(), 'presence refresh')

    async def enter(self, subscription: Subscription) -> None:
        """Enter a subscription that has joined, and announce it.

        Where the broker cannot be reached, the next refresh enters it.
        """
        options = subscription.route.options
        if not options.presence and options.join_leave == 'off':
            return
        info = subscription.connection.client_info(subscription)
        first = True
        if options.presence:
            entry = PresenceEntry(subscription.channel, info)
            try:
                (first,) = await self._hub.broker.add_presence(
                    [entry], options.presence_ttl_s
                )
            except BrokerUnavailableError as ex:
                first = False
                self._hub.counters.presence_errors += 1
                _logger.warning('%r not entered into presence: %s', subscription, ex)
        subscription.present = info
        if options.presence:
            self._kept.setdefault(options.presence_ttl_s, set()).add(subscription)
        if subscription.ended:
            # NOTE: it left while the entry was being made; `on_left` saw no entry.
            self.on_left(subscription)
        elif options.join_leave == 'connection' or (
            options.join_leave == 'user' and first
        ):
            await self._announce(subscription.channel, Signal('join', info))

    def on_left(self, subscription: Subscription) -> None:
        """Take out a subscription that has ended, at once or after its grace."""
        if subscription.present is None or self._held:
            return
        options = subscription.route.options
        grace_s = options.leave_grace_s if subscription.connection.closed else 0.0
        if grace_s:
            loop = asyncio.get_running_loop()
            loop.call_later(grace_s, self._queue_leave, subscription)
        else:
            self._queue_leave(subscription)

    def hold(self) -> None:
        """Let entries be from now on: they expire unless their users come back.

        For a process that is about to end while its clients reconnect elsewhere.
        """
        self._kept.clear()
        self._leaving.clear()
        self._held = True

    # --- inside ----------------------------------------------------------------------

    def _queue_leave(self, subscription: Subscription) -> None:
        kept = self._kept.get(subscription.route.options.presence_ttl_s)
        if kept is not None:
            kept.discard(subscription)
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
        info, subscription.present = subscription.present, None
        if info is None:
            return
        options = subscription.route.options
        channel = subscription.channel
        if not options.presence:
            await self._announce(channel, Signal('leave', info))
            return
        change = await self._hub.broker.remove_presence(channel, info.client)
        if change is not None:
            await self._announce_change(change, options.join_leave)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._turn_s())
            try:
                for ttl_s, kept in list(self._kept.items()):
                    subscriptions = list(kept)
                    for start in range(0, len(subscriptions), _BATCH):
                        await self._refresh_batch(
                            subscriptions[start : start + _BATCH], ttl_s
                        )
                await self._expire()
            except BrokerUnavailableError as ex:
                self._hub.counters.presence_errors += 1
                _logger.warning('presence not refreshed: %s', ex)

    async def _refresh_batch(
        self, subscriptions: Sequence[Subscription], ttl_s: float
    ) -> None:
        async with self._lock:
            entries = [
                PresenceEntry(subscription.channel, subscription.present)
                for subscription in subscriptions
                if subscription.present is not None
            ]
            if entries:
                await self._hub.broker.add_presence(entries, ttl_s)

    def _turn_s(self) -> float:
        """A third of the shortest lifetime, so that two refreshes may fail."""
        return (
            min((ttl_s for ttl_s, kept in self._kept.items() if kept), default=15) / 3
        )

    async def _expire(self) -> None:
        while True:
            changes = await self._hub.broker.expire_presence(_BATCH)
            for change in changes:
                options = self._options_of(change.channel)
                if options is not None:
                    await self._announce_change(change, options.join_leave)
            if len(changes) < _BATCH:
                return

    async def _announce_change(self, change: PresenceChange, join_leave: str) -> None:
        if join_leave == 'connection' or (join_leave == 'user' and change.last):
            await self._announce(change.channel, Signal('leave', change.info))

    async def _announce(self, channel: str, signal: Signal) -> None:
        await self._hub.broker.signal(channel, msgspec.msgpack.encode(signal))
