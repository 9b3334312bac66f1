"""Decode JSON, and base64 in JSON, that clients sent, in bounded time."""

from __future__ import annotations

import base64
import math
from typing import Any
from typing import Final

import msgspec

# Each digit becomes 0.
_AS_ZEROS: Final = bytes.maketrans(b'123456789E', b'000000000e')
_LONG: Final = b'0' * 200


def has_extreme_numbers(text: bytes) -> bool:
    """Return whether JSON may have a number outside the range of a double.

    Such a number has an exponent of at least three digits, or 200 digits in a row.
    """
    zeros = text.translate(_AS_ZEROS)
    return b'000' in zeros and (
        b'e000' in zeros or b'e+000' in zeros or b'e-000' in zeros or _LONG in zeros
    )


def decode_json(text: bytes | str) -> Any:
    """Return JSON as Python values.

    Raises:
        ValueError: It is not JSON, or has a number outside the range of a double.
        RecursionError: It is nested too deep.
    """
    data = text.encode() if isinstance(text, str) else text
    # SECURITY: msgspec takes 10 us for a number like 1e300, and a message of 64 KiB can
    #   hold 10,000 of them. Python's `float` takes 0.4 us (benchmarks/blocking.py).
    if has_extreme_numbers(data):
        return _decode_extreme(data)
    return msgspec.json.decode(data)


def decode_base64(text: str, *, urlsafe: bool = False) -> bytes:
    """Return the bytes of text in base64 with padding (RFC 4648 section 4).

    Args:
        text: The text.
        urlsafe: Whether it has ``-`` and ``_`` instead of ``+`` and ``/`` (section 5).

    Raises:
        ValueError: It is not base64.
    """
    return base64.b64decode(text, altchars=b'-_' if urlsafe else None, validate=True)


def _to_float(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f'the number {number:.20} exceeds the range of a double')
    return value


_decode_extreme = msgspec.json.Decoder(float_hook=_to_float).decode
