"""A receiver that writes down what a broker announces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from typing import Literal

from falcon_channels.publication import Publication

#: How long tests wait for something before they fail, in seconds.
PATIENCE_S = 20.0


class Recorder:
    """Takes what a broker announces, in the order in which it comes.

    Attributes:
        publications: (channel, publication, epoch) of each publication.
        signals: (channel, signal) of each signal.
        controls: Control messages.
        links: ``'lost'`` and ``'restored'``.
    """

    def __init__(self) -> None:
        self.publications: list[tuple[str, Publication, str]] = []
        self.signals: list[tuple[str, bytes]] = []
        self.controls: list[bytes] = []
        self.links: list[Literal['lost', 'restored']] = []
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def on_publication(
        self, channel: str, publication: Publication, epoch: str
    ) -> None:
        """Take a publication."""
        self._note()
        self.publications.append((channel, publication, epoch))

    def on_signal(self, channel: str, signal: bytes) -> None:
        """Take a signal."""
        self._note()
        self.signals.append((channel, signal))

    def on_control(self, message: bytes) -> None:
        """Take a control message."""
        self._note()
        self.controls.append(message)

    def on_link_lost(self) -> None:
        """Take word that the link is lost."""
        self._note()
        self.links.append('lost')

    def on_link_restored(self) -> None:
        """Take word that the link is back."""
        self._note()
        self.links.append('restored')

    def of(self, channel: str) -> list[Publication]:
        """Return the publications of one channel."""
        return [item for name, item, _ in self.publications if name == channel]

    def data_of(self, channel: str) -> list[bytes]:
        """Return the payloads of one channel."""
        return [item.data for item in self.of(channel)]

    def offsets_of(self, channel: str) -> list[int]:
        """Return the offsets of one channel."""
        return [item.offset for item in self.of(channel)]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Return when `condition()` is true; fail after `PATIENCE_S`."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f'not within {PATIENCE_S} s: {what}') from None

    def _note(self) -> None:
        # NOTE: a broker with threads of its own must still call from the event loop.
        assert asyncio.get_running_loop() is self._loop
        self._news.set()


async def eventually(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Ask again and again until `condition()` is true; fail after `PATIENCE_S`."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():  # noqa: ASYNC110 - a store has no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f'not within {PATIENCE_S} s: {what}') from None
