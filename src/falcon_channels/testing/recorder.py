"""A receiver that records the announcements of a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from typing import Literal

from falcon_channels.publication import Publication

#: Seconds for which tests wait for a condition before they fail.
PATIENCE_S = 20.0


class Recorder:
    """A `BrokerReceiver` that records all calls, in their order.

    Attributes:
        publications: ``(channel, publication, epoch)`` of each publication.
        signals: ``(channel, signal)`` of each signal.
        controls: The control messages.
        links: ``'lost'`` and ``'restored'``, one for each report about the link.
    """

    def __init__(self) -> None:
        self.publications: list[tuple[str, Publication, str]] = []
        self.signals: list[tuple[str, bytes]] = []
        self.controls: list[bytes] = []
        self.links: list[Literal['lost', 'restored']] = []
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def on_publication(
        self, channel: str, publication: Publication, epoch: str
    ) -> None:
        """Record a publication."""
        self._on_call()
        self.publications.append((channel, publication, epoch))

    def on_signal(self, channel: str, signal: bytes) -> None:
        """Record a signal."""
        self._on_call()
        self.signals.append((channel, signal))

    def on_control(self, message: bytes) -> None:
        """Record a control message."""
        self._on_call()
        self.controls.append(message)

    def on_link_lost(self) -> None:
        """Record that the link is lost."""
        self._on_call()
        self.links.append('lost')

    def on_link_restored(self) -> None:
        """Record that the link is restored."""
        self._on_call()
        self.links.append('restored')

    def of(self, channel: str) -> list[Publication]:
        """Return the recorded publications of one channel."""
        return [item for name, item, _ in self.publications if name == channel]

    def data_of(self, channel: str) -> list[bytes]:
        """Return the recorded payloads of one channel."""
        return [item.data for item in self.of(channel)]

    def offsets_of(self, channel: str) -> list[int]:
        """Return the recorded offsets of one channel."""
        return [item.offset for item in self.of(channel)]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition is true.

        Args:
            condition: Function that is called after each announcement.
            what: Description of the condition, for the error message.

        Raises:
            AssertionError: The condition was not true within `PATIENCE_S`.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f'not within {PATIENCE_S} s: {what}') from None

    def _on_call(self) -> None:
        # NOTE: a broker with its own threads must also call in the event loop.
        assert asyncio.get_running_loop() is self._loop
        self._changed.set()


async def eventually(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Poll an asynchronous condition until it is true.

    Args:
        condition: Function that is called every 10 ms.
        what: Description of the condition, for the error message.

    Raises:
        AssertionError: The condition was not true within `PATIENCE_S`.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():  # noqa: ASYNC110 - a store has no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f'not within {PATIENCE_S} s: {what}') from None
