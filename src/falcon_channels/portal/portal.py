"""`Portal`: the interface of channels for synchronous applications."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterable
from collections.abc import Mapping
from concurrent.futures import CancelledError
from concurrent.futures import Future
from concurrent.futures import wait
import contextlib
import inspect
import math
import signal
import time
from types import FrameType
from typing import Any
from typing import Self
from typing import TypeVar

import falcon

from falcon_channels.brokers.base import PublishResult
from falcon_channels.channels import Channels
from falcon_channels.checks import check_seconds
from falcon_channels.errors import ClosedError
from falcon_channels.errors import EventLoopError
from falcon_channels.errors import OptionsError
from falcon_channels.explain.verdicts import Explanation
from falcon_channels.options import EventStreamOptions
from falcon_channels.options import StreamWriterOptions
from falcon_channels.portal.events import serve_events
from falcon_channels.portal.loop_thread import LoopThread
from falcon_channels.portal.stream import BlockingStream
from falcon_channels.portal.websocket import serve_websocket
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import PresenceStats
from falcon_channels.publication import Snapshot
from falcon_channels.wsgi.websocket import WebSocket

T = TypeVar('T')

#: Seconds between two checks if the event loop of the app has ended during a call.
_CHECK_INTERVAL_S = 0.5
_LOOP_ENDED = 'the event loop of the channels has ended'


class Portal:
    """Channels for code without ``await``: resources of a WSGI app, threads, greenlets.

    ::

        channels = Channels('sqlite:///chat.db')
        channels.add_route('rooms:{room}', None, ChannelOptions(history_size=100))
        portal = Portal(channels)


        class Room:
            def on_post(self, req, resp, room):
                portal.publish(f'rooms:{room}', req.get_media())

            def on_websocket(self, req, ws, room):
                portal.serve(req, ws, f'rooms:{room}')

    The channels run in one background thread of the process. The first call starts the
    thread, which must happen after the server has forked its workers. Each worker has
    its own thread. A broker that processes can share connects the workers. Responders
    of the channels' resources are ``async def``. They run in that thread and must not
    block.

    In scripts and jobs, ``with Portal(channels) as portal:`` closes the channels at the
    end of the block. A block ``with portal:`` also opens a portal that was closed, so
    each test can have fresh channels.

    An ASGI app of this process may have started the channels. Calls from other threads
    then run in the event loop of that app, and the portal starts no thread. `serve` and
    `serve_events` then raise `RuntimeError`.

    Threads can call a portal. So can greenlets, if gevent has patched the standard
    library. A portal does not work under eventlet.

    Args:
        channels: The channels. No other portal may use them.
        timeout_s: How long a call waits, in seconds, before it raises `TimeoutError`.

    Raises:
        OptionsError: `channels` is not a `Channels` object, or `timeout_s` is not a
            number of seconds above 0.
    """

    def __init__(self, channels: Channels, *, timeout_s: float = 10.0) -> None:
        if not isinstance(channels, Channels):
            raise OptionsError(
                'a portal needs a Channels object, not '
                f'{type(channels).__name__}: write Portal(Channels(...))'
            )
        self.channels = channels
        self._timeout_s: float = check_seconds('timeout_s', timeout_s)
        self._thread = LoopThread()
        self._closing: asyncio.Future[None] | None = None
        atexit.register(self.close)

    def call(
        self,
        function: Callable[..., Awaitable[T]],
        *args: Any,
        **options: Any,
    ) -> T:
        """Await a method of `channels`, or any coroutine function, in the event loop.

        ::

            portal.call(portal.channels.refresh_user, 'ann', expired=True)

        Args:
            function: The coroutine function.
            args: Its positional arguments.
            options: Its keyword arguments.

        Raises:
            TimeoutError: The function took longer than `timeout_s`, and was cancelled.
            ClosedError: The portal is closed, or the event loop of the app has ended.
            RuntimeError: The caller is in the thread of the event loop. It must await
                the function instead. Or the portal was used, or the app has started the
                channels, before the process forked.
        """

        async def run() -> T:
            return await function(*args, **options)

        return self._call(run, self._timeout_s)

    def _call(
        self, function: Callable[[], Coroutine[Any, Any, T]], timeout_s: float | None
    ) -> T:
        return self._call_into(self.channels.loop, function, timeout_s)

    def _call_into(
        self,
        loop: asyncio.AbstractEventLoop | None,
        function: Callable[[], Coroutine[Any, Any, T]],
        timeout_s: float | None,
    ) -> T:
        """Await a coroutine in an event loop; ``None`` means that of the thread."""
        if loop is None or loop is self._thread.loop:
            return self._thread.call(function, timeout_s=timeout_s)
        return self._call_in(loop, function(), timeout_s)

    def _call_in(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T],
        timeout_s: float | None,
    ) -> T:
        """Await a coroutine in the event loop of the app that started the channels."""
        if self.channels.node.forked:
            coroutine.close()
            raise RuntimeError(
                'the channels were started before the process forked: create Channels '
                'and Portal again in the child process'
            )
        if asyncio._get_running_loop() is loop:
            coroutine.close()
            raise RuntimeError(
                'a call from the event loop of the channels would block it: '
                'await instead'
            )
        if not loop.is_running():
            coroutine.close()
            if loop is not self.channels.loop:
                # NOTE: the app has closed the channels, and a stream goes on.
                raise ClosedError(_LOOP_ENDED)
            raise EventLoopError
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:
            # NOTE: it was closed after the check.
            coroutine.close()
            raise ClosedError(_LOOP_ENDED) from None
        try:
            done = _wait(future, loop, timeout_s)
        except BaseException:
            if not loop.is_closed():
                future.cancel()
            elif inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                # NOTE: the loop has ended. It never begins the call.
                coroutine.close()
            raise
        if not done and future.cancel():
            raise TimeoutError(f'the call did not finish within {timeout_s} s')
        try:
            return future.result()
        except CancelledError:
            raise ClosedError(_LOOP_ENDED) from None

    def _thread_to_serve(self) -> LoopThread:
        """Return the thread of this portal, if it may run the channels.

        Raises:
            RuntimeError: An ASGI app has started the channels. The thread could not use
                them, and must not start: later calls would run in it.
        """
        if self.channels.loop not in (None, self._thread.loop):
            raise RuntimeError(
                'an ASGI app of this process has started the channels, and a portal '
                'cannot serve their clients: serve them in the ASGI app'
            )
        return self._thread

    # --- the methods of Channels -----------------------------------------------------

    def publish(self, channel: str, data: Any, **options: Any) -> PublishResult:
        """Publish; see `Channels.publish`.

        Raises:
            TimeoutError: The publication may or may not be stored. Publish it again
                with the same idempotency key.
        """
        return self.call(self.channels.publish, channel, data, **options)

    def finish(self, channel: str, data: Any = None, **options: Any) -> PublishResult:
        """End a channel; see `Channels.finish`.

        Raises:
            TimeoutError: The channel may have ended or not. Finish it again with the
                same idempotency key.
        """
        return self.call(self.channels.finish, channel, data, **options)

    def stream(
        self, channel: str, options: StreamWriterOptions | None = None
    ) -> BlockingStream:
        """Write a stream to a channel; see `BlockingStream` and `Channels.stream`.

        While the broker is slow or not available, calls of the stream can take longer
        than the timeout of the portal. They take at most
        `StreamWriterOptions.retry_timeout_s`.
        """

        # NOTE: the first call that succeeds opens the writer, which then belongs to the
        #   loop of this call. An app that stops closes its channels, and they then have
        #   no loop.
        loop: asyncio.AbstractEventLoop | None = None

        def call(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
            async def run() -> Any:
                nonlocal loop
                result = await function(*args)
                loop = asyncio.get_running_loop()
                return result

            return self._call_into(loop or self.channels.loop, run, None)

        return BlockingStream(self.channels.stream(channel, options), call)

    def abort_stream(self, channel: str) -> bool:
        """Stop a stream and its writer; see `Channels.abort_stream`."""
        return self.call(self.channels.abort_stream, channel)

    def broadcast(
        self, channels: Iterable[str], data: Any, **options: Any
    ) -> list[PublishResult]:
        """Publish to several channels; see `Channels.broadcast`."""
        return self.call(self.channels.broadcast, channels, data, **options)

    def history(self, channel: str, **options: Any) -> HistoryPage:
        """Return publications of a channel; see `Channels.history`."""
        return self.call(self.channels.history, channel, **options)

    def position(self, channel: str) -> Position:
        """Return the current position of a channel; see `Channels.position`."""
        return self.call(self.channels.position, channel)

    def snapshot(self, channel: str, load: Callable[[], Any]) -> Snapshot:
        """Load a state, with a position to follow it from; see `Channels.snapshot`.

        Args:
            channel: Name of the channel that carries the changes.
            load: Function that returns the state. It runs in the calling thread.
        """
        reader = self.channels.node.reader
        position = self.call(reader.position_to_follow, channel)
        return Snapshot(load(), position)

    def remove_history(self, channel: str) -> None:
        """Remove all publications of a channel; see `Channels.remove_history`."""
        self.call(self.channels.remove_history, channel)

    def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        """Return the clients in a channel; see `Channels.presence`."""
        return self.call(self.channels.presence, channel)

    def presence_stats(self, channel: str) -> PresenceStats:
        """Count the clients and users in a channel; see `Channels.presence_stats`."""
        return self.call(self.channels.presence_stats, channel)

    def subscribe_user(self, user: str, channel: str, **options: Any) -> None:
        """Subscribe a user's connections; see `Channels.subscribe_user`."""
        self.call(self.channels.subscribe_user, user, channel, **options)

    def unsubscribe_user(self, user: str, channel: str, **options: Any) -> None:
        """End a user's subscriptions; see `Channels.unsubscribe_user`."""
        self.call(self.channels.unsubscribe_user, user, channel, **options)

    def refresh_user(self, user: str, **options: Any) -> None:
        """Change the expiry of a user's connections; see `Channels.refresh_user`."""
        self.call(self.channels.refresh_user, user, **options)

    def disconnect_user(self, user: str, **options: Any) -> None:
        """Close a user's connections; see `Channels.disconnect_user`."""
        self.call(self.channels.disconnect_user, user, **options)

    def revoke_user(self, user: str, channel: str, **options: Any) -> None:
        """Revoke a user's right to subscribe; see `Channels.revoke_user`."""
        self.call(self.channels.revoke_user, user, channel, **options)

    def restore_user(self, user: str, channel: str) -> None:
        """End a revocation; see `Channels.restore_user`."""
        self.call(self.channels.restore_user, user, channel)

    def explain(
        self, channel: str, offset: int, *, user: str, **options: Any
    ) -> list[Explanation]:
        """Explain what happened to a publication; see `Channels.explain`."""
        return self.call(self.channels.explain, channel, offset, user=user, **options)

    def record_user(self, user: str, for_s: float = 600.0) -> int:
        """Record the deliveries to a user; see `Channels.record_user`."""
        return self.call(self.channels.record_user, user, for_s)

    # --- a WebSocket in a channel ----------------------------------------------------

    def serve(
        self,
        req: falcon.Request,
        ws: WebSocket,
        channel: str,
        *,
        user: str | None = '',
        info: Any = None,
        media: bool = False,
        since: Position | None = None,
    ) -> None:
        """Subscribe a blocking WebSocket to a channel; return when it has closed.

        Call this in ``on_websocket`` of a `falcon_channels.wsgi.App`, which has checked
        the origin of the page. The arguments are those of `Channels.serve`. The thread
        or greenlet of the responder reads. A second one writes until this call returns.

        Raises:
            falcon.HTTPError: The client was refused. Do not catch it, so that Falcon
                answers the client.
        """
        node = self.channels.node
        if req.env.get('wsgi.multiprocess'):
            node.cluster.warn_of_several_processes()
        serve_websocket(
            self._thread_to_serve(),
            node,
            req,
            ws,
            channel,
            timeout_s=self._timeout_s,
            user=user,
            info=info,
            media=media,
            since=since,
        )

    # --- channels in an HTTP response ------------------------------------------------

    def serve_events(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        channels: str | Iterable[str] | Mapping[str, str],
        *,
        user: str | None = '',
        info: Any = None,
        options: EventStreamOptions | None = None,
    ) -> None:
        """Answer a request with an event stream, or with a poll.

        Call this in ``on_get``, as the last step. The arguments are those of
        `Channels.serve_events`. The thread or greenlet of the request is in use until
        the stream or the poll ends.

        Raises:
            falcon.HTTPError: The client was refused. Do not catch it, so that Falcon
                answers the client.
        """
        node = self.channels.node
        if req.env.get('wsgi.multiprocess'):
            node.cluster.warn_of_several_processes()
        serve_events(
            self._thread_to_serve(),
            node,
            req,
            resp,
            channels,
            timeout_s=self._timeout_s,
            user=user,
            info=info,
            options=options,
        )

    # --- start and end ---------------------------------------------------------------

    def __enter__(self) -> Self:
        """Open the portal, even after `close`. The end of the block closes it.

        Raises:
            ClosedError: The portal was closed, and its broker was given as an object.
                Such a broker starts only once.
        """
        if self._thread.stopped:
            self.channels.node.reopen()
            self._thread = LoopThread()
            atexit.register(self.close)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close_on(self, *numbers: int) -> None:
        """Close all connections when the process receives one of these signals.

        The server's own handler of the signal runs afterwards. Call this in the main
        thread of each worker, after the server has installed its handlers. For
        gunicorn, this is in the configuration file::

            def post_worker_init(worker):
                portal.close_on(signal.SIGTERM)

        Otherwise a server that waits for open requests also waits for the WebSockets.
        It aborts them when its grace period is over.

        Args:
            numbers: Numbers of the signals.
        """
        for number in numbers:
            before = signal.getsignal(number)

            def handle(
                number: int, frame: FrameType | None, before: Any = before
            ) -> None:
                # NOTE: the signal may have interrupted gevent's hub. Nothing in this
                #   function may therefore wait.
                self._thread.post(self._start_closing)
                if callable(before):
                    before(number, frame)

            signal.signal(number, handle)

    def _start_closing(self) -> None:
        self._closing = asyncio.ensure_future(self.channels.close())

    def close(self) -> None:
        """Close all connections and the channels; idempotent.

        Also called when the process exits. Clients reconnect to another worker. A block
        ``with portal:`` opens the portal again.
        """
        atexit.unregister(self.close)
        if self._thread.running and self.channels.loop in (None, self._thread.loop):
            options = self.channels.options
            # NOTE: after a timeout, `stop` cancels the tasks that did not end.
            with contextlib.suppress(TimeoutError):
                self._thread.call(
                    self.channels.close,
                    timeout_s=options.drain_timeout_s + self._timeout_s,
                )
        self._thread.stop()


def _wait(
    future: Future[Any], loop: asyncio.AbstractEventLoop, timeout_s: float | None
) -> bool:
    """Wait until a call into the event loop of an app is done; return whether it is.

    NOTE: a call that comes while the loop ends may never begin. Nothing reports the end
      of a loop of other code, so it is checked regularly.

    Raises:
        ClosedError: The loop is closed, and the call is not done.
    """
    deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while True:
        rest_s = max(0.0, deadline_s - time.monotonic())
        is_closed = loop.is_closed()
        # NOTE: `wait` raises no error of its own. A TimeoutError that is raised here
        #   comes from a signal handler of the application.
        if wait([future], min(rest_s, _CHECK_INTERVAL_S)).done:
            return True
        if is_closed:
            raise ClosedError(_LOOP_ENDED)
        if rest_s <= _CHECK_INTERVAL_S:
            return False
