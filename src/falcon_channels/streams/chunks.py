"""Buffer for the chunks of a stream that the broker has not stored yet. No I/O.

A chunk is a text or a value. Consecutive texts are joined into one batch, whose payload
is one JSON string. Each value is a batch of its own.

The length of a stream is counted in *units*: a character of text is one unit, and a
value is one unit. It does not depend on how the producer splits its text into chunks.
After a restart, the producer may therefore split its text differently.

Call `add_text` and `add_value` with each chunk. Store the batch that `first_batch`
returns, and then call `remove` with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from falcon_channels.errors import PayloadError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.publication import new_named_tuple

_encode = msgspec.json.encode


class _Piece(NamedTuple):
    """A value, or a piece of text.

    Attributes:
        data: Payload of a value, or JSON string of a text without its quotes.
        units: Length in units.
        is_text: Whether it is text, which can be joined with other text.
        binary: Whether the payload is not JSON.
    """

    data: bytes
    units: int
    is_text: bool
    binary: bool = False


class Batch(NamedTuple):
    """The payload of one publication.

    Attributes:
        payload: JSON text, or any bytes if `binary`.
        binary: Whether the payload is not JSON.
        units: Length in units.
        pieces: Number of pieces of the buffer in this batch.
        size_bytes: Size of these pieces in the buffer.
    """

    payload: bytes
    binary: bool
    units: int
    pieces: int
    size_bytes: int


class ChunkBuffer:
    """Queue of the chunks that are not stored yet, oldest first.

    Args:
        limit_bytes: Maximum payload of a text batch, in bytes.

    Attributes:
        size_bytes: Size of all payloads in the buffer, in bytes.
        units: Length of all chunks in the buffer, in units.
        skip_units: Number of units to ignore next, because they are stored already.
    """

    __slots__ = (
        '_limit_bytes',
        '_num_values',
        '_pieces',
        'size_bytes',
        'skip_units',
        'units',
    )

    def __init__(self, limit_bytes: int) -> None:
        # NOTE: two bytes of a text payload are its quotes.
        self._limit_bytes = limit_bytes - 2
        self._pieces: deque[_Piece] = deque()
        self.size_bytes = 0
        self.units = 0
        self.skip_units = 0
        self._num_values = 0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add_text(self, text: str) -> None:
        """Append a text, split into pieces if it exceeds the limit of a batch.

        Raises:
            PayloadError: The text has characters that UTF-8 cannot encode.
            PublicationTooLargeError: One character exceeds the limit.
        """
        if self.skip_units:
            text = self._skip(text)
        try:
            # PERF: nearly all texts are short, and need few calls
            #   (benchmarks/event_streams.py). A character has 1 to 6 bytes.
            units = len(text)
            if 0 < 6 * units <= self._limit_bytes:
                data = _encode(text)[1:-1]
                piece = (data, units, True, False)
                self._pieces.append(new_named_tuple(_Piece, piece))
                self.size_bytes += len(data)
                self.units += units
                return
            pieces = list(_cut(text, self._limit_bytes))
        except UnicodeEncodeError as ex:
            raise PayloadError(f'the text cannot be written as UTF-8: {ex}') from None
        for piece in pieces:
            self._append(piece)

    def add_value(self, payload: bytes, binary: bool) -> None:
        """Append the payload of a value."""
        if self.skip_units:
            self.skip_units -= 1
        else:
            self._append(_Piece(payload, 1, False, binary))

    def _skip(self, text: str) -> str:
        """Return the text without its beginning that is stored already."""
        skipped = min(self.skip_units, len(text))
        self.skip_units -= skipped
        return text[skipped:]

    def first_batch(self) -> Batch:
        """Return the next batch: one value, or consecutive texts up to the limit.

        The pieces stay in the buffer. The buffer must not be empty.
        """
        first = self._pieces[0]
        if not first.is_text:
            return Batch(first.data, first.binary, 1, 1, len(first.data))
        if not self._num_values and self.size_bytes <= self._limit_bytes:
            # PERF: the usual case, without a look at each piece
            #   (benchmarks/event_streams.py).
            parts = [piece[0] for piece in self._pieces]
            payload = b'"%s"' % b''.join(parts)
            return new_named_tuple(
                Batch, (payload, False, self.units, len(parts), self.size_bytes)
            )
        parts, size_bytes, units = [], 0, 0
        for piece in self._pieces:
            length = len(piece.data)
            if not piece.is_text or size_bytes + length > self._limit_bytes:
                break
            size_bytes += length
            parts.append(piece.data)
            units += piece.units
        payload = b'"%s"' % b''.join(parts)
        return Batch(payload, False, units, len(parts), size_bytes)

    def remove(self, batch: Batch) -> None:
        """Remove the pieces of the batch that `first_batch` has returned."""
        if batch.pieces == len(self._pieces):
            self.clear()
            return
        for _ in range(batch.pieces):
            self._num_values -= not self._pieces.popleft().is_text
        self.size_bytes -= batch.size_bytes
        self.units -= batch.units

    def remove_stored(self, payload: bytes, binary: bool, units: int) -> bool:
        """Remove the chunks that another writer has already stored.

        The units of the payload that are not in the buffer yet are skipped later.

        Args:
            payload: Payload that the other writer has stored; see `first_batch`.
            binary: Whether the payload is not JSON.
            units: Length of the payload in units.

        Returns:
            Whether the chunks in the buffer are equal to the payload.
        """
        if not is_text_payload(payload, binary):
            missing = self._remove_value(payload, binary) if units == 1 else None
        elif units == len(msgspec.json.decode(payload)):
            missing = self._remove_text(payload[1:-1], units)
        else:
            # NOTE: chunks before this one have left the log, and cannot be compared.
            missing = None
        if missing is None:
            return False
        self.skip_units += missing
        return True

    def _remove_value(self, payload: bytes, binary: bool) -> int | None:
        if not self._pieces:
            return 1
        return 0 if self._pop() == _Piece(payload, 1, False, binary) else None

    def _remove_text(self, data: bytes, units: int) -> int | None:
        while units and self._pieces:
            piece = self._pop()
            # NOTE: both are encoded in the same way, character by character. Equal
            #   bytes are therefore equal text.
            common = min(len(piece.data), len(data))
            if not piece.is_text or piece.data[:common] != data[:common]:
                return None
            if len(piece.data) > common:
                rest = _Piece(piece.data[common:], piece.units - units, True)
                self._pieces.appendleft(rest)
                self._count(rest, 1)
                return 0
            data = data[common:]
            units -= piece.units
        return units

    def clear(self) -> None:
        """Remove all chunks."""
        self._pieces.clear()
        self.size_bytes = self.units = self._num_values = 0

    def _append(self, piece: _Piece) -> None:
        self._pieces.append(piece)
        self._count(piece, 1)

    def _pop(self) -> _Piece:
        piece = self._pieces.popleft()
        self._count(piece, -1)
        return piece

    def _count(self, piece: _Piece, sign: int) -> None:
        self.size_bytes += sign * len(piece.data)
        self.units += sign * piece.units
        if not piece.is_text:
            self._num_values += sign


def is_text_payload(payload: bytes, binary: bool) -> bool:
    """Return whether a payload is a text (a JSON string), and not a value."""
    return payload[:1] == b'"' and not binary


def _text_piece(text: str) -> _Piece:
    return _Piece(_encode(text)[1:-1], len(text), True)


def _cut(text: str, limit_bytes: int) -> Iterator[_Piece]:
    """Split a text into pieces that do not exceed the limit."""
    # PERF: a long text is split before it is encoded. A character has 1 to 6 bytes.
    if not text:
        return
    if len(text) == 1 or len(text) <= limit_bytes:
        piece = _text_piece(text)
        if len(piece.data) <= limit_bytes:
            yield piece
            return
        if len(text) == 1:
            raise PublicationTooLargeError(len(piece.data) + 2, limit_bytes + 2)
    half = len(text) // 2
    yield from _cut(text[:half], limit_bytes)
    yield from _cut(text[half:], limit_bytes)
