"""Framings that put messages into WebSocket frames (RFC 6455 section 5).

Server frames are not masked, so one blob serves all connections with the same framing.
A publication is framed once, and compressed once if compression was negotiated.
`UNCOMPRESSED` and `DEFLATE` are the only instances; the hub compares them by identity.
"""

from __future__ import annotations

from collections.abc import Sequence
import struct
import zlib

#: First byte of a whole, unfragmented, uncompressed message (FIN and the opcode).
TEXT_HEAD = 0x81
BINARY_HEAD = 0x82

#: RSV1 bit: the message is compressed (RFC 7692 section 6).
_COMPRESSED = 0x40

#: LZ77 window of the server, which every connection with `DEFLATE` has accepted.
DEFLATE_WINDOW_BITS = 12

#: zlib memory level; one compression takes 32 KiB with `DEFLATE_WINDOW_BITS`.
DEFLATE_MEMORY_LEVEL = 5

#: Shorter messages are not compressed, because that does not make them smaller.
MIN_DEFLATE_BYTES = 1024

#: Frame headers of messages shorter than 126 bytes, by length.
SHORT_TEXT_HEADERS = [bytes((TEXT_HEAD, length)) for length in range(126)]
SHORT_BINARY_HEADERS = [bytes((BINARY_HEAD, length)) for length in range(126)]


def frame_header(head: int, length: int) -> bytes:
    """Return the header of an unmasked frame.

    Args:
        head: First byte: FIN, reserved bits and opcode.
        length: Payload length in bytes.
    """
    if length < 126:
        return bytes((head, length))
    if length < 65536:
        return struct.pack('!BBH', head, 126, length)
    return struct.pack('!BBQ', head, 127, length)


def text_frame(payload: bytes) -> bytes:
    """Return one whole text message as a frame; `payload` is UTF-8."""
    length = len(payload)
    if length < 126:
        return SHORT_TEXT_HEADERS[length] + payload
    return frame_header(TEXT_HEAD, length) + payload


def binary_frame(payload: bytes) -> bytes:
    """Return one whole binary message as a frame."""
    length = len(payload)
    if length < 126:
        return SHORT_BINARY_HEADERS[length] + payload
    return frame_header(BINARY_HEAD, length) + payload


class UncompressedFraming:
    """Framing without compression; use the shared `UNCOMPRESSED`."""

    __slots__ = ()

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the frames of the payloads, one after the other."""
        build = binary_frame if binary else text_frame
        if len(payloads) == 1:
            return build(payloads[0])
        return b''.join([build(payload) for payload in payloads])

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return the blobs as one blob."""
        return b''.join(blobs)


class DeflateFraming:
    """Framing with permessage-deflate; use the shared `DEFLATE`.

    NOTE: a compression context would differ per connection, so one blob could not serve
    several. Messages are therefore compressed without context
    (``server_no_context_takeover``, RFC 7692 section 7.1.1.1).
    """

    __slots__ = ()

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the frames of the payloads; long payloads are compressed."""
        head = BINARY_HEAD if binary else TEXT_HEAD
        return b''.join([self._frame(head, payload) for payload in payloads])

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return the blobs as one blob."""
        return b''.join(blobs)

    def _frame(self, head: int, payload: bytes) -> bytes:
        if len(payload) >= MIN_DEFLATE_BYTES:
            encoder = zlib.compressobj(
                wbits=-DEFLATE_WINDOW_BITS, memLevel=DEFLATE_MEMORY_LEVEL
            )
            data = encoder.compress(payload) + encoder.flush(zlib.Z_SYNC_FLUSH)
            # RFC 7692 section 7.2.1: remove the empty block at the end.
            data = data[:-4]
            if len(data) < len(payload):
                return frame_header(head | _COMPRESSED, len(data)) + data
        return frame_header(head, len(payload)) + payload


#: Framing of connections without compression.
UNCOMPRESSED = UncompressedFraming()

#: Framing of connections that have negotiated permessage-deflate.
DEFLATE = DeflateFraming()
