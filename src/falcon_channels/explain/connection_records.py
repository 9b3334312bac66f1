"""Records connections and their refused requests to subscribe.

* A connection is known by its id and by each user that it had.
* It begins with its first record: its start, a refused request to subscribe, or a
  subscription. It ends when its last record is forgotten.
* The records of a connection in one channel are forgotten oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
import time
from typing import Final
from typing import TypeVar

from falcon_channels.events import Event
from falcon_channels.explain.facts import RecordedConnection
from falcon_channels.explain.facts import RecordedRefusal
from falcon_channels.explain.facts import RecordedSubscription
from falcon_channels.explain.record_queue import Record
from falcon_channels.explain.record_queue import RecordQueue
from falcon_channels.hub.connection import Connection

#: Largest number of characters of a reason.
MAX_REASON: Final = 200

_CONNECTION_BYTES = 1000
_OPENING_BYTES = 100
_REFUSAL_BYTES = 700

_Facts = TypeVar('_Facts')


class ConnectionRecord:
    """A connection that has records.

    Attributes:
        facts: Facts about the connection itself.
        users: Ids of the users that it had.
    """

    __slots__ = ('_num_records', '_refusals', '_subscriptions', 'facts', 'users')

    def __init__(self, facts: RecordedConnection) -> None:
        self.facts = facts
        self.users: set[str] = set()
        self._num_records = 0
        #: Subscriptions and refused requests by channel, oldest first.
        self._subscriptions: dict[str, list[RecordedSubscription]] = {}
        self._refusals: dict[str, list[RecordedRefusal]] = {}

    # --- what is recorded ------------------------------------------------------------

    def on_drained(self) -> None:
        """Called when the client has read all pending output."""
        self.facts.drained_at = time.time()

    def on_closed(self, event: Event) -> None:
        """Called when the connection has ended."""
        facts = self.facts
        facts.closed_at = time.time()
        facts.code = event.code
        facts.reason = event.reason[:MAX_REASON]
        facts.by_client = bool(event.facts.get('by_client'))
        backlog_bytes = event.facts['backlog_bytes']
        facts.backlog_bytes = None if backlog_bytes is None else int(backlog_bytes)

    def on_recording_ended(self, connection: Connection) -> None:
        """Called when the end of the connection will not be recorded."""
        if connection.backlog_bytes or connection.out is not None:
            self.facts.backlog_bytes = None
        else:
            self.on_drained()

    def add_opening(self) -> None:
        """Count the record of the start of the connection."""
        self._num_records += 1

    def add_subscription(self, channel: str, facts: RecordedSubscription) -> None:
        """Add a subscription."""
        self._subscriptions.setdefault(channel, []).append(facts)
        self._num_records += 1

    def add_refusal(self, channel: str, code: int, reason: str) -> bool:
        """Add a refused request; return whether it needs a record of its own.

        A refusal like the one before it is only counted.
        """
        now, reason = time.time(), reason[:MAX_REASON]
        refusals = self._refusals.setdefault(channel, [])
        if refusals:
            last = refusals[-1]
            if (last.code, last.reason) == (code, reason):
                last.count += 1
                last.last_at = now
                return False
        refusals.append(RecordedRefusal(at=now, last_at=now, code=code, reason=reason))
        self._num_records += 1
        return True

    # --- what is forgotten -----------------------------------------------------------

    def remove_opening(self) -> None:
        """Remove the record of the start of the connection."""
        self._num_records -= 1

    def remove_subscription(self, channel: str) -> RecordedSubscription:
        """Remove the oldest subscription to a channel, and return its facts."""
        self._num_records -= 1
        return _remove_oldest(self._subscriptions, channel)

    def remove_refusal(self, channel: str) -> RecordedRefusal:
        """Remove the oldest refused request for a channel, and return its facts."""
        self._num_records -= 1
        return _remove_oldest(self._refusals, channel)

    # --- questions -------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether no record of the connection is left."""
        return not self._num_records

    def has(self, channel: str) -> bool:
        """Return whether there are records of a channel."""
        return channel in self._subscriptions or channel in self._refusals

    def subscriptions(self, channel: str) -> Sequence[RecordedSubscription]:
        """Return the recorded subscriptions to a channel, oldest first."""
        return self._subscriptions.get(channel, ())

    def refusals(self, channel: str) -> Sequence[RecordedRefusal]:
        """Return the refused requests for a channel, oldest first."""
        return self._refusals.get(channel, ())


