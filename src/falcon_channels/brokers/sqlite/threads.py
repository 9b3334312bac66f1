"""Threads that execute SQLite statements, because these block.

Each thread has its own connection. The event loop puts jobs into its queue, and the
thread posts the results back to the event loop.

The writer executes all queued jobs in one transaction (*group commit*). Many publishers
thus share one write to the disk. A reader executes one job after another.

The event loop enforces the deadline of a job, so that the caller gets an outcome even
if the thread hangs. A thread skips jobs whose caller has stopped waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import contextlib
import logging
from pathlib import Path
import queue
import sqlite3
import threading
from typing import Any
from typing import Generic
from typing import TypeVar

from falcon_channels.brokers.pending_calls import PendingCall
from falcon_channels.brokers.pending_calls import PendingCalls
from falcon_channels.brokers.sqlite.checkpoints import Checkpoints
from falcon_channels.brokers.sqlite.database_file import connect
from falcon_channels.brokers.sqlite.database_file import prepare
from falcon_channels.brokers.sqlite.database_file import roll_back
from falcon_channels.brokers.sqlite.database_file import unavailable
from falcon_channels.brokers.sqlite.transaction import Announcement
from falcon_channels.brokers.sqlite.transaction import ChannelCache
from falcon_channels.brokers.sqlite.transaction import Transaction
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')

#: The argument of a job: the connection of a reader, or the transaction of the writer.
Subject = TypeVar('Subject')

Job = PendingCall[Callable[[Subject], Any]]

#: Maximum number of jobs in one transaction.
_BATCH = 1000
#: Approximate memory that a job takes without its data, in bytes.
_JOB_BYTES = 512
#: Seconds for which `close` waits for the job in progress.
_CLOSE_TIMEOUT_S = 2.0


class Outcome:
    """The result of a job: a value, or an error."""

    __slots__ = ('error', 'value')

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class DatabaseThread(Generic[Subject]):
    """A thread with a connection; created and used in the event loop.

    Args:
        name: Name of the thread.
        path: Path of the database file.
        timeout_s: Deadline of a job, in seconds.
    """

    #: Maximum number of jobs that `execute` gets at once.
    batch_size = 1

    def __init__(self, name: str, path: Path, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        #: Seconds for which a statement waits for the lock of another process.
        self._lock_timeout_s = timeout_s * 0.8
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job[Subject] | None] = queue.SimpleQueue()
        self._pending: PendingCalls[Callable[[Subject], Any]] = PendingCalls(
            str(path), timeout_s
        )
        self._closing = False
        self._ended = asyncio.Event()
        self._connection: sqlite3.Connection | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        # NOTE: a daemon thread, because a hanging disk must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def open(self) -> None:
        """Start the thread and open its connection.

        Raises:
            BrokerUnavailableError: The connection cannot be opened.
        """
        self._thread.start()
        try:
            async with asyncio.timeout(self.timeout_s * 2):
                await self._opened
        except TimeoutError:
            raise BrokerUnavailableError(
                f'{self.path} could not be opened within {self.timeout_s * 2} s'
            ) from None

    def submit(
        self, call: Callable[[Subject], Any], size_bytes: int = 0
    ) -> asyncio.Future[Any]:
        """Queue a job and return the future of its result.

        Args:
            call: Function that the thread calls with its connection or transaction.
            size_bytes: Approximate memory that the data of the job takes.

        Raises:
            BrokerUnavailableError: The thread is closed, or too many jobs are pending.
        """
        job = self._pending.add(call, size_bytes + _JOB_BYTES)
        self._queue.put(job)
        return job.future

    async def close(self) -> None:
        """End the thread after the job in progress; fail the pending jobs."""
        if self._closing:
            return
        self._closing = True
        self._queue.put(None)
        if self._thread.is_alive():
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._ended.wait()
            except TimeoutError:
                connection = self._connection
                if connection is not None:
                    with contextlib.suppress(sqlite3.Error):
                        connection.interrupt()
                _logger.warning(
                    '%s: a thread did not end within %s s',
                    self.path,
                    _CLOSE_TIMEOUT_S,
                )
        self._pending.close()

    # --- in the event loop ------------------------------------------------------------

    def _settle(self, jobs: list[Job[Subject]], outcomes: list[Outcome]) -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome.error is None:
                self._pending.resolve(job, outcome.value)
            else:
                self._pending.reject(job, outcome.error)

    def _discard(self, jobs: list[Job[Subject]]) -> None:
        for job in jobs:
            self._pending.discard(job)

    def _on_opened(self, error: BaseException | None) -> None:
        if self._opened.done():
            return
        if error is None:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(error)

    # --- in the thread ----------------------------------------------------------------

    def execute(self, connection: sqlite3.Connection, jobs: list[Job[Subject]]) -> None:
        """Execute jobs and post their outcomes; called in the thread.

        Args:
            connection: The connection of the thread.
            jobs: At least one job, at most `batch_size`.
        """
        raise NotImplementedError

    def attempt(self, call: Callable[[], Any]) -> Outcome:
        """Call a function and return its result or its error as an outcome."""
        try:
            return Outcome(call())
        except sqlite3.Error as ex:
            return Outcome(error=unavailable(self.path, ex))
        except Exception as ex:
            # NOTE: not logged here, because the caller of the job gets it.
            return Outcome(error=ex)

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        # NOTE: the application may have closed the event loop without closing the
        #   broker.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def _run(self) -> None:
        try:
            # NOTE: SQLite waits less long for a lock than the caller waits for the job,
            #   so that the caller gets SQLite's reason instead of a timeout.
            connection = connect(self.path, self._lock_timeout_s)
            try:
                prepare(self.path, connection, self.timeout_s)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as ex:
            self._post(self._on_opened, unavailable(self.path, ex))
        except BaseException as ex:
            self._post(self._on_opened, ex)
        else:
            self._connection = connection
            self._post(self._on_opened, None)
            try:
                self._execute_queue(connection)
            finally:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._post(self._ended.set)

    def _execute_queue(self, connection: sqlite3.Connection) -> None:
        while True:
            job = self._queue.get()
            jobs = []
            skipped = []
            while job is not None:
                if job.future.done():
                    skipped.append(job)
                else:
                    jobs.append(job)
                if len(jobs) >= self.batch_size:
                    break
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
            if skipped:
                self._post(self._discard, skipped)
            if jobs:
                self.execute(connection, jobs)
            if job is None:
                return


class Reader(DatabaseThread[sqlite3.Connection]):
    """Executes each job in its own transaction, so that it sees one state."""

    def execute(
        self, connection: sqlite3.Connection, jobs: list[Job[sqlite3.Connection]]
    ) -> None:
        """Execute one job."""
        (job,) = jobs

        def read() -> Any:
            connection.execute('BEGIN')
            try:
                return job.request(connection)
            finally:
                roll_back(connection)

        self._post(self._settle, jobs, [self.attempt(read)])


class Writer(DatabaseThread[Transaction]):
    """Executes all queued jobs in one transaction.

    Args:
        path: Path of the database file.
        timeout_s: Deadline of a job, in seconds.
        on_commit: Called in the event loop after a transaction that has added rows,
            with the first id, the last id and what to announce. It is called
            before the callers of the jobs get their results.
        notify: Called in the thread with the last id, to notify other processes.
    """

    batch_size = _BATCH

    def __init__(
        self,
        path: Path,
        timeout_s: float,
        on_commit: Callable[[int, int, list[Announcement]], None],
        notify: Callable[[int], None],
    ) -> None:
        super().__init__('falcon_channels sqlite writer', path, timeout_s)
        self._on_commit = on_commit
        self._notify = notify
        #: Rows of channels; used in the thread.
        self._cache = ChannelCache()
        #: Ids of channels with more rows than their size, in the order of trimming.
        self._oversized: dict[int, None] = {}
        self._checkpoints = Checkpoints(path, self._lock_timeout_s)

    def add_oversized(self, channel_ids: list[int]) -> None:
        """Add channels that the next sweeps trim."""
        # NOTE: one operation of a dict is atomic for the thread.
        self._oversized.update(dict.fromkeys(channel_ids))

    def execute(
        self, connection: sqlite3.Connection, jobs: list[Job[Transaction]]
    ) -> None:
        """Execute jobs in one transaction; if one of them fails, each in its own."""
        whole = self.attempt(lambda: self._transact(connection, jobs))
        if whole.error is None:
            transaction, values = whole.value
            for channel_id in transaction.trimmed:
                self._oversized.pop(channel_id, None)
            self._oversized.update(transaction.oversized)
            outcomes = [Outcome(value) for value in values]
            self._post(self._finish, transaction, jobs, outcomes)
            if transaction.last_id >= transaction.first_id:
                self._notify(transaction.last_id)
        elif len(jobs) == 1 or isinstance(whole.error, BrokerUnavailableError):
            self._post(self._settle, jobs, [whole] * len(jobs))
        else:
            for job in jobs:
                self.execute(connection, [job])
        self._checkpoints.run(connection)

    def _transact(
        self, connection: sqlite3.Connection, jobs: list[Job[Transaction]]
    ) -> tuple[Transaction, list[Any]]:
        connection.execute('BEGIN IMMEDIATE')
        try:
            transaction = Transaction(connection, self._oversized, self._cache)
            values = [job.request(transaction) for job in jobs]
            transaction.finish()
            connection.execute('COMMIT')
        except BaseException:
            self._cache.clear()
            roll_back(connection)
            raise
        return transaction, values

    def _finish(
        self,
        transaction: Transaction,
        jobs: list[Job[Transaction]],
        outcomes: list[Outcome],
    ) -> None:
        if transaction.announcements and not self._closing:
            self._on_commit(
                transaction.first_id, transaction.last_id, transaction.announcements
            )
        self._settle(jobs, outcomes)
