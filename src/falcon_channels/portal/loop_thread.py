"""A real thread with an event loop, and calls into it from threads and greenlets.

Where gevent has patched the standard library, a `threading.Thread` is a greenlet of
the calling thread, and a loop in it would stand in the way of all others. So the thread
is then made by the original function. Locks and events are greenlets' own there, and
must be set from the thread to which they belong: `_Bell` carries that over.

In the thread itself the loop waits by gevent's selector, which is what `selectors` has
become, and whatever asks for a thread there (name resolution, a broker's writer) gets
a greenlet of that thread. uvloop would never let such a greenlet run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from collections.abc import Callable
import contextlib
import os
import socket
import sys
import threading
from typing import Any
from typing import ParamSpec
from typing import Protocol
from typing import TypeVar

from falcon_channels.errors import ClosedError

P = ParamSpec('P')
T = TypeVar('T')

#: How long the thread may take to start or to stop.
_LIFE_TIMEOUT_S = 10.0


class _Waker(Protocol):
    """Runs short callbacks where events of callers may be set."""

    def wake(self, callback: Callable[[], object]) -> None:
        """Run a callback soon; called in the loop's thread."""

    def close(self) -> None:
        """Stop."""


class _Direct:
    """Between real threads an event can be set from anywhere."""

    def wake(self, callback: Callable[[], object]) -> None:
        callback()

    def close(self) -> None:
        """There is nothing to stop."""


class _Bell:
    """A greenlet of the callers' thread that runs callbacks of the loop's thread.

    A byte through a socket pair wakes it: the one thing that is sure to wake gevent's
    hub from another thread.
    """

    def __init__(self) -> None:
        self._callbacks: deque[Callable[[], object]] = deque()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._writer_fd = self._writer.fileno()
        self._closed = False
        # NOTE: patched, so a greenlet.
        threading.Thread(
            target=self._run, name='falcon_channels bell', daemon=True
        ).start()

    def wake(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)
        self._ring()

    def close(self) -> None:
        self._closed = True
        self._ring()

    def _ring(self) -> None:
        # NOTE: a full pipe was rung so often that it is sure to be heard. Not `send` of
        #   the socket, which belongs to the other thread's hub.
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer_fd, b'!')

    def _run(self) -> None:
        with self._reader, self._writer:
            while not self._closed:
                self._reader.recv(4096)
                while self._callbacks:
                    self._callbacks.popleft()()


def _cooperative() -> bool:
    """Return whether `threading` makes greenlets.

    Raises:
        RuntimeError: In a way in which no loop thread can work.
    """
    eventlet = sys.modules.get('eventlet.patcher')
    if eventlet is not None and eventlet.is_monkey_patched('thread'):
        raise RuntimeError('the portal does not work under eventlet; use gevent')
    monkey = sys.modules.get('gevent.monkey')
    if monkey is not None and monkey.is_module_patched('threading'):
        return True
    gevent = sys.modules.get('gevent')
    if gevent is not None and isinstance(gevent.getcurrent(), gevent.Greenlet):
        raise RuntimeError(
            'a greenlet that waits for the portal would block all others: '
            'call gevent.monkey.patch_all() first'
        )
    return False


def _start_real_thread(function: Callable[[], None], cooperative: bool) -> None:
    if cooperative:
        monkey = sys.modules['gevent.monkey']
        monkey.get_original('_thread', 'start_new_thread')(function, ())
    else:
        threading.Thread(
            target=function, name='falcon_channels portal', daemon=True
        ).start()


class LoopThread:
    """An event loop in a thread of its own; started by the first call.

    Raises:
        RuntimeError: From any method: started before the process forked, under
            eventlet, or in a greenlet where nothing is patched.
        ClosedError: From any method, after `stop`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waker: _Waker | None = None
        self._pid = 0
        self._ended = threading.Event()
        self._stopped = False

    @property
    def started(self) -> bool:
        """Whether `start` was called, in this process or the one that forked it."""
        return self._loop is not None

    @property
    def running(self) -> bool:
        """Whether it was started, in this process, and not stopped."""
        return self._loop is not None and self._pid == os.getpid() and not self._stopped

    def start(self) -> asyncio.AbstractEventLoop:
        """Start, if that has not been done; return the loop."""
        loop = self._loop
        if loop is None:
            with self._lock:
                loop = self._loop or self._start()
        if self._pid != os.getpid():
            raise RuntimeError(
                'the portal was used before the server forked: use it in requests only'
            )
        if self._stopped:
            raise ClosedError('the portal is closed')
        return loop

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._stopped:
            raise ClosedError('the portal is closed')
        cooperative = _cooperative()
        self._pid = os.getpid()
        waker: _Waker = _Bell() if cooperative else _Direct()
        ready = threading.Event()
        loops: list[asyncio.AbstractEventLoop] = []

        def run() -> None:
            loop = (
                asyncio.SelectorEventLoop() if cooperative else asyncio.new_event_loop()
            )
            asyncio.set_event_loop(loop)
            loops.append(loop)
            loop.call_soon(waker.wake, ready.set)
            try:
                loop.run_forever()
                _finish(loop)
            finally:
                asyncio.set_event_loop(None)
                loop.close()
                waker.wake(self._ended.set)

        _start_real_thread(run, cooperative)
        if not ready.wait(_LIFE_TIMEOUT_S):
            raise RuntimeError('the thread of the portal did not start')
        self._waker = waker
        self._loop = loops[0]
        return loops[0]

    def stop(self) -> None:
        """End the loop and its tasks; idempotent and bounded in time."""
        with self._lock:
            already, self._stopped = self._stopped, True
        loop, waker = self._loop, self._waker
        if already or loop is None or waker is None or self._pid != os.getpid():
            return
        loop.call_soon_threadsafe(loop.stop)
        self._ended.wait(_LIFE_TIMEOUT_S)
        waker.close()

    def wake(self, callback: Callable[[], object]) -> None:
        """Run a callback where events of callers may be set; from the loop's thread."""
        assert self._waker is not None
        self._waker.wake(callback)

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback in the loop's thread, soon; does nothing after its end."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(callback, *args)
            except RuntimeError:
                # It is closed, and with it all that the callback was for.
                return

    def call(
        self, function: Callable[..., Awaitable[T]], *args: Any, timeout_s: float | None
    ) -> T:
        """Await a coroutine function in the loop, and return what it returns.

        Args:
            function: What to call there.
            args: For it.
            timeout_s: How long to wait for it, or ``None``.

        Raises:
            TimeoutError: It took longer, and was cancelled.
            ClosedError: The loop was stopped meanwhile.
            RuntimeError: This is the loop's thread: await the function there.
        """
        loop = self.start()
        if asyncio._get_running_loop() is loop:
            raise RuntimeError('this is the thread of the portal: await instead')
        done = threading.Event()
        tasks: list[asyncio.Task[T]] = []

        async def run() -> T:
            return await function(*args)

        def begin() -> None:
            task = loop.create_task(run(), name='falcon_channels portal call')
            tasks.append(task)
            task.add_done_callback(lambda _: self.wake(done.set))

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        try:
            loop.call_soon_threadsafe(begin)
        except RuntimeError:
            raise ClosedError('the portal is closed') from None
        try:
            in_time = done.wait(timeout_s)
        except BaseException:
            # NOTE: a greenlet may be killed while it waits.
            self.post(cancel)
            raise
        if not in_time:
            self.post(cancel)
            raise TimeoutError(f'not done within {timeout_s} s')
        try:
            return tasks[0].result()
        except asyncio.CancelledError:
            raise ClosedError('the portal was closed meanwhile') from None


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left, so that every caller gets an answer."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
