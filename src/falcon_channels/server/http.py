"""uvicorn's HTTP protocol with the limits that it lacks.

``uvicorn --http falcon_channels.server.http:BoundedHttpProtocol``; the server command
uses it by itself. Everything else about HTTP is uvicorn's.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
import sys
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from falcon_channels.server.context import ServerContext
from falcon_channels.server.handshake import read_usual
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.protocol import WebSocketProtocol
from falcon_channels.server.sockets import bound_unacknowledged
from falcon_channels.server.sockets import remote_address
from falcon_channels.transports.asgi_extensions import ABORT_EXTENSION

#: Longest request line and headers together.
MAX_HEAD_BYTES = 65536
#: Most header fields, as many as the WebSocket core takes.
MAX_HEADERS = 128
#: From the TCP accept, or the first byte of a later request, to the end of its headers.
HEAD_TIMEOUT_S = 10.0


class BoundedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 with a limit and a deadline for the head of each request.

    SECURITY: Without them one connection may send headers without end and fill the
    memory, and any number may send half a request and stay (slow loris), or read
    nothing of a response and stay (slow read).
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._options: ServerOptions = (
            getattr(config, 'server_options', None) or ServerOptions()
        )
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._idle = True
        self._begun = 0
        self._chunk = b''

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start the deadline of the first request."""
        super().connection_made(transport)
        if self.client is None:
            self.client = remote_address(transport)
        bound_unacknowledged(
            transport.get_extra_info('socket'), self._options.unacknowledged_timeout_s
        )
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadlines."""
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Begin the drain, for streams of events end only by it."""
        ServerContext.begin_drain_of(self.config, self.server_state, self.app_state)
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Parse; refuse a head that is too long."""
        if self.transport.is_closing():
            return
        idle = self._idle
        self._begun = 0
        self._chunk = data
        super().data_received(data)
        self._chunk = b''
        if not self._in_head or self.transport.get_protocol() is not self:
            return
        # NOTE: Counted raw, for httptools keeps an unfinished line to itself; but not
        # where the same bytes also hold the end of a request before this one.
        if self._begun == 0 or (self._begun == 1 and idle):
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head()

    def on_message_begin(self) -> None:
        """Start counting the head of a request."""
        super().on_message_begin()
        self._in_head = True
        self._idle = False
        self._begun += 1
        self._head_bytes = 0
        if self._head_timer is None:
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        """End the head: within its limits, or with 431 and no call of the app."""
        self._in_head = False
        self._head_bytes = 0
        self._stop_head_timer()
        size = len(self.url) + sum(
            len(name) + len(value) + 4 for name, value in self.headers
        )
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refuse_head()
            raise httptools.HttpParserError('request head too large')
        self.scope['extensions'] = {ABORT_EXTENSION: {'abort': self._cut}}
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the next byte begins a request."""
        super().on_message_complete()
        self._idle = True

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection to the WebSocket class, or refuse what that cannot see.

        uvicorn writes the request line anew and drops what follows the request: an
        HTTP/1.0 request and frames sent before the answer are known only here.
        """
        upgrade = sys.exc_info()[1]
        assert isinstance(upgrade, httptools.HttpParserUpgrade)
        if self.parser.get_http_version() != '1.1':
            self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, 'HTTP/1.1 is needed.')
        elif len(self._chunk) > upgrade.args[0] and self._knows_version():
            self._refuse(
                HTTPStatus.BAD_REQUEST, 'Data before the end of the handshake.'
            )
        else:
            if not self._hand_over():
                super().handle_websocket_upgrade()
            # NOTE: The parser and this object refer to each other, as do this and the
            # scope's extension: each connection would wait for the garbage collector.
            self.parser = None  # type: ignore[assignment]  # as uvicorn itself does at the end
            self.scope = None  # type: ignore[assignment]  # as before the first request

    def _hand_over(self) -> bool:
        """Give the WebSocket class a request as it has been read, if it is a usual one.

        PERF: uvicorn writes the request as bytes again, for the other to read them, and
        both ask the socket for its addresses (benchmarks/connections.py).
        """
        kind = self.ws_protocol_class
        if not (
            isinstance(kind, type)
            and issubclass(kind, WebSocketProtocol)
            and self.parser.get_method() == b'GET'
        ):
            return False
        websocket = kind(self.config, self.server_state, self.app_state)
        handshake = read_usual(websocket.context, self.url, self.headers)
        if handshake is None:
            return False
        self.connections.discard(self)
        websocket.take_over(
            self.transport,
            handshake,
            client=self.client,
            server=self.server,
            bounded=websocket.context.options is self._options,
        )
        self.transport.set_protocol(websocket)
        return True

    def _knows_version(self) -> bool:
        """Return whether the version is ours; else the WebSocket class names ours.

        SECURITY: What follows such a request is dropped there: it is neither frames
        nor, behind a proxy that takes the upgrade for granted, a second request.
        """
        versions = [v for name, v in self.headers if name == b'sec-websocket-version']
        return versions == [b'13']

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request, unless it has been refused already."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        """Note a backlog, and give the client a time to take some of it."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """Let the application go on."""
        self._stop_write_timer()
        super().resume_writing()

    def _start_write_timer(self) -> None:
        self._write_timer = self.loop.call_later(
            self._options.write_timeout_s,
            self._judge_backlog,
            self.transport.get_write_buffer_size(),
        )

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _judge_backlog(self, before: int) -> None:
        # SECURITY: a client that never reads would keep its connection, and what was
        #   written for it, as long as it likes.
        if self.transport.get_write_buffer_size() >= before:
            self._cut()
        else:
            self._start_write_timer()

    def _cut(self) -> None:
        """End the connection at once and drop what is not written."""
        self.transport.abort()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, 'The request took too long.')

    def _refuse_head(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            'The request line and headers are too large.',
        )

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        body = f'{text}\n'.encode()
        lines = [f'HTTP/1.1 {status.value} {status.phrase}'.encode()]
        for name, value in self.server_state.default_headers:
            lines.append(name + b': ' + value)
        lines.append(b'content-type: text/plain; charset=utf-8')
        lines.append(b'content-length: %d' % len(body))
        lines.append(b'connection: close')
        self.transport.write(b'\r\n'.join(lines) + b'\r\n\r\n' + body)
        self.transport.close()
        # NOTE: A peer that does not read would keep the connection for ever.
        self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)
