"""A server that programs of other languages can cut off and restart over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
import os
import subprocess
import threading
from types import TracebackType
from typing import Self

from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.proxy import Proxy

APP = 'tests.conformance.js_app:app'


class ControlledServer:
    """A server process, a proxy in front of it, and a port for commands.

    A program sends ``POST /cut``, ``/mend`` or ``/restart`` to the port for commands.
    It gets the answer when the command is done. ``GET /sent_bytes`` returns the number
    of bytes that clients have received.

    Args:
        command: Command of the server.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.process = ServerProcess(command)
        self._proxy = Proxy(self.process.port)
        self._loop = asyncio.new_event_loop()
        self._control = ThreadingHTTPServer(('127.0.0.1', 0), self._handler())
        self._threads = [
            threading.Thread(target=self._loop.run_forever),
            threading.Thread(target=self._control.serve_forever),
        ]

    @property
    def env(self) -> dict[str, str]:
        """The addresses, as variables of the environment of a program.

        ADDRESS is host and port for the SDK, through the proxy. SERVER is the URL of
        the server without the proxy, and CONTROL the URL for commands.
        """
        return {
            'ADDRESS': f'127.0.0.1:{self._proxy.port}',
            'SERVER': self.process.url,
            'CONTROL': f'http://127.0.0.1:{self._control.server_port}',
        }

    def cut(self) -> None:
        """Reset all connections of the proxy, and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._proxy.cut(), self._loop).result(30)

    def mend(self) -> None:
        """Accept connections again."""
        asyncio.run_coroutine_threadsafe(self._proxy.mend(), self._loop).result(30)

    def restart(self) -> None:
        """Stop the server with SIGTERM, and start it again on the same port."""
        self.process.stop()
        self.process.start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self._proxy
        commands = {'/cut': self.cut, '/mend': self.mend, '/restart': self.restart}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                commands[self.path]()
                self.send_response(204)
                self.end_headers()

            def do_GET(self) -> None:
                assert '/sent_bytes' == self.path
                body = str(proxy.sent_bytes).encode()
                self.send_response(200)
                self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Log nothing."""

        return Handler

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        try:
            self.process.start()
            self.mend()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut()
        self._close()
        self.process.__exit__(kind, value, traceback)

    def _close(self) -> None:
        """Stop both threads."""
        self._control.shutdown()
        self._control.server_close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join()
        self._loop.close()


def run_program(
    asgi_server: AsgiServer, command: Sequence[str], env: Mapping[str, str]
) -> str:
    """Run a program against a server; fail if it fails, and return what it prints.

    Args:
        asgi_server: Server of the application for the SDKs.
        command: Command of the program.
        env: Additions to its environment.
    """
    with ControlledServer(asgi_server.command(APP)) as server:
        done = subprocess.run(
            command,
            env={**os.environ, **server.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        assert 0 == done.returncode, done.stdout
    return done.stdout
