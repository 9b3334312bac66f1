"""Portal: what a synchronous application holds."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
import signal
from types import FrameType
from typing import Any
from typing import Self
from typing import TypeVar

import falcon

from falcon_channels.brokers.base import PublishResult
from falcon_channels.channels import Channels
from falcon_channels.errors import EventLoopError
from falcon_channels.portal.loop_thread import LoopThread
from falcon_channels.portal.websocket import serve_websocket
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import PresenceStats
from falcon_channels.wsgi.websocket import WebSocket

T = TypeVar('T')


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

    The hub lives in one background thread of the process, which the first call starts:
    after the server has forked its workers. Each worker has its own; a broker that
    processes can share connects them. Responders of the channels' resources are
    ``async def``, run in that thread, and must not block.

    In scripts and jobs ``with Portal(channels) as portal:`` closes at the end. Where
    an ASGI app of this process has started the channels, calls from other threads go to
    its event loop, and there is no thread of the portal's own.

    Works from threads, and from greenlets where gevent has patched the standard
    library; not under eventlet.

    Args:
        channels: Used by this portal only.
        timeout_s: How long a call waits before it raises `TimeoutError`.
    """

    def __init__(self, channels: Channels, *, timeout_s: float = 10.0) -> None:
        self.channels = channels
        self._timeout_s = timeout_s
        self._thread = LoopThread()
        self._closing: asyncio.Future[None] | None = None
        atexit.register(self.close)

    def call(
        self,
        function: Callable[..., Awaitable[T]],
        *args: Any,
        **options: Any,
    ) -> T:
        """Await a method of `channels`, or any coroutine function, in the hub's thread.

        ::

            portal.call(portal.channels.refresh_user, 'ann', expired=True)

        Raises:
            TimeoutError: It took longer than `timeout_s`, and was cancelled.
            ClosedError: After `close`.
            RuntimeError: Called in the thread of the event loop, where it has to be
                awaited, or the portal was used before the server forked.
        """

        async def run() -> T:
            return await function(*args, **options)

        loop = self.channels.loop
        if loop is not None and not self._thread.started:
            return self._call_in(loop, run())
        return self._thread.call(run, timeout_s=self._timeout_s)

    def _call_in(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]
    ) -> T:
        """Await a coroutine in the loop of the application that holds the channels."""
        if asyncio._get_running_loop() is loop:
            coroutine.close()
            raise RuntimeError('this is the event loop of the channels: await instead')
        if not loop.is_running():
            coroutine.close()
            raise EventLoopError
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result(self._timeout_s)
        except TimeoutError:
            if not future.cancel():
                raise
            raise TimeoutError(f'not done within {self._timeout_s} s') from None

    # --- the methods of Channels that applications use most --------------------------

    def publish(self, channel: str, data: Any, **options: Any) -> PublishResult:
        """Publish; see `Channels.publish`.

        Raises:
            TimeoutError: Stored or not; publish again with an idempotency key.
        """
        return self.call(self.channels.publish, channel, data, **options)

    def broadcast(
        self, channels: Iterable[str], data: Any, **options: Any
    ) -> list[PublishResult]:
        """Publish to several channels; see `Channels.broadcast`."""
        return self.call(self.channels.broadcast, channels, data, **options)

    def history(self, channel: str, **options: Any) -> HistoryPage:
        """Read what a channel keeps; see `Channels.history`."""
        return self.call(self.channels.history, channel, **options)

    def position(self, channel: str) -> Position:
        """Return where a channel stands now; see `Channels.position`."""
        return self.call(self.channels.position, channel)

    def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        """Return who is subscribed; see `Channels.presence`."""
        return self.call(self.channels.presence, channel)

    def presence_stats(self, channel: str) -> PresenceStats:
        """Return how many are subscribed; see `Channels.presence_stats`."""
        return self.call(self.channels.presence_stats, channel)

    def unsubscribe_user(self, user: str, channel: str, **options: Any) -> None:
        """End a user's subscriptions; see `Channels.unsubscribe_user`."""
        self.call(self.channels.unsubscribe_user, user, channel, **options)

    def disconnect_user(self, user: str, **options: Any) -> None:
        """Close a user's connections; see `Channels.disconnect_user`."""
        self.call(self.channels.disconnect_user, user, **options)

    def revoke_user(self, user: str, channel: str, **options: Any) -> None:
        """Take a user's right to subscribe; see `Channels.revoke_user`."""
        self.call(self.channels.revoke_user, user, channel, **options)

    def restore_user(self, user: str, channel: str) -> None:
        """Take a revocation back; see `Channels.restore_user`."""
        self.call(self.channels.restore_user, user, channel)

    # --- a WebSocket in a channel ----------------------------------------------------

    def serve(
        self,
        req: falcon.Request,
        ws: WebSocket,
        channel: str,
        *,
        user: str = '',
        info: Any = None,
        media: bool = False,
        since: Position | None = None,
    ) -> None:
        """Let a blocking WebSocket take part in a channel; return when it has ended.

        Call it from ``on_websocket`` of a `falcon_channels.wsgi.App`, which has checked
        the page's origin. The arguments are those of `Channels.serve`. The responder's
        thread or greenlet reads; a second one, for as long as this call lasts, writes.

        Raises:
            falcon.HTTPError: Refused; Falcon tells the client.
        """
        if req.env.get('wsgi.multiprocess'):
            self.channels.node.cluster.warn_of_several_processes()
        serve_websocket(
            self._thread,
            self.channels.node,
            req,
            ws,
            channel,
            timeout_s=self._timeout_s,
            user=user,
            info=info,
            media=media,
            since=since,
        )

    # --- life ------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close_on(self, *numbers: int) -> None:
        """Close all connections as soon as the process gets one of these signals.

        What the server does on the signal follows. Call it in each worker, in its main
        thread, after the server has set its own handlers; for gunicorn, in its
        configuration file::

            def post_worker_init(worker):
                portal.close_on(signal.SIGTERM)

        Without it a server that waits for its requests to end waits for the
        WebSockets, and cuts them when its grace period is over.
        """
        for number in numbers:
            before = signal.getsignal(number)

            def handle(
                number: int, frame: FrameType | None, before: Any = before
            ) -> None:
                # NOTE: nothing that could wait: it may have interrupted gevent's hub.
                self._thread.post(self._begin_to_close)
                if callable(before):
                    before(number, frame)

            signal.signal(number, handle)

    def _begin_to_close(self) -> None:
        self._closing = asyncio.ensure_future(self.channels.close())

    def close(self) -> None:
        """Close all connections and the hub; idempotent, done at exit at the latest.

        Clients come back to another worker.
        """
        atexit.unregister(self.close)
        if self._thread.running:
            options = self.channels.options
            # NOTE: stopping the thread ends whatever holds it up.
            with contextlib.suppress(TimeoutError):
                self._thread.call(
                    self.channels.close,
                    timeout_s=options.drain_timeout_s + self._timeout_s,
                )
        self._thread.stop()
