"""Which close codes may be sent."""

from __future__ import annotations

from websockets.exceptions import ProtocolError
from websockets.frames import Close


def check_close_code(code: int) -> int:
    """Return `code` if it may be sent.

    Raises:
        ValueError: If it may not (RFC 6455 section 7.4).
    """
    if not isinstance(code, int):
        raise ValueError('code must be an int')
    try:
        Close(code, '').check()
    except ProtocolError as ex:
        raise ValueError(
            f'Invalid close code {code}. Only 1000 to 1003, 1007 to 1014 and 3000 to '
            '4999 may be sent.'
        ) from ex
    return code
