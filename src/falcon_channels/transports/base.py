"""The transport contract: how encoded messages reach one connection.

A transport knows one socket (or one HTTP response) and nothing about channels. The hub
hands it *blobs*: payloads that the transport's framing has prepared. All connections
with the same framing get the same object. The rules and their reasons:

* `write` never blocks, never awaits and never raises because of the peer. A publisher
  writes to all subscribers in one loop, and one blocked write would delay all others.
* `write` returns how many bytes are still buffered in this process. The hub compares
  them with the limit of the channel, and applies the channel's policy to a slow reader.
  Nothing else limits that queue, so the number must be correct.
* Blobs are sent in the order of the calls, whole and never interleaved.
* `write`, `close` and `abort` do not call the receiver before they return. The hub may
  be iterating over the subscribers of a channel, and a closed one changes that set.
* After `close` or `abort`, `write` does nothing and returns 0.
* `on_closed` is called exactly once, no matter which side ended the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Final
from typing import Protocol

#: The backlog of a connection that was lost, if the output was dropped without telling
#: its size.
UNKNOWN_BACKLOG: Final = -1


class Framing(Protocol):
    """Turns payloads (messages without a frame) into blobs that a transport writes.

    Framings are shared objects and are compared by identity. Connections with the same
    framing get the same blobs, so a publication is framed once for all of them.
    """

    def frame(self, payloads: Sequence[Any], *, binary: bool) -> Any:
        """Return one blob with the payloads in order.

        Args:
            payloads: Encoded messages; UTF-8 if `binary` is false.
            binary: Whether they are sent as binary messages.
        """

    def join(self, blobs: Sequence[Any]) -> Any:
        """Return one blob with several blobs in order."""


class Receiver(Protocol):
    """Callbacks of a transport. No method may raise or block."""

    def on_message(self, message: str | bytes) -> None:
        """Called with each whole message: `str` for text, `bytes` for binary."""

    def on_writable(self) -> None:
        """Called when the whole backlog has been written, after it was above 0."""

    def on_closed(self, code: int, reason: str) -> None:
        """Called exactly once, when the connection has ended.

        Args:
            code: Close code of the peer; 1005 for a close frame without a code, 1006
                if the connection was lost without a close frame.
            reason: Close reason of the peer, or ``''``.
        """


class Transport(Protocol):
    """The output side of one connection."""

    @property
    def framing(self) -> Framing:
        """Framing that prepares payloads for `write`; constant after the accept."""

    @property
    def descriptor(self) -> int:
        """File descriptor of a socket to which blobs can be written directly, or -1.

        It can become -1 at any time, because direct writes are allowed only while this
        process buffers nothing. If the socket takes only a part of a blob, pass the
        rest to `write` in the same event-loop iteration.
        """

    @property
    def backlog_bytes(self) -> int:
        """Bytes for the client that are still buffered in this process.

        After the end it may be the number of bytes that were dropped, or
        `UNKNOWN_BACKLOG`.
        """

    def write(self, blob: Any) -> int:
        """Send or buffer a blob of this framing; return the backlog in bytes."""

    def close(self, code: int, reason: str) -> None:
        """Close after the buffered bytes are sent, or after a time-out.

        Args:
            code: Close code; 1005 for a close frame without a code.
            reason: Close reason, or ``''``.
        """

    def abort(self) -> None:
        """End the connection at once and drop the buffered bytes."""

    def pause_reading(self) -> None:
        """Stop reading, so that back-pressure reaches the peer."""

    def resume_reading(self) -> None:
        """Start reading again."""
