"""Control messages: each once and in order, also over a link that was lost.

While a link is lost, the store keeps what is sent. When it is back, new messages arrive
at once, before those of the store have been read, and must wait for them: whoever took
a new one first would pass over all that are older.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic
from typing import TypeVar

#: An id that grows from message to message.
Id = TypeVar('Id', int, tuple[int, int])

#: How many messages may wait. More are in the store, and the last of them will do: the
#: gap before them has been read from the store, or is being read.
_MAX_WAITING = 10_000


class ControlInbox(Generic[Id]):
    """What a process has had of the control messages.

    Args:
        last: The id of the newest message at the start.
        deliver: Called with each message; without it, nobody receives yet.

    Attributes:
        last: The id of the newest message that was delivered.
    """

    def __init__(
        self, last: Id, deliver: Callable[[bytes], None] | None = None
    ) -> None:
        self.last: Id = last
        self._deliver = deliver
        self._waiting: deque[tuple[Id, bytes]] | None = None

    def hold(self) -> None:
        """Let messages that arrive wait, for older ones may be missing."""
        if self._waiting is None:
            self._waiting = deque(maxlen=_MAX_WAITING)

    def arrive(self, message_id: Id, message: bytes) -> None:
        """Take a message that has arrived by the link."""
        if self._waiting is None:
            self.read(message_id, message)
        else:
            self._waiting.append((message_id, message))

    def read(self, message_id: Id, message: bytes) -> None:
        """Take a message that was read from the store."""
        if message_id > self.last:
            self.last = message_id
            if self._deliver is not None:
                self._deliver(message)

    def release(self) -> None:
        """Deliver what waited; everything older was read."""
        waiting, self._waiting = self._waiting, None
        for message_id, message in waiting or ():
            self.read(message_id, message)
