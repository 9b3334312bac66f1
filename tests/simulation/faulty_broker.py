"""A broker of several processes whose calls are slow and whose links break.

The processes share a `Store`: a memory broker that announces to every `FaultyBroker`.
All faults stay within the broker contract: Appending and announcing are one step. The
announcements of a channel arrive in order. A lost link is noticed in bounded time.
Announcements that were lost with it are not replayed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections import deque
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import random
from typing import Any
from typing import TypeVar

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import BrokerReceiver
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceAdded
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import PresenceStats
from falcon_channels.publication import Publication

Result = TypeVar('Result')


class Store:
    """Stores the publications and presence of all simulated processes.

    Attributes:
        truth: All publications ever appended, in order, by channel and epoch.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.memory = MemoryBroker(
            clock=loop.time, wall_clock=lambda: 1e9 + loop.time()
        )
        self.brokers: list[FaultyBroker] = []
        self.truth: dict[tuple[str, str], list[Publication]] = defaultdict(list)
        #: Index in `truth`, by payload.
        self.places: dict[bytes, int] = {}
        self._listened: set[str] = set()

    async def start(self) -> None:
        await self.memory.start(self)

    async def listen(self, channel: str, settings: LogSettings) -> None:
        if channel not in self._listened:
            self._listened.add(channel)
            await self.memory.subscribe(channel, settings)

    def on_publication(
        self, channel: str, publication: Publication, epoch: str
    ) -> None:
        truth = self.truth[channel, epoch]
        self.places[publication.data] = len(truth)
        truth.append(publication)
        for broker in self.brokers:
            broker.announce(channel, 'on_publication', channel, publication, epoch)

    def on_signal(self, channel: str, signal: bytes) -> None:
        for broker in self.brokers:
            broker.announce(channel, 'on_signal', channel, signal)

    def on_control(self, message: bytes) -> None:
        for broker in self.brokers:
            broker.announce('', 'on_control', message)

    def on_link_lost(self) -> None:
        raise AssertionError('a broker in this process has no link')

    on_link_restored = on_link_lost

    def lose_log(self, channel: str) -> None:
        """Lose a log, like a server that restarts without its disk."""
        log = self.memory._logs.pop(channel, None)
        self._listened.discard(channel)
        if log is not None:
            self.memory._generation += 1


