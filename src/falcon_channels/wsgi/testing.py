"""A simulator of WebSockets for tests of an app, without a port.

Falcon's own test client cannot simulate a connection that leaves HTTP. This simulator
runs the app under the standard library's WSGI server, at one end of a socket pair. The
client of `websockets` connects to the other end.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import inspect
import socket
import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

import falcon
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from falcon_channels.checks import check_duration
from falcon_channels.checks import shown
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import OptionsError
from falcon_channels.wsgi.app import App

__all__ = ['simulate_ws']

_Wsgi = Callable[..., Any]

_CLIENT_ARGUMENTS = frozenset(inspect.signature(connect).parameters) - {'kwargs'}


class _Server:
    """The attributes that wsgiref's request handler reads of its server."""

    def __init__(self, app: _Wsgi) -> None:
        self._app = app
        self.base_environ = {
            'SERVER_NAME': 'localhost',
            'SERVER_PORT': '80',
            'GATEWAY_INTERFACE': 'CGI/1.1',
            'CONTENT_LENGTH': '',
            'SCRIPT_NAME': '',
        }

    def get_app(self) -> _Wsgi:
        return self._app


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def serve_connection(app: _Wsgi, sock: socket.socket) -> None:
    """Serve the request that comes over `sock`; return when it is done.

    `simulate_ws` runs this function in its thread. Tests that write their own bytes can
    call it directly.

    Args:
        app: The WSGI app.
        sock: The server's end of a connection; it is closed at the end.
    """
    with sock:
        _Handler(sock, ('127.0.0.1', 0), _Server(app))  # type: ignore[arg-type]  # see _Server


#: Arguments of Falcon's test client, and what replaces them.
_FALCON_ARGUMENTS = {
    'query_string': 'write the query into the path, such as "/rooms/7?user=ann"',
    'params': 'write the query into the path, such as "/rooms/7?user=ann"',
    'headers': 'write additional_headers=...',
    'cookies': 'write additional_headers={"Cookie": "session=..."}',
}


def _check_app(app: object) -> None:
    if isinstance(app, falcon.App) and not isinstance(app, App):
        raise OptionsError(
            'simulate_ws needs a falcon_channels.wsgi.App, not '
            f'{type(app).__module__}.{type(app).__qualname__}: test an ASGI app with '
            'testing.ASGIConductor of Falcon'
        )


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse arguments that the client does not have.

    NOTE: `connect` passes unknown arguments on to the function that opens a socket.
    With a socket of our own, it would ignore them.
    """
    for name in options:
        if name not in _CLIENT_ARGUMENTS:
            hint = _FALCON_ARGUMENTS.get(name, 'see websockets.sync.client.connect')
            raise TypeError(f'simulate_ws has no argument {name!r}: {hint}')


@contextlib.contextmanager
def simulate_ws(
    app: _Wsgi, path: str = '/', *, end_timeout_s: float = 10.0, **options: Any
) -> Iterator[ClientConnection]:
    """Connect to a WebSocket of `app`; the responder runs in a thread.

    ::

        with simulate_ws(app, '/rooms/7') as ws:
            ws.send('hello')
            assert ws.recv(timeout=5) == 'hello'

    Args:
        app: The WSGI app.
        path: The path, with a query if there is one.
        end_timeout_s: Maximum time in seconds that the responder may take to end after
            the block.
        options: Arguments of `websockets.sync.client.connect`, such as
            ``additional_headers``, ``origin`` and ``subprotocols``.

    Yields:
        The client's end.

    Raises:
        websockets.exceptions.InvalidStatus: The handshake was refused; its ``response``
            is the HTTP response.
        TimeoutError: The responder did not end.
        TypeError: `connect` has no such argument.
        OptionsError: The app cannot have WebSockets.
        InvalidValueError: The path does not begin with a slash, or `end_timeout_s` is
            not a number of seconds.
    """
    _check_app(app)
    _check_options(options)
    if not isinstance(path, str) or not path.startswith('/'):
        raise InvalidValueError(f'path is {shown(path)}, but must begin with a slash')
    check_duration('end_timeout_s', end_timeout_s, zero=True)
    ours, theirs = socket.socketpair()
    responder = threading.Thread(
        target=serve_connection, args=(app, theirs), daemon=True
    )
    responder.start()
    try:
        with connect(
            f'ws://localhost{path}', sock=ours, compression=None, **options
        ) as client:
            yield client
    finally:
        ours.close()
        responder.join(end_timeout_s)
        if responder.is_alive():
            raise TimeoutError(f'the responder did not end in {end_timeout_s} s')
