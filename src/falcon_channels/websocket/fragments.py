"""Messages from data frames (RFC 6455 section 5.4).

Pure: no I/O. The protocol core has checked the order of the frames.
"""

from __future__ import annotations

import codecs

from websockets.frames import Frame
from websockets.frames import Opcode

_utf8_decoder = codecs.getincrementaldecoder('utf-8')


class TooManyFragmentsError(Exception):
    """A message has more frames than the limit; close with 1009."""


class MessageAssembler:
    """Joins the frames of one connection into messages.

    SECURITY: The protocol core limits the bytes of a message. Empty frames have no
    bytes: 400,000 of them are 2.4 MB of traffic and take seconds to parse. The number
    of frames is therefore limited here.

    Args:
        max_fragments: Maximum number of frames of one message.

    Attributes:
        incomplete: Whether the last frame belongs to a message that is not complete.
    """

    __slots__ = ('_count', '_decoder', '_max_fragments', '_parts', 'incomplete')

    def __init__(self, max_fragments: int) -> None:
        self.incomplete = False
        self._max_fragments = max_fragments
        self._count = 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self._parts: list[str | bytes] = []

    def add(self, frame: Frame) -> str | bytes | None:
        """Add a frame.

        Args:
            frame: The next frame of the connection; control frames are ignored.

        Returns:
            The message that the frame completes: text as str, binary as bytes.
            ``None`` if it completes none.

        Raises:
            UnicodeDecodeError: The text is not valid UTF-8; close with 1007.
            TooManyFragmentsError: The message has too many frames; close with 1009.
        """
        opcode = frame.opcode
        if opcode > Opcode.BINARY:
            return None
        if opcode is not Opcode.CONT:
            if frame.fin:
                data = bytes(frame.data)
                return data.decode() if opcode is Opcode.TEXT else data
            self._count = 0
            self._parts = []
            self._decoder = _utf8_decoder() if opcode is Opcode.TEXT else None
        self.incomplete = not frame.fin
        self._count += 1
        if self._count > self._max_fragments:
            raise TooManyFragmentsError(
                f'message has more than {self._max_fragments} fragments'
            )
        part = bytes(frame.data)
        if self._decoder is not None:
            self._parts.append(self._decoder.decode(part, frame.fin))
        else:
            self._parts.append(part)
        if not frame.fin:
            return None
        parts, self._parts = self._parts, []
        if self._decoder is not None:
            self._decoder = None
            return ''.join(parts)  # type: ignore[arg-type]  # text has str parts
        return b''.join(parts)  # type: ignore[arg-type]  # binary has bytes
