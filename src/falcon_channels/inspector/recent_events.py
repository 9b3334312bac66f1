"""Store the last refusals and closes of this process, and count them.

`RecentEvents` listens to the events of the process from the start. People ask for the
reason of a refusal after it happened. Connections, subscriptions and refusals create
events, but publications do not (`benchmarks/inspector.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
import time
from typing import Final

import msgspec

from falcon_channels.events import Event

#: Events that report a refusal or another problem.
REFUSALS: Final = frozenset(
    {
        'connection_refused',
        'command_refused',
        'reader_slow',
        'publications_lost',
        'responder_failed',
        'link_lost',
        'link_restored',
    }
)
#: Events that are only counted. One slow reader causes many of them, so they would
#: replace all other stored events.
COUNTED: Final = frozenset({'publications_dropped'})
#: Events that report the end of a connection or subscription.
CLOSES: Final = frozenset({'connection_closed', 'subscription_ended'})
#: Largest number of stored events of each kind.
_MAX_EVENTS = 500
#: Largest number of combinations of event, code and reason that are counted separately.
_MAX_REASONS = 200
#: Longest user id, channel name and reason in characters. Clients can choose them.
_MAX_CHARACTERS = 255
#: Reason under which the combinations beyond `_MAX_REASONS` are counted.
OTHER_REASONS = '(other reasons)'


class RecordedEvent(msgspec.Struct, frozen=True):
    """An event with its time.

    Attributes:
        at: Unix time in seconds.
        name: Name of the event.
        connection: Id of the connection, or ``''``.
        user: Id of the user, or ``''``.
        channel: Name of the channel, or ``''``.
        code: Close code, unsubscribe code, error code or HTTP status; 0 for none.
        reason: Reason of the event. It can contain text of a client.
        detail: Command, responder or policy, or ``''``.
    """

    at: float
    name: str
    connection: str
    user: str
    channel: str
    code: int
    reason: str
    detail: str


class ReasonCount(msgspec.Struct, frozen=True):
    """Number of events with one reason since the process started."""

    name: str
    code: int
    reason: str
    count: int


class RecentEvents:
    """Listener of the events of this process.

    Attributes:
        num_opened: Connections opened.
        num_closed: Connections closed.
        num_refused: Requests for connections, and commands, that were refused.
    """

    def __init__(self) -> None:
        self.num_opened = 0
        self.num_closed = 0
        self.num_refused = 0
        self._refusals: deque[RecordedEvent] = deque(maxlen=_MAX_EVENTS)
        self._closes: deque[RecordedEvent] = deque(maxlen=_MAX_EVENTS)
        self._counts: dict[tuple[str, int, str], int] = {}

    def on_event(self, event: Event) -> None:
        """Called with each event of the process."""
        name = event.name
        if name == 'connection_opened':
            self.num_opened += 1
        elif name in CLOSES:
            if name == 'connection_closed':
                self.num_closed += 1
            elif not event.code:
                return  # ended by the client, or with its connection
            self._record(self._closes, event)
        elif name in REFUSALS:
            if name in ('connection_refused', 'command_refused'):
                self.num_refused += 1
            self._record(self._refusals, event)
        elif name in COUNTED:
            self._count(event)

    def _record(self, ring: deque[RecordedEvent], event: Event) -> None:
        # SECURITY: a client can choose a long user id. It is cut before it is stored,
        #   so that the events have a limited size.
        ring.append(_recorded(time.time(), event))
        self._count(event)

    def _count(self, event: Event) -> None:
        key = (event.name, event.code, event.reason[:_MAX_CHARACTERS])
        if key not in self._counts and len(self._counts) >= _MAX_REASONS:
            # SECURITY: a client can choose the text of a reason. Without this limit,
            #   it could fill the memory with reasons.
            key = (event.name, event.code, OTHER_REASONS)
        self._counts[key] = self._counts.get(key, 0) + 1

    def latest(
        self, names: Iterable[str], user: str | None, limit: int
    ) -> list[RecordedEvent]:
        """Return the latest events, newest first.

        Args:
            names: Names of the events.
            user: Id of the user of the events, or ``None`` for all users.
            limit: Largest number of events.
        """
        wanted = frozenset(names)
        found = [
            event
            for ring in (self._refusals, self._closes)
            for event in ring
            if event.name in wanted and (user is None or event.user == user)
        ]
        found.sort(key=lambda event: event.at, reverse=True)
        return found[:limit]

    def counts(self, names: Iterable[str]) -> list[ReasonCount]:
        """Return how often each reason occurred, the most frequent first."""
        wanted = frozenset(names)
        found = [
            ReasonCount(name, code, reason, count)
            for (name, code, reason), count in self._counts.items()
            if name in wanted
        ]
        return sorted(found, key=lambda item: -item.count)


def _recorded(at: float, event: Event) -> RecordedEvent:
    facts = event.facts
    detail = facts.get('command') or facts.get('responder') or facts.get('policy') or ''
    return RecordedEvent(
        at=at,
        name=event.name,
        connection=event.connection,
        user=event.user[:_MAX_CHARACTERS],
        channel=event.channel[:_MAX_CHARACTERS],
        code=event.code,
        reason=event.reason[:_MAX_CHARACTERS],
        detail=str(detail)[:_MAX_CHARACTERS],
    )
