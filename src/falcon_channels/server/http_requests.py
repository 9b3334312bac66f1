"""The HTTP requests of one connection: uvicorn's protocol with limits.

Everything that `HttpRequests` does not override is uvicorn's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from os import write as write_descriptor
import sys
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from falcon_channels.server.backlog_watch import BacklogWatch
from falcon_channels.server.context import ServerContext
from falcon_channels.server.direct_requests import DirectCycle
from falcon_channels.server.direct_requests import DirectHead
from falcon_channels.server.direct_requests import read_direct_head
from falcon_channels.server.loggers import log_refusal
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.request_heads import MAX_HEAD_BYTES
from falcon_channels.server.request_heads import SHARED_NAMES
from falcon_channels.server.response_output import ResponseOutput
from falcon_channels.server.small_flow import LazyEvent
from falcon_channels.server.small_flow import SmallFlow
from falcon_channels.server.sockets import limit_unacknowledged_time
from falcon_channels.server.sockets import remote_address
from falcon_channels.transports.asgi_extensions import BodyWriter
from falcon_channels.transports.asgi_extensions import SERVER_HTTP_EXTENSION
from falcon_channels.transports.base import UNKNOWN_BACKLOG
from falcon_channels.websocket.handshake import VERSION

#: Maximum number of header fields, as in the WebSocket core.
MAX_HEADERS = 128
#: Maximum number of requests of a connection that wait for an unfinished response.
MAX_PIPELINED = 16
#: Maximum time from the TCP accept, or from the first byte of a later request, to the
#: end of the headers.
HEAD_TIMEOUT_S = 10.0
#: Minimum number of bytes of a body that must arrive in each
#: `ServerOptions.body_timeout_s`.
MIN_BODY_BYTES = 1024

_HTTP_VERSIONS = ('1.0', '1.1')


class HttpRequests(HttpToolsProtocol):
    """The requests of one connection, from the first one that is not a usual handshake.

    See `BoundedHttpProtocol`.
    """

    # PERF: without slots, each connection has a dict of 2 KiB. Names without an
    #   underscore are attributes that uvicorn sets (benchmarks/idle_memory.py).
    __slots__ = (
        '_backlog_watch',
        '_begun',
        '_body_bytes',
        '_body_timer',
        '_chunk',
        '_context',
        '_direct_head',
        '_ending',
        '_fd',
        '_has_dropped',
        '_head_bytes',
        '_head_timer',
        '_idle',
        '_in_head',
        '_is_lost',
        '_on_disconnect',
        '_options',
        '_queued_bytes',
        '_rereads',
        '_responding',
        '_writer',
        'access_log',
        'access_logger',
        'app',
        'app_state',
        'asgi_version',
        'client',
        'config',
        'connections',
        'cycle',
        'descriptor',
        'expect_100_continue',
        'flow',
        'headers',
        'limit_concurrency',
        'logger',
        'loop',
        'parser',
        'pipeline',
        'root_path',
        'scheme',
        'scope',
        'server',
        'server_state',
        'tasks',
        'timeout_keep_alive',
        'timeout_keep_alive_task',
        'transport',
        'url',
        'ws_protocol_class',
    )

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
        self._context = ServerContext.of(config, server_state, app_state, self._options)
        self.app = self._context.http_app
        self._head_timer: asyncio.TimerHandle | None = None
        #: Only while too much output is pending.
        self._backlog_watch: BacklogWatch | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        #: Number of bytes of the body that arrived since the timer was started.
        self._body_bytes = 0
        self._head_bytes = 0
        self._in_head = True
        self._idle = True
        #: Whether the connection ends after the unfinished responses.
        self._ending = False
        #: Number of requests that began in the current chunk.
        self._begun = 0
        self._chunk = b''
        self._on_disconnect: Callable[[], None] | None = None
        self._is_lost = False
        #: Whether output was dropped when the connection was lost.
        self._has_dropped = False
        #: Set while the application itself writes the body; see `take_body`.
        self._writer: BodyWriter | None = None
        self._fd = -1
        self.descriptor = -1
        #: Number of bytes that `write` has passed to the transport.
        self._queued_bytes = 0
        #: Whether the current request is read again, without its upgrade.
        self._rereads = False
        #: The request whose response is not finished; `cycle` is the newest request.
        self._responding: RequestResponseCycle | None = None
        #: Head of the last request that was answered without Falcon.
        self._direct_head: DirectHead | None = None
        # NOTE: replaced by a deque before the first request that must wait.
        self.pipeline = ()  # type: ignore[assignment]

    def begin(self, transport: asyncio.Transport, head_deadline_s: float) -> None:
        """Take over a connection before its first byte.

        Args:
            transport: Transport of the connection.
            head_deadline_s: Time of the event loop's clock at which the headers of the
                first request must have arrived.
        """
        self.connection_made(transport)
        self.flow = SmallFlow(transport)
        if self.client is None:
            self.client = remote_address(transport)
        limit_unacknowledged_time(
            transport.get_extra_info('socket'), self._options.unacknowledged_timeout_s
        )
        self._head_timer = self.loop.call_at(head_deadline_s, self.on_head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the TCP connection has ended: stop the deadlines."""
        self._stop_head_timer()
        self._stop_body_timer()
        self._stop_backlog_watch()
        self._drop_body()
        responding, self._responding = self._responding, None
        if responding is not None and not responding.response_complete:
            # NOTE: uvicorn tells only the newest request that the client has left. The
            #   response of an earlier one would write to a closed transport.
            responding.disconnected = True
            responding.message_event.set()
        super().connection_lost(exc)
        self._is_lost = True
        on_disconnect, self._on_disconnect = self._on_disconnect, None
        if on_disconnect is not None:
            on_disconnect()

    def shutdown(self) -> None:
        """Begin the drain, because uvicorn itself does not end event streams.

        NOTE: an idle TLS client possibly does not read the end of the connection, and
        does not confirm it. asyncio waits 30 s for it.
        """
        ServerContext.begin_drain_of(self.config, self.server_state, self.app_state)
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(self._options.close_timeout_s, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Called with bytes: parse them, and refuse a head that is too long."""
        if self.transport.is_closing() or self._ending or self._answer_directly(data):
            return
        idle = self._idle
        body_bytes = self._body_bytes
        alive_until = self.timeout_keep_alive_task
        self._begun = 0
        self._chunk = data
        if self.parser is None:
            self.parser = _new_parser(self)
        super().data_received(data)
        self._chunk = b''
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        self._limit_rest()
        if not self._in_head:
            if self._idle:
                self._keep_alive(alive_until)
            elif self._begun == 0 and self._body_bytes == body_bytes:
                self._count_rest(data)
            else:
                self._head_bytes = 0
            return
        # NOTE: The raw bytes are counted, because httptools does not report an
        # unfinished line. They are not counted if they also contain the end of an
        # earlier request.
        if self._begun == 0 or (self._begun == 1 and idle):
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head()

    def _answer_directly(self, data: bytes) -> bool:
        """Answer a request without Falcon, if it is possible.

        PERF: a usual request to the server API then takes 0.4 times as much CPU time
        (benchmarks/centrifugo.py).

        Returns:
            False if the parser has to read `data`.
        """
        cycle: RequestResponseCycle | DirectCycle | None = self.cycle
        if not self._idle:
            if not isinstance(cycle, DirectCycle) or not cycle.more_body:
                return False
            self._add_to_body(cycle, data)
            return True
        if cycle is not None and not cycle.response_complete:
            return False
        head = self._direct_head
        found = None if head is None else head.split(data)
        if found is None:
            head = self._direct_head = read_direct_head(
                self._context, data, logs_access=self.access_log
            )
            found = None if head is None else head.split(data)
        if head is None or found is None:
            return False
        # NOTE: the parser is between two requests. It does not see this one.
        self._in_head = False
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        cycle = DirectCycle(self, self._context, head, *found)
        self.cycle = cycle  # type: ignore[assignment]  # it has the attributes that are used
        self._responding = self.cycle
        if cycle.more_body:
            self._idle = False
            self._body_bytes = len(found[1])
            self._start_body_timer()
        else:
            self._start_asgi_task(self.cycle, self.app)
        return True

    def _add_to_body(self, cycle: DirectCycle, data: bytes) -> None:
        """Add bytes to the body of a request that is answered without Falcon."""
        rest = cycle.add(data)
        self._body_bytes += len(data) - len(rest)
        if not cycle.more_body:
            self._stop_body_timer()
            self._idle = True
            self._start_asgi_task(self.cycle, self.app)
            if rest:
                self.data_received(rest)

    def _limit_rest(self) -> None:
        """Start the deadline of the rest of a request that is incomplete.

        PERF: Most requests arrive in one chunk and need no deadline
        (benchmarks/centrifugo.py).
        """
        if self._idle or self._ending:
            return
        if not self._in_head:
            if self._body_timer is None:
                self._start_body_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(
                HEAD_TIMEOUT_S, self.on_head_timeout
            )

    def _count_rest(self, data: bytes) -> None:
        """Count a chunk of an unfinished body without content; refuse too many bytes.

        SECURITY: It holds trailers, or extensions of a chunk. A client could otherwise
        send them without end.
        """
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_body(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                'The trailers are too large.',
            )

    def _keep_alive(self, earlier: asyncio.TimerHandle | None) -> None:
        """Limit the time until the next request, if no request is unfinished.

        SECURITY: uvicorn stops this deadline when bytes arrive. Line ends, and the rest
        of a body that the application has not read, begin no request. The connection
        would then stay open without a deadline.

        Args:
            earlier: The deadline before the last bytes arrived, or ``None``.
        """
        cycle = self.cycle
        if (
            cycle is None
            or not cycle.response_complete
            or self.timeout_keep_alive_task is not None
        ):
            return
        when_s = self.loop.time() + self.timeout_keep_alive
        if earlier is not None:
            when_s = min(when_s, earlier.when())
        self.timeout_keep_alive_task = self.loop.call_at(
            when_s, self.timeout_keep_alive_handler
        )

    def on_message_begin(self) -> None:
        """Called at the first byte of a request: start counting its head."""
        super().on_message_begin()
        self._in_head = True
        self._idle = False
        self._begun += 1
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called with each header field: store it.

        SECURITY: A trailer is dropped (RFC 9110 section 6.5.1). Otherwise, a client
        could add headers that a proxy has checked, such as `X-Forwarded-For`.

        PERF: connections share the names of usual headers. This saves 45 bytes for
        each header (benchmarks/idle_memory.py).
        """
        if not self._in_head:
            return
        usual = SHARED_NAMES.get(name)
        name = name.lower() if usual is None else usual
        if name == b'expect' and value.lower() == b'100-continue':
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called at the end of a head: call the application, or refuse the request."""
        self._head_bytes = 0
        self._stop_head_timer()
        if self.parser.get_http_version() not in _HTTP_VERSIONS and not (
            self.parser.should_upgrade() and self._should_upgrade()
        ):
            # NOTE: Falcon would raise an error for each such request.
            self._refuse_version()
            raise httptools.HttpParserError('unsupported HTTP version')
        size = len(self.url) + sum(
            [len(name) + len(value) + 4 for name, value in self.headers]
        )
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refuse_head()
            raise httptools.HttpParserError('request head too large')
        if self.parser.should_upgrade() and not self._should_upgrade():
            if self.parser.get_method() == b'CONNECT':
                self._refuse(
                    HTTPStatus.NOT_IMPLEMENTED, 'The method CONNECT is not supported.'
                )
                raise httptools.HttpParserError('CONNECT')
            self._rereads = True
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            # SECURITY: in one chunk, a client could send thousands of requests. They
            # would be in memory until the first response ends.
            self._end_after_responses()
            raise httptools.HttpParserError('too many pipelined requests')
        self._in_head = False
        self._body_bytes = 0
        self.scope['extensions'] = {SERVER_HTTP_EXTENSION: {'connection': self}}
        earlier = self.cycle
        if earlier is not None and not earlier.response_complete:
            self.pipeline = deque(self.pipeline)
        super().on_headers_complete()
        if not self.pipeline:
            self._responding = self.cycle
        if self.cycle is not earlier:
            # NOTE: the task of this request has not begun, so nothing waits for the
            #   event that is replaced.
            self.cycle.message_event = LazyEvent()  # type: ignore[assignment]  # it has the methods that are used
            self.cycle.transport = ResponseOutput(self.transport, self._context)  # type: ignore[assignment]  # it has the methods that are used

    def on_body(self, body: bytes) -> None:
        """Called with each part of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called at the end of a request: the next byte begins another one."""
        if self._rereads:
            return
        super().on_message_complete()
        self._stop_body_timer()
        self._idle = True

    def on_response_complete(self) -> None:
        """Called at the end of a response."""
        if self._responding is not None:
            self._flush_response(self._responding)
        self._on_disconnect = None
        if self._writer is not None:
            self._end_body()
            self.transport.set_write_buffer_limits()
        self._responding = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket class, or refuse it.

        uvicorn writes the request line again and drops bytes that follow the request.
        An HTTP/1.0 request, and frames sent before the answer, are detected only here.
        """
        upgrade = sys.exc_info()[1]
        assert isinstance(upgrade, httptools.HttpParserUpgrade)
        if self._responds_to_earlier():
            # RFC 9112 section 9.3.2: responses have the order of their requests. The
            # client may repeat the handshake on another connection.
            self._end_after_responses()
        elif self.parser.get_http_version() != '1.1':
            self._refuse_version()
        elif len(self._chunk) > upgrade.args[0] and self._has_supported_version():
            self._refuse(
                HTTPStatus.BAD_REQUEST, 'Data before the end of the handshake.'
            )
        else:
            super().handle_websocket_upgrade()
            # NOTE: This object and the parser refer to each other, and so do this
            # object and the scope's extension. These cycles would keep each connection
            # in memory until the garbage collector runs.
            self.parser = None  # type: ignore[assignment]  # as uvicorn itself does at the end
            self.scope = None  # type: ignore[assignment]  # as before the first request

    def _unsupported_upgrade_warning(self) -> None:
        """Read a request again, without an upgrade to another protocol than WebSocket.

        A server may ignore an upgrade (RFC 9110 section 7.8). Clients of HTTP/2 ask for
        ``h2c``.

        SECURITY: The parser takes all bytes after the head for the other protocol. The
        body of the request would be lost, or, if it arrives later, be parsed as another
        request (request smuggling).
        """
        upgrade = sys.exc_info()[1]
        assert isinstance(upgrade, httptools.HttpParserUpgrade)
        parser = self.parser
        head = [parser.get_method(), b' ', self.url]
        head.append(b' HTTP/%s\r\n' % parser.get_http_version().encode())
        for name, value in self.headers:
            if name != b'upgrade':
                head += [name, b': ', value, b'\r\n']
        rest = self._chunk[upgrade.args[0] :]
        self._rereads = False
        self._begun -= 1
        self._chunk = b''.join([*head, b'\r\n', rest])
        self.parser = _new_parser(self)
        super().data_received(self._chunk)

    def _has_supported_version(self) -> bool:
        """Return whether the WebSocket version is supported.

        If it is not, the WebSocket class refuses the request and names the version.

        SECURITY: Bytes that follow a refused request are dropped. They are not parsed
        as frames. Behind a proxy that assumes that the upgrade succeeded, they are not
        parsed as a second request either (request smuggling).
        """
        versions = [v for name, v in self.headers if name == b'sec-websocket-version']
        return versions == [VERSION.encode()]

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request, unless it has been refused already."""
        if self.transport.is_closing() or self._ending:
            return
        if self._responds_to_earlier():
            self._end_after_responses()
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        """Called when too much output is pending: start `write_timeout_s`."""
        super().pause_writing()
        self.descriptor = -1
        self._backlog_watch = BacklogWatch(
            self.loop, self._options.write_timeout_s, self._written_bytes, self.abort
        )

    def resume_writing(self) -> None:
        """Called when little output is pending: let the application continue."""
        self._stop_backlog_watch()
        super().resume_writing()
        if self._writer is not None:
            self.descriptor = self._fd
            self._writer.on_writable()

    def _written_bytes(self) -> int:
        """Return a number that grows when the client reads some of the backlog."""
        return self._queued_bytes - self.transport.get_write_buffer_size()

    def _stop_backlog_watch(self) -> None:
        if self._backlog_watch is not None:
            self._backlog_watch.cancel()
            self._backlog_watch = None

    def abort(self) -> None:
        """End the TCP connection at once and discard the pending output."""
        self._drop_body()
        self.transport.abort()

    def take_body(self, writer: BodyWriter) -> bool:
        """Give the rest of the body to a writer; see `ServerHttpConnection`.

        Args:
            writer: Object that writes the body.
        """
        cycle = self.cycle
        if (
            not self._context.sends_unchanged
            or self.pipeline
            or not cycle.response_started
            or cycle.response_complete
            or not cycle.chunked_encoding
            or self.transport.is_closing()
        ):
            return False
        self._flush_response(cycle)
        self._writer = writer
        secure = is_ssl(self.transport)
        if not secure:
            self._fd = self.transport.get_extra_info('socket').fileno()
        # NOTE: `resume_writing` then comes when all output is written. TLS transports
        # take 0 to mean "always too much".
        self.transport.set_write_buffer_limits(high=1 if secure else 0, low=0)
        if not self.flow.write_paused:
            self.descriptor = self._fd
        return True

    def _flush_response(self, cycle: RequestResponseCycle) -> None:
        """Write what uvicorn has gathered of a response, and gather nothing more."""
        output = cycle.transport
        if isinstance(output, ResponseOutput):
            output.flush()
            cycle.transport = self.transport

    def _drop_body(self) -> None:
        """End the body; its pending output is dropped."""
        if self._writer is not None:
            self._has_dropped = self.flow.write_paused
            self._end_body()

    def _end_body(self) -> None:
        """Forget what `take_body` has stored; `write` does nothing from now on."""
        self._writer = None
        self._fd = self.descriptor = -1

    @property
    def backlog_bytes(self) -> int:
        """Bytes for the client that are still buffered in this process.

        When the connection is lost, asyncio drops them without telling their size. The
        result is then `UNKNOWN_BACKLOG`.
        """
        if self._is_lost:
            return UNKNOWN_BACKLOG if self._has_dropped else 0
        return self.transport.get_write_buffer_size()

    def write(self, chunks: bytes) -> int:
        """Send or buffer HTTP chunks; return the backlog in bytes.

        PERF: As for a WebSocket, the descriptor is written directly while no output is
        pending (benchmarks/event_streams.py).
        """
        if self._writer is None:
            return 0
        if self.descriptor >= 0:
            try:
                sent = write_descriptor(self.descriptor, chunks)
            except OSError:
                # NOTE: The socket's buffer is full or the connection is broken: the
                # transport handles both.
                sent = 0
            if sent == len(chunks):
                return 0
            chunks = chunks[sent:]
        self._queued_bytes += len(chunks)
        self.transport.write(chunks)
        return self.transport.get_write_buffer_size()

    def watch(self, on_disconnect: Callable[[], None]) -> None:
        """Call a function when the client has left, or now if it has left already.

        Such a response usually lasts long. The parser is therefore released until the
        next request, and the extension is removed from the scope.
        """
        if self._is_lost:
            on_disconnect()
            return
        self._on_disconnect = on_disconnect
        if self._idle and not self._chunk and not self.pipeline:
            self.parser = None  # type: ignore[assignment]  # as uvicorn itself does at the end
            self.url = b''
            del self.scope['extensions']

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_head_timeout(self) -> None:
        """Called when a head took too long: answer 408, and close."""
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, 'The request took too long.')

    def _start_body_timer(self) -> None:
        timeout_s = self._options.body_timeout_s
        if timeout_s is not None:
            self._body_timer = self.loop.call_later(timeout_s, self._check_body)

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _check_body(self) -> None:
        """End the connection if too little of the body has arrived.

        SECURITY: otherwise, a client could send the largest part of many bodies. They
        would stay in memory without limit.
        """
        cycle = self.cycle
        if (
            self._body_bytes >= MIN_BODY_BYTES
            # The application is slow, not the client.
            or self.flow.read_paused
            or cycle.waiting_for_100_continue
        ):
            self._body_bytes = 0
            self._start_body_timer()
            return
        self._body_timer = None
        self._refuse_body(HTTPStatus.REQUEST_TIMEOUT, 'The body took too long.')

    def _refuse_body(self, status: HTTPStatus, text: str) -> None:
        """Refuse the request whose body is unfinished, and end the connection."""
        cycle = self.cycle
        if cycle.response_started or self.pipeline:
            self.abort()
        elif not self.transport.is_closing():
            self._refuse(status, text)
            # NOTE: The application must not answer, either.
            cycle.disconnected = True
            cycle.message_event.set()

    def _refuse_head(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            'The request line and headers are too large.',
        )

    def _refuse_version(self) -> None:
        self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, 'HTTP/1.1 is needed.')

    def _responds_to_earlier(self) -> bool:
        """Return whether an answer now would be mixed into an unfinished response.

        The response belongs to an earlier request, or to this one if its body is
        incomplete.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        in_body = not (self._in_head or self._idle)
        return not in_body or cycle.response_started or bool(self.pipeline)

    def _end_after_responses(self) -> None:
        """Read nothing more, and end the connection after the last response."""
        self._ending = True
        self._stop_head_timer()
        self._stop_body_timer()
        cycle = self.cycle
        if cycle.more_body and self.pipeline and self._responding is not None:
            # The newest request waits. Its body can no longer arrive.
            self.pipeline.popleft()
            if self.pipeline:
                cycle = self.cycle = self.pipeline[0][0]
            else:
                cycle = self.cycle = self._responding
                # NOTE: bytes that are not read would reset the connection at its end.
                self.flow.resume_reading()
        cycle.keep_alive = False
        if cycle.more_body:
            # The application waits for a body that can no longer arrive.
            cycle.disconnected = True
            cycle.message_event.set()
            cycle.transport.close()

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        if self._responds_to_earlier():
            self._end_after_responses()
            return
        log_refusal(self.client, status, text)
        body = f'{text}\n'.encode()
        lines = [f'HTTP/1.1 {status.value} {status.phrase}'.encode()]
        for name, value in self.server_state.default_headers:
            lines.append(name + b': ' + value)
        lines.append(b'content-type: text/plain; charset=utf-8')
        lines.append(b'content-length: %d' % len(body))
        lines.append(b'connection: close')
        self.transport.write(b'\r\n'.join(lines) + b'\r\n\r\n' + body)
        self.transport.close()
        # NOTE: A peer that does not read would otherwise keep the connection open.
        self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)


def _new_parser(protocol: HttpRequests) -> httptools.HttpRequestParser:
    """Return a parser, with the options that uvicorn sets."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
