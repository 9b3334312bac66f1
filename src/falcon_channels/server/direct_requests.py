"""Requests that the server answers without Falcon; see `DirectResource`."""

from __future__ import annotations

from typing import Any
from typing import Final
from typing import NamedTuple
from typing import Protocol
from urllib.parse import quote

import falcon.asgi
from falcon.routing import CompiledRouter
from uvicorn.protocols.http.flow_control import FlowControl

from falcon_channels.server.context import ServerContext
from falcon_channels.server.loggers import access_logger
from falcon_channels.server.loggers import server_logger
from falcon_channels.server.request_heads import read_usual_head
from falcon_channels.transports.direct_answers import Answer
from falcon_channels.transports.direct_answers import DirectResource

_METHOD: Final = b'POST '
_END: Final = b'\r\n\r\n'
#: Size of the largest body that may arrive in several parts.
_MAX_SPLIT_BYTES: Final = 65536
#: Most digits of a `Content-Length`.
_MAX_DIGITS: Final = 10
#: Headers with which Falcon and uvicorn read a request in another way.
_UNUSUAL: Final = frozenset(
    {b'expect', b'te', b'trailer', b'transfer-encoding', b'upgrade'}
)
#: Part of the names of the headers that change the address in the access log.
_FORWARDED: Final = b'forwarded'
_ERROR_BODY: Final = b'Internal Server Error'


class DirectHead(NamedTuple):
    """A head that was accepted. Another one may differ in the `Content-Length` only.

    Attributes:
        before: Bytes before the value of the `Content-Length`.
        after: Bytes after it.
        target: The path.
        answer: Answers the request.
        max_body_bytes: Size of the largest body.
    """

    before: bytes
    after: bytes
    target: str
    answer: Answer
    max_body_bytes: int

    def split(self, data: bytes) -> tuple[int, bytes] | None:
        """Return the length of the body, and its received part.

        SECURITY: Nothing but the digits may differ from the head that was accepted. The
        head also contains the API key.

        Args:
            data: Received bytes.

        Returns:
            ``None`` if `data` does not begin with such a head, if the body is too
            large, or if another request follows.
        """
        if not data.startswith(self.before):
            return None
        start = len(self.before)
        stop = data.find(b'\r', start, start + _MAX_DIGITS + 1)
        digits = data[start:stop]
        if stop < 0 or not digits.isdigit() or not data.startswith(self.after, stop):
            return None
        body = data[stop + len(self.after) :]
        length = int(digits)
        if (
            len(body) == length <= self.max_body_bytes
            or len(body) < length <= _MAX_SPLIT_BYTES
        ):
            return length, body
        return None


def read_direct_head(
    context: ServerContext, data: bytes, *, logs_access: bool
) -> DirectHead | None:
    """Read the head of a request, and find the resource that answers it.

    Args:
        context: Context of the server.
        data: Bytes that begin with a request.
        logs_access: Whether the address of the client is written to the access log.

    Returns:
        ``None`` if the request has to go to uvicorn and Falcon.
    """
    app = context.app
    if (
        not data.startswith(_METHOD)
        or not context.answers_directly
        # SECURITY: middleware may authenticate. `_middleware` has the prepared methods
        #   for requests, resources and responses. Falcon has no public name for it.
        or any(getattr(app, '_middleware', [True]))
    ):
        return None
    target = data[len(_METHOD) : data.find(b' ', len(_METHOD))]
    found = _find_resource(app, target)
    size = data.find(_END) + len(_END)
    if found is None or size < len(_END):
        return None
    resource, params = found
    head = read_usual_head(data[:size], _METHOD)
    if head is None:
        return None
    path, pairs = head
    headers = dict(pairs)
    length = headers.get(b'content-length', b'')
    if (
        len(headers) != len(pairs)
        or b'host' not in headers
        or not length.isdigit()
        or headers.get(b'connection', b'keep-alive').lower() != b'keep-alive'
        or not _UNUSUAL.isdisjoint(headers)
        or (logs_access and any(_FORWARDED in name for name in headers))
    ):
        return None
    answer = resource.direct_answer(params, headers)
    if answer is None:
        return None
    return _split(data[:size], length, path, answer, resource.max_body_bytes)


