"""Rules for the first bytes of a client's frame (RFC 6455 sections 5.2 and 5.5).

Pure. SECURITY: A frame that breaks a rule is refused as soon as its head has arrived.
Its payload, which may be long, is not awaited.
"""

from __future__ import annotations

from websockets.frames import Opcode

#: Maximum number of bytes of a frame before its payload.
MAX_FRAME_HEAD_BYTES = 14

_OPCODES = frozenset(Opcode)
_FIN = 0x80
_RSV = 0x70
_RSV1 = 0x40
_FIRST_CONTROL_OPCODE = 8
_MAX_CONTROL_BYTES = 125


def is_illegal(
    head: int, length: int, max_length: int, *, has_extensions: bool
) -> bool:
    """Return whether the head of a frame breaks a rule.

    Args:
        head: First byte of the frame.
        length: Length of the payload in bytes; negative if the frame has no mask.
        max_length: Maximum length of a payload in bytes.
        has_extensions: Whether an extension may use the first reserved bit.
    """
    if length < 0 or length > max_length:
        return True
    opcode = head & 0x0F
    if opcode >= _FIRST_CONTROL_OPCODE and (
        length > _MAX_CONTROL_BYTES or not head & _FIN
    ):
        return True
    reserved = head & _RSV
    if reserved:
        return not (reserved == _RSV1 and has_extensions)
    return opcode not in _OPCODES
