"""The link of a broker to its server: a supervised connection for announcements.

A `ServerLink` keeps one connection on which announcements arrive. If the connection
ends, the link opens another one; the delay grows while that fails.

Every few seconds the link sends a probe through the server to itself. The probe does
not arrive if the server is frozen, if the connection is half-open, or if the server has
dropped the subscription. The link is then lost (promise 13 of the contract).
"""

from __future__ import annotations

from abc import ABC
from abc import abstractmethod
import asyncio
from collections.abc import Coroutine
import itertools
import logging
import random
from typing import Any
from typing import ClassVar
from typing import Generic
from typing import TypeVar

from falcon_channels.brokers.background_tasks import start_task
from falcon_channels.burst_log import BurstLog
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')

_Connection = TypeVar('_Connection')

#: First and maximum delay before a connection is opened again, in seconds.
_MIN_DELAY_S = 0.05
_MAX_DELAY_S = 2.0


class ServerLink(ABC, Generic[_Connection]):
    """A connection that a task keeps open; create it while the event loop runs.

    A subclass implements how to open, read and close a connection and how to send a
    probe. Its `read` passes each probe that arrives to `on_probe`.

    Args:
        kind: Kind of the server, for the names of tasks.
        label: Kind and address of the server, for log messages.
        probe_s: Seconds between two probes.
        timeout_s: Seconds within which a probe must arrive.

    Attributes:
        up: Whether announcements arrive.
        reason: Why announcements do not arrive.
    """

    #: The errors that a connection or a call can raise.
    errors: ClassVar[tuple[type[Exception], ...]]

    def __init__(
        self, kind: str, label: str, *, probe_s: float, timeout_s: float
    ) -> None:
        self.up = False
        self.reason = 'not connected yet'
        self._kind = kind
        self._label = label
        self._probe_s = probe_s
        self._timeout_s = timeout_s
        self._probes = itertools.count(1)
        self._probe_seen = 0
        self._probe_arrived = asyncio.Event()
        self._losses = BurstLog()
        self._closed = False
        self._task = start_task(self._keep_connected(), f'{kind} link')

    async def close(self) -> None:
        """Close the connection; `on_down` is not called."""
        self._closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- implemented by a subclass ----------------------------------------------------

    @abstractmethod
    async def open_connection(self) -> _Connection:
        """Return a new connection.

        Raises:
            Exception: One of `errors`. The link tries again later.
        """

    async def begin(self, connection: _Connection) -> None:
        """Prepare a connection while it is already read; by default, send a probe."""
        await self.probe()

    @abstractmethod
    async def read(self, connection: _Connection) -> None:
        """Read a connection until it ends.

        Raises:
            Exception: One of `errors`, when the connection has ended.
        """

    @abstractmethod
    async def send_probe(self, number: int) -> None:
        """Send a probe with a number, on another connection."""

    @abstractmethod
    async def close_connection(self, connection: _Connection) -> None:
        """Close a connection at once, in any state; raise nothing."""

    @abstractmethod
    async def on_up(self) -> None:
        """Called when announcements arrive; an error closes the connection again."""

    @abstractmethod
    def on_down(self) -> None:
        """Called when announcements no longer arrive, except after `close`."""

    # --- called by a subclass ---------------------------------------------------------

    async def probe(self) -> None:
        """Send a probe and wait until it has arrived.

        Raises:
            BrokerUnavailableError: The probe did not arrive in time.
        """
        number = next(self._probes)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.send_probe(number)
                while self._probe_seen < number:
                    self._probe_arrived.clear()
                    await self._probe_arrived.wait()
        except TimeoutError:
            raise BrokerUnavailableError(
                f'a probe did not arrive within {self._timeout_s} s'
            ) from None

    def on_probe(self, number: int) -> None:
        """Called when a probe has arrived through the server."""
        self._probe_seen = number
        self._probe_arrived.set()

    # --- internals --------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        delay_s = _MIN_DELAY_S
        while True:
            try:
                connection = await self.open_connection()
            except self.errors as ex:
                self.reason = describe(ex)
                _logger.debug('no link to %s: %s', self._label, self.reason)
            except Exception as ex:
                self._note_defect(ex)
            else:
                try:
                    if await self._listen(connection):
                        delay_s = _MIN_DELAY_S
                finally:
                    await self.close_connection(connection)
            # NOTE: a random delay, so that not all processes connect at the same
            #   moment.
            await asyncio.sleep(delay_s * (0.5 + random.random()))
            delay_s = min(delay_s * 2, _MAX_DELAY_S)

    async def _listen(self, connection: _Connection) -> bool:
        """Read a connection until it ends; return whether it was up before."""
        reading = asyncio.create_task(
            self.read(connection), name=f'falcon_channels {self._kind} reader'
        )
        tasks = [reading]
        try:
            await self._first_of(reading, self.begin(connection), tasks)
            await self.on_up()
            self.up = True
            await self._first_of(reading, self._probe_regularly(), tasks)
        except self.errors as ex:
            self.reason = describe(ex)
        except Exception as ex:
            self._note_defect(ex)
        except asyncio.CancelledError:
            # NOTE: the event loop ends, as in a script that does not close the broker.
            self._closed = True
            raise
        finally:
            was_up, self.up = self.up, False
            if was_up and not self._closed:
                self._losses.warning(
                    'the link to %s is lost: %s', self._label, self.reason
                )
                self.on_down()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return was_up

    def _note_defect(self, error: Exception) -> None:
        """Log an error that is not one of `errors`.

        NOTE: the link then opens another connection, as after any other error. If its
          task ended, this process would never receive an announcement again.
        """
        self.reason = describe(error)
        _logger.error(
            'an unexpected error ended the connection to %s',
            self._label,
            exc_info=error,
        )

    async def _first_of(
        self,
        reading: asyncio.Task[None],
        other: Coroutine[Any, Any, None],
        tasks: list[asyncio.Task[None]],
    ) -> None:
        """Wait until the reader or another task has ended; raise its error."""
        task = asyncio.create_task(other, name=f'falcon_channels {self._kind} probe')
        tasks.append(task)
        await asyncio.wait([task, reading], return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            await reading
        await task

    async def _probe_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._probe_s)
            await self.probe()


def describe(error: BaseException) -> str:
    """Return the message of an error, or its class if it has none."""
    return str(error) or type(error).__name__
