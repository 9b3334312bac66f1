"""The ASGI servers that the suite runs on, and where they are known to differ.

A test that starts an ASGI application takes the fixture `asgi_server`, a line of
`SERVERS`. With ``--asgi-server NAME`` all of these tests, and no others, run on that
server; without it they run on our own, and those marked ``every_server`` on all four.
What differs is a field here: tests assert it, and docs/server.md says it to users.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The WebSocket class of `falcon-channels serve`.
OURS = 'falcon_channels.server.protocol:WebSocketProtocol'


@dataclass(frozen=True, kw_only=True)
class AsgiServer:
    """An ASGI server and what it does differently.

    Attributes:
        name: Of the server, for ``--asgi-server``.
        words: The command without the application; ``{port}`` is where it listens.
        ws: uvicorn's WebSocket class, where it is uvicorn or ours.
        keeps_status: Whether a client learns the status of an HTTPError that is raised
            before the accept. ASGI has only ``websocket.close`` for it, which other
            servers answer with 403, whatever its code.
        forks: Whether a child process serves even where one worker is asked for.
        replaces_workers: Whether it starts another worker for one that has died; the
            others end with it.
        calls_factories: Whether it is given ``module:factory()`` for a factory, rather
            than ``--factory``.
        stop_codes: What clients hear when it gets SIGTERM: one of the client protocol,
            one of the raw door, one of an application's own; None is no close frame.
        stop_status: The exit code of one process after that.
        drains: Whether it runs the drain hooks before it closes connections, so that
            presence is held for those who come back.
        stop_is_quiet: Whether it logs no traceback for connections that it ends.
        impatience: Options that let it give up within seconds on a client that is
            silent or gone.
        finds_silent: Whether it ends, with them, a WebSocket whose client answers no
            ping, and shows no other sign of life.
        hears_all: Whether the application gets everything that a client sent before it
            left, though it sends to that client meanwhile.
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
    finds_silent: bool = True
    hears_all: bool = True

    def __str__(self) -> str:
        return self.name

    def command(self, app: str, *more: str) -> list[str]:
        """Return the words that serve ``module:attribute``."""
        return [*self.words, *more, app]

    def factory_command(self, factory: str, *more: str) -> list[str]:
        """Return the words that serve what ``module:factory`` returns."""
        if self.calls_factories:
            return self.command(f'{factory}()', *more)
        return self.command(factory, *more, '--factory')

    def refusal(self, status: int) -> int:
        """Return what a client gets where a handshake is refused with `status`."""
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
    # It ends itself with the signal that it was stopped by.
    stop_status=-15,
    # A send to a client that has left raises, and Falcon receives nothing after it.
    hears_all=False,
)
HYPERCORN = AsgiServer(
    name='hypercorn',
    words=('python', '-m', 'hypercorn', '--bind', '127.0.0.1:{port}'),
    forks=True,
    calls_factories=True,
    replaces_workers=False,
    # It lets connections go on for three seconds, then cancels what is left.
    stop_codes=(1011, 1011, 1011),
    stop_is_quiet=False,
    # It does not wait for pongs; but who answers pings sends something.
    impatience=('--websocket-ping-interval', '1', '--read-timeout', '3'),
)
GRANIAN = AsgiServer(
    name='granian',
    words=('python', '-m', 'granian', '--interface', 'asgi', '--port', '{port}'),
    forks=True,
    replaces_workers=False,
    # It hangs up.
    stop_codes=(None, None, None),
    # It has neither pings nor a limit of time.
    impatience=(),
    finds_silent=False,
)

#: On these four the whole suite runs.
SERVERS = {server.name: server for server in (SERVE, UVICORN, HYPERCORN, GRANIAN)}
