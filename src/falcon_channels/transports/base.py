"""The transport contract: how finished bytes reach one connection.

A transport knows one socket (or one HTTP response) and nothing of channels. The hub
hands it *blobs*: payloads that its framing has made ready, the same object for every
connection with that framing. Rules, and what breaks without them:

* `write` never blocks, never awaits and never raises because of the peer. A publisher
  goes over all subscribers in one loop; one that blocks would hold up all others.
* `write` returns how many bytes still wait in this process. The hub compares this
  with the limit of the channel and closes or thins out a reader that is too slow.
  Nothing else bounds that queue, so the figure must be true.
* Blobs leave in the order of the calls, whole, and never interleaved.
* `write`, `close` and `abort` never call the receiver back before they return: the hub
  is going over the subscribers of a channel, whom the end of one would change.
* After `close` or `abort`, `write` does nothing and returns 0.
* The receiver hears of the end exactly once, by `on_closed`, whoever ended it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Protocol


class Framing(Protocol):
    """Turns payloads (messages without a frame) into what a transport writes.

    Framings are shared objects, compared by identity: two connections with one
    framing get the same blobs, so that a publication is framed once for all of them.
    """

    def frame(self, payloads: Sequence[Any], *, binary: bool) -> Any:
        """Return one blob that carries the payloads in order.

        Args:
            payloads: Finished messages, UTF-8 where `binary` is false.
            binary: Whether to send them as binary messages.
        """

    def join(self, blobs: Sequence[Any]) -> Any:
        """Return one blob that carries several in order."""


class Receiver(Protocol):
    """What a transport tells its owner. No method may raise or block."""

    def on_message(self, message: str | bytes) -> None:
        """Take one whole message: `str` for text, `bytes` for binary."""

    def on_writable(self) -> None:
        """Learn that the backlog, which had been above 0, is written."""

    def on_closed(self, code: int, reason: str) -> None:
        """Learn that the connection has ended; called exactly once.

        Args:
            code: Close code of the peer; 1005 for a close frame without one, 1006
                where the link was lost without a close frame.
            reason: The peer's words, or ``''``.
        """


class Transport(Protocol):
    """One connection's way out."""

    @property
    def framing(self) -> Framing:
        """What makes payloads ready for `write`; settled once accepted."""

    @property
    def descriptor(self) -> int:
        """A socket to which a blob may be written as it is; -1 where there is none.

        Only while nothing waits before it in this process. Whoever writes there hands
        what was not taken to `write`, in the same turn of the event loop.
        """

    @property
    def backlog_bytes(self) -> int:
        """How many bytes written here have not left the process."""

    def write(self, blob: Any) -> int:
        """Hand over a blob of this transport's framing; return the backlog in bytes."""

    def close(self, code: int, reason: str) -> None:
        """Close after what is written, with a close code; bounded in time."""

    def abort(self) -> None:
        """End at once and drop what is not written."""

    def pause_reading(self) -> None:
        """Ask the peer, by back-pressure, to send no more messages."""

    def resume_reading(self) -> None:
        """Take messages again."""
