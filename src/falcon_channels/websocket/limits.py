"""Default limits of both kinds of servers, and the log line for large messages."""

from __future__ import annotations

import logging

_logger = logging.getLogger('falcon_channels')

#: Maximum number of frames of one message.
MAX_FRAGMENTS = 1024
#: Maximum size in bytes of a client's message, after decompression.
MAX_MESSAGE_BYTES = 1024 * 1024


def log_too_big(client: object, size_bytes: int, option: str, limit_bytes: int) -> None:
    """Log that a message is refused, or its connection closed, because of its size.

    Args:
        client: The connection, or the path of its request.
        size_bytes: Size of the message, or of the part of it that was read.
        option: Name of the option that limits the size.
        limit_bytes: Value of the option.
    """
    _logger.warning(
        'refused a message of %r: its %d bytes exceed %s of %d. Set a higher limit if '
        'the message is legitimate',
        client,
        size_bytes,
        option,
        limit_bytes,
    )
