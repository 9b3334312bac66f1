"""Ask all processes for the data of a view, and combine their answers.

Each request of a browser may reach another worker. Every view is therefore a survey of
all processes. A process reads its connections and channels only for an answer, in parts
(`parts`). The answer has only the first rows of the view.
"""

from __future__ import annotations

import heapq
from typing import Any
from typing import TypeVar

import msgspec

from falcon_channels.cluster.cluster import Answers
from falcon_channels.cluster.info import package_version
from falcon_channels.cluster.info import process_name
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.hub.connection import Connection
from falcon_channels.inspector.memory import resident_bytes
from falcon_channels.inspector.recent_events import CLOSES
from falcon_channels.inspector.recent_events import COUNTED
from falcon_channels.inspector.recent_events import ReasonCount
from falcon_channels.inspector.recent_events import RecentEvents
from falcon_channels.inspector.recent_events import RecordedEvent
from falcon_channels.inspector.recent_events import REFUSALS
from falcon_channels.node import Node
from falcon_channels.parts import in_parts

_Answer = TypeVar('_Answer')

#: Largest number of channels, slow readers, events and reasons in an answer.
MAX_ROWS = 200
#: Largest number of objects that a process reads for an answer. With more objects, the
#: answer is partial.
MAX_SCANNED = 250_000
#: Largest number of channels in the second survey of `largest_channels`.
_MAX_CANDIDATES = 400
#: Longest user id in the list of slow readers.
_MAX_USER_CHARACTERS = 255

_OVERVIEW = 'inspector overview'
_CHANNELS = 'inspector channels'
_COUNTS = 'inspector counts'
_EVENTS = 'inspector events'
_SLOW = 'inspector slow readers'


class ProcessSummary(msgspec.Struct, frozen=True):
    """One process, with its numbers.

    NOTE: processes of several versions run together during an update. An answer is
    decoded with unknown fields, but not without a field that has no default. A process
    whose answer cannot be decoded is missing on the page. In the answers of surveys, a
    new field therefore needs a default.

    Attributes:
        id: Id of the node. It changes at each start.
        name: Host name and process id.
        version: Version of this package.
        status: ``'ok'``, ``'link lost'`` or ``'draining'``.
        uptime_s: Seconds since the node was created. A rate is the difference of a
            counter, divided by the difference of this time.
        memory_bytes: Resident memory of the process, or ``None`` if it is not known.
        num_connections: Number of connections.
        num_users: Number of users; all anonymous clients count as one.
        num_channels: Number of channels with subscribers.
        num_subscriptions: Number of subscriptions.
        counters: Counters by name.
    """

    id: str
    name: str
    version: str
    status: str
    uptime_s: float
    memory_bytes: int | None
    num_connections: int
    num_users: int
    num_channels: int
    num_subscriptions: int
    counters: dict[str, int]


class _ChannelsQuestion(msgspec.Struct, frozen=True):
    search: str
    limit: int


class _ChannelsAnswer(msgspec.Struct, frozen=True):
    """The largest channels of one process.

    Attributes:
        rows: Channel names with their numbers of subscribers.
        num_matching: Number of matching channels, including those not in `rows`.
        partial: Whether not all channels were read.
    """

    rows: list[tuple[str, int]]
    num_matching: int
    partial: bool


class _EventsQuestion(msgspec.Struct, frozen=True):
    names: list[str]
    user: str | None
    limit: int


class _EventsAnswer(msgspec.Struct, frozen=True):
    events: list[RecordedEvent]
    counts: list[ReasonCount]


class SlowConnection(msgspec.Struct, frozen=True):
    """A connection with a backlog.

    Attributes:
        client: Id of the connection.
        user: Id of the user, or ``''``.
        node: Id of the node.
        backlog_bytes: Bytes for the client that are still buffered in its process.
        pending_bytes: Bytes that wait in its subscriptions, because of the policy for
            slow readers.
        channels: At most ten channels in which the policy applies to the connection.
    """

    client: str
    user: str
    node: str
    backlog_bytes: int
    pending_bytes: int
    channels: list[str]


class _SlowAnswer(msgspec.Struct, frozen=True):
    rows: list[SlowConnection]
    num_slow: int
    partial: bool


