"""What all WebSocket connections of one uvicorn server share, and how they end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from collections.abc import Callable
import logging
import math
import random
import sys
from typing import Any
from typing import TYPE_CHECKING

from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.server import ServerState
from websockets.extensions.base import ServerExtensionFactory

from falcon_channels.server.compression import deflate_factory
from falcon_channels.server.keepalive import KeepAliveWheel
from falcon_channels.server.options import ServerOptions
from falcon_channels.transports.asgi_extensions import DRAIN_HOOKS

if TYPE_CHECKING:
    from falcon_channels.server.connection import Connection
    from falcon_channels.server.protocol import WebSocketProtocol

#: NOTE: A logger of our own, and no finer than warnings: at DEBUG the sans-I/O core
#: would log headers and payloads, and these hold secrets.
core_logger = logging.getLogger('falcon_channels.server.websockets')
core_logger.setLevel(logging.WARNING)

_logger = logging.getLogger('uvicorn.error')

#: Where a server's context is kept, in uvicorn's object for what connections share.
_KEY = 'falcon_channels_context'


class ServerContext:
    """Configuration, keep-alive wheel, counters and the drain of one server.

    uvicorn constructs a protocol object for each connection from its own three
    objects; `of` finds the context that belongs to them.
    """

    __slots__ = (
        '_proxies',
        '_unflushed',
        'access_logger',
        'app',
        'app_state',
        'config',
        'drain_task',
        'extensions',
        'frame_limit',
        'keepalive',
        'logger',
        'loop',
        'max_size',
        'options',
        'peers',
        'ping_interval_s',
        'ping_timeout_s',
        'scope_asgi',
        'scope_server',
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
                _nothing, trusted_hosts=config.forwarded_allow_ips
            )
        self._unflushed: list[Connection] = []
        #: Parts of all scopes, shared to save memory.
        self.scope_asgi = {'version': config.asgi_version, 'spec_version': '2.4'}
        self.scope_server: tuple[str, int | None] | None = None
        self.app_state = app_state
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.logger = _logger
        self.access_logger = logging.getLogger('uvicorn.access')
        self.max_size = config.ws_max_size or None
        self.frame_limit = self.max_size or sys.maxsize
        self.extensions: list[ServerExtensionFactory] | None = (
            [deflate_factory()] if options.deflate else None
        )
        self.peers: Counter[str] = Counter()
        self.drain_task: asyncio.Task[None] | None = None
        self.ping_interval_s = config.ws_ping_interval or None
        self.ping_timeout_s = config.ws_ping_timeout or None
        self.keepalive: KeepAliveWheel | None = None
        if self.ping_interval_s:
            timeout_s = self.ping_timeout_s or self.ping_interval_s
            self.keepalive = KeepAliveWheel(
                self.loop,
                min(self.ping_interval_s, timeout_s),
                max(self.ping_interval_s, timeout_s),
            )

    @classmethod
    def of(
        cls,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
        options: ServerOptions,
    ) -> ServerContext:
        """Return the one context of a server, made when first asked for."""
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
        cls.of(config, state, app_state, options).begin_drain()

    def flush_soon(self, connection: Connection) -> None:
        """Call `connection.flush` at the end of this turn of the event loop."""
        unflushed = self._unflushed
        if not unflushed:
            self.loop.call_soon(self._flush)
        unflushed.append(connection)

    def _flush(self) -> None:
        connections, self._unflushed = self._unflushed, []
        for connection in connections:
            connection.flush()

    async def trust_proxies(self, scope: dict[str, Any]) -> None:
        """Let uvicorn's middleware put the client's address into a scope."""
        if self._proxies is not None:
            await self._proxies(scope, None, None)  # type: ignore[arg-type]  # passed on only

    def begin_drain(self) -> None:
        """Run the drain hooks, then close the connections in batches; once."""
        if self.drain_task is None:
            self.drain_task = self.loop.create_task(
                self._drain(), name='falcon-channels drain'
            )

    async def _drain(self) -> None:
        timeout_s = self.options.drain_timeout_s
        graceful_s = self.config.timeout_graceful_shutdown
        if graceful_s is not None:
            # NOTE: uvicorn cancels what is left after this time; half of it is for
            # the closing handshakes.
            timeout_s = min(timeout_s, graceful_s / 2)
        ends = self.loop.time() + timeout_s
        hooks: list[Callable[[], Awaitable[object]]]
        hooks = list(self.app_state.get(DRAIN_HOOKS, ()))
        for hook in hooks:
            left_s = max(ends - self.loop.time(), 0.1)
            try:
                await asyncio.wait_for(hook(), left_s)
            except TimeoutError:
                self.logger.error('drain hook %r took over %.1f s', hook, left_s)
            except Exception:
                self.logger.exception('drain hook %r failed', hook)
        await self._close_in_batches(max(ends - self.loop.time(), 0.0))

    async def _close_in_batches(self, timeout_s: float) -> None:
        waiting = self._connections()
        random.shuffle(waiting)
        pause_s = self.options.drain_interval_s
        batches = max(int(timeout_s / pause_s), 1) if pause_s else 1
        size = max(self.options.drain_batch, math.ceil(len(waiting) / batches))
        while waiting:
            for connection in waiting[-size:]:
                try:
                    connection.go_away()
                except Exception:
                    self.logger.exception('WebSocket shutdown failed')
            del waiting[-size:]
            if waiting:
                # Jitter, so that workers that stop together do not close in step.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))

    def _connections(self) -> list[WebSocketProtocol]:
        return [
            connection  # type: ignore[misc]  # uvicorn types its own classes only
            for connection in self.state.connections
            if hasattr(connection, 'go_away')
        ]


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stand for the application where only the scope is wanted."""
