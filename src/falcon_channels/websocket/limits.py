"""Limits that both kinds of servers have by default."""

from __future__ import annotations

#: Maximum number of frames of one message.
MAX_FRAGMENTS = 1024
#: Maximum size in bytes of a client's message, after decompression.
MAX_MESSAGE_BYTES = 1024 * 1024
