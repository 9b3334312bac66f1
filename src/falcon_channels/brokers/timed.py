"""A broker whose calls are reported as operations."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
from contextvars import Context
from typing import Any

from falcon_channels.brokers.base import Append
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import BrokerReceiver
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceAdded
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import RouteSettings
from falcon_channels.brokers.base import Version
from falcon_channels.operations import call_at_end
from falcon_channels.operations import Operation
from falcon_channels.operations import Operations
from falcon_channels.operations import Timing
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import PresenceStats
from falcon_channels.publication import Publication

#: Methods that are reported, in the order of the contract.
TIMED_METHODS = (
    'publish',
    'append_all',
    'subscribe',
    'unsubscribe',
    'history',
    'remove_history',
    'signal',
    'control',
    'add_presence',
    'remove_presence',
    'presence',
    'presence_stats',
    'has_user',
    'expire_presence',
    'revoke',
    'is_revoked',
)


class TimedBroker(Broker):
    """Passes every call to another broker, and reports it while it is observed.

    PERF: while nothing observes, each timed method of the object is the one of the
    other broker. A call then costs nothing more (benchmarks/monitoring.py).

    Args:
        broker: The other broker.
        operations: Operations of this process.
    """

    def __init__(self, broker: Broker, operations: Operations) -> None:
        self._broker = broker
        self._operations = operations
        self.capabilities = broker.capabilities
        operations.on_wanted(self._choose)

    def _choose(self, wanted: bool) -> None:
        for name in TIMED_METHODS:
            if wanted:
                # NOTE: the method of this class is found again.
                vars(self).pop(name, None)
            else:
                setattr(self, name, getattr(self._broker, name))

    def _time(self, name: str) -> Timing:
        return self._operations.time(Operation('broker', detail=name))

    # --- passed on -------------------------------------------------------------------

    async def start(self, receiver: BrokerReceiver) -> None:
        """Start the broker."""
        await self._broker.start(receiver)

    def set_routes(self, routes: Sequence[RouteSettings]) -> None:
        """Replace the routes that the broker knows."""
        self._broker.set_routes(routes)

    async def close(self) -> None:
        """Close the broker."""
        await self._broker.close()

    # --- timed -----------------------------------------------------------------------

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
        """Time `Broker.publish`."""
        with self._time('publish'):
            return await self._broker.publish(
                channel,
                publication,
                settings,
                idempotency_key=idempotency_key,
                connection=connection,
                version=version,
                skip_history=skip_history,
            )

    def append_all(
        self, items: Sequence[Append]
    ) -> asyncio.Future[list[PublishResult | None]]:
        """Time `Broker.append_all`."""
        # NOTE: the call belongs to several streams, and not to the trace of one.
        end = self._operations.begin_in(
            Context(), Operation('broker', detail='append_all')
        )
        return call_at_end(lambda: self._broker.append_all(items), end)

    async def subscribe(self, channel: str, settings: LogSettings) -> HistoryPage:
        """Time `Broker.subscribe`."""
        with self._time('subscribe'):
            return await self._broker.subscribe(channel, settings)

    async def unsubscribe(self, channel: str) -> None:
        """Time `Broker.unsubscribe`."""
        with self._time('unsubscribe'):
            await self._broker.unsubscribe(channel)

    async def history(
        self,
        channel: str,
        settings: LogSettings,
        *,
        since: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        """Time `Broker.history`."""
        with self._time('history'):
            return await self._broker.history(
                channel, settings, since=since, limit=limit, reverse=reverse
            )

    async def remove_history(self, channel: str) -> None:
        """Time `Broker.remove_history`."""
        with self._time('remove_history'):
            await self._broker.remove_history(channel)

    async def signal(self, channel: str, signal: bytes) -> None:
        """Time `Broker.signal`."""
        with self._time('signal'):
            await self._broker.signal(channel, signal)

    async def control(self, message: bytes) -> None:
        """Time `Broker.control`."""
        with self._time('control'):
            await self._broker.control(message)

    async def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[PresenceAdded]:
        """Time `Broker.add_presence`."""
        with self._time('add_presence'):
            return await self._broker.add_presence(entries, ttl_s)

    async def remove_presence(self, channel: str, client: str) -> PresenceChange | None:
        """Time `Broker.remove_presence`."""
        with self._time('remove_presence'):
            return await self._broker.remove_presence(channel, client)

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        """Time `Broker.presence`."""
        with self._time('presence'):
            return await self._broker.presence(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        """Time `Broker.presence_stats`."""
        with self._time('presence_stats'):
            return await self._broker.presence_stats(channel)

    async def has_user(self, channel: str, user: str) -> bool:
        """Time `Broker.has_user`."""
        with self._time('has_user'):
            return await self._broker.has_user(channel, user)

    async def expire_presence(self, limit: int) -> list[PresenceChange]:
        """Time `Broker.expire_presence`."""
        with self._time('expire_presence'):
            return await self._broker.expire_presence(limit)

    async def revoke(self, channel: str, user: str, ttl_s: float) -> None:
        """Time `Broker.revoke`."""
        with self._time('revoke'):
            await self._broker.revoke(channel, user, ttl_s)

    async def is_revoked(self, channel: str, user: str) -> bool:
        """Time `Broker.is_revoked`."""
        with self._time('is_revoked'):
            return await self._broker.is_revoked(channel, user)
