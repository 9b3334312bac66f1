"""Finds in the records of a node the facts that answer a question.

* The answer has the connections of the user that run, and those that are recorded.
* The state of a subscription that runs is read now, and its record does not change.
* An answer has a limited size. Connections with records of the channel come before
  others, and the subscriptions that decide about the publication before others.
* Other nodes get the effect of filters, and not the filters.
"""

from __future__ import annotations

from collections import deque
import time

import msgspec

from falcon_channels.explain.channel_records import ChannelRecord
from falcon_channels.explain.channel_records import ChannelRecords
from falcon_channels.explain.connection_records import ConnectionRecord
from falcon_channels.explain.connection_records import ConnectionRecords
from falcon_channels.explain.facts import ExplainQuestion
from falcon_channels.explain.facts import NodeRecords
from falcon_channels.explain.facts import RecordedConnection
from falcon_channels.explain.facts import RecordedRefusal
from falcon_channels.explain.facts import RecordedSubscription
from falcon_channels.explain.record_queue import RecordQueue
from falcon_channels.explain.subscription_record import facts_of
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState as State
from falcon_channels.hub.hub import Hub
from falcon_channels.hub.local_channel import ChannelState
from falcon_channels.parts import in_parts
from falcon_channels.publication import first_offset
from falcon_channels.publication import Position

#: Largest number of connections in the answer of one node.
_MAX_CONNECTIONS = 100
#: Largest number of records of one connection in one channel that are sent.
_MAX_PER_CONNECTION = 50


class FactFinder:
    """Finds facts in the records of a node.

    Args:
        hub: Hub of the node.
        queue: Knows up to which time records were forgotten.
        connections: Recorded connections.
        channels: Recorded channels.
    """

    def __init__(
        self,
        hub: Hub,
        queue: RecordQueue,
        connections: ConnectionRecords,
        channels: ChannelRecords,
    ) -> None:
        self._hub = hub
        self._queue = queue
        self._connections = connections
        self._channels = channels

    async def find(
        self, question: ExplainQuestion, node: str, recorded_since: float | None
    ) -> NodeRecords:
        """Return what this node knows about a publication and a user.

        Args:
            question: The question that names them.
            node: Id of this node.
            recorded_since: Unix time in seconds from which deliveries to this user in
                this channel are recorded, or ``None`` if they are not.
        """
        running, more = await self._find_unrecorded(question)
        channel = self._channels.get(question.channel)
        facts = NodeRecords(
            id=node,
            now=time.time(),
            recorded_since=recorded_since,
            forgotten_until=self._queue.forgotten_until,
        )
        if channel is not None:
            offset, epoch = question.offset, question.epoch
            facts.written_at = channel.batch_times.written_at(offset, epoch)
            facts.written_until = channel.batch_times.written_until(epoch)
            facts.repair = channel.repair_of(offset, epoch)
        local_channel = self._hub.local_channel(question.channel)
        if local_channel is not None:
            facts.repairing = local_channel.state is ChannelState.REPAIRING
        known = self._connections.of_user(question.user)
        if question.client:
            known = {id: r for id, r in known.items() if id == question.client}
        # NOTE: connections with records of this channel come last, and stay.
        recorded = [id for id in known if known[id].has(question.channel)]
        others = dict.fromkeys([*known, *running])
        for id in recorded:
            del others[id]
        ids = [*others, *recorded]
        num_left_out = max(0, len(ids) - _MAX_CONNECTIONS)
        facts.num_left_out = num_left_out + more
        sizes = _Sizes(channel, question)
        facts.connections = [
            self._connection_facts(
                known.get(id),
                self._hub.connections.get(id),
                channel,
                question,
                sizes,
            )
            for id in ids[num_left_out:]
        ]
        return facts

    async def _find_unrecorded(
        self, question: ExplainQuestion
    ) -> tuple[list[str], int]:
        """Return the running connections of the user that have no record.

        The user may be anonymous, and have very many connections.

        Returns:
            The ids of the last `_MAX_CONNECTIONS`, and the number of the others.
        """
        hub, user = self._hub, question.user
        if question.client:
            connection = hub.connections.get(question.client)
            running = [] if connection is None else [connection]
        else:
            running = hub.connections.of_user(user)
        last: deque[Connection] = deque(maxlen=_MAX_CONNECTIONS)
        count = 0
        async for part in in_parts(running):
            unrecorded = [c for c in part if self._connections.get(c.id) is None]
            count += len(unrecorded)
            last.extend(unrecorded)
        # NOTE: connections may have ended, or changed their user, during the pauses.
        ids = [c.id for c in last if not c.closed and c.user == user]
        return ids, count - len(last)

    def _connection_facts(
        self,
        record: ConnectionRecord | None,
        connection: Connection | None,
        channel: ChannelRecord | None,
        question: ExplainQuestion,
        sizes: _Sizes,
    ) -> RecordedConnection:
        subscriptions: list[RecordedSubscription] = []
        refusals: list[RecordedRefusal] = []
        if record is not None:
            known = record.facts
            subscriptions = list(record.subscriptions(question.channel))
            refused = record.refusals(question.channel)
            refusals = list(refused[-_MAX_PER_CONNECTION:])
        else:
            assert connection is not None
            known = RecordedConnection(id=connection.id, kind=type(connection).__name__)
        backlog_bytes = known.backlog_bytes
        ended_unrecorded = connection is None and known.closed_at is None
        if connection is not None:
            backlog_bytes = connection.backlog_bytes
            subscription = connection.subscriptions.get(question.channel)
            if subscription is not None and channel is not None:
                self._add_state(subscription, channel, subscriptions)
        relevant, num_left_out = _relevant(subscriptions, question)
        return msgspec.structs.replace(
            known,
            backlog_bytes=backlog_bytes,
            ended_unrecorded=ended_unrecorded,
            subscriptions=[_for_sending(facts, question, sizes) for facts in relevant],
            num_left_out=num_left_out,
            refusals=refusals,
        )

    def _add_state(
        self,
        subscription: Subscription,
        channel: ChannelRecord,
        subscriptions: list[RecordedSubscription],
    ) -> None:
        """Add the present state of a subscription that runs."""
        local_channel = self._hub.local_channel(subscription.channel)
        if local_channel is None or not channel.is_running(subscription):
            return
        position = self._hub.delivered(subscription)
        if position is None or subscription.state is State.LAGGING:
            # NOTE: a LAGGING subscription has taken what waits for the client, too.
            position = Position(
                local_channel.delivered_offset, local_channel.position.epoch
            )
        record = channel.record_of(subscription)
        if record is None:
            facts = facts_of(subscription, time.time(), position, from_start=False)
            facts.forgotten = True
            subscriptions.append(facts)
            return
        now = msgspec.structs.replace(
            record.facts,
            first_pending=first_offset(subscription.pending or ()),
            end_offset=position.offset,
        )
        subscriptions[:] = [
            now if facts is record.facts else facts for facts in subscriptions
        ]


