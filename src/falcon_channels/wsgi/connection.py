"""One WebSocket connection: the protocol core, a stream, and two locks between them.

How it works. `websockets`' `ServerProtocol` does all framing: bytes go in, frames and
bytes to send come out. Whoever waits in `receive` reads the socket for everybody: it
answers pings and the close frame, sends pings when the client is silent, and puts
messages together. There is no second thread or greenlet. A responder that only sends
looks for the client's frames as it sends, once a second.

Rules:

* The write lock guards the protocol core and the order of bytes on the wire. Whoever
  changes the core's state sends what results before it lets go.
* The read lock guards the socket's reading side and the messages. It may be held
  while taking the write lock, never the other way round.
* Reading stops as soon as one message is there, so a client that sends faster than the
  responder receives feels it in TCP. Replies to pings are sent before more is read,
  so a flood of pings by a client that does not read ends with `send_timeout_s`.
* A frame that was sent in part makes the connection useless: it is cut.
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

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.http11 import Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from falcon_channels.wsgi.errors import WebSocketError
from falcon_channels.wsgi.keepalive import Due
from falcon_channels.wsgi.keepalive import KeepAlive
from falcon_channels.wsgi.messages import MessageAssembler
from falcon_channels.wsgi.messages import TooManyFragmentsError
from falcon_channels.wsgi.options import WebSocketOptions
from falcon_channels.wsgi.stream import Lock
from falcon_channels.wsgi.stream import Stream

# SECURITY: the core logs every frame at level DEBUG, that is, what people write to each
# other, and two lines a connection at INFO. Nobody gets that who did not ask for it.
_logger = logging.getLogger(f'{__name__}.frames')
_logger.setLevel(logging.WARNING)

# SECURITY: how much is parsed in one go bounds the messages that wait for the
# responder, also compressed ones of 1000 times the size, and the time that a flood of
# tiny frames takes from other greenlets.
_READ_BYTES = 16_384

# A greenlet that never has to wait for its socket lets others run this often.
_MAX_TURN_S = 0.01

# A responder that only sends looks this often whether the client sent something.
_LOOK_INTERVAL_S = 1.0

# A lock's timeout has to be a number.
_MAX_WAIT_S = 3600.0

# How long a worker that is being stopped tries to say goodbye.
_FAREWELL_S = 1.0


class Connection:
    """One client.

    Args:
        stream: Its socket.
        options: The app's; read once, now.
        early: Bytes of the client that the server had already read.
        accepted: Whether the handshake has been answered with 101 already.
    """

    def __init__(
        self,
        stream: Stream,
        options: WebSocketOptions,
        early: bytes = b'',
        accepted: bool = False,
    ) -> None:
        self._stream = stream
        self._early = early
        self._send_timeout_s = options.send_timeout_s
        self._close_timeout_s = options.close_timeout_s
        extensions = []
        if options.compression and not accepted:
            # A window of 4 KiB instead of 32, for memory: 12 KiB a connection.
            extensions.append(
                ServerPerMessageDeflateFactory(
                    server_max_window_bits=12,
                    client_max_window_bits=12,
                    compress_settings={'memLevel': 5},
                )
            )
        self._protocol = ServerProtocol(
            extensions=extensions,
            state=State.OPEN if accepted else State.CONNECTING,
            max_size=options.max_message_bytes,
            logger=_logger,
        )
        now = time.monotonic()
        self._keepalive = KeepAlive(
            options.ping_interval_s, options.ping_timeout_s, now
        )
        self._read_lock: Lock = stream.new_lock()
        self._write_lock: Lock = stream.new_lock()
        self._messages: deque[str | bytes] = deque()
        self._assembler = MessageAssembler(options.max_fragments)
        self._answer: Response | None = None
        self._broken: str | None = None
        self._closing_until: float | None = None
        self._look_at = now + _LOOK_INTERVAL_S
        self._turn_began = now

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
        """The close code and reason, or None as long as no side has closed."""
        if self.connecting or self.open:
            return None
        sent, received = self._protocol.close_sent, self._protocol.close_rcvd
        if sent is not None and not self._protocol.close_rcvd_then_sent:
            return int(sent.code), sent.reason
        if received is not None:
            return int(received.code), received.reason
        return int(CloseCode.ABNORMAL_CLOSURE), self._broken or ''

    # The handshake.

    def check(self, request: Request) -> bool:
        """Say whether a handshake is right; refuse it if not.

        Call `accept` or `respond` next if it is.

        Raises:
            WebSocketError: If the client has gone.
        """
        with self._writing():
            # NOTE: the core learns that frames come next only by parsing the request.
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
        """Accept the handshake that `check` found right.

        Raises:
            WebSocketError: If the client has gone.
        """
        assert self._answer is not None
        if subprotocol is not None:
            self._answer.headers['Sec-WebSocket-Protocol'] = subprotocol
        for name, value in headers:
            self._answer.headers[name] = value
        self.respond(self._answer)

    def respond(self, response: Response) -> None:
        """Answer the handshake: 101 opens the WebSocket, all else ends it.

        Raises:
            WebSocketError: If the client has gone.
        """
        with self._writing():
            if not self.connecting:
                return  # another thread was faster
            self._protocol.send_response(response)
            if response.status_code != 101:
                self._closing_until = time.monotonic() + self._close_timeout_s
            self._flush()

    # Messages.

    def send(self, payload: bytes, *, text: bool) -> None:
        """Send a whole message; wait for a slow client up to the send timeout.

        Raises:
            WebSocketError: If the connection is over, or the client did not read.
        """
        self._look()
        with self._writing():
            if not self.open:
                raise self._error()
            if text:
                self._protocol.send_text(payload)
            else:
                self._protocol.send_binary(payload)
            self._flush()

    def receive(self, timeout_s: float | None = None) -> str | bytes:
        """Wait for a message: text as str, binary as bytes.

        Raises:
            TimeoutError: If none came in `timeout_s` seconds; nothing is lost.
            WebSocketError: If the connection is over.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._reading(timeout_s):
            while not self._messages:
                if self._done_reading:
                    raise self._error()
                self._read(deadline)
            self._take_turns()
            return self._messages.popleft()

    # The end.

    def close(self, code: int, reason: str = '') -> None:
        """Close from our side: returns when the client has answered or time is up."""
        with contextlib.suppress(WebSocketError), self._writing():
            if self.open:
                self._closing_until = time.monotonic() + self._close_timeout_s
                self._protocol.send_close(code, reason)
                self._flush()
        self._await_end(lambda: self._done_reading)

    def finish(self) -> None:
        """End the connection for good; afterwards the server must not use its socket.

        Waits until the client has ended its side too, so that the last frames are not
        lost to a reset, but no longer than the close timeout.

        SECURITY: all that a client sends after a close frame is read and thrown away
        here. Left in the socket, it would be the server's next request, past any proxy
        that takes the connection for a tunnel: request smuggling.
        """
        if self.open:
            self.close(CloseCode.NORMAL_CLOSURE)
        if self._broken is None and not self.connecting:
            if self._closing_until is None:
                self._closing_until = time.monotonic() + self._close_timeout_s
            self._stream.end_writing()
            self._await_end(lambda: self._protocol.state is State.CLOSED)
        self._stream.close()

    def abandon(self) -> None:
        """End the connection because its worker is stopped: one frame, no wait."""
        self._send_timeout_s = _FAREWELL_S
        with contextlib.suppress(Exception), self._writing():
            if self.open:
                self._protocol.send_close(CloseCode.GOING_AWAY, 'server is stopping')
                self._flush()
        self._stream.close()

    # Inside.

    @property
    def _done_reading(self) -> bool:
        """Whether no message can come any more."""
        return (
            self._broken is not None
            or self._protocol.eof_sent
            or self._protocol.state is State.CLOSED
        )

    def _error(self) -> WebSocketError:
        code, reason = self.closed or (int(CloseCode.ABNORMAL_CLOSURE), '')
        return WebSocketError(code, reason)

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._stream.abort()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        if not self._write_lock.acquire(True, self._send_timeout_s):
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
                raise TimeoutError('another receiver came first')
        try:
            yield
        finally:
            self._read_lock.release()

    def _flush(self) -> None:
        """Send what the protocol core has to say; the write lock is held."""
        if self._broken is not None:
            raise self._error()
        chunks = self._protocol.data_to_send()
        try:
            # PERF: a chunk is a frame, and nearly always the only one.
            data = chunks[0] if len(chunks) == 1 else b''.join(chunks)
            self._stream.send_all(data, self._send_timeout_s)
        except TimeoutError as ex:
            self._break(f'the client did not read for {self._send_timeout_s} s')
            raise self._error() from ex
        except OSError as ex:
            self._break('the connection broke')
            raise self._error() from ex
        except BaseException:
            # NOTE: a greenlet may be killed, or timed out by its owner, in mid-frame.
            self._break('a send was interrupted')
            raise
        if chunks and not chunks[-1]:
            self._stream.end_writing()

    def _look(self) -> None:
        """See whether the client sent something, if it is time and nobody else does."""
        now = time.monotonic()
        if now < self._look_at or self._messages:
            return
        self._look_at = now + _LOOK_INTERVAL_S
        if self._read_lock.acquire(False):
            try:
                with contextlib.suppress(TimeoutError):
                    if not self._done_reading:
                        self._read(now)
            finally:
                self._read_lock.release()

    def _read(self, deadline: float | None) -> None:
        """Wait for bytes and handle them, or for the time that a ping is due."""
        now = time.monotonic()
        limits = [self._keepalive.wait_s(now)]
        if deadline is not None:
            limits.append(deadline - now)
        if self._closing_until is not None:
            limits.append(self._closing_until - now)
        try:
            data, self._early = self._early, b''
            if not data:
                data = self._stream.recv(_READ_BYTES, max(0.0, min(limits)))
        except TimeoutError:
            self._on_silence(deadline)
        except OSError:
            self._break('the connection broke')
        else:
            heard = time.monotonic()
            if heard - now > _MAX_TURN_S / 10:  # it had to wait, so others ran
                self._turn_began = heard
            self._keepalive.heard(heard)
            self._look_at = heard + _LOOK_INTERVAL_S
            with contextlib.suppress(WebSocketError), self._writing():
                self._feed(data)
            self._take_turns()

    def _on_silence(self, deadline: float | None) -> None:
        now = time.monotonic()
        if self._closing_until is not None and now >= self._closing_until:
            self._break('the client did not close')
            return
        due = self._keepalive.due(now)
        if due is Due.DEAD:
            self._break('the client did not answer a ping')
        elif due is Due.PING:
            with contextlib.suppress(WebSocketError), self._writing():
                if self.open:
                    self._protocol.send_ping(os.urandom(4))
                    self._flush()
        elif deadline is not None and now >= deadline:
            raise TimeoutError('no message in time')

    def _feed(self, data: bytes) -> None:
        """Hand bytes to the protocol core, and act on it; the write lock is held."""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for frame in self._protocol.events_received():
            # Data after our own close frame is read only to find the client's.
            if isinstance(frame, Frame) and self._closing_until is None:
                try:
                    message = self._assembler.add(frame)
                except UnicodeDecodeError:
                    self._fail(CloseCode.INVALID_DATA, 'text is not valid UTF-8')
                    break
                except TooManyFragmentsError as ex:
                    self._fail(CloseCode.MESSAGE_TOO_BIG, str(ex))
                    break
                if message is not None:
                    self._messages.append(message)
        self._flush()

    def _fail(self, code: CloseCode, reason: str) -> None:
        # NOTE: frames that came in the same read are parsed already. If the client's
        # close frame was among them, the core has answered it, and that is the end.
        if not self._protocol.eof_sent:
            self._protocol.fail(code, reason)

    def _take_turns(self) -> None:
        """Let other greenlets run if this one has not waited for a while."""
        now = time.monotonic()
        if now - self._turn_began > _MAX_TURN_S:
            self._stream.give_way()
            self._turn_began = time.monotonic()

    def _await_end(self, is_over: Callable[[], bool]) -> None:
        """Read and throw away until the client is done too, or the time is up."""
        deadline = self._closing_until or time.monotonic() + self._close_timeout_s
        try:
            with self._reading(max(0.0, deadline - time.monotonic())):
                while self._broken is None and not is_over():
                    self._messages.clear()
                    self._read(deadline)
                    if time.monotonic() >= deadline:
                        break
        except TimeoutError:
            # Whoever receives did not come back: wake it, there is nothing to wait for.
            self._break('the client did not close')
