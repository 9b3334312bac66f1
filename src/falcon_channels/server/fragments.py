"""A message that arrives in several frames (RFC 6455 section 5.4)."""

from __future__ import annotations

import codecs

from websockets.frames import Opcode

_utf8_decoder = codecs.getincrementaldecoder('utf-8')


class TooManyFragmentsError(Exception):
    """The message has more frames than the limit."""


class FragmentedMessage:
    """Collects the frames of one message and checks its UTF-8 as it comes.

    SECURITY: The core bounds the bytes of a message; empty frames cost none of them,
    so that their number is bounded here.
    """

    __slots__ = ('_decoder', '_left', '_max_fragments', '_parts')

    def __init__(self, opcode: Opcode, max_fragments: int) -> None:
        self._parts: list[str | bytes] = []
        self._decoder = _utf8_decoder() if opcode is Opcode.TEXT else None
        self._max_fragments = max_fragments
        self._left = max_fragments

    def add(self, data: bytes, *, last: bool) -> None:
        """Take the payload of the next frame.

        Raises:
            TooManyFragmentsError: It is one too many.
            UnicodeDecodeError: The text is not UTF-8.
        """
        if not self._left:
            raise TooManyFragmentsError(
                f'message has more than {self._max_fragments} fragments'
            )
        self._left -= 1
        if self._decoder is not None:
            self._parts.append(self._decoder.decode(data, last))
        else:
            self._parts.append(bytes(data))

    def message(self) -> str | bytes:
        """Return the whole message."""
        if self._decoder is not None:
            return ''.join(self._parts)  # type: ignore[arg-type]  # text has str parts
        return b''.join(self._parts)  # type: ignore[arg-type]  # binary has bytes