class FaultyBroker(Broker):
    """The link of one process to the store.

    Args:
        store: The store that all processes share.
        rng: Random numbers for every delay and fault.
        calm: Whether all calls are quick.
        exact: Whether announcements are lost only together with the link. No position
            check is needed then.
        grid_s: All delays are multiples of this, so that many events happen in one
            event-loop iteration; 0 for any delay.
    """

    capabilities = Capabilities(shared=True)

    def __init__(
        self,
        store: Store,
        rng: random.Random,
        *,
        calm: bool = False,
        exact: bool = False,
        grid_s: float = 0.0,
    ) -> None:
        self._store = store
        self._rng = rng
        self._calm = calm
        self._exact = exact
        self._grid_s = grid_s
        self._loop = asyncio.get_running_loop()
        self._receiver: BrokerReceiver | None = None
        self._subscribed: set[str] = set()
        self._due_s: dict[str, float] = {}
        #: Announcements that have not arrived yet, by channel, in order.
        self._in_flight: dict[str, deque[tuple[int, str, Sequence[Any]]]] = defaultdict(
            deque
        )
        #: Incremented when the link breaks or is restored. Announcements and calls of
        #: another number are lost.
        self.link = 0
        self.link_up = True
        self._only_deaf = False

    async def start(self, receiver: BrokerReceiver) -> None:
        self._receiver = receiver
        self._store.brokers.append(self)

    async def close(self) -> None:
        self._receiver = None
        if self in self._store.brokers:
            self._store.brokers.remove(self)

    # --- the link --------------------------------------------------------------------

    async def break_link(self) -> None:
        """Break the link, notice that after a while, and restore it later."""
        if not self.link_up:
            return
        self.link_up = False
        self.link += 1
        # NOTE: with a link that is alive but detached, calls still succeed.
        self._only_deaf = self._rng.random() < 0.3
        await asyncio.sleep(self._rng.uniform(0.0, 1.5))
        if self._receiver is not None:
            self._receiver.on_link_lost()
        await asyncio.sleep(self._rng.uniform(0.0, 4.0))
        self.link += 1
        self.link_up = True
        if self._receiver is not None:
            self._receiver.on_link_restored()

    def announce(self, order: str, method: str, *args: Any) -> None:
        """Deliver an announcement after a delay, in the order of the calls."""
        if order.startswith(('log', 'deep')) and self._loses_one(method):
            return
        if self.link_up:
            when_s = max(
                self._loop.time() + self._delay_s(), self._due_s.get(order, 0.0)
            )
            self._due_s[order] = when_s
            # NOTE: timers of the same time have no order. The queue keeps it.
            self._in_flight[order].append((self.link, method, args))
            self._loop.call_at(when_s, self._deliver, order)

    def _loses_one(self, method: str) -> bool:
        """Return whether to lose this announcement although the link is up.

        No broker may do that. The hub must still notice it: offsets show the gap.
        """
        return (
            not self._exact and method == 'on_publication' and self._rng.random() < 0.01
        )

    def _deliver(self, order: str) -> None:
        link, method, args = self._in_flight[order].popleft()
        if link != self.link or self._receiver is None:
            return
        if order == '' or order in self._subscribed:
            getattr(self._receiver, method)(*args)

    def _delay_s(self) -> float:
        delay_s = self._random_delay_s()
        return round(delay_s / self._grid_s) * self._grid_s if self._grid_s else delay_s

    def _random_delay_s(self) -> float:
        if self._calm:
            return self._rng.uniform(0.0, 0.001)
        if self._rng.random() < 0.06:
            return self._rng.uniform(0.0, 2.0)
        return self._rng.expovariate(200.0)

    async def _call(self, call: Callable[[], Awaitable[Result]]) -> Result:
        link = self.link
        if self._rng.random() < 0.8:
            await asyncio.sleep(self._delay_s())
        self._check(link)
        result = await call()
        if self._rng.random() < 0.8:
            await asyncio.sleep(self._delay_s())
        # NOTE: the call has taken effect, but its result is lost.
        self._check(link)
        return result

    def _check(self, link: int) -> None:
        if self._receiver is None:
            raise BrokerUnavailableError('closed')
        if not self._only_deaf and (link != self.link or not self.link_up):
            raise BrokerUnavailableError('the link is lost')

    # --- the contract ----------------------------------------------------------------

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
        async def call() -> PublishResult:
            await self._store.listen(channel, settings)
            return await self._store.memory.publish(
                channel,
                publication,
                settings,
                idempotency_key=idempotency_key,
                version=version,
                skip_history=skip_history,
            )

        return await self._call(call)

    async def subscribe(self, channel: str, settings: LogSettings) -> HistoryPage:
        async def call() -> HistoryPage:
            self._subscribed.add(channel)
            await self._store.listen(channel, settings)
            return await self._store.memory.subscribe(channel, settings)

        return await self._call(call)

    async def unsubscribe(self, channel: str) -> None:
        # NOTE: takes effect in this process at once, with or without the link.
        self._subscribed.discard(channel)

        async def call() -> None:
            return None

        await self._call(call)

    async def history(
        self,
        channel: str,
        settings: LogSettings,
        *,
        since: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        async def call() -> HistoryPage:
            await self._store.listen(channel, settings)
            return await self._store.memory.history(
                channel, settings, since=since, limit=limit, reverse=reverse
            )

        return await self._call(call)

    async def remove_history(self, channel: str) -> None:
        await self._call(lambda: self._store.memory.remove_history(channel))

    async def signal(self, channel: str, signal: bytes) -> None:
        await self._call(lambda: self._store.memory.signal(channel, signal))

    async def control(self, message: bytes) -> None:
        await self._call(lambda: self._store.memory.control(message))

    async def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[PresenceAdded]:
        return await self._call(lambda: self._store.memory.add_presence(entries, ttl_s))

    async def remove_presence(self, channel: str, client: str) -> PresenceChange | None:
        return await self._call(
            lambda: self._store.memory.remove_presence(channel, client)
        )

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        return await self._call(lambda: self._store.memory.presence(channel))

    async def presence_stats(self, channel: str) -> PresenceStats:
        return await self._call(lambda: self._store.memory.presence_stats(channel))

    async def has_user(self, channel: str, user: str) -> bool:
        return await self._call(lambda: self._store.memory.has_user(channel, user))

    async def expire_presence(self, limit: int) -> list[PresenceChange]:
        return await self._call(lambda: self._store.memory.expire_presence(limit))

    async def revoke(self, channel: str, user: str, ttl_s: float) -> None:
        await self._call(lambda: self._store.memory.revoke(channel, user, ttl_s))

    async def is_revoked(self, channel: str, user: str) -> bool:
        return await self._call(lambda: self._store.memory.is_revoked(channel, user))
