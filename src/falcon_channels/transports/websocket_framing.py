"""Framings: finished messages to the bytes of WebSocket frames (RFC 6455 section 5).

Server frames are not masked, so one blob serves every connection with its framing:
a publication is framed, and where compression was negotiated compressed, once.
`WIRE` and `DEFLATE` are the only instances; the hub compares framings by identity.
"""

from __future__ import annotations

from collections.abc import Sequence
import struct
import zlib

#: First byte of a whole, unfragmented, uncompressed message (FIN and the opcode).
TEXT_HEAD = 0x81
BINARY_HEAD = 0x82

#: RSV1: "this message is compressed" (RFC 7692 section 6).
_COMPRESSED = 0x40

#: The server's LZ77 window: what every connection with `DEFLATE` has agreed to.
DEFLATE_WINDOW_BITS = 12

#: zlib's memory for one compression, with `DEFLATE_WINDOW_BITS`: 32 KiB.
DEFLATE_MEMORY_LEVEL = 5

#: Messages shorter than this are sent as they are: deflate gains nothing on them.
MIN_DEFLATE_BYTES = 1024

#: Headers of messages shorter than 126 bytes, by length.
SHORT_TEXT_HEADERS = [bytes((TEXT_HEAD, length)) for length in range(126)]
SHORT_BINARY_HEADERS = [bytes((BINARY_HEAD, length)) for length in range(126)]


def frame_header(head: int, length: int) -> bytes:
    """Return the header of an unmasked frame.

    Args:
        head: The first byte: FIN, reserved bits and opcode.
        length: Length of the payload in bytes.
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


class WireFraming:
    """Payloads to uncompressed frames; use the shared `WIRE`."""

    __slots__ = ()

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the frames of the payloads, one after the other."""
        build = binary_frame if binary else text_frame
        if len(payloads) == 1:
            return build(payloads[0])
        return b''.join([build(payload) for payload in payloads])

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return the blobs as one."""
        return b''.join(blobs)


class DeflateFraming:
    """Payloads to permessage-deflate frames; use the shared `DEFLATE`.

    NOTE: No context is kept between messages (``server_no_context_takeover``, RFC 7692
    section 7.1.1.1), or one blob could not serve several connections.
    """

    __slots__ = ()

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the frames of the payloads, the long ones compressed."""
        head = BINARY_HEAD if binary else TEXT_HEAD
        return b''.join([self._frame(head, payload) for payload in payloads])

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return the blobs as one."""
        return b''.join(blobs)

    def _frame(self, head: int, payload: bytes) -> bytes:
        if len(payload) >= MIN_DEFLATE_BYTES:
            encoder = zlib.compressobj(
                wbits=-DEFLATE_WINDOW_BITS, memLevel=DEFLATE_MEMORY_LEVEL
            )
            data = encoder.compress(payload) + encoder.flush(zlib.Z_SYNC_FLUSH)
            # RFC 7692 section 7.2.1: the empty block at the end is left out.
            data = data[:-4]
            if len(data) < len(payload):
                return frame_header(head | _COMPRESSED, len(data)) + data
        return frame_header(head, len(payload)) + payload


#: Plain frames.
WIRE = WireFraming()

#: Compressed frames, for connections that have negotiated permessage-deflate.
DEFLATE = DeflateFraming()
