"""The broker for one process: everything is in memory and ends with the process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections import deque
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import heapq
import itertools
import math
import secrets
import time
from typing import Any
from typing import NamedTuple
from typing import TypeVar

from msgspec.structs import replace

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import BrokerReceiver
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceAdded
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.brokers.url_options import MEMORY_SCHEMES
from falcon_channels.brokers.url_options import parse_query
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import OptionsError
from falcon_channels.parts import in_parts
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import new_named_tuple
from falcon_channels.publication import NO_POSITION
from falcon_channels.publication import Position
from falcon_channels.publication import PresenceStats
from falcon_channels.publication import Publication

# How a log is removed: a log without subscribers and without a publication for
# `meta_ttl_s` is removed with its counter. The next log of that name needs a new epoch.
# An epoch therefore contains the generation of the broker at the time when the log was
# created, and the broker increments its generation when it removes a log. Removing a
# log that is still at offset 0 loses nothing, and does not need a new generation.

_T = TypeVar('_T')

#: Maximum number of expired entries of each kind that one call removes.
_MAX_SWEPT = 64
#: Largest number of items in a heap that are not needed, besides one per entry.
_MAX_STALE = 100


class _Log:
    """The log of one channel; `top` is the offset of its newest publication."""

    __slots__ = (
        'check_s',
        'end',
        'epoch',
        'items',
        'settings',
        'top',
        'touched_s',
        'version',
    )

    def __init__(self, epoch: str, settings: LogSettings) -> None:
        self.epoch = epoch
        self.settings = settings
        self.top = 0
        self.end: ChannelEnd | None = None
        self.version: Version | None = None
        #: (publication, time of arrival), oldest first, offsets without gaps.
        self.items: deque[tuple[Publication, float]] = deque()
        self.touched_s = 0.0
        #: Time of the next check of this log for expired entries. Items of the heap
        #: with other times are stale.
        self.check_s = math.inf

    def trim(self, now_s: float) -> None:
        """Remove publications beyond the size and the age of the settings."""
        items, settings = self.items, self.settings
        while len(items) > settings.size:
            items.popleft()
        if settings.ttl_s is not None:
            oldest_s = now_s - settings.ttl_s
            while items and items[0][1] <= oldest_s:
                items.popleft()

    def next_check_s(self) -> float:
        """Return the time when something in this log expires."""
        ttl_s, meta_ttl_s = self.settings.ttl_s, self.settings.meta_ttl_s
        times = [] if meta_ttl_s is None else [self.touched_s + meta_ttl_s]
        if ttl_s is not None and self.items:
            times.append(self.items[0][1] + ttl_s)
        return min(times, default=math.inf)


class _Present(NamedTuple):
    """A presence entry of one connection.

    Attributes:
        info: Public facts about the connection.
        until_s: Time when the entry expires.
        check_s: Time of the item of this entry in the heap. Items of earlier entries of
            the same connection have other times.
    """

    info: ClientInfo
    until_s: float
    check_s: float


class _ChannelPresence:
    """The presence entries of one channel.

    Attributes:
        clients: The entry of each connection.
        users: Number of entries of each user.
    """

    __slots__ = ('_complete_until_s', 'clients', 'users')

    def __init__(self) -> None:
        self.clients: dict[str, _Present] = {}
        self.users: Counter[str] = Counter()
        #: No entry expires before this time. A new entry can only reduce it.
        self._complete_until_s = math.inf

    def add(self, info: ClientInfo, until_s: float, check_s: float) -> None:
        """Add or replace the entry of a connection."""
        self.clients[info.client] = _Present(info, until_s, check_s)
        self._complete_until_s = min(self._complete_until_s, until_s)

    def count(self, user: str) -> bool:
        """Count a new entry of a user; return whether it is the first one."""
        self.users[user] += 1
        return self.users[user] == 1

    def uncount(self, user: str) -> bool:
        """Subtract an entry of a user; return whether it was the last one."""
        self.users[user] -= 1
        if self.users[user]:
            return False
        del self.users[user]
        return True

    async def current(self, now_s: float) -> dict[str, ClientInfo]:
        """Return the entries that have not expired."""
        found: dict[str, ClientInfo] = {}
        async for part in in_parts(list(self.clients.items())):
            for client, (info, until_s, _) in part:
                if until_s > now_s:
                    found[client] = info
        return found

    def is_complete(self, now_s: float) -> bool:
        """Return whether no entry has expired.

        PERF: Entries are refreshed long before they expire. The times of all entries
        are therefore read only once in each lifetime (benchmarks/centrifugo.py).
        """
        if now_s >= self._complete_until_s:
            times = (entry.until_s for entry in self.clients.values())
            self._complete_until_s = min(times, default=math.inf)
        return now_s < self._complete_until_s


class MemoryBroker(Broker):
    """A broker in the memory of this process.

    Args:
        clock: Function that returns a monotonic time in seconds, for everything that
            expires. Default: the time of the event loop that starts the broker.
        wall_clock: Function that returns Unix time in seconds, for
            `Publication.time_ms`.
    """

    capabilities = Capabilities(immediate_reads=True)

    @classmethod
    def from_url(cls, url: str) -> MemoryBroker:
        """Return a broker for ``memory://``.

        Raises:
            OptionsError: The URL has another scheme, an option, or anything else.
        """
        parts, _ = parse_query(url, MEMORY_SCHEMES, {})
        if parts.netloc or parts.path or parts.fragment:
            raise OptionsError(
                'memory:// has no name, and each process has its own memory: write '
                'memory://, or the URL of a broker that processes share'
            )
        return cls()

    def __init__(
        self,
        *,
        clock: Callable[[], float] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock or time.monotonic
        self._has_default_clock = clock is None
        self._wall_clock = wall_clock
        self._receiver: BrokerReceiver | None = None
        self._base = secrets.token_urlsafe(6)
        self._generation = 0
        self._logs: dict[str, _Log] = {}
        self._subscribed: set[str] = set()
        self._keys: dict[tuple[str, str], tuple[Position, float]] = {}
        self._key_expiry: list[tuple[float, tuple[str, str]]] = []
        self._checks: list[tuple[float, str]] = []
        self._presence: dict[str, _ChannelPresence] = {}
        self._presence_expiry: list[tuple[float, str, str]] = []
        self._revoked: dict[tuple[str, str], float] = {}
        self._revoked_expiry: list[tuple[float, tuple[str, str]]] = []

    async def start(self, receiver: BrokerReceiver) -> None:
        self._receiver = receiver
        if self._has_default_clock:
            self._clock = asyncio.get_running_loop().time

    async def close(self) -> None:
        self._receiver = None

    # --- publications -----------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        publication: Publication,
        settings: LogSettings,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
        version: Version | None = None,
        skip_history: bool = False,
    ) -> PublishResult:
        now_s = self._clock()
        # PERF: mostly, nothing has expired (benchmarks/centrifugo.py).
        if self._key_expiry or (self._checks and self._checks[0][0] <= now_s):
            self._sweep(now_s)
        if idempotency_key is not None:
            known = self._keys.get((channel, idempotency_key))
            if known is not None and known[1] > now_s:
                return PublishResult(known[0], True)
        time_ms = publication.time_ms or int(self._wall_clock() * 1000)
        if settings.size and not skip_history:
            log = self._logs.get(channel) or self._open_log(channel, settings)
            log.settings = settings
            if log.end is not None:
                raise ChannelFinishedError(channel)
            if version is not None:
                if not version.follows(log.version):
                    return PublishResult(Position(log.top, log.epoch), skipped=True)
                log.version = version
            offset = log.top = log.top + 1
            log.end = publication.end
            publication = replace(publication, offset=offset, time_ms=time_ms)
            log.items.append((publication, now_s))
            log.touched_s = now_s
            log.trim(now_s)
            # PERF: a later publication expires later.
            if len(log.items) == 1:
                self._schedule_check(channel, log)
            position = new_named_tuple(Position, (offset, log.epoch))
        else:
            if settings.size:
                ended = self._logs.get(channel)
                if ended is not None and ended.end is not None:
                    raise ChannelFinishedError(channel)
            publication = replace(publication, offset=0, time_ms=time_ms)
            position = NO_POSITION
        if idempotency_key is not None:
            self._store_key(channel, idempotency_key, position, settings, now_s)
        if channel in self._subscribed and self._receiver is not None:
            self._receiver.on_publication(channel, publication, position.epoch)
        return new_named_tuple(PublishResult, (position, False, False))

    async def subscribe(self, channel: str, settings: LogSettings) -> HistoryPage:
        self._subscribed.add(channel)
        if not settings.size:
            return HistoryPage([], NO_POSITION)
        log = self._logs.get(channel) or self._open_log(channel, settings)
        log.settings = settings
        return HistoryPage([], Position(log.top, log.epoch), log.end)

    async def unsubscribe(self, channel: str) -> None:
        self._subscribed.discard(channel)
        log = self._logs.get(channel)
        if log is not None and log.top == 0:
            del self._logs[channel]

    async def history(
        self,
        channel: str,
        settings: LogSettings,
        *,
        since: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        log = self._logs.get(channel)
        if not settings.size:
            return HistoryPage([], NO_POSITION)
        if log is None:
            return HistoryPage([], Position(0, self._new_epoch()))
        now_s = self._clock()
        log.settings = settings
        log.trim(now_s)
        position = Position(log.top, log.epoch)
        if limit == 0 or not log.items:
            return HistoryPage([], position, log.end)
        first = log.items[0][0].offset
        count = len(log.items)
        # NOTE: offsets have no gaps. The index of an offset is therefore a subtraction.
        if reverse:
            end = count if since is None else min(max(since - first, 0), count)
            start = 0 if limit is None else max(end - limit, 0)
        else:
            start = 0 if since is None else min(max(since + 1 - first, 0), count)
            end = count if limit is None else min(start + limit, count)
        found = [item[0] for item in itertools.islice(log.items, start, end)]
        if reverse:
            found.reverse()
        return HistoryPage(found, position, log.end)

    async def remove_history(self, channel: str) -> None:
        log = self._logs.get(channel)
        if log is not None:
            log.items.clear()
            log.end = None

    async def signal(self, channel: str, signal: bytes) -> None:
        if channel in self._subscribed and self._receiver is not None:
            self._receiver.on_signal(channel, signal)

    async def control(self, message: bytes) -> None:
        if self._receiver is not None:
            self._receiver.on_control(message)

    # --- presence ---------------------------------------------------------------------

    async def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[PresenceAdded]:
        until_s = self._clock() + ttl_s
        added = []
        for channel, info in entries:
            present = self._presence.get(channel)
            if present is None:
                present = self._presence[channel] = _ChannelPresence()
            known = present.clients.get(info.client)
            has_other_user = known is None or known.info.user != info.user
            if known is not None and has_other_user:
                present.uncount(known.info.user)
            first = has_other_user and present.count(info.user)
            check_s = until_s if known is None else min(known.check_s, until_s)
            present.add(info, until_s, check_s)
            added.append(PresenceAdded(first, known is None))
            if known is None or check_s < known.check_s:
                heapq.heappush(self._presence_expiry, (check_s, channel, info.client))
        return added

    async def remove_presence(self, channel: str, client: str) -> PresenceChange | None:
        present = self._presence.get(channel)
        entry = None if present is None else present.clients.pop(client, None)
        if present is None or entry is None:
            return None
        last = present.uncount(entry.info.user)
        if not present.clients:
            del self._presence[channel]
        return PresenceChange(channel, entry.info, last)

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        present = self._presence.get(channel)
        return {} if present is None else await present.current(self._clock())

    async def presence_stats(self, channel: str) -> PresenceStats:
        present = self._presence.get(channel)
        if present is None:
            return PresenceStats(0, 0)
        if present.is_complete(self._clock()):
            return PresenceStats(len(present.clients), len(present.users))
        return await super().presence_stats(channel)

    async def has_user(self, channel: str, user: str) -> bool:
        present = self._presence.get(channel)
        return present is not None and present.users[user] > 0

    async def expire_presence(self, limit: int) -> list[PresenceChange]:
        now_s = self._clock()
        self._sweep(now_s)
        expiry = self._presence_expiry
        changes: list[PresenceChange] = []
        while expiry and expiry[0][0] <= now_s and len(changes) < limit:
            check_s, channel, client = heapq.heappop(expiry)
            present = self._presence.get(channel)
            entry = None if present is None else present.clients.get(client)
            # NOTE: an entry has one item. The others belong to entries that were
            #   removed before the connection was added again.
            if present is None or entry is None or entry.check_s != check_s:
                continue
            if entry.until_s > now_s:
                present.add(entry.info, entry.until_s, entry.until_s)
                heapq.heappush(expiry, (entry.until_s, channel, client))
                continue
            change = await self.remove_presence(channel, client)
            if change is not None:
                changes.append(change)
        return changes

    # --- revocations ------------------------------------------------------------------

    async def revoke(self, channel: str, user: str, ttl_s: float) -> None:
        now_s = self._clock()
        _remove_expired(self._revoked_expiry, self._revoked, _until, now_s)
        if ttl_s > 0:
            self._revoked[channel, user] = now_s + ttl_s
            heapq.heappush(self._revoked_expiry, (now_s + ttl_s, (channel, user)))
            # NOTE: without this, a user who is revoked again and again would fill the
            #   memory for `ttl_s`.
            if len(self._revoked_expiry) > 2 * len(self._revoked) + _MAX_STALE:
                self._revoked_expiry = [
                    (until_s, key) for key, until_s in self._revoked.items()
                ]
                heapq.heapify(self._revoked_expiry)
        else:
            self._revoked.pop((channel, user), None)

    async def is_revoked(self, channel: str, user: str) -> bool:
        return self._revoked.get((channel, user), 0.0) > self._clock()

    # --- internals --------------------------------------------------------------------

    def _new_epoch(self) -> str:
        return f'{self._base}-{self._generation}'

    def _open_log(self, channel: str, settings: LogSettings) -> _Log:
        log = self._logs[channel] = _Log(self._new_epoch(), settings)
        return log

    def _store_key(
        self,
        channel: str,
        key: str,
        position: Position,
        settings: LogSettings,
        now_s: float,
    ) -> None:
        until_s = now_s + settings.idempotency_ttl_s
        self._keys[channel, key] = (position, until_s)
        heapq.heappush(self._key_expiry, (until_s, (channel, key)))

    def _schedule_check(self, channel: str, log: _Log) -> None:
        """Check a log when something in it expires, unless it is checked earlier."""
        when_s = log.next_check_s()
        if when_s < log.check_s:
            log.check_s = when_s
            heapq.heappush(self._checks, (when_s, channel))
            # NOTE: a stale item may stay for `meta_ttl_s`. Without this, the heap would
            #   grow for as long.
            if len(self._checks) > 2 * len(self._logs) + _MAX_STALE:
                self._checks = [
                    (other.check_s, name)
                    for name, other in self._logs.items()
                    if other.check_s < math.inf
                ]
                heapq.heapify(self._checks)

    def _sweep(self, now_s: float) -> None:
        """Remove a limited number of expired logs, publications and keys."""
        for _ in range(_MAX_SWEPT):
            if not self._checks or self._checks[0][0] > now_s:
                break
            check_s, channel = heapq.heappop(self._checks)
            log = self._logs.get(channel)
            if log is not None and log.check_s == check_s:
                self._check_log(channel, log, now_s)
        if self._key_expiry:
            _remove_expired(self._key_expiry, self._keys, _key_until, now_s)

    def _check_log(self, channel: str, log: _Log, now_s: float) -> None:
        log.trim(now_s)
        meta_ttl_s = log.settings.meta_ttl_s
        if meta_ttl_s is not None and log.touched_s + meta_ttl_s <= now_s:
            if channel not in self._subscribed:
                del self._logs[channel]
                self._generation += 1
                return
            log.touched_s = now_s
        log.check_s = math.inf
        self._schedule_check(channel, log)


def _remove_expired(
    expiry: list[tuple[float, tuple[str, str]]],
    entries: dict[tuple[str, str], _T],
    until: Callable[[_T], float],
    now_s: float,
) -> None:
    """Remove a limited number of expired entries.

    Args:
        expiry: A heap of (time, key), with one item or more for each key.
        entries: The entries by key.
        until: Function that returns the time when an entry expires. An entry that was
            renewed has a later time than its first item in the heap.
        now_s: The current time in seconds.
    """
    for _ in range(_MAX_SWEPT):
        if not expiry or expiry[0][0] > now_s:
            return
        _, old = heapq.heappop(expiry)
        found = entries.get(old)
        if found is not None and until(found) <= now_s:
            del entries[old]


def _key_until(key: tuple[Position, float]) -> float:
    return key[1]


def _until(until_s: float) -> float:
    return until_s
