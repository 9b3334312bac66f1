"""Announces the rows of the database in the order of their ids, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Container
import functools
import logging
from pathlib import Path
from typing import Any

from falcon_channels.brokers.background_tasks import run_forever
from falcon_channels.brokers.base import BrokerReceiver
from falcon_channels.brokers.encoding import decode_publication
from falcon_channels.brokers.sqlite import queries
from falcon_channels.brokers.sqlite.threads import Reader
from falcon_channels.brokers.sqlite.transaction import Announcement
from falcon_channels.brokers.sqlite.transaction import CONTROL
from falcon_channels.brokers.sqlite.transaction import SIGNAL
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')


class Follower:
    """The position of this process in the database; used in the event loop.

    Args:
        path: Path of the database file.
        timeout_s: Deadline of one read, in seconds.
        receiver: The receiver of all announcements.
        subscribed: The channels whose publications and signals are announced.
    """

    def __init__(
        self,
        path: Path,
        timeout_s: float,
        receiver: BrokerReceiver,
        subscribed: Container[str],
    ) -> None:
        self._reader = Reader('falcon_channels sqlite follower', path, timeout_s)
        self._receiver = receiver
        self._subscribed = subscribed
        self._last_id = 0
        self._lost = False
        self._stopped = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the database; announce the rows that are added from now on."""
        await self._reader.open()
        self._last_id = await self._reader.submit(queries.last_id)
        self._task = run_forever(self._follow, 'sqlite follower', self._on_failure)

    def stop(self) -> None:
        """Announce nothing more."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Announce nothing more, and close the connection."""
        self.stop()
        await self._reader.close()

    def give_up(self, error: BrokerUnavailableError) -> None:
        """Report the link as lost, and announce nothing more."""
        self._on_read_error(error)
        self.stop()

    def poll(self) -> None:
        """Read new rows in the next event-loop iterations."""
        self._wake.set()

    def on_notification(self, last_id: int) -> None:
        """Called when another process reports rows up to an id."""
        if last_id > self._last_id:
            self._wake.set()

    def on_commit(
        self, first_id: int, last_id: int, announcements: list[Announcement]
    ) -> None:
        """Called when this process has committed rows.

        They are announced directly. If other processes have added rows before them, all
        these rows are read from the database instead.

        Args:
            first_id: Id of the first row.
            last_id: Id of the last row.
            announcements: What to announce, in the order of the consecutive ids.
        """
        if self._lost or first_id != self._last_id + 1:
            self._wake.set()
            return
        # PERF: benchmarks/sqlite_publish.py: reading the rows again would cost a
        #   quarter of the throughput.
        self._last_id = last_id
        for kind, channel, item, epoch in announcements:
            self._announce(kind, channel, item, epoch)

    # --- internals --------------------------------------------------------------------

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
                newest, found, more = await self._reader.submit(
                    functools.partial(queries.items_after, seen_id=seen_id)
                )
            except BrokerUnavailableError as ex:
                # NOTE: the next poll, at most a second later, tries again.
                self._on_read_error(ex)
                continue
            self._announce_rows(seen_id, newest, found, more)
            if more:
                self._wake.set()

    def _on_failure(self) -> None:
        """Called after an unexpected error: read the rows after the failed one."""
        if not self._lost and not self._stopped:
            self._lost = True
            self._receiver.on_link_lost()
        self._wake.set()

    def _on_read_error(self, error: BrokerUnavailableError) -> None:
        if not self._lost and not self._stopped:
            self._lost = True
            _logger.error('cannot read new rows of the database: %s', error)
            self._receiver.on_link_lost()

    def _announce_rows(
        self, seen_id: int, newest: int, found: list[tuple[Any, ...]], more: bool
    ) -> None:
        """Announce rows, except those that `on_commit` has announced meanwhile."""
        # NOTE: the newest id is lower if the file was replaced with an older copy.
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
            try:
                self._announce_row(kind, name.decode(), offset, epoch, body)
            except (ValueError, RecursionError) as ex:
                # NOTE: another release has written this row, or the file is damaged. If
                #   it is a publication, the hub notices the gap in the offsets.
                _logger.error('cannot decode row %d of the database: %s', item_id, ex)
        if not more and newest > self._last_id:
            missed = True
            self._last_id = newest
        if self._stopped:
            return
        if missed and not self._lost:
            _logger.warning('rows were removed before this process has read them')
            self._receiver.on_link_lost()
            self._lost = True
        if self._lost:
            self._lost = False
            self._receiver.on_link_restored()

    def _announce_row(
        self,
        kind: int,
        channel: str,
        offset: int | None,
        epoch: str | None,
        body: bytes,
    ) -> None:
        if kind in (CONTROL, SIGNAL):
            self._announce(kind, channel, body, '')
        elif channel in self._subscribed:
            publication = decode_publication(body, offset or 0)
            self._announce(kind, channel, publication, epoch or '')
