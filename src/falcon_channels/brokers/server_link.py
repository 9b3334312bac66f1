"""The link of a broker to its server: always there, or reported.

A `Link` keeps one connection that listens. It is opened again when it has ended, later
and later while that fails. A probe goes through the server and back every few seconds,
so that a frozen server, half of a connection, and a subscription that was detached are
noticed as well.
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
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')

_Connection = TypeVar('_Connection')

#: Seconds before a connection is opened again, at first and at most.
_FIRST_DELAY_S = 0.05
_LAST_DELAY_S = 2.0


class Link(ABC, Generic[_Connection]):
    """A connection that listens, kept by a task; call it with a running event loop.

    A subclass says how to open, read and shut a connection and how to send a probe. Its
    reader gives each probe that arrives to `probe_arrived`.

    Args:
        kind: What is at the other end, in the names of tasks.
        label: The same for people, with its address.
        probe_s: Seconds between two probes.
        timeout_s: How long a probe may take.

    Attributes:
        up: Whether it listens.
        reason: Why it does not.
    """

    #: What a connection or a call can fail with.
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
        self._closed = False
        self._task = start_task(self._keep(), f'{kind} link')

    async def close(self) -> None:
        """Listen no more."""
        self._closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- what a subclass says --------------------------------------------------------

    @abstractmethod
    async def open_connection(self) -> _Connection:
        """Return a new connection; raise one of `errors` where there is none."""

    async def begin(self, connection: _Connection) -> None:
        """Do what is to be done before it is up, while it is read already."""
        await self.probe()

    @abstractmethod
    async def read(self, connection: _Connection) -> None:
        """Read until it ends, and raise one of `errors` then."""

    @abstractmethod
    async def send_probe(self, number: int) -> None:
        """Send a probe with a number by another connection."""

    @abstractmethod
    async def shut(self, connection: _Connection) -> None:
        """Close a connection at once, whatever its state; raise nothing."""

    @abstractmethod
    async def on_up(self) -> None:
        """Do what is to be done when it listens; where that fails, it does not."""

    @abstractmethod
    def on_down(self) -> None:
        """Do what is to be done when it listens no more, but for `close`."""

    # --- what a subclass calls -------------------------------------------------------

    async def probe(self) -> None:
        """Send a probe, and return when it has arrived.

        Raises:
            BrokerUnavailableError: It has not, in time.
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
                f'a probe was not announced within {self._timeout_s} s'
            ) from None

    def probe_arrived(self, number: int) -> None:
        """Take a probe that came through the server."""
        self._probe_seen = number
        self._probe_arrived.set()

    # --- inside ----------------------------------------------------------------------

    async def _keep(self) -> None:
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                connection = await self.open_connection()
            except self.errors as ex:
                self.reason = describe(ex)
                _logger.debug('no link to %s: %s', self._label, self.reason)
            else:
                try:
                    if await self._listen(connection):
                        delay_s = _FIRST_DELAY_S
                finally:
                    await self.shut(connection)
            # NOTE: not all processes at the same moment.
            await asyncio.sleep(delay_s * (0.5 + random.random()))
            delay_s = min(delay_s * 2, _LAST_DELAY_S)

    async def _listen(self, connection: _Connection) -> bool:
        """Listen until the connection ends; return whether it was good at first."""
        reading = asyncio.create_task(
            self.read(connection), name=f'falcon_channels {self._kind} reader'
        )
        tasks = [reading]
        try:
            await self._first_of(reading, self.begin(connection), tasks)
            await self.on_up()
            self.up = True
            await self._first_of(reading, self._probe_on(), tasks)
        except self.errors as ex:
            self.reason = describe(ex)
        except asyncio.CancelledError:
            # NOTE: the event loop ends, as in a script that closes nothing.
            self._closed = True
            raise
        finally:
            was_up, self.up = self.up, False
            if was_up and not self._closed:
                _logger.warning('the link to %s is lost: %s', self._label, self.reason)
                self.on_down()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return was_up

    async def _first_of(
        self,
        reading: asyncio.Task[None],
        other: Coroutine[Any, Any, None],
        tasks: list[asyncio.Task[None]],
    ) -> None:
        """Wait until something ends; raise what it raised."""
        task = asyncio.create_task(other, name=f'falcon_channels {self._kind} probe')
        tasks.append(task)
        await asyncio.wait([task, reading], return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            await reading
        await task

    async def _probe_on(self) -> None:
        while True:
            await asyncio.sleep(self._probe_s)
            await self.probe()


def describe(error: BaseException) -> str:
    """Return an error in words."""
    return str(error) or type(error).__name__
