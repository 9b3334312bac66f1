"""Frames in: whole ones decoded in place, everything else by the sans-I/O core.

The core is given whole frames only, so that it stands between two frames whenever it
is not running; a connection then needs a core only while it shakes hands, closes, or
has a fragmented message or an extension. What nearly every frame is (whole,
unfragmented, masked, without reserved bits) is decoded here, with the same checks.
"""

from __future__ import annotations

from typing import cast

from websockets.frames import Frame
from websockets.frames import Opcode

from falcon_channels.server.connection import Connection
from falcon_channels.server.context import ServerContext
from falcon_channels.server.fragments import FragmentedMessage
from falcon_channels.server.fragments import TooManyFragmentsError
from falcon_channels.server.states import CLOSING
from falcon_channels.server.states import LINGERING
from falcon_channels.server.states import OPEN

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its C extension
    from websockets.utils import apply_mask

# Why reading is paused: bits of `_held`.
HELD_BY_QUEUE = 1
HELD_BY_RECEIVER = 2
HELD_FOR_OTHERS = 4
HELD_FOR_CONTROL = 8
HELD_FOR_ACCEPT = 16

#: Frames of one connection before others get their turn.
_MAX_FRAMES_A_TURN = 256
#: Control frames in one turn, and how long reading then rests.
_MAX_CONTROL_FRAMES = 64
_CONTROL_PAUSE_S = 0.05
#: Pings that are all answered if they come together; of more, only the last ones.
_MAX_PONGS = 16


