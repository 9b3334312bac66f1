"""Limits that both kinds of servers have by default, and the log of large messages."""

from __future__ import annotations

import logging

_logger = logging.getLogger('falcon_channels')

#: Maximum number of frames of one message.
MAX_FRAGMENTS = 1024
#: Maximum size in bytes of a client's message, after decompression.
MAX_MESSAGE_BYTES = 1024 * 1024


def log_too_big(client: object, size_bytes: int, option: str, limit_bytes: int) -> None:
    """Log that a message is refused, or its client closed, because of its size.

    Args:
        client: The connection, or the path of its request.
        size_bytes: Size of the message, or of the part that was read.
        option: Name of the option that limits it.
        limit_bytes: Value of the option.
    """
    _logger.warning(
        'refused a message of %r: its %d bytes exceed %s of %d. Set a higher limit if '
        'the client is right',
        client,
        size_bytes,
        option,
        limit_bytes,
    )
