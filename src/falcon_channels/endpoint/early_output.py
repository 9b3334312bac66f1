"""Output of a connection that waits for the connect reply.

A client expects the connect reply first. Its subscriptions may deliver before that.
"""

from __future__ import annotations

from typing import Any

from falcon_channels.hub.connection import Connection


class EarlyOutput(list[Any]):
    """Output that waits for the connect reply; it replaces `Connection.out`.

    Its bytes are counted. If an event-loop iteration adds output, the fan-out checks
    the connection at its end. It does the same for a client that does not read.

    Args:
        connection: The connection.

    Attributes:
        size_bytes: Number of bytes that wait.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.size_bytes = 0
        self._connection = connection
        self._reported = False

    def append(self, blob: Any) -> None:
        super().append(blob)
        self.size_bytes += count_bytes(blob)
        if not self._reported:
            self._reported = True
            self._connection.hub.on_output(self._connection)

    def check(self) -> int:
        """Return the number of bytes, and report the next output again."""
        self._reported = False
        return self.size_bytes


def count_bytes(blob: Any) -> int:
    """Return the number of bytes of a part of the output."""
    return getattr(blob, 'size_bytes', None) or len(blob)
