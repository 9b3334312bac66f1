"""Limits that both kinds of servers have by default."""

from __future__ import annotations

#: Frames of one message.
MAX_FRAGMENTS = 1024
#: Size of one message that a client sends, after decompression.
MAX_MESSAGE_BYTES = 1024 * 1024
