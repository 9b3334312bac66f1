"""Facts about deliveries, as one node records them and sends them to another.

The facts have no payload and no token. Offsets belong to the epoch beside them.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from falcon_channels.filters import TagFilter


class End(StrEnum):
    """What ended a subscription, or the record of it."""

    #: It has not ended.
    NONE = ''
    #: The client unsubscribed, or the subscription ended without a code.
    CLIENT = 'client'
    #: The server ended it with an unsubscribe code.
    SERVER = 'server'
    #: It ended with its connection.
    CONNECTION = 'connection'
    #: It goes on, but the recording has ended.
    RECORDING = 'recording'
    #: It goes on in another log.
    EPOCH = 'epoch'


class Lag(msgspec.Struct, omit_defaults=True):
    """A time in which the publications of a subscription waited for a slow client.

    Attributes:
        at: Unix time in seconds of the start.
        after: Offset of the last publication that was written before.
        until: Offset of the last publication that waited; ``None`` while it lasts.
        caught_up_at: Unix time in seconds of the end, or ``None``.
        first: Offset of the first publication that was not dropped, or ``None``.
    """

    at: float
    after: int
    until: int | None = None
    caught_up_at: float | None = None
    first: int | None = None


class SubscriptionFacts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One subscription, or the part of it that was recorded.

    Attributes:
        at: Unix time in seconds of the start.
        epoch: Epoch of the log.
        offset: Offset of the start. Later publications were delivered.
        from_start: Whether the record began with the subscription.
        forgotten: Whether the start of the record was forgotten.
        since: Offset that the client asked to recover from, or ``None``.
        since_epoch: Epoch of that position.
        recovered: Whether the client got all that it missed; ``None`` if it did not
            ask.
        first: Offset of the first publication that was sent with the start, or
            ``None``.
        latest: Whether the channel sends the newest publication only.
        slow_reader: Policy of the channel for slow readers.
        server_side: Whether the application subscribed the client.
        filter: Filter of the application, or ``None``. Filters are not sent.
        client_filter: Filter of the client, or ``None``.
        filtered: Whether there is a filter.
        excluded_by: Owners of the filters that exclude the publication.
        countable: Whether payloads are sent whole, so that their sizes can be compared
            with a backlog.
        lags: Times in which publications waited for the client.
        lags_after: Offset up to which earlier lags were forgotten.
        ended_at: Unix time in seconds of the end, or ``None``.
        ended_by: What ended it.
        delivered: Offset of the last publication that was written.
        code: Unsubscribe code, or 0.
        reason: Reason of the end, or ``''``.
        first_pending: Offset of the first publication that waits now, or ``None``.
        bytes_after: Bytes of payloads that were written after the publication that is
            asked for; ``None`` if unknown.
    """

    at: float
    epoch: str
    offset: int
    from_start: bool = True
    forgotten: bool = False
    since: int | None = None
    since_epoch: str = ''
    recovered: bool | None = None
    first: int | None = None
    latest: bool = False
    slow_reader: str = ''
    server_side: bool = False
    filter: TagFilter | None = None
    client_filter: TagFilter | None = None
    filtered: bool = False
    excluded_by: list[str] = []
    countable: bool = False
    lags: list[Lag] = []
    lags_after: int = 0
    ended_at: float | None = None
    ended_by: End = End.NONE
    delivered: int = 0
    code: int = 0
    reason: str = ''
    first_pending: int | None = None
    bytes_after: int | None = None


class RefusalFacts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Refused requests of one connection to subscribe, with the same reason.

    Attributes:
        at: Unix time in seconds of the first.
        last_at: Unix time in seconds of the last.
        count: How many there were.
        code: Error code or HTTP status that the client got.
        reason: Why it was refused.
    """

    at: float
    last_at: float
    count: int = 1
    code: int
    reason: str


class ConnectionFacts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One connection of the user.

    Attributes:
        id: Id of the connection.
        kind: Class of the connection.
        opened_at: Unix time in seconds at which it was opened; ``None`` if it was
            opened before the recording.
        closed_at: Unix time in seconds at which it ended, or ``None``.
        code: Close code, or 0.
        reason: Close reason.
        by_client: Whether the client ended it, or was lost.
        backlog_bytes: Bytes that were not written to the socket when it ended, or that
            wait now.
        drained_at: Unix time in seconds at which no bytes waited for the last time
            that is known, or ``None``.
        subscriptions: Its recorded subscriptions to the channel that concern the
            publication, oldest first.
        left_out: How many of them were too many to send.
        refusals: Its refused requests to subscribe to the channel, oldest first.
    """

    id: str
    kind: str = ''
    opened_at: float | None = None
    closed_at: float | None = None
    code: int = 0
    reason: str = ''
    by_client: bool = False
    backlog_bytes: int = 0
    drained_at: float | None = None
    subscriptions: list[SubscriptionFacts] = []
    left_out: int = 0
    refusals: list[RefusalFacts] = []


class RepairFacts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Publications that a node missed, and then read from the log.

    Attributes:
        at: Unix time in seconds.
        epoch: Epoch of the log.
        after: Offset before the gap.
        until: Offset of the last publication that was read.
        first: Offset of the first publication that was delivered, or ``None``.
        lost: Whether the log did not have them.
    """

    at: float
    epoch: str
    after: int
    until: int
    first: int | None = None
    lost: bool = False


class NodeFacts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one node knows about a publication and a user.

    Attributes:
        node: Id of the node.
        now: Unix time in seconds of the answer.
        recorded_since: Unix time in seconds from which deliveries to this user in this
            channel are recorded, or ``None`` if they are not.
        forgotten_until: Unix time in seconds up to which facts were forgotten, or
            ``None``.
        written_at: Unix time in seconds at which the publication was written to the
            subscribers of this node, or ``None``.
        written_until: Offset of the last publication whose time is known, or ``None``.
        repair: The gap that the publication was in, or ``None``.
        connections: Connections of the user, oldest first.
        more: How many more connections there were than fit into the answer.
        gone: Nodes that have ended or do not answer, as far as this node knows, and
            the Unix times in seconds at which it learned that.
    """

    node: str
    now: float
    recorded_since: float | None = None
    forgotten_until: float | None = None
    written_at: float | None = None
    written_until: int | None = None
    repair: RepairFacts | None = None
    connections: list[ConnectionFacts] = []
    more: int = 0
    gone: dict[str, float] = {}


class ExplainQuestion(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The question to each node.

    Attributes:
        channel: Name of the channel.
        offset: Offset of the publication.
        epoch: Epoch of the log.
        user: Id of the user.
        client: Id of one connection; ``''`` for all of the user.
        tags: Tags of the publication; ``None`` if the log no longer has it.
    """

    channel: str
    offset: int
    epoch: str
    user: str
    client: str = ''
    tags: dict[str, str] | None = None
