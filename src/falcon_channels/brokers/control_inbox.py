"""Delivers control messages once and in order, also after the link was lost.

While the link is lost, the store collects the control messages. When the link is
restored, new messages arrive before the missed ones have been read from the store. They
are buffered until then. Otherwise the missed ones would have lower ids than a delivered
one, and would be skipped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

#: The id of a message.
_Id: TypeAlias = tuple[int, int]

#: Maximum number of buffered messages. Older ones may be dropped, because they are also
#: read from the store before the buffered ones are delivered.
_MAX_BUFFERED = 10_000


class ControlInbox:
    """The control messages that this process receives.

    Args:
        last: Id of the newest message at the start.
        on_control: Called with each message; ``None`` before the broker is started.
        follow: Called with the id of a message, and with `last`. Returns the new value
            of `last`; ``None`` if the message was delivered before. By default, each
            message has a higher id than those before it.

    Attributes:
        last: Id of the newest message that was delivered.
    """

    def __init__(
        self,
        last: _Id,
        on_control: Callable[[bytes], None] | None = None,
        follow: Callable[[_Id, _Id], _Id | None] | None = None,
    ) -> None:
        self.last = last
        self._on_control = on_control
        self._follow = _higher if follow is None else follow
        self._buffered: deque[tuple[_Id, bytes]] | None = None

    def start_buffering(self) -> None:
        """Buffer received messages from now on, because older ones may be missing."""
        if self._buffered is None:
            self._buffered = deque(maxlen=_MAX_BUFFERED)

    def receive(self, message_id: _Id, message: bytes) -> None:
        """Deliver or buffer a message that has arrived on the link."""
        if self._buffered is None:
            self.deliver(message_id, message)
        else:
            self._buffered.append((message_id, message))

    def deliver(self, message_id: _Id, message: bytes) -> None:
        """Deliver a message, unless it was delivered before."""
        last = self._follow(message_id, self.last)
        if last is not None:
            self.last = last
            if self._on_control is not None:
                self._on_control(message)

    def reset(self, last: _Id) -> None:
        """Set the last id, because the store has lost its messages."""
        self.last = last

    def stop_buffering(self) -> None:
        """Deliver the buffered messages; all older ones were read from the store."""
        buffered, self._buffered = self._buffered, None
        for message_id, message in buffered or ():
            self.deliver(message_id, message)


def _higher(message_id: _Id, last: _Id) -> _Id | None:
    return message_id if message_id > last else None
