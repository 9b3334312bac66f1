"""Timed operations of one process: work with a start, an end and an outcome.

The code that does the work reports an operation, and observers measure it. Metrics and
tracing are observers::

    if operations.wanted:
        with operations.time(Operation('publish', channel=channel)):
            return await work()
    return await work()

PERF: without an observer, an operation only costs the check of `Operations.wanted`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
from contextvars import Context
from functools import partial
import logging
from time import perf_counter
from types import TracebackType
from typing import Any
from typing import Final
from typing import Literal
from typing import Protocol
from typing import TypeVar

import falcon
import msgspec

from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelsError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import TokenError

_logger = logging.getLogger('falcon_channels')

_T = TypeVar('_T')

#: Meaning of each operation, by name.
OPERATIONS: Final[dict[str, str]] = {
    'handshake': 'A request for a connection is checked, until the connection is added '
    'or refused',
    'responder': 'A responder of the application runs',
    'publish': 'A publication is given to the broker, until it is stored',
    'broker': 'A method of the broker runs',
    'deliver': 'The publications of one event-loop iteration are written to the '
    'subscribers of a channel',
    'recovery': 'A client that asked for missed publications joins a channel',
}

#: Errors of this package that a responder may raise for its client: the client tries
#: again, or its token was refused.
_KEPT: Final = (BrokerUnavailableError, ClosedError, TokenError)

#: State of an observer whose `begin` has failed.
_FAILED: Final = object()

#: How an operation has ended.
Outcome = Literal['ok', 'refused', 'failed', 'cancelled']


class Operation(msgspec.Struct):
    """One operation. Its code sets the attributes; observers read them when it ends.

    Attributes:
        name: A name of `OPERATIONS`.
        detail: Name of the responder, method of the broker, or class of the connection.
        channel: Name of the channel, or ``''``.
        route: Template of the route of the channel, or ``''``.
        outcome: How it has ended.
        error: The exception that ended it, or ``None``.
        duration_s: Seconds from the start to the end.
        num_publications: Number of publications.
        num_deliveries: Number of publications multiplied by number of subscribers.
        num_bytes: Bytes of the payload of a publication, bytes written to subscribers,
            or approximate bytes of a recovery.
        times_ms: Unix times in milliseconds when the broker stored the publications.
        traces: Trace contexts of the publications, as `Publication.trace`.
        trace: Trace context for other processes. An observer sets it for ``publish``.
    """

    name: str
    detail: str = ''
    channel: str = ''
    route: str = ''
    outcome: Outcome = 'ok'
    error: BaseException | None = None
    duration_s: float = 0.0
    num_publications: int = 0
    num_deliveries: int = 0
    num_bytes: int = 0
    times_ms: Sequence[int] = ()
    traces: Sequence[str] = ()
    trace: str = ''


class Observer(Protocol):
    """Measures operations. It must not block."""

    def begin(self, operation: Operation) -> Any:
        """Called when an operation begins, in its context.

        Returns:
            A value that is passed to `end`.
        """

    def end(self, operation: Operation, state: Any) -> None:
        """Called when the operation has ended, in the same context.

        Args:
            operation: The operation, with its outcome.
            state: Result of `begin`.
        """


class Timing:
    """Reports the start and the end of an operation to observers. A context manager."""

    __slots__ = ('_observers', '_started_s', '_states', 'operation')

    def __init__(self, observers: Sequence[Observer], operation: Operation) -> None:
        self.operation = operation
        self._observers = observers

    def begin(self) -> Timing:
        """Begin the operation. The caller must always call `end` later."""
        operation = self.operation
        self._states: list[Any] = []
        states = self._states
        for observer in self._observers:
            try:
                states.append(observer.begin(operation))
            except Exception:
                _logger.exception('observer %r failed', observer)
                states.append(_FAILED)
        self._started_s = perf_counter()
        return self

    def end(self, error: BaseException | None = None) -> None:
        """End the operation.

        Args:
            error: The exception that ended it, or ``None``.
        """
        operation = self.operation
        operation.duration_s = perf_counter() - self._started_s
        if error is not None:
            operation.error = error
            operation.outcome = _outcome(error)
        # NOTE: observers may have changed context variables in `begin`. They are
        #   therefore ended in the reverse order.
        states = self._states
        for observer in reversed(self._observers):
            state = states.pop()
            if state is _FAILED:
                continue
            try:
                observer.end(operation, state)
            except Exception:
                _logger.exception('observer %r failed', observer)

    def __enter__(self) -> Operation:
        self.begin()
        return self.operation

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(value)


class Operations:
    """Reports the operations of one process to observers.

    Attributes:
        wanted: Whether there is an observer.
    """

    __slots__ = ('_observers', '_on_wanted', 'wanted')

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()
        self._on_wanted: Callable[[bool], None] | None = None
        self.wanted = False

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Add an observer. It gets all operations that begin after this call.

        Returns:
            A function that removes the observer. It may be called more than once.
        """
        self._set([*self._observers, observer])

        def stop() -> None:
            self._set([other for other in self._observers if other is not observer])

        return stop

    def _set(self, observers: list[Observer]) -> None:
        self._observers = tuple(observers)
        self.wanted = bool(observers)
        if self._on_wanted is not None:
            self._on_wanted(self.wanted)

    def on_wanted(self, function: Callable[[bool], None]) -> None:
        """Set a function that is called now and after each change of the observers.

        Args:
            function: Called with `wanted`. It replaces the previous function.
        """
        self._on_wanted = function
        function(self.wanted)

    def time(self, operation: Operation) -> Timing:
        """Return the timing of an operation, without beginning it."""
        return Timing(self._observers, operation)

    def begin(self, operation: Operation) -> Timing:
        """Begin an operation. The caller must always call `Timing.end` later."""
        return self.time(operation).begin()

    def begin_in(
        self, context: Context, operation: Operation
    ) -> Callable[[BaseException | None], None]:
        """Begin an operation that ends in a callback of the event loop.

        Args:
            context: Context in which observers are called. No other code may run in it.
            operation: The operation.

        Returns:
            A function that ends the operation. The caller must always call it, with
            the error or ``None``.
        """
        timing = context.run(self.begin, operation)
        return partial(context.run, timing.end)

    def responder(
        self, name: str, call: Awaitable[_T], *, channel: str = '', route: str = ''
    ) -> Awaitable[_T]:
        """Return an awaitable that runs a responder of the application.

        All code that calls a responder awaits the result of this function. It raises
        what the responder raises. Only an error of this package that says nothing about
        the client becomes a `RuntimeError`, so that no client is told about it.

        Args:
            name: Name of the responder.
            call: Awaitable of the responder, which is not awaited yet.
            channel: Name of the channel, or ``''``.
            route: Template of the route of the channel, or ``''``.
        """
        call = _without_mistakes(name, call)
        if not self.wanted:
            return call
        operation = Operation('responder', detail=name, channel=channel, route=route)
        return self._timed(operation, call)

    async def _timed(self, operation: Operation, call: Awaitable[_T]) -> _T:
        with self.time(operation):
            return await call


