"""Publishes after the node has closed, while the application is still shutting down.

Falcon shuts middleware down in reverse order. A middleware that is listed before the
channels is therefore shut down after them, and may still publish.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Callable
import contextlib
from typing import Any

from falcon_channels.access.authorization import Authorizer
from falcon_channels.access.publishing import Publisher
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.operations import Operations
from falcon_channels.publication import Publication
from falcon_channels.routing import ChannelMatch


class LatePublisher(Publisher):
    """Publishes with a broker that is open only while a publication needs it.

    Args:
        open_broker: Function that returns a new broker, not started.
        match: Finds the route of a channel.
        operations: Operations of this process.
    """

    def __init__(
        self,
        open_broker: Callable[[], Broker],
        match: Callable[[str], ChannelMatch],
        operations: Operations,
    ) -> None:
        async def find(channel: str) -> ChannelMatch:
            return match(channel)

        broker = open_broker()
        super().__init__(
            broker,
            find,
            match,
            operations,
            Authorizer(broker, operations),
            publish=_BriefBroker(open_broker).publish,
        )


class _BriefBroker:
    """Publishes with a broker, and closes it after the last concurrent publication.

    NOTE: a broker that stays open could not be closed, because the application sends no
    further event.

    Args:
        open_broker: Function that returns a new broker, not started.
    """

    def __init__(self, open_broker: Callable[[], Broker]) -> None:
        self._open_broker = open_broker
        self._opening = asyncio.Lock()
        #: The open broker, or ``None``.
        self._broker: Broker | None = None
        #: Number of publications that use the open broker.
        self._pending = 0

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
        """Open the broker if necessary, and publish.

        Raises:
            BrokerUnavailableError: The store cannot be reached.
        """
        async with self._opened() as broker:
            return await broker.publish(
                channel,
                publication,
                settings,
                idempotency_key=idempotency_key,
                connection=connection,
                version=version,
                skip_history=skip_history,
            )

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Broker]:
        async with self._opening:
            broker = self._broker
            if broker is None:
                broker = self._open_broker()
                try:
                    await broker.start(_Nobody())
                except BaseException:
                    # NOTE: nothing else would close it, for example after a timeout.
                    await broker.close()
                    raise
                self._broker = broker
            self._pending += 1
        try:
            yield broker
        finally:
            self._pending -= 1
            if not self._pending:
                self._broker = None
                await broker.close()


class _Nobody:
    """Receiver that ignores every call, because the process has no subscribers."""

    def on_publication(
        self, channel: str, publication: Publication, epoch: str
    ) -> None:
        """Ignore a publication."""

    def on_signal(self, channel: str, signal: bytes) -> None:
        """Ignore a signal."""

    def on_control(self, message: bytes) -> None:
        """Ignore a control message."""

    def on_link_lost(self) -> None:
        """Ignore the loss of the link."""

    def on_link_restored(self) -> None:
        """Ignore the repair of the link."""
