"""Run Hypercorn or Granian in a thread of the test process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
import socket
import threading

from granian.constants import Interfaces
from granian.server.embed import Server
import hypercorn.asyncio
from hypercorn.config import Config

from support.processes import free_port
from support.processes import wait_until

App = Callable[..., Awaitable[None]]


class EmbeddedServer:
    """A server on a port of the loopback interface, in its own event loop."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stop: asyncio.Event | None = None

    @property
    def ws_url(self) -> str:
        return f'ws://127.0.0.1:{self.port}'

    def listens(self) -> bool:
        try:
            socket.create_connection(('127.0.0.1', self.port), 1).close()
        except OSError:
            return False
        return True


async def _run_hypercorn(
    app: App, embedded: EmbeddedServer, stop: asyncio.Event
) -> None:
    config = Config()
    config.bind = f'127.0.0.1:{embedded.port}'
    config.errorlog = logging.getLogger('hypercorn.error')
    # NOTE: clients of httpx use a connection again for 5 s. By default, the server
    #   closes it after the same time, also while a request is on its way.
    config.keep_alive_timeout = 60.0
    await hypercorn.asyncio.serve(
        app,  # type: ignore[arg-type]  # Hypercorn declares its own types
        config,
        shutdown_trigger=stop.wait,
    )


async def _run_granian(app: App, embedded: EmbeddedServer, stop: asyncio.Event) -> None:
    server = Server(
        app, port=embedded.port, interface=Interfaces.ASGI, log_enabled=False
    )
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        server.stop()
    await serving


_RUNNERS = {'hypercorn': _run_hypercorn, 'granian': _run_granian}


@contextlib.contextmanager
def embedded(app: App, name: str) -> Iterator[EmbeddedServer]:
    """Serve an ASGI application, including its startup and shutdown."""
    up = EmbeddedServer(free_port())
    failures: list[BaseException] = []

    async def main() -> None:
        up.loop, up.stop = asyncio.get_running_loop(), asyncio.Event()
        await _RUNNERS[name](app, up, up.stop)

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as ex:
            failures.append(ex)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        wait_until(lambda: failures or up.listens(), f'{name} listens')
        yield up
    finally:
        if up.loop is not None and up.stop is not None and thread.is_alive():
            up.loop.call_soon_threadsafe(up.stop.set)
        thread.join(30)
        assert not thread.is_alive(), f'{name} does not stop'
    assert [] == failures