async def _without_mistakes(name: str, call: Awaitable[_T]) -> _T:
    """Run a responder; distinguish mistakes of the application from refusals.

    A mistake is, for example, a publish to a channel that has no route. The client must
    not get the code of this error, because it did not name the channel.

    Raises:
        RuntimeError: The responder raised an error of this package that is not in
            `_KEPT`. That error is the cause.
    """
    try:
        return await call
    except _KEPT:
        raise
    except ChannelsError as ex:
        raise RuntimeError(f'{name} raised {type(ex).__name__}: {ex}') from ex


def call_at_end(
    start: Callable[[], asyncio.Future[_T]], end: Callable[[BaseException | None], None]
) -> asyncio.Future[_T]:
    """Start work, and call a function when it has ended.

    Args:
        start: Starts the work, and returns the future of its result.
        end: Called with the error of the work, or ``None``; see `Operations.begin_in`.
    """
    try:
        future = start()
    except BaseException as ex:
        end(ex)
        raise
    future.add_done_callback(lambda future: end(_error_of(future)))
    return future


def _error_of(future: asyncio.Future[Any]) -> BaseException | None:
    return asyncio.CancelledError() if future.cancelled() else future.exception()


def _outcome(error: BaseException) -> Outcome:
    # NOTE: a client that leaves during its handshake is no fault of the server.
    if isinstance(error, asyncio.CancelledError | falcon.WebSocketDisconnected):
        return 'cancelled'
    if isinstance(error, falcon.HTTPError):
        return 'refused' if error.status_code < 500 else 'failed'
    if isinstance(error, BrokerUnavailableError | ClosedError):
        return 'failed'
    return 'refused' if isinstance(error, ChannelsError) else 'failed'
