"""Threads with a connection each: jobs of the event loop go in, results come back.

The writer takes all jobs that wait and runs them in one transaction (*group commit*),
so that many publishers share one write to the disk. A reader runs one job after
another.

A job has a deadline, which the event loop keeps: whatever the thread does, the caller
gets its answer. A job whose caller has gone before it began is left out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
import contextlib
import logging
from pathlib import Path
import queue
import sqlite3
import threading
import time
from typing import Any
from typing import Generic
from typing import TypeVar

from falcon_channels.brokers.sqlite.database_file import connect
from falcon_channels.brokers.sqlite.database_file import prepare
from falcon_channels.brokers.sqlite.database_file import unavailable
from falcon_channels.brokers.sqlite.transaction import Event
from falcon_channels.brokers.sqlite.transaction import Transaction
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')

Subject = TypeVar('Subject')

#: Jobs in one transaction at most.
_BATCH = 1000
#: Jobs, and bytes of theirs, that may wait for a thread.
_MAX_JOBS = 20_000
_MAX_BYTES = 67_108_864


class Job(Generic[Subject]):
    """Something for a thread to do."""

    __slots__ = ('call', 'deadline_s', 'future', 'size_bytes')

    def __init__(
        self,
        call: Callable[[Subject], Any],
        future: asyncio.Future[Any],
        deadline_s: float,
        size_bytes: int,
    ) -> None:
        self.call = call
        self.future = future
        self.deadline_s = deadline_s
        self.size_bytes = size_bytes


class Outcome:
    """What became of a job: a value, or an error."""

    __slots__ = ('error', 'value')

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class Worker(Generic[Subject]):
    """A thread with a connection; made and used in the event loop.

    Args:
        name: Of the thread.
        path: Of the database.
        timeout_s: Seconds for which a caller waits for a job.
    """

    def __init__(self, name: str, path: Path, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job[Subject] | None] = queue.SimpleQueue()
        #: Jobs under way, oldest first; they end in this order.
        self._waiting: deque[Job[Subject]] = deque()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._ended = asyncio.Event()
        self._connection: sqlite3.Connection | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        # NOTE: a daemon, so that a disk that hangs does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def open(self) -> None:
        """Start the thread and open its connection.

        Raises:
            BrokerUnavailableError: It cannot be opened.
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
        """Let the thread do something; return the future of its result.

        Args:
            call: Gets the connection, or the transaction, in the thread.
            size_bytes: What the job holds in memory, about.

        Raises:
            BrokerUnavailableError: Closed, or too much waits already.
        """
        if self._closing:
            raise BrokerUnavailableError(f'{self.path} is closed')
        waiting = self._waiting
        size_bytes += 512
        if len(waiting) >= _MAX_JOBS or self._waiting_bytes + size_bytes > _MAX_BYTES:
            raise BrokerUnavailableError(
                f'{self.path}: {len(waiting)} calls with {self._waiting_bytes} bytes '
                f'wait already; the limits are {_MAX_JOBS} and {_MAX_BYTES}'
            )
        deadline_s = self._loop.time() + self.timeout_s
        job = Job(call, self._loop.create_future(), deadline_s, size_bytes)
        waiting.append(job)
        self._waiting_bytes += size_bytes
        if self._timer is None:
            self._timer = self._loop.call_at(deadline_s, self._check_deadlines)
        self._queue.put(job)
        return job.future

    async def close(self) -> None:
        """End the thread after what it does now; fail the rest."""
        if self._closing:
            return
        self._closing = True
        self._queue.put(None)
        if self._thread.is_alive():
            try:
                async with asyncio.timeout(2.0):
                    await self._ended.wait()
            except TimeoutError:
                connection = self._connection
                if connection is not None:
                    with contextlib.suppress(sqlite3.Error):
                        connection.interrupt()
                _logger.warning('%s: a thread did not end in time', self.path)
        self._fail_waiting(f'{self.path} was closed')
        if self._timer is not None:
            self._timer.cancel()

    # --- in the event loop -----------------------------------------------------------

    def _check_deadlines(self) -> None:
        # PERF: one timer for all jobs instead of one for each; they end in order.
        self._timer = None
        now_s = self._loop.time()
        self._forget_done()
        for job in self._waiting:
            if job.deadline_s > now_s:
                self._timer = self._loop.call_at(job.deadline_s, self._check_deadlines)
                break
            if not job.future.done():
                job.future.set_exception(
                    BrokerUnavailableError(
                        f'{self.path} did not answer within {self.timeout_s} s'
                    )
                )

    def _forget_done(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0].future.done():
            self._waiting_bytes -= waiting.popleft().size_bytes

    def _settle(self, jobs: list[Job[Subject]], outcomes: list[Outcome]) -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            future = job.future
            if future.done():
                continue
            if outcome.error is None:
                future.set_result(outcome.value)
            else:
                future.set_exception(outcome.error)
        self._forget_done()

    def _fail_waiting(self, reason: str) -> None:
        for job in self._waiting:
            if not job.future.done():
                job.future.set_exception(BrokerUnavailableError(reason))
        self._waiting.clear()

    def _on_opened(self, error: BaseException | None) -> None:
        if self._opened.done():
            return
        if error is None:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(error)

    # --- in the thread ---------------------------------------------------------------

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        # NOTE: the loop may have been closed without us.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def _run(self) -> None:
        try:
            # NOTE: less than the callers wait, so that they learn what it was.
            connection = connect(self.path, self.timeout_s * 0.8)
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
                self._work(connection)
            finally:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._post(self._ended.set)

    def _work(self, connection: sqlite3.Connection) -> None:
        while True:
            job = self._queue.get()
            jobs = []
            while job is not None:
                if not job.future.done():
                    jobs.append(job)
                if len(jobs) >= self.batch:
                    break
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
            if jobs:
                self.do(connection, jobs)
            if job is None:
                return

    #: How many jobs `do` takes.
    batch = 1

    def do(self, connection: sqlite3.Connection, jobs: list[Job[Subject]]) -> None:
        """Do some jobs, in the thread."""
        raise NotImplementedError

    def attempt(self, call: Callable[[], Any]) -> Outcome:
        """Call something, and put what it returns or raises into an outcome."""
        try:
            return Outcome(call())
        except sqlite3.Error as ex:
            return Outcome(error=unavailable(self.path, ex))
        except Exception as ex:
            # NOTE: the caller gets it.
            return Outcome(error=ex)


