"""The broker for one host: a SQLite file that several processes share.

Publications, signals and control messages are rows of one table, in one order for all
channels. Each process announces every row once, in the order of the database:

* If a process has committed rows, and no other process has added rows before them, it
  announces its rows directly.
* Otherwise it reads the rows after the last one that it has announced (`follower`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import os
from pathlib import Path
import time
from typing import Any

from falcon_channels.brokers.background_tasks import run_forever
from falcon_channels.brokers.base import Append
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import BrokerReceiver
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceAdded
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.brokers.sqlite import queries
from falcon_channels.brokers.sqlite.follower import Follower
from falcon_channels.brokers.sqlite.process_notifier import ProcessNotifier
from falcon_channels.brokers.sqlite.renewals import Renewals
from falcon_channels.brokers.sqlite.threads import Reader
from falcon_channels.brokers.sqlite.threads import Writer
from falcon_channels.brokers.sqlite.transaction import CONTROL
from falcon_channels.brokers.sqlite.transaction import find_oversized
from falcon_channels.brokers.sqlite.transaction import SIGNAL
from falcon_channels.brokers.url_options import parse_query
from falcon_channels.brokers.url_options import seconds
from falcon_channels.brokers.url_options import SQLITE_SCHEMES
from falcon_channels.burst_log import BurstLog
from falcon_channels.checks import check_seconds
from falcon_channels.checks import check_type
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import OptionsError
from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import NO_POSITION
from falcon_channels.publication import Publication

#: Largest number of logs that are renewed in one sweep.
_MAX_RENEWED = 1000
#: Seconds between two sweeps that remove expired rows.
_SWEEP_S = 1.0


class SqliteBroker(Broker):
    """A broker in one SQLite file, for all processes of one host.

    Args:
        path: Path of the file, on a local disk and not on a network file system. A
            missing file is created. SQLite adds files with the suffixes ``-wal`` and
            ``-shm``; the broker adds a folder with the suffix ``-news``.
        timeout_s: Deadline of every call, in seconds.
        poll_s: Seconds between two polls of the file, in case a notification of
            another process was lost.
    """

    capabilities = Capabilities(durable=True, shared=True, append_all=True)

    def __init__(
        self, path: str | Path, *, timeout_s: float = 5.0, poll_s: float = 1.0
    ) -> None:
        self.path = Path(check_type('path', path, (str, Path)))
        self.timeout_s: float = check_seconds('timeout_s', timeout_s)
        self.poll_s: float = check_seconds('poll_s', poll_s)
        self._subscribed: dict[str, LogSettings] = {}
        self._renewals = Renewals()
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._follower: Follower | None = None
        self._notifier: ProcessNotifier | None = None
        self._housekeeping: asyncio.Task[None] | None = None
        self._closed = False
        #: Path of the open file. The process may change its working folder later.
        self._open_path = self.path
        #: Devices and inodes of the open files.
        self._identities: list[tuple[int, int] | None] = []
        self._replaced = False

    @classmethod
    def from_url(cls, url: str) -> SqliteBroker:
        """Return a broker for ``sqlite:///chat.db`` or ``sqlite:////var/lib/chat.db``.

        Args:
            url: The URL. It may have options, the arguments of the class:
                ``?timeout_s=5&poll_s=1``.

        Raises:
            OptionsError: The URL has no path or has a host, or an option is unknown or
                out of range.
        """
        parts, options = parse_query(
            url, SQLITE_SCHEMES, {'timeout_s': seconds, 'poll_s': seconds}
        )
        path = parts.path.removeprefix('/')
        if parts.netloc or not path or parts.fragment:
            raise OptionsError(
                'write sqlite:///chat.db for a file in the working folder, and '
                'sqlite:////var/lib/chat.db, with four slashes, for an absolute path'
            )
        return cls(path, **options)

    # --- start and close --------------------------------------------------------------

    async def start(self, receiver: BrokerReceiver) -> None:
        if self._closed:
            raise BrokerUnavailableError(f'{self.path} is closed')
        path = self._open_path = self.path.absolute()
        follower = Follower(path, self.timeout_s, receiver, self._subscribed)
        notifier = ProcessNotifier(path, follower.on_notification)
        writer = Writer(path, self.timeout_s, follower.on_commit, notifier.notify)
        reader = Reader('falcon_channels sqlite reader', path, self.timeout_s)
        try:
            # NOTE: the writer is first, because it creates the tables.
            await writer.open()
            await reader.open()
            # NOTE: a restored copy may have no write-ahead log. The writer creates it,
            #   but opens it only in its first transaction. The reader has opened it.
            self._identities = _find_identities(path)
            notifier.open()
            await follower.start()
            writer.add_oversized(await reader.submit(find_oversized))
        except BaseException:
            notifier.close()
            for closable in (writer, reader, follower):
                await closable.close()
            raise
        self._writer, self._reader = writer, reader
        self._follower, self._notifier = follower, notifier
        self._housekeeping = run_forever(self._run_housekeeping, 'sqlite housekeeping')

    async def close(self) -> None:
        self._closed = True
        housekeeping, self._housekeeping = self._housekeeping, None
        if housekeeping is not None:
            housekeeping.cancel()
            await asyncio.gather(housekeeping, return_exceptions=True)
        if self._follower is not None:
            await self._follower.close()
        if self._writer is not None:
            await self._writer.close()
        if self._reader is not None:
            await self._reader.close()
        if self._notifier is not None:
            self._notifier.close()

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
        result: PublishResult | None = await self._write(
            lambda transaction: transaction.publish(
                channel, publication, settings, idempotency_key, version, skip_history
            ),
            approximate_size_bytes(publication),
        )
        if result is None:
            raise ChannelFinishedError(channel)
        return result

    def append_all(
        self, items: Sequence[Append]
    ) -> asyncio.Future[list[PublishResult | None]]:
        return self._write(
            lambda transaction: [
                transaction.publish(channel, publication, settings, None, version)
                for channel, publication, settings, version in items
            ],
            sum([approximate_size_bytes(item.publication) for item in items]),
        )

    async def subscribe(self, channel: str, settings: LogSettings) -> HistoryPage:
        # NOTE: before the position is read, so that no publication between the two is
        #   missed.
        self._subscribed[channel] = settings
        if not settings.size:
            return HistoryPage([], NO_POSITION)
        try:
            page: HistoryPage | None
            page, is_old = await self._read(
                lambda connection: queries.position(connection, channel, settings)
            )
            if page is None:
                page = await self._write(
                    lambda transaction: transaction.open_log(channel, settings)
                )
            elif is_old:
                # NOTE: not awaited, so that a subscription needs no write. While the
                #   disk is full or the file is locked, clients can still subscribe. The
                #   housekeeping tries again until the log is renewed.
                with contextlib.suppress(BrokerUnavailableError):
                    self._write(
                        lambda transaction: transaction.renew_log(channel, settings)
                    )
        except BaseException:
            await self.unsubscribe(channel)
            raise
        if channel in self._subscribed:
            self._renewals.add(channel, settings, at_once=is_old)
        assert page is not None
        return page

    async def unsubscribe(self, channel: str) -> None:
        self._subscribed.pop(channel, None)
        self._renewals.discard(channel)

    async def history(
        self,
        channel: str,
        settings: LogSettings,
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

    # --- presence and revocations -----------------------------------------------------

    async def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[PresenceAdded]:
        added: list[PresenceAdded] = await self._write(
            lambda transaction: transaction.add_presence(entries, ttl_s)
        )
        return added

    async def remove_presence(self, channel: str, client: str) -> PresenceChange | None:
        change: PresenceChange | None = await self._write(
            lambda transaction: transaction.remove_presence(channel, client)
        )
        return change

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        infos: dict[str, ClientInfo] = await self._read(
            lambda connection: queries.presence(connection, channel)
        )
        return infos

    async def has_user(self, channel: str, user: str) -> bool:
        found: bool = await self._read(
            lambda connection: queries.has_user(connection, channel, user)
        )
        return found

    async def expire_presence(self, limit: int) -> list[PresenceChange]:
        changes: list[PresenceChange] = await self._write(
            lambda transaction: transaction.expire_presence(limit)
        )
        return changes

    async def revoke(self, channel: str, user: str, ttl_s: float) -> None:
        await self._write(lambda transaction: transaction.revoke(channel, user, ttl_s))

    async def is_revoked(self, channel: str, user: str) -> bool:
        found: bool = await self._read(
            lambda connection: queries.is_revoked(connection, channel, user)
        )
        return found

    # --- internals --------------------------------------------------------------------

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
                f'{self.path}, or its file -wal or -shm, was removed or replaced while '
                'it was open: restart all processes that use it'
            )
        return BrokerUnavailableError(f'{self.path} is not open')

    def _check_file(self) -> None:
        """Stop using files of which one was removed or replaced.

        Other processes would use a new file, and the processes would no longer see the
        same publications. This also applies to the files beside the database: the log
        has the newest rows, and the locks are in shared memory.
        """
        try:
            found = _find_identities(self._open_path)
        except OSError:
            # NOTE: for example, nobody may look into the folder at present.
            return
        if not self._replaced and found != self._identities:
            self._replaced = True
            error = self._unusable()
            assert self._follower is not None
            self._follower.give_up(error)

    async def _run_housekeeping(self) -> None:
        """Poll the file, remove expired rows, and postpone the removal of logs."""
        assert self._follower is not None
        next_sweep_s = 0.0
        more = False
        errors = BurstLog()
        while True:
            if not more:
                await asyncio.sleep(min(self.poll_s, _SWEEP_S))
            self._check_file()
            if self._replaced:
                return
            self._follower.poll()
            if not more and time.monotonic() < next_sweep_s:
                continue
            next_sweep_s = time.monotonic() + _SWEEP_S
            due = self._renewals.take_due(_MAX_RENEWED)
            try:
                for channel, settings in due:
                    # NOTE: not awaited, because an error makes the sweep fail as well.
                    self._write(
                        lambda transaction, channel=channel, settings=settings: (
                            transaction.renew_log(channel, settings)
                        )
                    )
                swept = await self._write(lambda transaction: transaction.sweep())
                more = swept or len(due) == _MAX_RENEWED
            except BrokerUnavailableError as ex:
                more = False
                errors.warning('cannot remove expired rows: %s', ex)
                for channel, settings in due:
                    if channel in self._subscribed:
                        self._renewals.add(channel, settings, at_once=True)


def _find_identities(path: Path) -> list[tuple[int, int] | None]:
    """Return device and inode of the database and of the files beside it.

    SQLite removes the files beside it only when the last process closes the database.

    Raises:
        OSError: It is not known whether the files exist.
    """
    # NOTE: they are beside the file to which a symbolic link points.
    target = os.path.realpath(path)
    identities: list[tuple[int, int] | None] = []
    for suffix in ('', '-wal', '-shm'):
        try:
            found = os.stat(f'{target}{suffix}')
        except (FileNotFoundError, NotADirectoryError):
            identities.append(None)
        else:
            identities.append((found.st_dev, found.st_ino))
    return identities