class InspectorSurveys:
    """Sends surveys to all processes, and answers the surveys of other processes.

    Args:
        node: Node of this process.
        recent_events: Refusals and closes of this process.
    """

    def __init__(self, node: Node, recent_events: RecentEvents) -> None:
        self._node = node
        self._recent_events = recent_events
        for name, answerer in (
            (_OVERVIEW, self._answer_overview),
            (_CHANNELS, self._answer_channels),
            (_COUNTS, self._answer_counts),
            (_EVENTS, self._answer_events),
            (_SLOW, self._answer_slow_readers),
        ):
            node.cluster.add_answerer(name, answerer)

    async def _ask(
        self, name: str, question: Any, answer_type: type[_Answer]
    ) -> Answers[_Answer]:
        body = msgspec.msgpack.encode(question)
        return await self._node.cluster.ask(name, body, answer_type)

    # --- processes -------------------------------------------------------------------

    async def overview(self) -> dict[str, Any]:
        """Return a summary of each process.

        This process is always described, also if the broker cannot be reached.
        """
        found: dict[str, ProcessSummary] = {}
        error = ''
        try:
            await self._node.start()
            answers = await self._ask(_OVERVIEW, None, ProcessSummary)
            found.update(answers.by_node)
        except BrokerUnavailableError as ex:
            error = f'the other processes cannot be asked: {ex}'
        own_id = self._node.cluster.id
        found.setdefault(own_id, self.this_node())
        return {
            'nodes': list(found.values()),
            'error': error,
            'answered_by': own_id,
        }

    def this_node(self) -> ProcessSummary:
        """Return the summary of this process."""
        hub = self._node.hub
        return ProcessSummary(
            id=self._node.cluster.id,
            name=process_name(),
            version=package_version(),
            status=self._node.status,
            uptime_s=self._node.info.uptime_s,
            memory_bytes=resident_bytes(),
            num_connections=len(hub.connections),
            num_users=hub.connections.num_users,
            num_channels=hub.num_channels,
            num_subscriptions=hub.num_subscriptions,
            counters={
                **hub.counters.to_media(),
                'opened': self._recent_events.num_opened,
                'closed': self._recent_events.num_closed,
                'refusals': self._recent_events.num_refused,
            },
        )

    def _answer_overview(self, body: bytes) -> bytes:
        return msgspec.msgpack.encode(self.this_node())

    # --- channels --------------------------------------------------------------------

    async def largest_channels(self, search: str, limit: int) -> dict[str, Any]:
        """Return the channels with the most subscribers.

        Each process returns its largest channels. A channel can be among the largest
        ones in some processes only. A second survey therefore counts the subscribers of
        all returned channels.

        Args:
            search: Part of the names, or ``''`` for all channels.
            limit: Largest number of channels.
        """
        answers = await self._ask(
            _CHANNELS, _ChannelsQuestion(search, limit), _ChannelsAnswer
        )
        totals: dict[str, int] = {}
        for answer in answers:
            for name, count in answer.rows:
                totals[name] = totals.get(name, 0) + count
        num_missing = len(answers.silent)
        is_complete = all(len(a.rows) == a.num_matching for a in answers)
        if not is_complete and len(answers) > 1:
            names = heapq.nlargest(_MAX_CANDIDATES, totals, key=totals.__getitem__)
            totals = dict.fromkeys(names, 0)
            exact = await self._ask(_COUNTS, names, list[int])
            num_missing = max(num_missing, len(exact.silent))
            for counts in exact:
                for name, count in zip(names, counts, strict=False):
                    totals[name] += count
        rows = sorted(totals.items(), key=lambda row: (-row[1], row[0]))
        return {
            'channels': [
                {'channel': name, 'num_subscribers': count}
                for name, count in rows[:limit]
            ],
            'is_complete': is_complete and len(rows) <= limit,
            'partial': any(answer.partial for answer in answers),
            'num_missing': num_missing,
        }

    async def _answer_channels(self, body: bytes) -> bytes:
        question = msgspec.msgpack.decode(body, type=_ChannelsQuestion)
        search, limit = question.search, min(question.limit, MAX_ROWS)
        channels = self._node.hub.local_channels()
        largest: list[tuple[int, str]] = []
        num_matching = floor = 0
        async for part in in_parts(channels[:MAX_SCANNED]):
            matching = [
                channel
                for channel in part
                if channel.members and search in channel.channel
            ]
            num_matching += len(matching)
            # PERF: most channels have fewer subscribers than the largest ones that were
            #   found before, and need no sorting (benchmarks/inspector.py).
            found = [
                (channel.members, channel.channel)
                for channel in matching
                if channel.members > floor
            ]
            if found:
                largest = heapq.nlargest(limit, largest + found)
            if len(largest) == limit:
                floor = largest[-1][0]
        return msgspec.msgpack.encode(
            _ChannelsAnswer(
                rows=[(name, count) for count, name in largest],
                num_matching=num_matching,
                partial=len(channels) > MAX_SCANNED,
            )
        )

    def _answer_counts(self, body: bytes) -> bytes:
        names = msgspec.msgpack.decode(body, type=list[str])
        count = self._node.hub.count_subscribers
        return msgspec.msgpack.encode([count(name) for name in names])

    # --- refusals and closes ---------------------------------------------------------

    async def events(
        self, kind: str, user: str | None, limit: int = MAX_ROWS
    ) -> dict[str, Any]:
        """Return the latest events of all processes, and the count of each reason.

        Args:
            kind: ``'refusals'``, ``'closes'``, or ``''`` for both.
            user: Id of the user of the events, or ``None`` for all users.
            limit: Largest number of events.
        """
        problems = REFUSALS | COUNTED
        names = {'refusals': problems, 'closes': CLOSES}.get(kind, problems | CLOSES)
        answers = await self._ask(
            _EVENTS, _EventsQuestion(sorted(names), user, limit), _EventsAnswer
        )
        events = [event for answer in answers for event in answer.events]
        events.sort(key=lambda event: event.at, reverse=True)
        totals: dict[tuple[str, int, str], int] = {}
        for answer in answers:
            for item in answer.counts:
                key = (item.name, item.code, item.reason)
                totals[key] = totals.get(key, 0) + item.count
        counts = [ReasonCount(*key, count) for key, count in totals.items()]
        counts.sort(key=lambda item: (-item.count, item.name, item.code))
        return {
            'events': events[:limit],
            'counts': counts[:MAX_ROWS],
            'num_missing': len(answers.silent),
        }

    def _answer_events(self, body: bytes) -> bytes:
        question = msgspec.msgpack.decode(body, type=_EventsQuestion)
        limit = min(question.limit, MAX_ROWS)
        recent_events, names = self._recent_events, question.names
        counts = recent_events.counts(names)[:limit] if question.user is None else []
        return msgspec.msgpack.encode(
            _EventsAnswer(recent_events.latest(names, question.user, limit), counts)
        )

    # --- slow readers ----------------------------------------------------------------

    async def slow_readers(self, limit: int) -> dict[str, Any]:
        """Return the connections with the most backlog and pending bytes."""
        answers = await self._ask(_SLOW, limit, _SlowAnswer)
        rows = [row for answer in answers for row in answer.rows]
        rows.sort(key=_waiting_bytes, reverse=True)
        return {
            'readers': rows[:limit],
            'num_slow': sum(answer.num_slow for answer in answers),
            'partial': any(answer.partial for answer in answers),
            'num_missing': len(answers.silent),
        }

    async def _answer_slow_readers(self, body: bytes) -> bytes:
        limit = min(msgspec.msgpack.decode(body, type=int), MAX_ROWS)
        hub = self._node.hub
        connections = hub.connections.all()
        largest: list[SlowConnection] = []
        num_slow = 0
        async for part in in_parts(connections[:MAX_SCANNED]):
            # NOTE: a subscription has pending items only while its connection has a
            #   backlog. It is therefore enough to check one number of each connection.
            found = [
                self._describe(connection)
                for connection in part
                if connection.backlog_bytes
            ]
            num_slow += len(found)
            largest = heapq.nlargest(limit, largest + found, key=_waiting_bytes)
        return msgspec.msgpack.encode(
            _SlowAnswer(largest, num_slow, len(connections) > MAX_SCANNED)
        )

    def _describe(self, connection: Connection) -> SlowConnection:
        lagging = [
            subscription
            for subscription in connection.subscriptions.values()
            if subscription.pending is not None
        ]
        return SlowConnection(
            client=connection.id,
            user=connection.user[:_MAX_USER_CHARACTERS],
            node=self._node.cluster.id,
            backlog_bytes=connection.backlog_bytes,
            pending_bytes=sum(item.pending_bytes for item in lagging),
            channels=[item.channel for item in lagging[:10]],
        )


def _waiting_bytes(reader: SlowConnection) -> int:
    return reader.backlog_bytes + reader.pending_bytes
