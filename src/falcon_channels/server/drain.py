"""Drain: close the connections of a stopping server in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
import random
from typing import Any
from typing import Protocol

from uvicorn.config import Config
from uvicorn.server import ServerState

from falcon_channels.parts import in_batches
from falcon_channels.server.loggers import server_logger
from falcon_channels.server.options import ServerOptions
from falcon_channels.transports.asgi_extensions import DRAIN_HOOKS


class Drainable(Protocol):
    """A connection that can be closed because the server stops."""

    def go_away(self) -> None:
        """Close with 1012, or answer 503 before the accept."""


class Responder(Protocol):
    """A call of the application whose client has left."""

    @property
    def path(self) -> str:
        """Path of the request."""

    def cancel(self) -> None:
        """Cancel the task of the call."""


class Drain:
    """Runs the drain hooks, and then closes the connections of one server.

    Args:
        config: Configuration of uvicorn.
        state: Connections of uvicorn's server.
        app_state: State of the lifespan, with the hooks of the application.
        options: Size of a batch, pause between batches, and timeout.
    """

    __slots__ = ('_app_state', '_config', '_left', '_options', '_state', '_task')

    def __init__(
        self,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
        options: ServerOptions,
    ) -> None:
        self._config = config
        self._state = state
        self._app_state = app_state
        self._options = options
        self._task: asyncio.Task[None] | None = None
        #: Calls of the application whose clients have left.
        self._left: set[Responder] = set()

    @property
    def begun(self) -> bool:
        """Whether the server stops, and serves no new connection."""
        return self._task is not None

    def begin(self) -> None:
        """Run the drain hooks, then close the connections in batches; once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name='falcon-channels drain'
            )

    def on_client_left(self, responder: Responder) -> None:
        """Called when a client has left while the application serves it."""
        self._left.add(responder)

    def on_responder_done(self, responder: Responder) -> None:
        """Called when the application has returned or raised."""
        self._left.discard(responder)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        timeout_s = self._options.drain_timeout_s
        graceful_s = self._config.timeout_graceful_shutdown
        if graceful_s is not None:
            # NOTE: uvicorn cancels everything after this time. Half of it is reserved
            #   for the closing handshakes.
            timeout_s = min(timeout_s, graceful_s / 2)
        deadline_s = loop.time() + timeout_s
        hooks: list[Callable[[], Awaitable[object]]]
        hooks = list(self._app_state.get(DRAIN_HOOKS, ()))
        for hook in hooks:
            left_s = max(deadline_s - loop.time(), 0.1)
            try:
                await asyncio.wait_for(hook(), left_s)
            except TimeoutError:
                server_logger.error('drain hook %r took over %.1f s', hook, left_s)
            except Exception:
                server_logger.exception('drain hook %r failed', hook)
        await self._close_in_batches(max(deadline_s - loop.time(), 0.0))
        # NOTE: a responder that does not wait for its client does not notice that the
        #   client has left. uvicorn would wait for it.
        loop.call_later(self._options.responder_timeout_s, self._cancel_responders)

    def _cancel_responders(self) -> None:
        for responder in list(self._left):
            server_logger.warning(
                'the responder of %.80r is cancelled: it still ran %.1f s after the '
                'server had closed the connections. Let it also wait for its client',
                responder.path,
                self._options.responder_timeout_s,
            )
            responder.cancel()

    async def _close_in_batches(self, timeout_s: float) -> None:
        connections = self._connections()
        random.shuffle(connections)
        async for batch in in_batches(
            connections,
            self._options.drain_batch,
            interval_s=self._options.drain_interval_s,
            timeout_s=timeout_s,
        ):
            for connection in batch:
                try:
                    connection.go_away()
                except Exception:
                    server_logger.exception('WebSocket shutdown failed')

    def _connections(self) -> list[Drainable]:
        return [
            connection
            for connection in self._state.connections
            if hasattr(connection, 'go_away')
        ]
