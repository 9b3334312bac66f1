"""A WebSocket connection's way out: writing, back-pressure, keep-alive and the end.

States go one way, see `states`. A timer cuts whatever does not come to its end.
"""

from __future__ import annotations

import asyncio
from os import write as write_descriptor
from typing import Any

from websockets.exceptions import ProtocolError
from websockets.protocol import OPEN as CORE_OPEN
from websockets.server import ServerProtocol

from falcon_channels.server.asgi import AsgiCycle
from falcon_channels.server.context import core_logger
from falcon_channels.server.context import ServerContext
from falcon_channels.server.states import CLOSED
from falcon_channels.server.states import CLOSING
from falcon_channels.server.states import CONNECTING
from falcon_channels.server.states import LINGERING
from falcon_channels.server.states import OPEN
from falcon_channels.transports.base import Receiver
from falcon_channels.transports.websocket_framing import binary_frame
from falcon_channels.transports.websocket_framing import DeflateFraming
from falcon_channels.transports.websocket_framing import SHORT_TEXT_HEADERS
from falcon_channels.transports.websocket_framing import text_frame
from falcon_channels.transports.websocket_framing import UNCOMPRESSED
from falcon_channels.transports.websocket_framing import UncompressedFraming

_PING = b'\x89\x00'
#: What waits for the end of a turn of the event loop, at most: so many frames, none of
#: them longer.
_MAX_GATHERED_FRAMES = 64
_MAX_GATHERED_BYTES = 4096
_MAX_REASON_BYTES = 123


