"""The ASGI servers of the test suite, and their known differences.

A test that starts an ASGI application uses the fixture `asgi_server`, a line of
`SERVERS`. With ``--asgi-server NAME`` only these tests run, on that server. Without it
they run on our own server, and those marked ``every_server`` run on all four. Each
difference is a field here: tests assert it, and docs/server.md has it for users.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The WebSocket class of `falcon-channels serve`.
OURS = 'falcon_channels.server.protocol:WebSocketProtocol'


@dataclass(frozen=True, kw_only=True)
class AsgiServer:
    """An ASGI server and its differences.

    Attributes:
        name: Name for ``--asgi-server``.
        words: The command without the application; ``{port}`` is the port.
        ws: uvicorn's WebSocket class, if the server is uvicorn or ours.
        keeps_status: Whether a client gets the status of an HTTPError that is raised
            before the accept. ASGI has only ``websocket.close`` for it, and other
            servers answer every code with 403.
        forks: Whether a child process serves even with one worker.
        replaces_workers: Whether it replaces a worker that has died; otherwise all
            workers end.
        calls_factories: Whether a factory is given as ``module:factory()``, and not
            with ``--factory``.
        stop_codes: Close codes at SIGTERM of a client of the client protocol, of a
            plain WebSocket, and of an application's own WebSocket; None for no close
            frame.
        stop_status: Exit code of one process after SIGTERM.
        drains: Whether it runs the drain hooks before it closes connections, so that
            presence does not end for clients that reconnect.
        stop_is_quiet: Whether it logs no traceback for connections that it ends.
        impatience: Options with timeouts of seconds for clients that are silent or
            gone.
        ends_streams: Options with which it does not wait at SIGTERM until the clients
            of its event streams have left.
        finds_silent: Whether these options end a WebSocket whose client answers no
            ping and sends nothing else.
        hears_all: Whether the application gets all messages that a client sent before
            it left, even if the application sends to that client meanwhile.
        reports_too_big: Whether the application hears that the server has closed a
            WebSocket because of a message over the server's own limit.
    """

    name: str
    words: tuple[str, ...]
    ws: str = ''
    keeps_status: bool = False
    forks: bool = False
    replaces_workers: bool = True
    calls_factories: bool = False
    stop_codes: tuple[int | None, ...] = (1012, 1012, 1012)
    stop_status: int = 0
    drains: bool = False
    stop_is_quiet: bool = True
    impatience: tuple[str, ...] = ('--ws-ping-interval', '1', '--ws-ping-timeout', '1')
    ends_streams: tuple[str, ...] = ()
    finds_silent: bool = True
    hears_all: bool = True
    reports_too_big: bool = True

    def __str__(self) -> str:
        return self.name

    def command(self, app: str, *more: str) -> list[str]:
        """Return the command that serves ``module:attribute``."""
        return [*self.words, *more, app]

    def factory_command(self, factory: str, *more: str) -> list[str]:
        """Return the command that serves the app of ``module:factory``."""
        if self.calls_factories:
            return self.command(f'{factory}()', *more)
        return self.command(factory, *more, '--factory')

    def refusal(self, status: int) -> int:
        """Return the status that a client gets for a refusal with `status`."""
        return status if self.keeps_status else 403


SERVE = AsgiServer(
    name='serve',
    words=('python', '-m', 'falcon_channels', 'serve', '--port', '{port}'),
    ws=OURS,
    keeps_status=True,
    stop_codes=(3001, 1012, 1012),
    drains=True,
)
UVICORN = AsgiServer(
    name='uvicorn',
    words=('python', '-m', 'uvicorn', '--port', '{port}'),
    ws='websockets-sansio',
    ends_streams=('--timeout-graceful-shutdown', '2'),
    # It ends itself with the signal that stopped it.
    stop_status=-15,
    # A send to a client that has left raises, and then Falcon receives nothing.
    hears_all=False,
)
HYPERCORN = AsgiServer(
    name='hypercorn',
    words=('python', '-m', 'hypercorn', '--bind', '127.0.0.1:{port}'),
    forks=True,
    calls_factories=True,
    replaces_workers=False,
    # It cancels the remaining connections after three seconds.
    stop_codes=(1011, 1012, 1011),
    stop_is_quiet=False,
    reports_too_big=False,
    # It does not wait for pongs, but a pong counts as a sign of life.
    impatience=('--websocket-ping-interval', '1', '--read-timeout', '3'),
)
GRANIAN = AsgiServer(
    name='granian',
    words=('python', '-m', 'granian', '--interface', 'asgi', '--port', '{port}'),
    forks=True,
    replaces_workers=False,
    # It ends connections without a close frame.
    stop_codes=(None, None, None),
    reports_too_big=False,
    # It has neither pings nor timeouts.
    impatience=(),
    ends_streams=('--workers-kill-timeout', '2'),
    finds_silent=False,
)

#: The four servers of the whole suite.
SERVERS = {server.name: server for server in (SERVE, UVICORN, HYPERCORN, GRANIAN)}
