"""Calls that wait for an outcome: bounded, each with a deadline.

The brokers with a store use one `PendingCalls` object each for what they have sent to
a thread or a server. It fulfils three promises of the contract for them: every call
ends (promise 8), a cancelled call affects no other call (promise 9), and `close` fails
all that is pending (promise 16).

The code that executes the calls ends each of them with `PendingCalls.resolve`,
`PendingCalls.reject` or `PendingCalls.discard`. Until then the call counts towards the
limits, even if its caller has stopped waiting, because it still takes memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from typing import Generic
from typing import TypeVar

from falcon_channels.errors import BrokerUnavailableError

_Request = TypeVar('_Request')

#: Limits of the calls that may be pending at the same time.
_MAX_CALLS = 20_000
_MAX_BYTES = 67_108_864


class PendingCall(Generic[_Request]):
    """A call that waits for its outcome.

    Attributes:
        request: The call, in a form that the executing thread or server understands.
        future: The future that the caller awaits. It is done early if the caller was
            cancelled or the deadline has passed.
        size_bytes: Approximate memory that the call takes.
    """

    __slots__ = ('future', 'request', 'size_bytes')

    def __init__(
        self, request: _Request, future: asyncio.Future[Any], size_bytes: int
    ) -> None:
        self.request = request
        self.future = future
        self.size_bytes = size_bytes


class PendingCalls(Generic[_Request]):
    """The pending calls of one event loop to one thread or server.

    Args:
        target: Name of the thread or server in error messages.
        timeout_s: Seconds until a call fails.
        on_overdue: Called when calls have passed their deadline, instead of failing
            these calls. It calls `fail_all`.
    """

    def __init__(
        self,
        target: str,
        timeout_s: float,
        on_overdue: Callable[[], None] | None = None,
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._on_overdue = on_overdue
        self._loop = asyncio.get_running_loop()
        #: Deadlines of the calls, in the order of the calls and so of the deadlines.
        self._deadlines: dict[PendingCall[_Request], float] = {}
        #: Calls that have failed at their deadline and still take memory.
        self._overdue: set[PendingCall[_Request]] = set()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        """Return the number of pending calls."""
        return len(self._deadlines) + len(self._overdue)

    def add(self, request: _Request, size_bytes: int) -> PendingCall[_Request]:
        """Register a call, whose deadline is `timeout_s` from now.

        Args:
            request: The call.
            size_bytes: Approximate memory that the call takes.

        Returns:
            The pending call. The caller awaits its `future`; the executing side ends it
            with `resolve`, `reject` or `discard`.

        Raises:
            BrokerUnavailableError: The broker is closed, or too many calls are pending.
                Nothing was registered.
        """
        if self._closed:
            raise BrokerUnavailableError(f'{self._target} is closed')
        count = len(self._deadlines) + len(self._overdue)
        if count >= _MAX_CALLS or self._bytes + size_bytes > _MAX_BYTES:
            raise BrokerUnavailableError(
                f'{count} calls with {self._bytes} bytes are pending for '
                f'{self._target}; the limits are {_MAX_CALLS} calls and {_MAX_BYTES} '
                'bytes: publish more slowly'
            )
        call = PendingCall(request, self._loop.create_future(), size_bytes)
        deadline_s = self._deadlines[call] = self._loop.time() + self._timeout_s
        self._bytes += size_bytes
        if self._timer is None:
            self._timer = self._loop.call_at(deadline_s, self._check_deadlines)
        return call

    def resolve(self, call: PendingCall[_Request], value: Any) -> None:
        """End a call with a result, unless its caller has stopped waiting."""
        self.discard(call)
        if not call.future.done():
            call.future.set_result(value)

    def reject(self, call: PendingCall[_Request], error: BaseException) -> None:
        """End a call with an error, unless its caller has stopped waiting."""
        self.discard(call)
        _fail(call, error)

    def discard(self, call: PendingCall[_Request]) -> None:
        """Remove a call that is not executed, because its future is done already."""
        if self._deadlines.pop(call, None) is None:
            if call not in self._overdue:
                return
            self._overdue.remove(call)
        self._bytes -= call.size_bytes

    def fail_all(self, reason: str) -> None:
        """Remove all calls; those whose callers still wait fail with `reason`."""
        calls = list(self._deadlines)
        self._deadlines.clear()
        self._overdue.clear()
        self._bytes = 0
        for call in calls:
            _fail(call, BrokerUnavailableError(reason))

    def close(self) -> None:
        """Fail all calls and accept no more; may be called twice."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.fail_all(f'{self._target} was closed before it answered')

    # --- deadlines --------------------------------------------------------------------

    def _check_deadlines(self) -> None:
        # NOTE: the oldest call has the earliest deadline. One timer is therefore enough
        #   for all calls.
        self._timer = None
        now_s = self._loop.time()
        overdue: list[PendingCall[_Request]] = []
        for call, deadline_s in self._deadlines.items():
            if deadline_s > now_s:
                self._timer = self._loop.call_at(deadline_s, self._check_deadlines)
                break
            overdue.append(call)
        if not overdue:
            return
        if self._on_overdue is not None:
            self._on_overdue()
            return
        for call in overdue:
            del self._deadlines[call]
            self._overdue.add(call)
            _fail(
                call,
                BrokerUnavailableError(
                    f'{self._target} did not answer within {self._timeout_s} s'
                ),
            )


def _fail(call: PendingCall[Any], error: BaseException) -> None:
    future = call.future
    if not future.done():
        future.set_exception(error)
        # NOTE: a caller may never await its future. Reading the exception keeps
        #   asyncio from logging it as never retrieved; callers that wait still get it.
        future.exception()
