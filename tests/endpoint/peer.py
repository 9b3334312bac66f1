"""A client of the protocol that sends exactly the frames of a test."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
from typing import Any
from typing import Self

import falcon.asgi
from server.running import running
from server.running import RunningServer
from support.asgi_servers import AsgiServer
from support.asgi_servers import SERVE
from support.embedded import embedded
from support.embedded import EmbeddedServer
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels.tokens import TokenVerifier

Server = RunningServer | EmbeddedServer

TIMEOUT_S = 20.0


@contextlib.contextmanager
def serving(
    channels: Channels,
    resource: object = None,
    *,
    asgi_server: AsgiServer = SERVE,
    tokens: TokenVerifier | None = None,
    options: EndpointOptions | None = None,
) -> Iterator[Server]:
    """Serve the endpoints of `channels`, from start-up to the end of draining."""
    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app, resource=resource, tokens=tokens, options=options)
    with serving_app(app, asgi_server) as server:
        yield server


@contextlib.contextmanager
def serving_app(
    app: falcon.asgi.App[Any, Any], asgi_server: AsgiServer
) -> Iterator[Server]:
    """Serve an application that has channels as middleware."""
    with contextlib.ExitStack() as stack:
        if asgi_server.ws:
            yield stack.enter_context(running(app, ws=asgi_server.ws, lifespan='on'))
        else:
            yield stack.enter_context(embedded(app, asgi_server.name))


class Peer:
    """One WebSocket in JSON, frame by frame."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.id = 0
        #: Received messages that are not replies, in order.
        self.pushes: list[dict[str, Any]] = []
        #: Whether pings are answered automatically, and not returned by `hear`.
        self.answer_pings = False
        self._frame: list[dict[str, Any]] = []

    @classmethod
    @contextlib.contextmanager
    def to(
        cls, server: Server, path: str = '/connection/websocket', **options: Any
    ) -> Iterator[Self]:
        """Open a WebSocket, and close it on exit."""
        with connect(server.ws_url + path, **options) as ws:
            yield cls(ws)

    def say(self, *commands: dict[str, Any] | str) -> None:
        """Send one frame."""
        self.ws.send(
            '\n'.join(c if isinstance(c, str) else json.dumps(c) for c in commands)
        )

    def hear(self) -> dict[str, Any]:
        """Return the next object that the server sends."""
        while True:
            while not self._frame:
                text = self.ws.recv(TIMEOUT_S)
                self._frame = [json.loads(line) for line in str(text).split('\n')]
            message = self._frame.pop(0)
            if message or not self.answer_pings:
                return message
            self.say('{}')

    def ask(self, request: str, **fields: Any) -> dict[str, Any]:
        """Send a command and return its reply; messages before it are pushes."""
        self.id += 1
        self.say({'id': self.id, request: fields})
        return self.answer(self.id)

    def answer(self, command_id: int) -> dict[str, Any]:
        """Return the reply to a command."""
        while (reply := self.hear()).get('id') != command_id:
            self.pushes.append(reply)
        del reply['id']
        return reply

    def error(self, request: str, **fields: Any) -> int:
        """Send a command and return the code of its error reply."""
        code: int = self.ask(request, **fields)['error']['code']
        return code

    def connect(self, **fields: Any) -> dict[str, Any]:
        """Connect and return the connect result."""
        result: dict[str, Any] = self.ask('connect', **fields)['connect']
        return result

    def push(self) -> dict[str, Any]:
        """Return the next push."""
        message = self.pushes.pop(0) if self.pushes else self.hear()
        while not message:  # a ping
            self.say('{}')
            message = self.hear()
        push: dict[str, Any] = message['push']
        return push

    def end(self) -> tuple[int, str]:
        """Return the code and reason with which the server closes."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.pushes.append(self.hear())
        assert self.ws.close_code is not None
        return self.ws.close_code, self.ws.close_reason or ''