class FrameReader(Connection):
    """What a connection reads."""

    __slots__ = ('_buffer', '_fragments', '_parsing', '_silent')

    def __init__(self, context: ServerContext) -> None:
        super().__init__(context)
        self._buffer: bytearray | None = None
        self._fragments: FragmentedMessage | None = None
        self._parsing = False
        #: Whether the client has sent no message; only where that has a deadline.
        self._silent = False

    def _parse(self, data: bytes | bytearray) -> None:
        """Take the whole frames at the start of `data`, keep the rest."""
        self._parsing = True
        try:
            used = self._take_frames(data)
        finally:
            self._parsing = False
        if self._pongs is not None:
            self._flush_pongs()
        if data is self._buffer:
            if used == len(data):
                self._buffer = None
            else:
                del self._buffer[:used]
        elif used != len(data) and self.state <= CLOSING:
            self._buffer = bytearray(memoryview(data)[used:])

    def _take_frames(self, data: bytes | bytearray) -> int:
        context = self._context
        end = len(data)
        pos = frames = controls = 0
        while end - pos >= 2:
            head = data[pos]
            length = data[pos + 1] - 128
            start = pos + 6
            if length >= 126:
                start = pos + (8 if length == 126 else 14)
                if end < start - 4:
                    break
                size = int.from_bytes(data[pos + 2 : start - 4], 'big')
                if size < (126 if length == 126 else 65536) or size >> 63:
                    # RFC 6455 section 5.2: the minimal number of bytes.
                    self._fail(1002, 'invalid length')
                    return end
                length = size
            plain = (
                (head == 0x81 or head == 0x82)
                and self._fragments is None
                and self.state == OPEN
                and 0 <= length <= context.frame_limit
            )
            if not plain and self._is_illegal(head, length):
                self._refuse_frame(data, pos)
                return end
            stop = start + length
            if stop > end:
                break
            frames += 1
            if plain:
                payload = apply_mask(data[start:stop], data[start - 4 : start])
                if head == 0x81:
                    try:
                        text = payload.decode()
                    except UnicodeDecodeError as ex:
                        self._fail(1007, f'{ex.reason} at position {ex.start}')
                        return end
                    self._deliver(text)
                else:
                    self._deliver(payload)
            else:
                self._use_core(data[pos:stop])
                controls += head & 0x08 == 0x08
            pos = stop
            if self.held or self.state > CLOSING:
                break
            if controls >= _MAX_CONTROL_FRAMES:
                # SECURITY: ping flood: the peer waits, not the other connections.
                self._hold(HELD_FOR_CONTROL)
                context.loop.call_later(
                    _CONTROL_PAUSE_S, self._unhold, HELD_FOR_CONTROL
                )
                break
            if frames >= _MAX_FRAMES_A_TURN:
                self._hold(HELD_FOR_OTHERS)
                context.loop.call_soon(self._unhold, HELD_FOR_OTHERS)
                break
        return pos if self.state <= CLOSING else end

    def _take_short_text(self, data: bytes) -> None:
        """Take one short text message that is all of a read: see `data_received`."""
        payload = apply_mask(data[6:], data[2:6])
        try:
            text = payload.decode()
        except UnicodeDecodeError as ex:
            self._fail(1007, f'{ex.reason} at position {ex.start}')
            return
        self._silent = False
        receiver = self._receiver
        if receiver is not None:
            receiver.on_message(text)
        elif self._cycle is not None and not self._cycle.on_message(text):
            self._hold(HELD_BY_QUEUE)

    def _is_illegal(self, head: int, length: int) -> bool:
        """Say whether the header alone breaks a rule (RFC 6455 sections 5.2, 5.5)."""
        if length < 0 or length > self._context.frame_limit:
            return True  # not masked; too big
        opcode = head & 0x0F
        if opcode >= 8 and (length > 125 or head < 0x80):
            return True
        if head & 0x70:
            # NOTE: The core is kept where there is an extension.
            core = self._core
            return not (head & 0x70 == 0x40 and core is not None and core.extensions)
        return opcode not in (0, 1, 2, 8, 9, 10)

    def _refuse_frame(self, data: bytes | bytearray, pos: int) -> None:
        """Close for a frame whose header is illegal: the core knows the words."""
        core = self._get_core()
        core.receive_data(bytes(data[pos : pos + 14]))
        if core.parser_exc is None:
            core.fail(1002, 'illegal frame')
        self._end_by_core(core)

    def _use_core(self, frame: bytes | bytearray) -> None:
        """Let the core take one whole frame."""
        if self._fragments is not None and frame[0] & 0x0F == Opcode.CLOSE:
            self._give_up_message()
        core = self._get_core()
        core.receive_data(frame)
        for event in core.events_received():
            self._on_frame(cast(Frame, event))
            if self.state > CLOSING:
                return
        if core.parser_exc is not None or core.close_rcvd is not None:
            self._end_by_core(core)
            return
        writes = core.data_to_send()
        if writes:
            # RFC 6455 section 5.5.3: only the most recent ping needs its pong.
            if self._pongs is None or len(self._pongs) >= _MAX_PONGS:
                self._pongs = []
            self._pongs.append(writes[-1])
        if self._fragments is None and self.state == OPEN and not core.extensions:
            self._core = None

    def _give_up_message(self) -> None:
        """Let the peer close in the middle of a message (RFC 6455 section 5.4).

        NOTE: The core calls that a violation, 1002; a fresh one answers the close.
        """
        if self.state == OPEN:
            self._fragments = None
            used, self._core = self._core, None
            if used is not None:
                self._get_core().extensions = used.extensions

    def _on_frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode > Opcode.BINARY:
            return
        message: str | bytes
        data = cast(bytes, frame.data)
        try:
            if opcode is Opcode.CONT or not frame.fin:
                if opcode is not Opcode.CONT:
                    limit = self._context.options.max_fragments
                    self._fragments = FragmentedMessage(opcode, limit)
                fragments = self._fragments
                assert fragments is not None
                fragments.add(data, last=frame.fin)
                if not frame.fin:
                    return
                message = fragments.message()
                self._fragments = None
            elif opcode is Opcode.TEXT:
                message = data.decode()
            else:
                message = bytes(data)
        except UnicodeDecodeError as ex:
            self._fail(1007, f'{ex.reason} at position {ex.start}')
        except TooManyFragmentsError as ex:
            self._fail(1009, str(ex))
        else:
            self._deliver(message)

    def _deliver(self, message: str | bytes) -> None:
        if self.state != OPEN:
            return  # the peer's close frame is awaited, nothing else
        self._silent = False
        receiver = self._receiver
        if receiver is not None:
            receiver.on_message(message)
        elif self._cycle is not None and not self._cycle.on_message(message):
            self._hold(HELD_BY_QUEUE)

    def _hold(self, why: int) -> None:
        if not self.held and self.state < LINGERING:
            self.transport.pause_reading()
        self.held |= why

    def _unhold(self, why: int) -> None:
        if not self.held & why:
            return
        self.held &= ~why
        if self.held or self.state not in (OPEN, CLOSING):
            return
        # NOTE: While frames are being taken, the loop over them goes on by itself.
        if self._buffer is not None and not self._parsing:
            self._parse(self._buffer)
        if not self.held and self.state in (OPEN, CLOSING):
            self.transport.resume_reading()

    def on_queue_empty(self) -> None:
        """Read on: the application has taken everything; called by the cycle."""
        self._unhold(HELD_BY_QUEUE)

    def pause_reading(self) -> None:
        """Take no more messages; TCP makes the peer wait."""
        self._hold(HELD_BY_RECEIVER)

    def resume_reading(self) -> None:
        """Take messages again."""
        self._unhold(HELD_BY_RECEIVER)

    def _read_again(self) -> None:
        self._unhold(self.held)
