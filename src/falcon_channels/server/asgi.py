"""The application's side of a connection: the ASGI 2.4 WebSocket events.

One `AsgiCycle` serves one call of the application and is freed with it. A connection
that a receiver has taken over therefore keeps neither scope nor headers nor task in
memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
import email.utils
from typing import Any
from typing import Protocol

from uvicorn.protocols.utils import ClientDisconnected
from websockets.datastructures import Headers
from websockets.extensions import Extension
from websockets.http11 import Response

from falcon_channels.server.context import ServerContext
from falcon_channels.server.handshake import acceptance
from falcon_channels.server.handshake import log_access
from falcon_channels.server.handshake import UpgradeRequest
from falcon_channels.server.loggers import server_logger
from falcon_channels.server.states import OPEN
from falcon_channels.transports.websocket_framing import binary_frame
from falcon_channels.transports.websocket_framing import DeflateFraming
from falcon_channels.transports.websocket_framing import SHORT_TEXT_HEADERS
from falcon_channels.transports.websocket_framing import text_frame
from falcon_channels.transports.websocket_framing import UNCOMPRESSED
from falcon_channels.transports.websocket_framing import UncompressedFraming
from falcon_channels.websocket.close_codes import ABNORMAL
from falcon_channels.websocket.close_codes import check_close_code
from falcon_channels.websocket.close_codes import NORMAL
from falcon_channels.websocket.close_codes import refusal_status
from falcon_channels.websocket.handshake import as_text
from falcon_channels.websocket.handshake import header_name
from falcon_channels.websocket.handshake import status_phrase

#: Maximum number of frames gathered in one event-loop iteration, and size of each.
_MAX_GATHERED_FRAMES = 64
_MAX_GATHERED_BYTES = 4096

_CONNECTING = 0
_DENYING = 1
_ACCEPTED = 2
_ENDED = 3


class AsgiConnection(Protocol):
    """The methods of a connection that its application's events lead to.

    Attributes:
        framing: Framing of messages to the client.
        state: One of `falcon_channels.server.states`.
        read_pauses: Reasons why reading is paused, as bits; 0 for none.
        write_blocked: Whether the transport has more pending output than its limit.
    """

    framing: UncompressedFraming | DeflateFraming
    state: int
    read_pauses: int
    write_blocked: bool

    def check_peer_limit(self, client: tuple[str, int] | None) -> bool:
        """Count the connection for its client's address, or answer 429."""

    def write_in_order(self, blob: bytes) -> None:
        """Write frames after the pending output."""

    async def drain(self) -> None:
        """Wait until little output is pending, or the connection has ended."""

    def close(self, code: int, reason: str) -> None:
        """Close after the pending output."""

    def go_away(self) -> None:
        """Close because the server stops."""

    def on_queue_empty(self) -> None:
        """Called when the application has taken all messages."""

    def on_accepted(self, answer: bytes, extensions: Sequence[Extension]) -> None:
        """Called when the application has accepted the handshake."""

    def on_denied(self, data: bytes, *, more: bool) -> None:
        """Called with each part of a denial response."""

    def on_application_done(self, *, failed: bool) -> None:
        """Called when the application has returned or raised."""


