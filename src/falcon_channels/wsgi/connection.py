"""One WebSocket connection: the protocol core, a stream, and two locks between them.

`ServerProtocol` of `websockets` does all framing: bytes go in; frames, and bytes to
send, come out. The thread or greenlet that waits in `receive` reads the socket for all:
it answers pings and the close frame, sends pings when the client is silent, and
assembles messages. There is no second thread or greenlet. A responder that only sends
reads the client's frames while it sends, once a second.

Rules:

* The write lock guards the protocol core and the order of bytes on the wire. Code that
  changes the core's state sends the resulting bytes before it releases the lock.
* The read lock guards the reading side of the socket and the messages. A thread with
  the read lock may acquire the write lock, but never the other way round.
* `receive` stops reading as soon as there is one message. TCP therefore slows down a
  client that sends faster than the responder receives. A responder that only sends
  reads a few messages more, so that it gets to the frames after them.
* Pongs are sent before more is read. A flood of pings by a client that does not read
  therefore ends with `send_timeout_s`.
* Bytes stay in `_unparsed` until the reader has the write lock. A greenlet may be
  killed, or interrupted by a timeout, while it waits for the lock.
* While another thread or greenlet sends, the client may have to read its output before
  it reads a ping. `send_timeout_s`, and not a ping, then decides if it is gone.
* A frame that was sent in part makes the connection useless: it is aborted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import logging
import os
import time

from websockets.exceptions import PayloadTooBig
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.http11 import Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from falcon_channels.checks import check_duration
from falcon_channels.websocket.close_codes import ABNORMAL
from falcon_channels.websocket.close_codes import GOING_AWAY
from falcon_channels.websocket.close_codes import INVALID_DATA
from falcon_channels.websocket.close_codes import MESSAGE_TOO_BIG
from falcon_channels.websocket.close_codes import NORMAL
from falcon_channels.websocket.fragments import MessageAssembler
from falcon_channels.websocket.fragments import TooManyFragmentsError
from falcon_channels.websocket.quiet_logger import quiet_logger
from falcon_channels.wsgi.errors import WebSocketError
from falcon_channels.wsgi.keepalive import Due
from falcon_channels.wsgi.keepalive import PingSchedule
from falcon_channels.wsgi.options import WebSocketOptions
from falcon_channels.wsgi.stream import Lock
from falcon_channels.wsgi.stream import Stream

#: Logger of the protocol core, which also logs two lines for each connection at INFO.
_logger = quiet_logger(f'{__name__}.frames')

_own_logger = logging.getLogger(__name__)

#: Maximum number of bytes that are parsed at once.
#: SECURITY: This limits the messages that wait for the responder, which can decompress
#: to 1000 times the size. It also limits the time that a flood of tiny frames takes
#: from other greenlets.
_READ_BYTES = 16_384

#: Time after which a greenlet that never waits for its socket lets others run.
_MAX_RUN_S = 0.01

#: Interval at which a responder that only sends reads the client's frames.
_POLL_INTERVAL_S = 1.0
#: Number and size of the messages that may wait for a responder that only sends. Then
#: it reads no more frames.
_MAX_UNREAD_MESSAGES = 32
_MAX_UNREAD_BYTES = 65_536

#: Maximum wait for a lock, because its timeout has to be a number.
_MAX_WAIT_S = 3600.0

#: Maximum time for the close frame of a worker that is being stopped.
_LAST_SEND_TIMEOUT_S = 1.0


class _Core(ServerProtocol):
    """The protocol core, which accepts a close frame within a fragmented message."""

    def recv_frame(self, frame: Frame) -> None:
        """Process a frame (RFC 6455 section 5.4)."""
        if frame.opcode is Opcode.CLOSE:
            # NOTE: otherwise, the core would treat it as a violation, 1002.
            self.current_size = None
        super().recv_frame(frame)


class WebSocketConnection:
    """The connection of one client.

    Args:
        stream: The client's socket.
        options: Settings of the app, which are read now.
        early: Bytes of the client that the server has read already.
        accepted: Whether the server has answered the handshake with 101 already.
    """

    def __init__(
        self,
        stream: Stream,
        options: WebSocketOptions,
        early: bytes = b'',
        accepted: bool = False,
    ) -> None:
        self._stream = stream
        #: Bytes that were read, but not passed to the protocol core.
        self._unparsed = early
        self._send_timeout_s = options.send_timeout_s
        self._close_timeout_s = options.close_timeout_s
        self._max_message_bytes = options.max_message_bytes
        extensions = []
        if options.compression and not accepted:
            # NOTE: A window of 4 KiB instead of 32 saves 12 KiB for each connection.
            extensions.append(
                ServerPerMessageDeflateFactory(
                    server_max_window_bits=12,
                    client_max_window_bits=12,
                    compress_settings={'memLevel': 5},
                )
            )
        self._protocol = _Core(
            extensions=extensions,
            state=State.OPEN if accepted else State.CONNECTING,
            max_size=options.max_message_bytes,
            logger=_logger,
        )
        now = time.monotonic()
        self._pings = PingSchedule(options.ping_interval_s, options.ping_timeout_s, now)
        self._read_lock: Lock = stream.new_lock()
        self._write_lock: Lock = stream.new_lock()
        self._messages: deque[str | bytes] = deque()
        self._assembler = MessageAssembler(options.max_fragments)
        self._answer: Response | None = None
        self._broken: str | None = None
        self._closing_until: float | None = None
        self._poll_at = now + _POLL_INTERVAL_S
        self._run_began = now

    @property
    def connecting(self) -> bool:
        """Whether the handshake has not been answered."""
        return (
            self._protocol.state is State.CONNECTING
            and not self._protocol.eof_sent
            and self._broken is None
        )

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._protocol.state is State.OPEN and self._broken is None

    @property
    def closed(self) -> tuple[int, str] | None:
        """Close code and reason; ``None`` while the connection is open."""
        if self.connecting or self.open:
            return None
        sent, received = self._protocol.close_sent, self._protocol.close_rcvd
        if sent is not None and not self._protocol.close_rcvd_then_sent:
            return int(sent.code), sent.reason
        if received is not None:
            return int(received.code), received.reason
        return ABNORMAL, self._broken or ''

    # The handshake.

    def check(self, request: Request) -> bool:
        """Check a handshake, and refuse it if it is not valid.

        Args:
            request: The request.

        Returns:
            Whether the handshake is valid; call `accept` or `respond` then.

        Raises:
            WebSocketError: The client has disconnected.
        """
        with self._writing():
            # NOTE: The core expects frames only after it has parsed a request.
            self._protocol.receive_data(request.serialize())
            for event in self._protocol.events_received():
                assert isinstance(event, Request)
                self._answer = self._protocol.accept(event)
                if self._answer.status_code == 101:
                    return True
                self._protocol.send_response(self._answer)
            self._flush()
        return False

    def accept(
        self, subprotocol: str | None, headers: Iterable[tuple[str, str]]
    ) -> None:
        """Accept the handshake after `check` has returned True.

        Args:
            subprotocol: The selected subprotocol, or ``None``.
            headers: Additional headers of the 101 response.

        Raises:
            WebSocketError: The client has disconnected.
        """
        assert self._answer is not None
        if subprotocol is not None:
            self._answer.headers['Sec-WebSocket-Protocol'] = subprotocol
        for name, value in headers:
            self._answer.headers[name] = value
        self.respond(self._answer)

    def respond(self, response: Response) -> None:
        """Answer the handshake: 101 opens the WebSocket, other statuses end it.

        Args:
            response: The HTTP response.

        Raises:
            WebSocketError: The client has disconnected.
        """
        with self._writing():
            if not self.connecting:
                return  # another thread has answered
            self._protocol.send_response(response)
            if response.status_code != 101:
                self._closing_until = time.monotonic() + self._close_timeout_s
            self._flush()

    # Messages.

    def send(self, payload: bytes, *, text: bool) -> None:
        """Send a whole message; wait for a slow client up to the send timeout.

        Args:
            payload: The message.
            text: Whether it is UTF-8 text, or binary.

        Raises:
            WebSocketError: The connection has ended, or the client did not read.
        """
        self._poll()
        with self._writing():
            if not self.open:
                raise self._error()
            if text:
                self._protocol.send_text(payload)
            else:
                self._protocol.send_binary(payload)
            self._flush()

    def receive(self, timeout_s: float | None = None) -> str | bytes:
        """Wait for a message: text is a str, binary is bytes.

        Args:
            timeout_s: Maximum wait in seconds; ``None``, the default, for no limit.

        Raises:
            InvalidValueError: `timeout_s` is not a number of seconds, or is negative.
            TimeoutError: No message came within `timeout_s`; nothing is lost.
            WebSocketError: The connection has ended.
        """
        if timeout_s is not None:
            # NOTE: a lock takes -1 as no limit.
            timeout_s = check_duration('timeout_s', timeout_s, zero=True)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._reading(timeout_s):
            if not self._messages:
                self._read_message(deadline)
            self._give_way_in_time()
            return self._messages.popleft()

    # The end.

    def close(self, code: int, reason: str = '') -> None:
        """Close, and return when the client has answered or after the close timeout."""
        with contextlib.suppress(WebSocketError), self._writing():
            if self.open:
                self._closing_until = time.monotonic() + self._close_timeout_s
                self._protocol.send_close(code, reason)
                self._flush()
        self._await_end(lambda: self._done_reading)

    def finish(self) -> None:
        """End the connection; afterwards the server must not use its socket.

        Waits until the client has ended its side, too, but no longer than the close
        timeout. Otherwise a TCP reset could destroy the last frames on their way.

        SECURITY: All bytes that a client sends after a close frame are read and
        discarded here. If they stayed in the socket, the server would read them as its
        next request. A proxy would not see that request, because it treats the
        connection as a tunnel (request smuggling).
        """
        if self.open:
            self.close(NORMAL)
        if self._broken is None and not self.connecting:
            if self._closing_until is None:
                self._closing_until = time.monotonic() + self._close_timeout_s
            self._stream.end_writing()
            self._await_end(lambda: self._protocol.state is State.CLOSED)
        self._stream.close()

    def abandon(self) -> None:
        """End the connection because its worker stops: send one frame, do not wait."""
        self._send_timeout_s = _LAST_SEND_TIMEOUT_S
        with contextlib.suppress(Exception), self._writing():
            if self.open:
                self._protocol.send_close(GOING_AWAY, 'server is stopping')
                self._flush()
        self._stream.close()

    # Internals.

    @property
    def _done_reading(self) -> bool:
        """Whether no further message can arrive."""
        return (
            self._broken is not None
            or self._protocol.eof_sent
            or self._protocol.state is State.CLOSED
        )

    def _error(self) -> WebSocketError:
        code, reason = self.closed or (ABNORMAL, '')
        return WebSocketError(code, reason)

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._stream.abort()

    @contextlib.contextmanager
    def _writing(self, deadline: float | None = None) -> Iterator[None]:
        timeout_s = self._send_timeout_s
        if deadline is not None:
            timeout_s = min(timeout_s, max(0.0, deadline - time.monotonic()))
        if not self._write_lock.acquire(True, timeout_s):
            if timeout_s < self._send_timeout_s:
                raise TimeoutError('another sender was writing')
            self._break('the client does not read')
            raise self._error()
        try:
            yield
        finally:
            self._write_lock.release()

    @contextlib.contextmanager
    def _reading(self, timeout_s: float | None) -> Iterator[None]:
        while not self._read_lock.acquire(
            True, _MAX_WAIT_S if timeout_s is None else timeout_s
        ):
            if timeout_s is not None:
                raise TimeoutError('another receiver was waiting already')
        try:
            yield
        finally:
            self._read_lock.release()

    def _flush(self) -> None:
        """Send the output of the protocol core; needs the write lock."""
        if self._broken is not None:
            raise self._error()
        chunks = self._protocol.data_to_send()
        try:
            # PERF: A chunk is a frame, and nearly always there is only one.
            data = chunks[0] if len(chunks) == 1 else b''.join(chunks)
            self._stream.send_all(data, self._send_timeout_s)
        except TimeoutError as ex:
            self._break(f'the client did not read for {self._send_timeout_s} s')
            raise self._error() from ex
        except OSError as ex:
            self._break('the connection broke')
            raise self._error() from ex
        except BaseException:
            # NOTE: A greenlet may be killed or interrupted by a timeout within a frame.
            self._break('a send was interrupted')
            raise
        if chunks and not chunks[-1]:
            self._stream.end_writing()

    def _poll(self) -> None:
        """Read the client's frames if it is time and no other thread reads."""
        now = time.monotonic()
        if now < self._poll_at:
            return
        self._poll_at = now + _POLL_INTERVAL_S
        if self._read_lock.acquire(False):
            try:
                with contextlib.suppress(TimeoutError):
                    if not self._done_reading and not self._has_many_messages():
                        self._read(now)
            finally:
                self._read_lock.release()

    def _has_many_messages(self) -> bool:
        """Return whether a responder that only sends reads no more; for the reader."""
        # NOTE: otherwise, one message that the responder never receives would hide the
        #   pings after it, and the close frame.
        return (
            len(self._messages) >= _MAX_UNREAD_MESSAGES
            or sum(map(len, self._messages)) >= _MAX_UNREAD_BYTES
        )

    def _read_message(self, deadline: float | None) -> None:
        """Read until there is a message; see `receive` for the errors."""
        while not self._done_reading:
            self._read(deadline)
            if self._messages:
                return
            # NOTE: a client that sends control frames without a pause is never silent.
            if (
                deadline is not None
                and time.monotonic() >= deadline
                and not self._done_reading
            ):
                raise TimeoutError('no message in time')
        raise self._error()

    def _read(self, deadline: float | None) -> None:
        """Wait for bytes and process them; wake up for pings and deadlines."""
        now = time.monotonic()
        limits = [self._pings.wait_s(now)]
        if deadline is not None:
            limits.append(deadline - now)
        if self._closing_until is not None:
            limits.append(self._closing_until - now)
        try:
            data = self._unparsed
            if not data:
                data = self._stream.recv(_READ_BYTES, max(0.0, min(limits)))
        except TimeoutError:
            self._on_silence(deadline)
        except OSError:
            self._break('the connection broke')
        else:
            heard = time.monotonic()
            if heard - now > _MAX_RUN_S / 10:  # it waited, so others ran
                self._run_began = heard
            self._pings.heard(heard)
            self._poll_at = heard + _POLL_INTERVAL_S
            self._unparsed = data
            with contextlib.suppress(WebSocketError), self._writing(deadline):
                self._unparsed = b''
                self._feed(data)
            self._give_way_in_time()

    def _on_silence(self, deadline: float | None) -> None:
        now = time.monotonic()
        if self._closing_until is not None and now >= self._closing_until:
            self._break('the client did not close')
            return
        due = self._pings.due(now)
        if due is Due.DEAD and self._is_sending():
            self._pings.heard(now)
        elif due is Due.DEAD:
            self._break('the client did not answer a ping')
        elif due is Due.PING:
            with contextlib.suppress(WebSocketError), self._writing(deadline):
                if self.open:
                    self._protocol.send_ping(os.urandom(4))
                    self._flush()
            self._pings.pinged(time.monotonic())
        elif deadline is not None and now >= deadline:
            raise TimeoutError('no message in time')

    def _is_sending(self) -> bool:
        """Return whether another thread or greenlet is sending."""
        if not self._write_lock.acquire(False):
            return True
        self._write_lock.release()
        return False

    def _feed(self, data: bytes) -> None:
        """Pass bytes to the protocol core, process frames; needs the write lock."""
        parsed = self._protocol.parser_exc is None
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        if parsed and isinstance(self._protocol.parser_exc, PayloadTooBig):
            self._log_too_big(str(self._protocol.parser_exc))
        for frame in self._protocol.events_received():
            # NOTE: After our own close frame, only the client's close frame matters.
            if isinstance(frame, Frame) and self._closing_until is None:
                try:
                    message = self._assembler.add(frame)
                except UnicodeDecodeError:
                    self._fail(INVALID_DATA, 'text is not valid UTF-8')
                    break
                except TooManyFragmentsError as ex:
                    self._log_too_big(str(ex))
                    self._fail(MESSAGE_TOO_BIG, str(ex))
                    break
                if message is not None:
                    self._messages.append(message)
        self._flush()

    def _log_too_big(self, reason: str) -> None:
        if self._closing_until is None:
            _own_logger.warning(
                'closing a WebSocket with 1009: %s. ws_options.max_message_bytes is %d',
                reason,
                self._max_message_bytes,
            )

    def _fail(self, code: int, reason: str) -> None:
        # NOTE: Frames that came in the same read are parsed already. If the client's
        # close frame was among them, the core has answered it, and the connection has
        # ended.
        if not self._protocol.eof_sent:
            self._protocol.fail(code, reason)

    def _give_way_in_time(self) -> None:
        """Yield to other greenlets if this one has not waited for a while."""
        now = time.monotonic()
        if now - self._run_began > _MAX_RUN_S:
            self._stream.give_way()
            self._run_began = time.monotonic()

    def _await_end(self, is_over: Callable[[], bool]) -> None:
        """Read and discard until the client has ended its side, or the timeout."""
        deadline = self._closing_until or time.monotonic() + self._close_timeout_s
        try:
            with self._reading(max(0.0, deadline - time.monotonic())):
                while self._broken is None and not is_over():
                    self._messages.clear()
                    self._read(deadline)
                    if time.monotonic() >= deadline:
                        break
        except TimeoutError:
            # NOTE: Another thread is still in `receive`: wake it up.
            self._break('the client did not close')
