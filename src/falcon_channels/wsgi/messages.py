"""Frames into messages. Pure: the protocol core has checked the order of frames."""

from __future__ import annotations

import codecs

from websockets.frames import Frame
from websockets.frames import Opcode

_CONTROL = 0x08


class TooManyFragmentsError(Exception):
    """A message came in more frames than the options allow."""


class MessageAssembler:
    """Puts the messages of one connection together.

    Args:
        max_fragments: The most frames that one message may come in.
    """

    __slots__ = ('_count', '_data', '_decoder', '_max_fragments', '_text')

    def __init__(self, max_fragments: int) -> None:
        self._max_fragments = max_fragments
        self._clear()

    def _clear(self) -> None:
        self._count = 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self._text: list[str] = []
        self._data = bytearray()

    def add(self, frame: Frame) -> str | bytes | None:
        """Add a frame; return the message that it completes, if it completes one.

        Raises:
            UnicodeDecodeError: As soon as a text cannot become UTF-8 any more.
            TooManyFragmentsError: If the message has too many frames.
        """
        opcode = frame.opcode
        if opcode & _CONTROL:
            return None
        if opcode is not Opcode.CONT:
            if frame.fin:
                data = bytes(frame.data)
                return data.decode() if opcode is Opcode.TEXT else data
            self._clear()
            if opcode is Opcode.TEXT:
                self._decoder = codecs.getincrementaldecoder('utf-8')()
        self._count += 1
        if self._count > self._max_fragments:
            # SECURITY: 400,000 empty fragments are 2.4 MB of traffic, stay below any
            # limit of size, and take seconds to parse.
            raise TooManyFragmentsError(f'more than {self._max_fragments} fragments')
        if self._decoder is not None:
            self._text.append(self._decoder.decode(bytes(frame.data), frame.fin))
        else:
            self._data += frame.data
        if not frame.fin:
            return None
        is_text = self._decoder is not None
        message = ''.join(self._text) if is_text else bytes(self._data)
        self._clear()
        return message
