"""The broker of one host: a SQLite file that several processes share.

Publications, signals and control messages are rows of one table, in one order for all
channels. A process announces what it has written itself when the transaction is
committed and nothing of others lies between; otherwise it reads the rows after the last
that it announced (`follower`). So every process announces every row once, in the order
of the database, whoever wrote it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
import heapq
import logging
from pathlib import Path
import time
from typing import Any

from falcon_channels.brokers.background_tasks import start_task
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import BrokerReceiver
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import StreamSettings
from falcon_channels.brokers.sqlite import queries
from falcon_channels.brokers.sqlite.follower import Follower
from falcon_channels.brokers.sqlite.process_notifier import News
from falcon_channels.brokers.sqlite.threads import Reader
from falcon_channels.brokers.sqlite.threads import Writer
from falcon_channels.brokers.sqlite.transaction import CONTROL
from falcon_channels.brokers.sqlite.transaction import find_overfull
from falcon_channels.brokers.sqlite.transaction import SIGNAL
from falcon_channels.brokers.url_options import parse_query
from falcon_channels.brokers.url_options import seconds
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import OptionsError
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import NO_POSITION
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

_logger = logging.getLogger('falcon_channels')

#: Seconds between two sweeps for what has expired.
_SWEEP_S = 1.0


class SqliteBroker(Broker):
    """Keeps everything in one file, for all processes of one host.

    Args:
        path: The file; created where it is missing. Beside it lie ``-wal``, ``-shm``
            and the folder ``-news``. A local disk, no network file system.
        timeout_s: Deadline of every call, in seconds.
        poll_s: How often the file is looked at without word of other processes.
    """

    capabilities = Capabilities(durable=True, shared=True)

    def __init__(
        self, path: str | Path, *, timeout_s: float = 5.0, poll_s: float = 1.0
    ) -> None:
        self.path = Path(path)
        self.timeout_s = timeout_s
        self.poll_s = poll_s
        self._subscribed: dict[str, StreamSettings] = {}
        #: (when, channel): logs that subscribers keep from being forgotten.
        self._to_keep: list[tuple[float, str]] = []
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._follower: Follower | None = None
        self._news: News | None = None
        self._house: asyncio.Task[None] | None = None
        self._closed = False
        #: Device and inode of the file that is open.
        self._identity: tuple[int, int] | None = None
        self._replaced = False

    @classmethod
    def from_url(cls, url: str) -> SqliteBroker:
        """Return a broker for ``sqlite:///chat.db`` or ``sqlite:////var/lib/chat.db``.

        Options: ``?timeout_s=5&poll_s=1``, as of the class.

        Raises:
            OptionsError: The URL makes no sense.
        """
        parts, options = parse_query(url, {'timeout_s': seconds, 'poll_s': seconds})
        path = parts.path.removeprefix('/')
        if parts.netloc or not path or parts.fragment:
            raise OptionsError(
                'write sqlite:///chat.db for a file in the working folder, and '
                'sqlite:////var/lib/chat.db, with four slashes, for an absolute path'
            )
        return cls(path, **options)

    # --- life ------------------------------------------------------------------------

    async def start(self, receiver: BrokerReceiver) -> None:
        if self._closed:
            raise BrokerUnavailableError(f'{self.path} is closed')
        path = self.path.absolute()
        follower = Follower(path, self.timeout_s, receiver, self._subscribed)
        news = News(path, follower.on_news)
        writer = Writer(path, self.timeout_s, follower.on_commit, news.tell)
        reader = Reader('falcon_channels sqlite reader', path, self.timeout_s)
        try:
            # NOTE: the writer first, for it makes the tables.
            await writer.open()
            self._identity = _identity(path)
            await reader.open()
            news.open()
            await follower.start()
            writer.add_overfull(await reader.submit(find_overfull))
        except BaseException:
            news.close()
            for worker in (writer, reader, follower.reader):
                await worker.close()
            raise
        self._writer, self._reader = writer, reader
        self._follower, self._news = follower, news
        self._house = start_task(self._keep_house(), 'sqlite housekeeping')

    async def close(self) -> None:
        self._closed = True
        house, self._house = self._house, None
        if house is not None:
            house.cancel()
            await asyncio.gather(house, return_exceptions=True)
        if self._follower is not None:
            self._follower.stop()
            await self._follower.reader.close()
        if self._writer is not None:
            await self._writer.close()
        if self._reader is not None:
            await self._reader.close()
        if self._news is not None:
            self._news.close()

    # --- publications ----------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        publication: Publication,
        settings: StreamSettings,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
    ) -> PublishResult:
        result: PublishResult = await self._write(
            lambda transaction: transaction.publish(
                channel, publication, settings, idempotency_key
            ),
            len(publication.data),
        )
        return result

    async def subscribe(self, channel: str, settings: StreamSettings) -> Position:
        # NOTE: before the position is read, so that nothing falls between.
        self._subscribed[channel] = settings
        if not settings.size:
            return NO_POSITION
        try:
            position: Position | None = await self._read(
                lambda connection: queries.position(connection, channel)
            )
            if position is None:
                position = await self._write(
                    lambda transaction: transaction.open_log(channel, settings)
                )
        except BaseException:
            self._subscribed.pop(channel, None)
            raise
        self._plan_keeping(channel, settings)
        assert position is not None
        return position

    async def unsubscribe(self, channel: str) -> None:
        self._subscribed.pop(channel, None)

    async def history(
        self,
        channel: str,
        settings: StreamSettings,
        *,
        since: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        if not settings.size:
            return HistoryPage([], NO_POSITION)
        page: HistoryPage = await self._read(
            lambda connection: queries.history(
                connection, channel, settings, since, limit, reverse
            )
        )
        return page

    async def remove_history(self, channel: str) -> None:
        await self._write(lambda transaction: transaction.remove_history(channel))

    async def signal(self, channel: str, signal: bytes) -> None:
        await self._write(
            lambda transaction: transaction.send(SIGNAL, channel, signal), len(signal)
        )

    async def control(self, message: bytes) -> None:
        await self._write(
            lambda transaction: transaction.send(CONTROL, '', message), len(message)
        )

    # --- presence and revocations ----------------------------------------------------

    async def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[bool]:
        told: list[bool] = await self._write(
            lambda transaction: transaction.add_presence(entries, ttl_s)
        )
        return told

    async def remove_presence(self, channel: str, client: str) -> PresenceChange | None:
        change: PresenceChange | None = await self._write(
            lambda transaction: transaction.remove_presence(channel, client)
        )
        return change

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        there: dict[str, ClientInfo] = await self._read(
            lambda connection: queries.presence(connection, channel)
        )
        return there

    async def has_user(self, channel: str, user: str) -> bool:
        found: bool = await self._read(
            lambda connection: queries.has_user(connection, channel, user)
        )
        return found

    async def expire_presence(self, limit: int) -> list[PresenceChange]:
        gone: list[PresenceChange] = await self._write(
            lambda transaction: transaction.expire_presence(limit)
        )
        return gone

    async def revoke(self, channel: str, user: str, ttl_s: float) -> None:
        await self._write(lambda transaction: transaction.revoke(channel, user, ttl_s))

    async def is_revoked(self, channel: str, user: str) -> bool:
        found: bool = await self._read(
            lambda connection: queries.is_revoked(connection, channel, user)
        )
        return found

    # --- inside ----------------------------------------------------------------------

    def _write(self, call: Any, size_bytes: int = 0) -> asyncio.Future[Any]:
        if self._writer is None or self._replaced:
            raise self._unusable()
        return self._writer.submit(call, size_bytes)

    def _read(self, call: Any) -> asyncio.Future[Any]:
        if self._reader is None or self._replaced:
            raise self._unusable()
        return self._reader.submit(call)

    def _unusable(self) -> BrokerUnavailableError:
        if self._replaced:
            return BrokerUnavailableError(
                f'{self.path} was removed or replaced while it was open: restart'
            )
        return BrokerUnavailableError(f'{self.path} is not open')

    def _check_file(self) -> None:
        """Stop using a file that has lost its name: others would use another one."""
        if not self._replaced and _identity(self.path.absolute()) != self._identity:
            self._replaced = True
            error = self._unusable()
            assert self._follower is not None
            self._follower.give_up(error)

    def _plan_keeping(self, channel: str, settings: StreamSettings) -> None:
        if settings.meta_ttl_s is not None:
            when_s = time.monotonic() + settings.meta_ttl_s / 3
            heapq.heappush(self._to_keep, (when_s, channel))

    def _due_to_keep(self) -> list[tuple[str, StreamSettings]]:
        now_s = time.monotonic()
        due: list[tuple[str, StreamSettings]] = []
        while self._to_keep and self._to_keep[0][0] <= now_s and len(due) < 1000:
            _, channel = heapq.heappop(self._to_keep)
            settings = self._subscribed.get(channel)
            if settings is not None:
                due.append((channel, settings))
                self._plan_keeping(channel, settings)
        return due

    async def _keep_house(self) -> None:
        """Look for word that was lost, and remove what has expired."""
        assert self._follower is not None
        next_sweep_s = 0.0
        more = False
        while True:
            if not more:
                await asyncio.sleep(min(self.poll_s, _SWEEP_S))
            self._check_file()
            if self._replaced:
                return
            self._follower.look()
            if not more and time.monotonic() < next_sweep_s:
                continue
            next_sweep_s = time.monotonic() + _SWEEP_S
            due = self._due_to_keep()
            try:
                for channel, settings in due:
                    # NOTE: no need to wait; a failure shows in the sweep as well.
                    future = self._write(
                        lambda transaction, channel=channel, settings=settings: (
                            transaction.keep_log(channel, settings)
                        )
                    )
                    future.add_done_callback(_retrieve)
                more = await self._write(lambda transaction: transaction.sweep())
            except BrokerUnavailableError as ex:
                more = False
                _logger.warning('cannot remove what has expired: %s', ex)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark the exception of a future as seen."""
    if not future.cancelled():
        future.exception()