class _Sizes:
    """Bytes that were written after a publication; each number is computed once.

    Args:
        channel: The channel, or ``None`` if nothing is known about it.
        question: The question that names the publication.
    """

    def __init__(
        self, channel: ChannelRecord | None, question: ExplainQuestion
    ) -> None:
        self._channel = channel
        self._epoch = question.epoch
        self._known: dict[int, int | None] = {}
        self._start = self._until(question.offset)

    def after(self, offset: int) -> int | None:
        """Return the bytes after the publication up to an offset, or ``None``."""
        until = self._until(offset)
        if self._start is None or until is None:
            return None
        return until - self._start

    def _until(self, offset: int) -> int | None:
        if offset not in self._known:
            self._known[offset] = (
                None
                if self._channel is None
                else self._channel.batch_times.bytes_until(offset, self._epoch)
            )
        return self._known[offset]


def _relevant(
    subscriptions: list[RecordedSubscription], question: ExplainQuestion
) -> tuple[list[RecordedSubscription], int]:
    """Return the subscriptions that decide about a publication.

    These are all that can have sent it, the last one before it, and the first one
    after it.

    Returns:
        The subscriptions, oldest first, and how many were too many.
    """
    offset = question.offset
    same_log = [facts for facts in subscriptions if facts.epoch == question.epoch]
    before = [f for f in same_log if offset > f.start_offset and not _covers(f, offset)]
    after = [f for f in same_log if offset <= f.start_offset and not _covers(f, offset)]
    covering = [facts for facts in same_log if _covers(facts, offset)]
    half = _MAX_PER_CONNECTION // 2
    num_left_out = max(0, len(covering) - 2 * half)
    if num_left_out:
        covering = [*covering[:half], *covering[-half:]]
    wanted = {id(facts) for facts in [*before[-1:], *covering, *after[:1]]}
    return [facts for facts in same_log if id(facts) in wanted], num_left_out


def _covers(facts: RecordedSubscription, offset: int) -> bool:
    """Return whether a subscription can have sent a publication, or should have."""
    if offset <= facts.start_offset:
        return (
            not facts.from_start or facts.since is not None or facts.first is not None
        )
    return facts.ended_at is None or offset <= facts.end_offset


def _for_sending(
    facts: RecordedSubscription, question: ExplainQuestion, sizes: _Sizes
) -> RecordedSubscription:
    """Return facts with the effect of the filters, and without the filters.

    SECURITY: filters can be large. Other nodes get only their effect.
    """
    filters = {'application': facts.filter, 'client': facts.client_filter}
    excluded_by = [
        name
        for name, tag_filter in filters.items()
        if tag_filter is not None
        and question.tags is not None
        and not tag_filter.matches(question.tags)
    ]
    written_until = _written_until(facts, question.offset)
    return msgspec.structs.replace(
        facts,
        filter=None,
        client_filter=None,
        filtered=any(filters.values()),
        excluded_by=excluded_by,
        bytes_after=sizes.after(written_until) if facts.countable else None,
    )


def _written_until(facts: RecordedSubscription, offset: int) -> int:
    """Return the offset up to which all publications after another were written.

    NOTE: publications that wait for a slow client, or that were dropped, are not in the
    backlog.
    """
    return min(
        [facts.end_offset, *(lag.after for lag in facts.lags if lag.after >= offset)]
    )
