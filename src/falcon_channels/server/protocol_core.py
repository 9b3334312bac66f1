"""The protocol core of `websockets` for one connection: frames in, bytes out, no I/O.

`WebSocketProtocol` decodes usual frames itself. It has an object of this class only
for the others: control frames, fragments, compressed frames, and the end.

Call `receive` with each whole frame, and deliver the message that it returns. Then
check `ended`. If it is true, write `take_output`, report `end` and stop reading.
Otherwise the output of `take_output` is an answer, such as a pong. Forget the object
when it is not `needed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from websockets.extensions import Extension
from websockets.frames import Frame
from websockets.frames import Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from falcon_channels.server.loggers import core_logger
from falcon_channels.websocket.close_codes import INVALID_DATA
from falcon_channels.websocket.close_codes import MAX_REASON_BYTES
from falcon_channels.websocket.close_codes import MESSAGE_TOO_BIG
from falcon_channels.websocket.close_codes import NO_STATUS
from falcon_channels.websocket.close_codes import PROTOCOL_ERROR
from falcon_channels.websocket.fragments import MessageAssembler
from falcon_channels.websocket.fragments import TooManyFragmentsError


class CoreEnd(NamedTuple):
    """How a connection ended.

    Attributes:
        code: Close code.
        reason: Close reason.
        failed: Whether this end failed the connection, and the client may not know it.
    """

    code: int
    reason: str
    failed: bool


class ProtocolCore:
    """Reads and answers the frames of an open connection.

    Args:
        max_size: Maximum number of bytes of a message; ``None`` for no limit.
        max_fragments: Maximum number of frames of a message.
        extensions: The agreed extensions.

    Attributes:
        has_extensions: Whether the connection has an extension.
    """

    __slots__ = (
        '_assembler',
        '_core',
        '_max_fragments',
        '_max_size',
        'has_extensions',
    )

    def __init__(
        self,
        max_size: int | None,
        max_fragments: int,
        extensions: Sequence[Extension] = (),
    ) -> None:
        self._max_size = max_size
        self._max_fragments = max_fragments
        #: Only if a message is incomplete.
        self._assembler: MessageAssembler | None = None
        self.has_extensions = bool(extensions)
        self._begin(extensions)

    def _begin(self, extensions: Sequence[Extension]) -> None:
        self._core = ServerProtocol(
            state=OPEN, max_size=self._max_size, logger=core_logger
        )
        if extensions:
            self._core.extensions = list(extensions)

    @property
    def incomplete(self) -> bool:
        """Whether the last data frame belongs to a message that is not complete."""
        return self._assembler is not None

    @property
    def needed(self) -> bool:
        """Whether the object must stay for the next frame of an open connection."""
        return self.has_extensions or self._assembler is not None

    @property
    def ended(self) -> bool:
        """Whether no more frames are read or sent."""
        return self._core.eof_sent

    @property
    def end(self) -> CoreEnd:
        """How the connection ended; available if `ended`."""
        core = self._core
        failed = core.parser_exc is not None or core.close_rcvd is None
        close = core.close_sent if failed else core.close_rcvd
        assert close is not None
        return CoreEnd(int(close.code), close.reason, failed)

    def receive(self, data: bytes | bytearray) -> str | bytes | None:
        """Process one whole frame.

        Args:
            data: The frame.

        Returns:
            The message that the frame completes; ``None`` if it completes none.
        """
        if self._assembler is not None and data[0] & 0x0F == Opcode.CLOSE:
            self._drop_incomplete_message()
        self._core.receive_data(data)
        message = None
        frames: list[Any] = self._core.events_received()
        for frame in frames:
            message = self._add(frame)
        return message

    def refuse(self, head: bytes) -> None:
        """End the connection because of an illegal frame; the core finds the reason.

        Args:
            head: Not more than the first 14 bytes of the frame.
        """
        core = self._core
        core.receive_data(head)
        if core.parser_exc is None:
            core.fail(PROTOCOL_ERROR, 'illegal frame')

    def fail(self, code: int, reason: str) -> None:
        """Close without waiting for the client's answer (RFC 6455 section 7.1.7)."""
        self._core.fail(code, reason)

    def fail_for_encoding(self, error: UnicodeDecodeError) -> None:
        """Close because text is not valid UTF-8."""
        self.fail(INVALID_DATA, f'{error.reason} at position {error.start}')

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the client's close frame then ends the connection.

        Args:
            code: Close code that may be sent; 1005 for a close frame without a code.
            reason: Close reason, truncated to 123 bytes of UTF-8.
        """
        if code == NO_STATUS:
            self._core.send_close()
            return
        raw = reason.encode()
        if len(raw) > MAX_REASON_BYTES:
            reason = raw[:MAX_REASON_BYTES].decode(errors='ignore')
        self._core.send_close(code, reason)

    def take_output(self) -> bytes:
        """Return the frames that must be written."""
        return b''.join(self._core.data_to_send())

    def _drop_incomplete_message(self) -> None:
        """Accept a close frame within a fragmented message (RFC 6455 section 5.4).

        NOTE: The core would treat it as a violation, 1002. A new core, which has seen
        no fragment, answers the close.
        """
        if self._core.state is OPEN:
            self._assembler = None
            self._begin(self._core.extensions)

    def _add(self, frame: Frame) -> str | bytes | None:
        """Add a frame to its message; return the message if it is complete."""
        assembler = self._assembler
        if assembler is None:
            if frame.opcode > Opcode.BINARY:
                return None
            assembler = MessageAssembler(self._max_fragments)
        try:
            message = assembler.add(frame)
        except UnicodeDecodeError as ex:
            self.fail_for_encoding(ex)
            return None
        except TooManyFragmentsError as ex:
            self.fail(MESSAGE_TOO_BIG, str(ex))
            return None
        self._assembler = assembler if assembler.incomplete else None
        return message
