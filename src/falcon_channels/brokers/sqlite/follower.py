"""Announces the rows of the database in the order of their ids, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Container
import functools
import logging
from pathlib import Path
from typing import Any

from falcon_channels.brokers.background_tasks import start_task
from falcon_channels.brokers.base import BrokerReceiver
from falcon_channels.brokers.encoding import decode_publication
from falcon_channels.brokers.sqlite import queries
from falcon_channels.brokers.sqlite.threads import Reader
from falcon_channels.brokers.sqlite.transaction import CONTROL
from falcon_channels.brokers.sqlite.transaction import Event
from falcon_channels.brokers.sqlite.transaction import SIGNAL
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')


class Follower:
    """Where this process stands in the database; lives in the event loop.

    Args:
        path: Of the database.
        timeout_s: Of one read.
        receiver: Is told of everything.
        subscribed: The channels whose publications and signals it is told of.
    """

    def __init__(
        self,
        path: Path,
        timeout_s: float,
        receiver: BrokerReceiver,
        subscribed: Container[str],
    ) -> None:
        self.reader = Reader('falcon_channels sqlite follower', path, timeout_s)
        self._receiver = receiver
        self._subscribed = subscribed
        self._last_id = 0
        self._lost = False
        self._stopped = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin with what comes from now on."""
        await self.reader.open()
        self._last_id = await self.reader.submit(queries.last_id)
        self._task = start_task(
            self._follow(), 'sqlite follower', self._receiver.on_link_lost
        )

    def stop(self) -> None:
        """Announce nothing more."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    def give_up(self, error: BrokerUnavailableError) -> None:
        """Tell that the link is lost, and follow no more."""
        self._on_unreadable(error)
        self.stop()

    def look(self) -> None:
        """Read what is new soon."""
        self._wake.set()

    def on_news(self, last_id: int) -> None:
        """Learn from another process that there are rows up to an id."""
        if last_id > self._last_id:
            self._wake.set()

    def on_commit(self, first_id: int, last_id: int, events: list[Event]) -> None:
        """Announce what this process has written, or read it where others came between.

        Args:
            first_id: The id of the first event.
            last_id: The id of the last.
            events: In the order of their consecutive ids.
        """
        if self._lost or first_id != self._last_id + 1:
            self._wake.set()
            return
        # PERF: benchmarks/sqlite_publish.py: reading the rows again costs a quarter
        #   of the throughput.
        self._last_id = last_id
        for kind, channel, item, epoch in events:
            self._announce(kind, channel, item, epoch)

    # --- inside ----------------------------------------------------------------------

    def _announce(self, kind: int, channel: str, item: Any, epoch: str) -> None:
        if self._stopped:
            return
        if kind == CONTROL:
            self._receiver.on_control(item)
        elif channel in self._subscribed:
            if kind == SIGNAL:
                self._receiver.on_signal(channel, item)
            else:
                self._receiver.on_publication(channel, item, epoch)

    async def _follow(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            seen_id = self._last_id
            try:
                newest, found = await self.reader.submit(
                    functools.partial(queries.items_after, seen_id=seen_id)
                )
            except BrokerUnavailableError as ex:
                # NOTE: the next look, a second later at most, tries again.
                self._on_unreadable(ex)
                continue
            self._take(seen_id, newest, found)
            if len(found) >= queries.FOLLOW_ROWS:
                self._wake.set()

    def _on_unreadable(self, error: BrokerUnavailableError) -> None:
        if not self._lost and not self._stopped:
            self._lost = True
            _logger.error('cannot follow the database: %s', error)
            self._receiver.on_link_lost()

    def _take(self, seen_id: int, newest: int, found: list[tuple[Any, ...]]) -> None:
        """Announce rows; those that came meanwhile by `on_commit` are passed over."""
        # NOTE: an older copy of the file, which somebody has put in place.
        missed = newest < seen_id
        if missed:
            self._last_id = newest
        for item_id, kind, name, offset, epoch, body in found:
            if item_id <= self._last_id:
                continue
            missed = missed or item_id != self._last_id + 1
            self._last_id = item_id
            if name is None:
                continue
            channel = name.decode()
            if kind in (CONTROL, SIGNAL):
                self._announce(kind, channel, body, '')
            elif channel in self._subscribed:
                publication = decode_publication(body, offset or 0)
                self._announce(kind, channel, publication, epoch or '')
        if len(found) < queries.FOLLOW_ROWS and newest > self._last_id:
            missed = True
            self._last_id = newest
        if self._stopped:
            return
        if missed and not self._lost:
            _logger.warning('rows are gone that this process has not read')
            self._receiver.on_link_lost()
            self._lost = True
        if self._lost:
            self._lost = False
            self._receiver.on_link_restored()