def _find_resource(
    app: falcon.asgi.App[Any, Any], target: bytes
) -> tuple[DirectResource, dict[str, str]] | None:
    """Find the resource of a path, and the values of its fields, as Falcon does."""
    if not target.isascii() or b'%' in target or b'?' in target:
        return None
    router = app._router
    # NOTE: a router that the application wrote may need Falcon's request.
    route = router.find(target.decode()) if type(router) is CompiledRouter else None
    if route is None:
        return None
    resource, _, params, _ = route
    return (resource, params) if isinstance(resource, DirectResource) else None


def _split(
    head: bytes, length: bytes, path: str, answer: Answer, max_body_bytes: int
) -> DirectHead | None:
    """Return a head in two parts: before and after the `Content-Length`."""
    name = head.lower().find(b'\r\ncontent-length:')
    start = head.find(length, name)
    stop = start + len(length)
    if head[stop : stop + 1] != b'\r':
        return None
    return DirectHead(head[:start], head[stop:], path, answer, max_body_bytes)


class _NoEvent:
    """An event for which nothing waits."""

    __slots__ = ()

    def set(self) -> None:
        """Ignore the event: uvicorn calls this when a client has left."""


class DirectConnection(Protocol):
    """The attributes of a connection that `DirectCycle` uses."""

    flow: FlowControl
    transport: Any
    client: tuple[str, int] | None
    access_log: bool

    def on_response_complete(self) -> None:
        """Called after the response."""


class DirectCycle:
    """A request that is answered without Falcon, and its response.

    It has the attributes of uvicorn's `RequestResponseCycle` that a connection uses.

    Args:
        connection: Connection of the request.
        context: Context of the server.
        head: Head of the request.
        length: Size of its body in bytes.
        body: The part of the body that has arrived.
    """

    __slots__ = (
        '_body',
        '_connection',
        '_context',
        '_head',
        '_missing_bytes',
        'disconnected',
        'keep_alive',
        'response_complete',
        'response_started',
        'transport',
    )

    chunked_encoding = False
    waiting_for_100_continue = False
    message_event = _NoEvent()

    def __init__(
        self,
        connection: DirectConnection,
        context: ServerContext,
        head: DirectHead,
        length: int,
        body: bytes,
    ) -> None:
        self._connection = connection
        self._context = context
        self._head = head
        self._body = body
        self._missing_bytes = length - len(body)
        self.transport = connection.transport
        self.disconnected = False
        self.keep_alive = True
        self.response_started = False
        self.response_complete = False

    @property
    def more_body(self) -> bool:
        """Whether a part of the body has not arrived."""
        return self._missing_bytes > 0

    def add(self, data: bytes) -> bytes:
        """Add bytes to the body; return those that follow it."""
        part = data[: self._missing_bytes]
        self._body += part
        self._missing_bytes -= len(part)
        return data[len(part) :]

    async def run_asgi(self, app: object) -> None:
        """Answer the request; uvicorn runs this in a task of its own.

        Args:
            app: The application, which is not called.
        """
        try:
            body = await self._head.answer(self._body)
            status = b'HTTP/1.1 200 OK\r\n'
            kind = b'content-type: application/json\r\ncache-control: no-store\r\n'
        except BaseException as ex:
            # NOTE: uvicorn catches the same errors, also the cancellation at its stop.
            server_logger.error('Exception in ASGI application\n', exc_info=ex)
            self.keep_alive = False
            body = _ERROR_BODY
            status = b'HTTP/1.1 500 Internal Server Error\r\n'
            kind = b'content-type: text/plain; charset=utf-8\r\n'
        connection = self._connection
        if connection.flow.write_paused and not self.disconnected:
            await connection.flow.drain()
        if self.disconnected:
            return
        self.response_started = True
        if connection.access_log:
            self._log(int(status[9:12]))
        self.transport.write(
            b'%b%b%bcontent-length: %d\r\n%b\r\n%b'
            % (
                status,
                self._context.default_headers(),
                kind,
                len(body),
                b'' if self.keep_alive else b'connection: close\r\n',
                body,
            )
        )
        self.response_complete = True
        if not self.keep_alive:
            self.transport.close()
        connection.on_response_complete()

    def _log(self, status: int) -> None:
        """Log the request as uvicorn does."""
        client = self._connection.client
        access_logger.info(
            '%s - "%s %s HTTP/%s" %d',
            f'{client[0]}:{client[1]}' if client else '',
            'POST',
            quote(self._head.target),
            '1.1',
            status,
        )