class Reader(Worker[sqlite3.Connection]):
    """Runs one job after another, each in a transaction that sees one moment."""

    def do(
        self, connection: sqlite3.Connection, jobs: list[Job[sqlite3.Connection]]
    ) -> None:
        """Do one job."""
        (job,) = jobs

        def read() -> Any:
            connection.execute('BEGIN')
            try:
                return job.call(connection)
            finally:
                connection.execute('ROLLBACK')

        self._post(self._settle, jobs, [self.attempt(read)])


class Writer(Worker[Transaction]):
    """Runs jobs in transactions, as many in each as wait.

    Args:
        on_commit: Called in the event loop after a transaction with new rows, with the
            first id, the last id, and what to announce; before its jobs' callers.
        tell: Called in the thread with the last id.
    """

    batch = _BATCH

    def __init__(
        self,
        path: Path,
        timeout_s: float,
        on_commit: Callable[[int, int, list[Event]], None],
        tell: Callable[[int], None],
    ) -> None:
        super().__init__('falcon_channels sqlite writer', path, timeout_s)
        self._on_commit = on_commit
        self._tell = tell
        #: Channels that hold more than their size, by id.
        self._overfull: dict[int, None] = {}

    def add_overfull(self, channel_ids: list[int]) -> None:
        """Let the next sweeps look at these channels."""
        # NOTE: one operation on a dict, which no other thread can see the half of.
        self._overfull.update(dict.fromkeys(channel_ids))

    def do(self, connection: sqlite3.Connection, jobs: list[Job[Transaction]]) -> None:
        """Do jobs in one transaction; where one has a defect, each in its own."""
        whole = self.attempt(lambda: self._transact(connection, jobs))
        if whole.error is None:
            transaction, values = whole.value
            for channel_id in transaction.trimmed:
                self._overfull.pop(channel_id, None)
            self._overfull.update(transaction.overfull)
            outcomes = [Outcome(value) for value in values]
            self._post(self._finish, transaction, jobs, outcomes)
            if transaction.last_id >= transaction.first_id:
                self._tell(transaction.last_id)
        elif len(jobs) == 1 or isinstance(whole.error, BrokerUnavailableError):
            self._post(self._settle, jobs, [whole] * len(jobs))
        else:
            for job in jobs:
                self.do(connection, [job])

    def _transact(
        self, connection: sqlite3.Connection, jobs: list[Job[Transaction]]
    ) -> tuple[Transaction, list[Any]]:
        connection.execute('BEGIN IMMEDIATE')
        try:
            transaction = Transaction(
                connection, int(time.time() * 1000), self._overfull
            )
            values = [job.call(transaction) for job in jobs]
            transaction.finish()
            connection.execute('COMMIT')
        except BaseException:
            if connection.in_transaction:
                connection.execute('ROLLBACK')
            raise
        return transaction, values

    def _finish(
        self,
        transaction: Transaction,
        jobs: list[Job[Transaction]],
        outcomes: list[Outcome],
    ) -> None:
        if transaction.events and not self._closing:
            self._on_commit(
                transaction.first_id, transaction.last_id, transaction.events
            )
        self._settle(jobs, outcomes)
