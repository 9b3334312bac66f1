"""State that all WebSocket connections of one uvicorn server share, and the drain."""

from __future__ import annotations

import asyncio
from collections import Counter
import contextlib
import math
import sys
from typing import Any
from typing import Protocol

import falcon.asgi
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.server import ServerState
from websockets.extensions.base import ServerExtensionFactory

from falcon_channels.server.compression import deflate_factory
from falcon_channels.server.drain import Drain
from falcon_channels.server.options import ServerOptions
from falcon_channels.timer_wheel import TimerWheel

#: Attribute of uvicorn's `ServerState` where the context of a server is stored.
_KEY = 'falcon_channels_context'

#: Part of the names of all headers that uvicorn's middleware reads.
_FORWARDED = b'forwarded'

#: Number of ticks of the keep-alive wheel in the shorter of the two ping times.
_TICKS_PER_PING_TIME = 16
_SHORTEST_TICK_S = 0.01


class Flushable(Protocol):
    """An object with output that is written at the end of an event-loop iteration."""

    def flush(self) -> None:
        """Write the gathered output."""


class ServerContext:
    """Configuration, keep-alive wheel, counters and the drain of one server.

    uvicorn constructs a protocol object for each connection from its own three
    objects; `of` finds the context that belongs to them.
    """

    __slots__ = (
        '_default_headers',
        '_joined_headers',
        '_peers',
        '_proxies',
        '_scope_server',
        '_unflushed',
        'answers_directly',
        'app',
        'app_state',
        'config',
        'drain',
        'extensions',
        'frame_limit',
        'http_app',
        'keepalive',
        'loop',
        'max_size',
        'options',
        'ping_interval_s',
        'ping_timeout_s',
        'scope_asgi',
        'sends_unchanged',
        'state',
    )

    def __init__(
        self,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
        options: ServerOptions,
    ) -> None:
        self.config = config
        self.state = state
        self.app = config.loaded_app
        self._proxies: ProxyHeadersMiddleware | None = None
        if isinstance(self.app, ProxyHeadersMiddleware):
            self.app = self.app.app
            self._proxies = ProxyHeadersMiddleware(
                _no_application, trusted_hosts=config.forwarded_allow_ips
            )
        #: One object for all connections.
        self.http_app = self._serve_http
        #: Whether no ASGI middleware can see or change the events of the application.
        call = getattr(type(self.app), '__call__', None)  # noqa: B004 - compared, not tested
        self.sends_unchanged = call is falcon.asgi.App.__call__
        #: Whether a request may be answered without uvicorn's checks and Falcon.
        self.answers_directly = (
            self.sends_unchanged
            and not config.root_path
            and config.limit_concurrency is None
        )
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        self._joined_headers = b''
        self._unflushed: list[Flushable] = []
        #: Value of ``scope['asgi']``, one object for all scopes to save memory.
        self.scope_asgi = {'version': config.asgi_version, 'spec_version': '2.4'}
        self._scope_server: tuple[str, int | None] | None = None
        self.app_state = app_state
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.max_size = config.ws_max_size or None
        self.frame_limit = self.max_size or sys.maxsize
        self.extensions: list[ServerExtensionFactory] | None = (
            [deflate_factory()] if options.deflate else None
        )
        self._peers: Counter[str] = Counter()
        self.drain = Drain(config, state, app_state, options)
        self.ping_interval_s = config.ws_ping_interval or None
        self.ping_timeout_s = config.ws_ping_timeout or None
        shortest_s = min(
            self.ping_interval_s or math.inf, self.ping_timeout_s or math.inf
        )
        self.keepalive: TimerWheel | None = None
        if self.ping_interval_s:
            self.keepalive = TimerWheel(
                max(shortest_s / _TICKS_PER_PING_TIME, _SHORTEST_TICK_S)
            )

    @classmethod
    def of(
        cls,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
        options: ServerOptions,
    ) -> ServerContext:
        """Return the one context of a server; the first call creates it."""
        context: ServerContext | None = vars(state).get(_KEY)
        if context is None:
            context = vars(state)[_KEY] = cls(config, state, app_state, options)
        return context

    @classmethod
    def begin_drain_of(
        cls, config: Config, state: ServerState, app_state: dict[str, Any]
    ) -> None:
        """Begin the drain of a server that may have had no WebSocket yet."""
        options = getattr(config, 'server_options', None) or ServerOptions()
        cls.of(config, state, app_state, options).drain.begin()

    @staticmethod
    def drains(state: ServerState) -> bool:
        """Return whether the drain of a server has begun."""
        context: ServerContext | None = vars(state).get(_KEY)
        return context is not None and context.drain.begun

    def flush_soon(self, output: Flushable) -> None:
        """Call `output.flush` at the end of this event-loop iteration."""
        unflushed = self._unflushed
        if not unflushed:
            self.loop.call_soon(self._flush)
        unflushed.append(output)

    def _flush(self) -> None:
        outputs, self._unflushed = self._unflushed, []
        for output in outputs:
            output.flush()

    def default_headers(self) -> bytes:
        """Return the lines of the headers that each response has."""
        headers = self.state.default_headers
        # NOTE: uvicorn makes a new list each second, with the time.
        if headers is not self._default_headers:
            self._default_headers = headers
            self._joined_headers = b''.join(
                b'%b: %b\r\n' % (name.lower(), value) for name, value in headers
            )
        return self._joined_headers

    def shared_address(
        self, server: tuple[str, int | None] | None
    ) -> tuple[str, int | None] | None:
        """Return an address equal to `server`; nearly all scopes share one object."""
        if server != self._scope_server:
            self._scope_server = server
        return self._scope_server

    def count_peer(self, address: str) -> bool:
        """Count a connection of a client address.

        Returns:
            False if the address has `max_connections_per_peer` connections already.
            If it is true, call `uncount_peer` when the connection has ended.
        """
        limit = self.options.max_connections_per_peer
        if limit is not None and self._peers[address] >= limit:
            return False
        self._peers[address] += 1
        return True

    def uncount_peer(self, address: str) -> None:
        """Subtract a connection of a client address."""
        self._peers[address] -= 1
        if not self._peers[address]:
            del self._peers[address]

    def trust_proxies(self, scope: Any) -> None:
        """Replace the client's address in a scope as uvicorn's middleware does."""
        # PERF: most requests have no header of a proxy (benchmarks/centrifugo.py).
        if self._proxies is not None and _FORWARDED in b''.join(
            [name for name, _ in scope['headers']]
        ):
            run = self._proxies(scope, None, None)  # type: ignore[arg-type]  # passed on only
            # NOTE: the application of the middleware does nothing. The coroutine
            #   therefore ends at its first step.
            with contextlib.suppress(StopIteration):
                run.send(None)

    def _serve_http(self, scope: Any, receive: Any, send: Any) -> Any:
        """Return the coroutine of the application for a request.

        PERF: uvicorn's middleware would await the coroutine, with a frame of 570 bytes
        for each request (benchmarks/idle_memory.py).
        """
        self.trust_proxies(scope)
        return self.app(scope, receive, send)


async def _no_application(scope: Any, receive: Any, send: Any) -> None:
    """Serve as the application of a middleware that only changes the scope."""