class ConnectionRecords:
    """The recorded connections of a node.

    Args:
        queue: Holds the records.
    """

    def __init__(self, queue: RecordQueue) -> None:
        self._queue = queue
        self._by_id: dict[str, ConnectionRecord] = {}
        self._by_user: dict[str, dict[str, ConnectionRecord]] = {}

    def get(self, id: str) -> ConnectionRecord | None:
        """Return a recorded connection, or ``None``."""
        return self._by_id.get(id)

    def all(self) -> list[ConnectionRecord]:
        """Return all recorded connections."""
        return list(self._by_id.values())

    def of_user(self, user: str) -> dict[str, ConnectionRecord]:
        """Return the recorded connections of a user by id, oldest first."""
        return dict(self._by_user.get(user, ()))

    def get_or_add(
        self, connection: Connection, opened_at: float | None = None
    ) -> ConnectionRecord:
        """Return the record of a connection; add it first if there is none.

        Add a record of the connection next. Otherwise, it is never forgotten.
        """
        record = self._by_id.get(connection.id)
        if record is None:
            kind = type(connection).__name__
            record = self._add(
                RecordedConnection(id=connection.id, kind=kind, opened_at=opened_at)
            )
        self.index(record, connection.user)
        return record

    def index(self, record: ConnectionRecord, user: str) -> None:
        """Find a connection by this user, too."""
        if user not in record.users:
            record.users.add(user)
            self._by_user.setdefault(user, {})[record.facts.id] = record

    def add_opening(self, record: ConnectionRecord) -> None:
        """Record the start of a connection of a recorded user."""
        record.add_opening()
        self._queue.keep(_OpeningRecord(self, record))

    def add_refusal(self, event: Event, connection: Connection | None) -> None:
        """Record a refused request to subscribe.

        Args:
            event: The event ``command_refused``.
            connection: The connection, or ``None`` if it has ended.
        """
        record = self._by_id.get(event.connection)
        if record is None:
            facts = RecordedConnection(id=event.connection)
            if connection is not None:
                facts.kind = type(connection).__name__
            record = self._add(facts)
        self.index(record, event.user)
        if record.add_refusal(event.channel, event.code, event.reason):
            self._queue.keep(_RefusalRecord(self, record, event.channel))

    def drop_if_empty(self, record: ConnectionRecord) -> None:
        """Drop a connection after its last record was removed."""
        if record.empty:
            del self._by_id[record.facts.id]
            self._queue.count(-_CONNECTION_BYTES)
            for user in record.users:
                connections = self._by_user[user]
                del connections[record.facts.id]
                if not connections:
                    del self._by_user[user]

    def _add(self, facts: RecordedConnection) -> ConnectionRecord:
        record = self._by_id[facts.id] = ConnectionRecord(facts)
        self._queue.count(_CONNECTION_BYTES)
        return record


class _OpeningRecord(Record):
    """The start of a connection of a recorded user."""

    __slots__ = ('_connection', '_connections')

    def __init__(
        self, connections: ConnectionRecords, connection: ConnectionRecord
    ) -> None:
        super().__init__(_OPENING_BYTES)
        self._connections = connections
        self._connection = connection

    def forget(self) -> float:
        """Remove the record."""
        self._connection.remove_opening()
        self._connections.drop_if_empty(self._connection)
        closed_at = self._connection.facts.closed_at
        return time.time() if closed_at is None else closed_at


class _RefusalRecord(Record):
    """Refused requests to subscribe."""

    __slots__ = ('_channel', '_connection', '_connections')

    def __init__(
        self, connections: ConnectionRecords, connection: ConnectionRecord, channel: str
    ) -> None:
        super().__init__(_REFUSAL_BYTES)
        self._connections = connections
        self._connection = connection
        self._channel = channel

    def forget(self) -> float:
        """Remove the record."""
        facts = self._connection.remove_refusal(self._channel)
        self._connections.drop_if_empty(self._connection)
        return facts.last_at


def _remove_oldest(lists: dict[str, list[_Facts]], channel: str) -> _Facts:
    facts = lists[channel].pop(0)
    if not lists[channel]:
        del lists[channel]
    return facts