class Connection(asyncio.Protocol):
    """What a connection writes, and how it ends."""

    __slots__ = (
        '_context',
        '_core',
        '_cycle',
        '_drainers',
        '_fd',
        '_heard',
        '_out',
        '_pongs',
        '_queued_bytes',
        '_receiver',
        '_timer',
        '_told',
        '_unanswered',
        'descriptor',
        'framing',
        'held',
        'state',
        'transport',
        'wheel_slot',
        'write_blocked',
    )

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made
        self.framing: UncompressedFraming | DeflateFraming = UNCOMPRESSED
        self.wheel_slot = -1
        self.write_blocked = False
        self.state = CONNECTING
        #: The socket's descriptor while it may be written, or -1.
        self._fd = -1
        #: The same while nothing waits before it in the transport, or -1; only where
        #: a receiver is attached, for then the transport reports every backlog. See
        #: `falcon_channels.transports.base`.
        self.descriptor = -1
        self._core: ServerProtocol | None = None
        self._cycle: AsgiCycle | None = None
        self._receiver: Receiver | None = None
        self._drainers: list[asyncio.Future[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pongs: list[bytes] | None = None
        #: Frames of this turn of the event loop, in order.
        self._out: list[bytes] | None = None
        self.held = 0
        #: Bytes given to the transport, rather than written here.
        self._queued_bytes = 0
        self._heard = False
        self._unanswered = 0
        self._told = False

    @property
    def attached(self) -> bool:
        """Whether a receiver has taken over."""
        return self._receiver is not None

    @property
    def backlog_bytes(self) -> int:
        """How many bytes wait in this process.

        NOTE: With TLS, what the encrypted side holds (64 KiB at most) is not in it.
        """
        if self.state in (OPEN, CLOSING):
            return self.transport.get_write_buffer_size()
        return 0

    def write(self, blob: bytes) -> int:
        """Send finished frames; return how many bytes wait now.

        PERF: The descriptor is written at once while nothing waits before it: the
        event loop's own way costs about a microsecond more for each recipient
        (benchmarks/fanout.py).
        """
        fd = self.descriptor
        if fd >= 0:
            try:
                sent = write_descriptor(fd, blob)
            except OSError:
                # NOTE: Nothing fits in, or the link is broken: the transport knows
                # what to do in either case.
                sent = 0
            if sent == len(blob):
                return 0
            self._write_later(blob[sent:])
        else:
            if self.state != OPEN:
                return 0
            self._write_behind(blob)
        return self.transport.get_write_buffer_size()

    def _write_behind(self, blob: bytes) -> None:
        """Write after what waits, directly where nothing does."""
        transport = self.transport
        if self._fd >= 0 and not transport.get_write_buffer_size():
            try:
                sent = write_descriptor(self._fd, blob)
            except OSError:
                sent = 0
            if sent == len(blob):
                return
            blob = blob[sent:]
        self._write_later(blob)

    def _write_later(self, blob: bytes) -> None:
        """Write after what waits, at the event loop's leisure."""
        self._queued_bytes += len(blob)
        self.transport.write(blob)

    def send_text(self, text: str) -> None:
        """Send a text message for the application, at the end of this turn.

        PERF: What all connections send in one turn of the event loop leaves together:
        one write for each, and one wake-up of a peer that reads them all
        (benchmarks/echo.py).
        """
        # PERF: no calls that a short message can do without (benchmarks/echo.py).
        payload = text.encode()
        if self.framing is not UNCOMPRESSED:
            frame = self.framing.frame((payload,), binary=False)
        elif len(payload) < 126:
            frame = SHORT_TEXT_HEADERS[len(payload)] + payload
        else:
            frame = text_frame(payload)
        self._send(frame)

    def send_binary(self, data: bytes) -> None:
        """Send a binary message for the application; see `send_text`."""
        if self.framing is UNCOMPRESSED:
            self._send(binary_frame(data))
        else:
            self._send(self.framing.frame((data,), binary=True))

    def _send(self, frame: bytes) -> None:
        out = self._out
        if out is not None:
            out.append(frame)
            if len(out) < _MAX_GATHERED_FRAMES and len(frame) <= _MAX_GATHERED_BYTES:
                return
        elif len(frame) <= _MAX_GATHERED_BYTES and self._receiver is None:
            self._out = [frame]
            self._context.flush_soon(self)
            return
        else:
            self._out = [frame]
        self.flush()

    def flush(self) -> None:
        """Write what `send_text` and `send_binary` have gathered."""
        out = self._out
        if out is not None:
            self._out = None
            if self.state == OPEN:
                self._write_behind(out[0] if len(out) == 1 else b''.join(out))

    async def drain(self) -> None:
        """Wait until the backlog is small again or the connection is over."""
        while self.write_blocked and self.state in (CONNECTING, OPEN):
            if self._drainers is None:
                self._drainers = []
            waiter = self._context.loop.create_future()
            self._drainers.append(waiter)
            await waiter

    def _release_drainers(self) -> None:
        drainers, self._drainers = self._drainers, None
        for waiter in drainers or ():
            if not waiter.done():
                waiter.set_result(None)

    def _flush_pongs(self) -> None:
        """Answer the last pings, unless the peer does not read."""
        pongs = self._pongs
        if pongs is not None and not self.write_blocked and self.state == OPEN:
            self._pongs = None
            self.flush()
            self._write_behind(b''.join(pongs))

    def keep_alive(self) -> float | None:
        """Ping the peer or find it gone; called by the wheel.

        Returns:
            Seconds until the next call, or None when the connection is over.
        """
        context = self._context
        interval_s = context.ping_interval_s
        if self.state != OPEN or interval_s is None:
            return None
        timeout_s = context.ping_timeout_s
        if timeout_s is None:
            self._ping()
            return interval_s
        step_s = min(interval_s, timeout_s)
        if self._unanswered:
            # NOTE: While reading is paused nothing can be heard; then the kernel's
            # TCP_USER_TIMEOUT speaks for a peer that is gone.
            if self._heard or self.held:
                self._unanswered = 0
                if interval_s > timeout_s:
                    return interval_s - timeout_s
            elif self._unanswered * step_s >= timeout_s:
                self._tell(1006, '')
                self._fail(1011, 'keepalive ping timeout')
                return None
        self._heard = False
        self._unanswered += 1
        self._ping()
        return step_s

    def _ping(self) -> None:
        # NOTE: Whatever arrives shows that the peer lives, so that a ping needs no
        # payload to tell its pong by.
        if not self.write_blocked:
            self.flush()
            self._write_behind(_PING)

    def pause_writing(self) -> None:
        """Note a backlog, and give the peer `write_timeout_s` to take some of it."""
        self.write_blocked = True
        self.descriptor = -1
        if self.state == OPEN:
            self._watch_backlog()

    def resume_writing(self) -> None:
        """Let waiting senders go on."""
        self.write_blocked = False
        self._release_drainers()
        if self.state == OPEN:
            self._set_timer(None)
            if self._receiver is not None:
                self.descriptor = self._fd
            self._flush_pongs()
            if self._receiver is not None:
                self._receiver.on_writable()

    def _watch_backlog(self) -> None:
        """Cut a peer that takes nothing of a backlog for `write_timeout_s`."""
        waiting = self.transport.get_write_buffer_size()
        written = self._queued_bytes - waiting
        self._set_timer(
            self._context.options.write_timeout_s, self._judge_backlog, written
        )

    def _judge_backlog(self, before: int) -> None:
        waiting = self.transport.get_write_buffer_size()
        if self.state != OPEN or not self.write_blocked:
            return
        if self._queued_bytes - waiting <= before:
            self.abort()
        else:
            self._watch_backlog()

    def close(self, code: int, reason: str) -> None:
        """Close after what is written; cut the link after `close_timeout_s`.

        Args:
            code: Close code.
            reason: Words for the peer; cut at 123 bytes of UTF-8.

        Raises:
            ValueError: The code must not be sent (RFC 6455 section 7.4).
        """
        if self.state != OPEN:
            return
        self.flush()
        core = self._get_core()
        raw = reason.encode()
        if len(raw) > _MAX_REASON_BYTES:
            reason = raw[:_MAX_REASON_BYTES].decode(errors='ignore')
        try:
            core.send_close(code, reason)
        except ProtocolError:
            raise ValueError(f'close code {code} must not be sent') from None
        self.transport.write(b''.join(core.data_to_send()))
        self.state = CLOSING
        self._fd = self.descriptor = -1
        self._set_timer(self._context.options.close_timeout_s, self.abort)
        self._release_drainers()
        # NOTE: Not now: it may call the receiver, which `close` must not.
        self._context.loop.call_soon(self._read_again)

    def abort(self) -> None:
        """Cut the link and drop what is not written."""
        if self.state < CLOSED:
            self.state = LINGERING
            self._fd = self.descriptor = -1
            self.transport.abort()

    def _fail(self, code: int, reason: str) -> None:
        """Close without waiting for the peer's answer (RFC 6455 section 7.1.7)."""
        if self.state in (OPEN, CLOSING):
            core = self._get_core()
            core.fail(code, reason)
            self._end_by_core(core)

    def _end_by_core(self, core: ServerProtocol) -> None:
        """Write the core's last words and report whose close it was."""
        failed = core.parser_exc is not None or core.close_rcvd is None
        close = core.close_sent if failed else core.close_rcvd
        assert close is not None
        self.flush()
        data = b''.join(core.data_to_send())
        if data:
            self.transport.write(data)
        self._linger(wait=failed)
        self._tell(int(close.code), close.reason)

    def _linger(self, *, wait: bool = True) -> None:
        """Hang up; where `wait` is true only after the peer has read our words."""
        if self.state >= LINGERING:
            return
        self.state = LINGERING
        self._fd = self.descriptor = -1
        transport = self.transport
        self._set_timer(self._context.options.close_timeout_s, transport.abort)
        if transport.is_closing():
            return
        # NOTE: It may be paused although nothing holds it, within `_unhold`.
        transport.resume_reading()
        if wait and transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _tell(self, code: int, reason: str) -> None:
        """Report the end to the application and the receiver, once."""
        if self._told:
            return
        self._told = True
        if self._cycle is not None:
            self._cycle.on_end(code, reason)
        if self._receiver is not None:
            self._receiver.on_closed(code, reason)

    def _set_timer(
        self, delay_s: float | None, call: Any = None, *args: object
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay_s is not None:
            self._timer = self._context.loop.call_later(delay_s, call, *args)

    def _get_core(self) -> ServerProtocol:
        core = self._core
        if core is None:
            core = self._core = ServerProtocol(
                state=CORE_OPEN, max_size=self._context.max_size, logger=core_logger
            )
        return core

    def _read_again(self) -> None:
        """Take bytes again, whatever held them back."""
        raise NotImplementedError