class PeerGoneError(OSError):
    """The cause of uvicorn's ``ClientDisconnected``, which `send` raises.

    NOTE: Falcon reads the close code of its `WebSocketDisconnected` from this text. A
    responder that only sends therefore gets the same code as one that receives.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f'received {code}')


class AsgiCycle:
    """Runs the application for one connection.

    Args:
        connection: The connection.
        context: Context of the server.
        scope: ASGI scope of the connection.
        handshake: Request of the connection.

    Attributes:
        path: Path of the request.
    """

    __slots__ = (
        '_connection',
        '_context',
        '_denial',
        '_end',
        '_extensions',
        '_gathered',
        '_handed_over',
        '_handshake',
        '_queue',
        '_queued_bytes',
        '_scope',
        '_stage',
        '_task',
        '_waiter',
        'path',
    )

    def __init__(
        self,
        connection: AsgiConnection,
        context: ServerContext,
        scope: dict[str, Any],
        handshake: UpgradeRequest,
    ) -> None:
        #: Removed when the answer to the handshake has been logged.
        self._scope: dict[str, Any] | None = scope
        self._extensions: dict[str, Any] | None = scope['extensions']
        self._connection = connection
        self._context = context
        self._handshake: UpgradeRequest | None = handshake
        self._denial: Response | None = None
        self._stage = _CONNECTING
        # NOTE: A list, because it is short and an empty deque takes 700 bytes.
        self._queue: list[dict[str, Any]] = [{'type': 'websocket.connect'}]
        self._queued_bytes = 0
        self._end: dict[str, Any] | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: Frames of this event-loop iteration, in order.
        self._gathered: list[bytes] | None = None
        #: Whether a receiver has taken over the connection.
        self._handed_over = False
        self.path: str = scope['path']
        self._task = task = context.loop.create_task(self._run(scope))
        tasks = context.state.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # Called by the connection.

    def on_message(self, message: str | bytes) -> bool:
        """Queue a message; return whether there is room for another one."""
        queue = self._queue
        if isinstance(message, str):
            queue.append({'type': 'websocket.receive', 'text': message})
        else:
            queue.append({'type': 'websocket.receive', 'bytes': message})
        self._queued_bytes += len(message)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
                return True  # a receiver waited, so the queue was empty
        options = self._context.options
        return (
            len(queue) < options.max_queued_messages
            and self._queued_bytes < options.max_queued_bytes
        )

    def on_end(self, code: int, reason: str) -> None:
        """Called when the connection ends; only the first call counts.

        `receive` reports the end after the messages in the queue.

        Args:
            code: Close code.
            reason: Close reason.
        """
        if self._end is None:
            self._end = {
                'type': 'websocket.disconnect',
                'code': code,
                'reason': reason,
            }
            self._wake()
            if not self._task.done():
                self._context.drain.on_client_left(self)

    def hand_over(self) -> list[str | bytes]:
        """Called when a receiver takes over: return the messages in the queue.

        NOTE: The scope's extensions cannot be used any more. An application that stores
        a request would keep them, and through them the connection, in memory.
        """
        self.flush()
        self._handed_over = True
        if self._extensions is not None:
            self._extensions.clear()
            self._extensions = None
        messages = [
            event['text'] if 'text' in event else event['bytes']
            for event in self._queue
            if event['type'] == 'websocket.receive'
        ]
        self._queue.clear()
        self._queued_bytes = 0
        return messages

    def flush(self) -> None:
        """Write the frames that the application has sent in this iteration."""
        gathered = self._gathered
        if gathered is not None:
            self._gathered = None
            connection = self._connection
            if connection.state == OPEN:
                connection.write_in_order(
                    gathered[0] if len(gathered) == 1 else b''.join(gathered)
                )

    def cancel(self) -> None:
        """Cancel the application, whose client has left."""
        self._task.cancel()

    @property
    def end(self) -> tuple[int, str]:
        """Close code and reason; available after `on_end`."""
        assert self._end is not None
        return self._end['code'], self._end['reason']

    @property
    def undecided(self) -> bool:
        """Whether no answer to the handshake has been written."""
        return self._stage == _CONNECTING or self._denial is not None

    def abandon(self) -> None:
        """Accept no more events of the application."""
        self._stage = _ENDED

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    # Called by the application.

    async def receive(self) -> dict[str, Any]:
        """Return the next ASGI event; after the end, always the disconnect."""
        queue = self._queue
        while not queue:
            if self._end is not None:
                return self._end
            # NOTE: The event stays in the queue until the application's task runs. A
            # task that is cancelled before that would otherwise lose the event.
            # NOTE: Several tasks may receive at once. Each one wakes the task that
            # waited before it. Otherwise, that task would wait for ever.
            earlier = self._waiter
            waiter = self._waiter = self._context.loop.create_future()
            try:
                await waiter
            finally:
                if earlier is not None and not earlier.done():
                    earlier.set_result(None)
        event = queue.pop(0)
        if not queue:
            # NOTE: The sum grows until the queue is empty, because reading resumes
            # only then.
            self._queued_bytes = 0
            if self._connection.read_pauses:
                self._connection.on_queue_empty()
        return event

    async def send(self, message: dict[str, Any]) -> None:
        """Process one ASGI event of the application.

        Raises:
            ClientDisconnected: The client has disconnected.
            RuntimeError: The event is not legal in this state.
        """
        if self._stage != _ACCEPTED:
            await self._send_handshake(message)
            return
        connection = self._connection
        kind = message['type']
        if kind == 'websocket.send':
            if connection.write_blocked:
                await connection.drain()
            if connection.state != OPEN:
                self._raise_gone()
            text = message.get('text')
            if text is not None:
                self._send_text(text)
            else:
                self._send_binary(message['bytes'])
        elif kind == 'websocket.close':
            if self._handed_over:
                return  # the connection belongs to a receiver now
            if connection.state != OPEN:
                self._raise_gone()
            code = message.get('code')
            code = NORMAL if code is None else code
            check_close_code(code)
            reason = message.get('reason') or ''
            connection.close(code, reason)
            self._stage = _ENDED
            self.on_end(code, reason)
        else:
            raise RuntimeError(
                'Expected ASGI message "websocket.send" or "websocket.close", '
                f'but got "{kind}".'
            )

    def _send_text(self, text: str) -> None:
        # PERF: A short message needs only a few calls (benchmarks/echo.py).
        payload = text.encode()
        framing = self._connection.framing
        if framing is not UNCOMPRESSED:
            frame = framing.frame((payload,), binary=False)
        elif len(payload) < 126:
            frame = SHORT_TEXT_HEADERS[len(payload)] + payload
        else:
            frame = text_frame(payload)
        self._gather(frame)

    def _send_binary(self, data: bytes) -> None:
        framing = self._connection.framing
        if framing is UNCOMPRESSED:
            self._gather(binary_frame(data))
        else:
            self._gather(framing.frame((data,), binary=True))

    def _gather(self, frame: bytes) -> None:
        """Send a frame at the end of the event-loop iteration, with those before it.

        PERF: Frames of one event-loop iteration are sent together: one write for each
        connection, and one wake-up of a peer that reads them all (benchmarks/echo.py).
        """
        gathered = self._gathered
        if gathered is not None:
            gathered.append(frame)
            if (
                len(gathered) < _MAX_GATHERED_FRAMES
                and len(frame) <= _MAX_GATHERED_BYTES
            ):
                return
        elif len(frame) <= _MAX_GATHERED_BYTES and not self._handed_over:
            self._gathered = [frame]
            self._context.flush_soon(self)
            return
        else:
            self._gathered = [frame]
        self.flush()

    def _raise_gone(self) -> None:
        code = ABNORMAL if self._end is None else self._end['code']
        raise ClientDisconnected from PeerGoneError(code)

    async def _send_handshake(self, message: dict[str, Any]) -> None:
        kind = message['type']
        if self._stage == _ENDED:
            raise RuntimeError(
                f'Unexpected ASGI message "{kind}", after the connection was closed.'
            )
        if self._end is not None:
            self._raise_gone()
        if self._stage == _DENYING:
            if kind != 'websocket.http.response.body':
                raise RuntimeError(
                    'Expected ASGI message "websocket.http.response.body", '
                    f'but got "{kind}".'
                )
            await self._deny_body(message)
        elif kind == 'websocket.accept':
            self._accept(message)
        elif kind == 'websocket.close':
            self._deny_start({'status': refusal_status(message.get('code'))})
            await self._deny_body({})
        elif kind == 'websocket.http.response.start':
            self._deny_start(message)
        else:
            raise RuntimeError(
                'Expected ASGI message "websocket.accept", "websocket.close" or '
                f'"websocket.http.response.start", but got "{kind}".'
            )

    def _accept(self, message: dict[str, Any]) -> None:
        handshake = self._handshake
        assert handshake is not None
        answer = acceptance(
            handshake,
            self._context.state.default_headers,
            message.get('headers') or (),
            message.get('subprotocol'),
        )
        self._log(101)
        self._stage = _ACCEPTED
        self._handshake = None
        self._connection.on_accepted(answer, handshake.extensions)

    def _deny_start(self, message: dict[str, Any]) -> None:
        status = message['status']
        if not 200 <= status < 600:
            raise RuntimeError(f'Invalid HTTP status code {status} in response.')
        headers = Headers()
        for name, value in self._context.state.default_headers:
            headers[as_text(name)] = as_text(value)
        for name, value in message.get('headers') or ():
            if as_text(name).lower() not in ('connection', 'transfer-encoding'):
                headers[header_name(name)] = as_text(value)
        headers['Connection'] = 'close'
        self._denial = Response(status, status_phrase(status), headers)
        self._stage = _DENYING
        self._log(status)

    def _log(self, status: int) -> None:
        assert self._scope is not None
        log_access(self._scope, status)
        self._scope = None

    async def _deny_body(self, message: dict[str, Any]) -> None:
        connection = self._connection
        body = message.get('body', b'')
        more = message.get('more_body', False)
        if self._denial is not None:
            response, self._denial = self._denial, None
            response.headers.setdefault('Date', email.utils.formatdate(usegmt=True))
            # NOTE: The length of a body in parts is not known: the client reads until
            # the connection is closed.
            if not more and 'Content-Length' not in response.headers:
                response.headers['Content-Length'] = str(len(body))
            if body and 'Content-Type' not in response.headers:
                response.headers['Content-Type'] = 'text/plain; charset=utf-8'
            body = response.serialize() + body
        if connection.write_blocked:
            await connection.drain()
        if not more:
            self._stage = _ENDED
        connection.on_denied(body, more=more)

    # The task.

    async def _run(self, scope: dict[str, Any]) -> None:
        connection = self._connection
        receive: Callable[[], Awaitable[Any]] = self.receive
        send: Callable[[Any], Awaitable[None]] = self.send
        try:
            # NOTE: Not as a middleware around the application: each coroutine around
            # it would stay in memory as long as the connection.
            self._context.trust_proxies(scope)
            if not connection.check_peer_limit(scope['client']):
                connection.on_application_done(failed=False)
                return
            result = await self._context.app(scope, receive, send)
        except ClientDisconnected:
            connection.on_application_done(failed=False)
        except asyncio.CancelledError:
            connection.go_away()
            raise
        except Exception:
            server_logger.exception('Exception in ASGI application\n')
            connection.on_application_done(failed=True)
        else:
            if self._stage < _ACCEPTED and self._end is None:
                server_logger.error(
                    'ASGI callable returned without completing handshake.'
                )
            elif result is not None:
                server_logger.error(
                    "ASGI callable should return None, but returned '%s'.", result
                )
            connection.on_application_done(failed=False)
        finally:
            self._context.drain.on_responder_done(self)
