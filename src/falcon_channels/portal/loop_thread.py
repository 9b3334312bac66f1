"""An event loop in a real thread, and calls into it from threads and greenlets.

gevent can patch the standard library. A `threading.Thread` is then a greenlet of the
calling thread, and an event loop in it would block all other greenlets. The loop's
thread is therefore started with the original, unpatched function.

With gevent, locks and events belong to the greenlets of one thread. They must be set in
that thread. `_GreenletWaker` does this for the loop's thread.

The loop itself waits with gevent's selector, because gevent has replaced `selectors`.
Some code in the loop starts a thread, such as name resolution or the writer of a
broker. It gets a greenlet of the loop's thread instead. uvloop would never run such a
greenlet. The loop is therefore an `asyncio.SelectorEventLoop`.
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

#: How long the thread may take to start or to stop, in seconds.
_START_STOP_TIMEOUT_S = 10.0


class _CallerThread(Protocol):
    """Runs short callbacks in the thread of the callers, to set their events."""

    def wake(self, callback: Callable[[], object]) -> None:
        """Run a callback soon; call this in the loop's thread."""

    def close(self) -> None:
        """Stop after the callbacks of earlier calls; call this in the loop's thread."""


class _PlainThreads:
    """Runs callbacks directly: an event of a real thread can be set by any thread."""

    def wake(self, callback: Callable[[], object]) -> None:
        callback()

    def close(self) -> None:
        """Release nothing. This class has no thread of its own."""


class _GreenletWaker:
    """A greenlet of the callers' thread that runs callbacks of the loop's thread.

    A byte in a socket pair wakes it. Nothing else reliably wakes gevent's hub from
    another thread.
    """

    def __init__(self) -> None:
        self._callbacks: deque[Callable[[], object]] = deque()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._writer_fd = self._writer.fileno()
        self._closed = False
        # NOTE: `threading` is patched here. This starts a greenlet.
        threading.Thread(
            target=self._run, name='falcon_channels waker', daemon=True
        ).start()

    def wake(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)
        self._ring()

    def close(self) -> None:
        self._closed = True
        self._ring()

    def _ring(self) -> None:
        # NOTE: if the buffer is full, unread bytes wake the greenlet anyway. `os.write`
        #   is used because `send` of the socket belongs to the other thread's hub.
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer_fd, b'!')

    def _run(self) -> None:
        with self._reader, self._writer:
            while not self._closed:
                self._reader.recv(4096)
                self._run_callbacks()
            # NOTE: the last ones may have come together with the end.
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        while self._callbacks:
            self._callbacks.popleft()()


def _threads_are_greenlets() -> bool:
    """Return whether `threading` starts greenlets instead of threads.

    Raises:
        RuntimeError: A loop thread cannot work here. The message says what to do.
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
    """An event loop in its own thread, which the first call starts.

    Raises:
        RuntimeError: From `start` and `call`: the loop was started before the process
            forked. Or eventlet has patched the standard library. Or the caller is a
            greenlet, but gevent has not patched the standard library.
        ClosedError: From `start` and `call`: `stop` was called.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waker: _CallerThread | None = None
        self._pid = 0
        self._ended = threading.Event()
        self._stopped = False
        #: What each call in progress waits for.
        self._waiting: set[threading.Event] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop; ``None`` before the first call."""
        return self._loop

    @property
    def running(self) -> bool:
        """Whether the loop was started in this process and has not been stopped."""
        return self._loop is not None and self._pid == os.getpid() and not self._stopped

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def start(self) -> asyncio.AbstractEventLoop:
        """Start the thread if it has not started; return its event loop."""
        loop = self._loop
        if loop is None:
            with self._lock:
                loop = self._loop or self._start()
        if self._pid != os.getpid():
            raise RuntimeError(
                'the portal was used before the server forked: call it in requests, '
                'not while the application is imported'
            )
        if self._stopped:
            raise ClosedError('the portal is closed')
        return loop

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._stopped:
            raise ClosedError('the portal is closed')
        cooperative = _threads_are_greenlets()
        self._pid = os.getpid()
        waker: _CallerThread = _GreenletWaker() if cooperative else _PlainThreads()
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
                # NOTE: a call that came while the loop ended may never have begun.
                for done in list(self._waiting):
                    waker.wake(done.set)
                waker.wake(self._ended.set)
                # NOTE: not in `stop`, which waits for a limited time. This thread would
                #   write to a closed descriptor, which can be a new connection.
                waker.close()

        _start_real_thread(run, cooperative)
        if not ready.wait(_START_STOP_TIMEOUT_S):
            raise RuntimeError(
                'the thread of the portal did not start within '
                f'{_START_STOP_TIMEOUT_S} s'
            )
        self._waker = waker
        self._loop = loops[0]
        return loops[0]

    def stop(self) -> None:
        """Cancel all tasks and stop the loop; wait for at most 10 s. Idempotent."""
        with self._lock:
            already, self._stopped = self._stopped, True
        loop = self._loop
        if already or loop is None or self._pid != os.getpid():
            return
        loop.call_soon_threadsafe(loop.stop)
        self._ended.wait(_START_STOP_TIMEOUT_S)

    def wake(self, callback: Callable[[], object]) -> None:
        """Run a callback in the thread of the callers; call this in the loop's thread.

        The callback sets events that callers wait for.
        """
        assert self._waker is not None
        self._waker.wake(callback)

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback in the loop's thread soon; do nothing after the loop ended."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(callback, *args)
            except RuntimeError:
                # NOTE: the loop is closed and its tasks have ended. The callback has
                #   nothing to do.
                return

    def call(
        self, function: Callable[..., Awaitable[T]], *args: Any, timeout_s: float | None
    ) -> T:
        """Await a coroutine function in the loop and return its result.

        Args:
            function: The coroutine function.
            args: Its positional arguments.
            timeout_s: How long to wait for the result in seconds; ``None`` means no
                limit.

        Raises:
            TimeoutError: The function took longer, and was cancelled.
            ClosedError: The loop was stopped before or during the call.
            RuntimeError: The caller is in the loop's thread. Await the function
                instead. See the class for other reasons.
        """
        loop = self.start()
        if asyncio._get_running_loop() is loop:
            raise RuntimeError(
                'a call from the thread of the portal would block it: await instead'
            )
        done = threading.Event()
        self._waiting.add(done)
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
            try:
                loop.call_soon_threadsafe(begin)
            except RuntimeError:
                raise ClosedError('the portal is closed') from None
            in_time = done.wait(timeout_s)
        except BaseException:
            # NOTE: a greenlet can be killed while it waits. Its task must end, too.
            self.post(cancel)
            raise
        finally:
            self._waiting.discard(done)
        if not in_time:
            self.post(cancel)
            raise TimeoutError(f'the call did not finish within {timeout_s} s')
        try:
            if tasks and tasks[0].done():
                return tasks[0].result()
        except asyncio.CancelledError:
            pass  # when the loop ended
        raise ClosedError('the portal was closed during the call') from None


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the remaining tasks, so that every waiting caller gets an error."""
    while tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
