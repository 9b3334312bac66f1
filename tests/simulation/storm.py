"""A broker of several processes whose calls stall and whose links break.

`Store` is what the processes share: the broker of one process, with an ear for every
`StormyBroker`. Whatever the weather does stays within the broker contract: appending
and announcing are one step, a channel's announcements arrive in order, a lost link is
noticed in bounded time, and what was announced meanwhile is not replayed.
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
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

Result = TypeVar('Result')


class Store:
    """What the processes share.

    Attributes:
        truth: Everything that was ever appended, by channel and epoch, in order.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.memory = MemoryBroker(
            clock=loop.time, wall_clock=lambda: 1e9 + loop.time()
        )
        self.brokers: list[StormyBroker] = []
        self.truth: dict[tuple[str, str], list[Publication]] = defaultdict(list)
        #: Place in the truth, by payload.
        self.places: dict[bytes, int] = {}
        self._heard: set[str] = set()

    async def start(self) -> None:
        await self.memory.start(self)

    async def listen(self, channel: str, settings: StreamSettings) -> None:
        if channel not in self._heard:
            self._heard.add(channel)
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
        """Lose a log, as a server that restarts without its disk."""
        log = self.memory._logs.pop(channel, None)
        self._heard.discard(channel)
        if log is not None:
            self.memory._generation += 1


class StormyBroker(Broker):
    """One process's link to the store.

    Args:
        store: Shared.
        rng: Decides every delay.
        calm: Whether nothing ever takes long.
        exact: Whether no announcement is lost but with the link, so that nobody has to
            look for it.
        grid_s: What all delays are multiples of, so that many things happen in one turn
            of the event loop; 0 for none.
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
        #: What was announced and has not arrived, by channel, in order.
        self._under_way: dict[str, deque[tuple[int, str, Sequence[Any]]]] = defaultdict(
            deque
        )
        #: Counted up whenever the link breaks: what was under way is lost with it.
        self.link = 0
        self.link_up = True
        self._deaf = False

    async def start(self, receiver: BrokerReceiver) -> None:
        self._receiver = receiver
        self._store.brokers.append(self)

    async def close(self) -> None:
        self._receiver = None
        if self in self._store.brokers:
            self._store.brokers.remove(self)

    # --- the link --------------------------------------------------------------------

    async def break_link(self) -> None:
        """Lose the link, notice it after a while, and have it back after another."""
        if not self.link_up:
            return
        self.link_up = False
        self.link += 1
        #: Whether only announcements are lost: the link is alive but detached.
        self._deaf = self._rng.random() < 0.3
        await asyncio.sleep(self._rng.uniform(0.0, 1.5))
        if self._receiver is not None:
            self._receiver.on_link_lost()
        await asyncio.sleep(self._rng.uniform(0.0, 4.0))
        self.link += 1
        self.link_up = True
        if self._receiver is not None:
            self._receiver.on_link_restored()

    def announce(self, order: str, method: str, *args: Any) -> None:
        """Deliver after a delay, and after what was announced before."""
        if order.startswith(('log', 'deep')) and self._is_mishap(method):
            return
        if self.link_up:
            when_s = max(
                self._loop.time() + self._delay_s(), self._due_s.get(order, 0.0)
            )
            self._due_s[order] = when_s
            # NOTE: timers of one moment have no order; the queue has.
            self._under_way[order].append((self.link, method, args))
            self._loop.call_at(when_s, self._deliver, order)

    def _is_mishap(self, method: str) -> bool:
        """Whether one announcement is lost though the link is not.

        NOTE: no broker may, but the hub trusts none: offsets show the gap.
        """
        return (
            not self._exact and method == 'on_publication' and self._rng.random() < 0.01
        )

    def _deliver(self, order: str) -> None:
        link, method, args = self._under_way[order].popleft()
        if link != self.link or self._receiver is None:
            return
        if order == '' or order in self._subscribed:
            getattr(self._receiver, method)(*args)

    def _delay_s(self) -> float:
        delay_s = self._any_delay_s()
        return round(delay_s / self._grid_s) * self._grid_s if self._grid_s else delay_s

    def _any_delay_s(self) -> float:
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
        # NOTE: what was asked has happened, but the answer is lost.
        self._check(link)
        return result

    def _check(self, link: int) -> None:
        if self._receiver is None:
            raise BrokerUnavailableError('closed')
        if not self._deaf and (link != self.link or not self.link_up):
            raise BrokerUnavailableError('the link is lost')

    # --- the contract ----------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        publication: Publication,
        settings: StreamSettings,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
    ) -> PublishResult:
        async def call() -> PublishResult:
            await self._store.listen(channel, settings)
            return await self._store.memory.publish(
                channel, publication, settings, idempotency_key=idempotency_key
            )

        return await self._call(call)

    async def subscribe(self, channel: str, settings: StreamSettings) -> Position:
        async def call() -> Position:
            self._subscribed.add(channel)
            await self._store.listen(channel, settings)
            return await self._store.memory.subscribe(channel, settings)

        return await self._call(call)

    async def unsubscribe(self, channel: str) -> None:
        # NOTE: known here at once, link or no link.
        self._subscribed.discard(channel)

        async def call() -> None:
            return None

        await self._call(call)

    async def history(
        self,
        channel: str,
        settings: StreamSettings,
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
    ) -> list[bool]:
        return await self._call(lambda: self._store.memory.add_presence(entries, ttl_s))

    async def remove_presence(self, channel: str, client: str) -> PresenceChange | None:
        return await self._call(
            lambda: self._store.memory.remove_presence(channel, client)
        )

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        return await self._call(lambda: self._store.memory.presence(channel))

    async def has_user(self, channel: str, user: str) -> bool:
        return await self._call(lambda: self._store.memory.has_user(channel, user))

    async def expire_presence(self, limit: int) -> list[PresenceChange]:
        return await self._call(lambda: self._store.memory.expire_presence(limit))

    async def revoke(self, channel: str, user: str, ttl_s: float) -> None:
        await self._call(lambda: self._store.memory.revoke(channel, user, ttl_s))

    async def is_revoked(self, channel: str, user: str) -> bool:
        return await self._call(lambda: self._store.memory.is_revoked(channel, user))
