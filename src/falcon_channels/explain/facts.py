"""Facts about deliveries that a node records, and sends to other nodes.

The facts contain no payloads and no tokens. An offset is valid in the epoch that the
same object has.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from falcon_channels.filters import TagFilter


class End(StrEnum):
    """The reason why a subscription, or its record, has ended."""

    #: The subscription has not ended.
    NONE = ''
    #: The client unsubscribed, or the subscription ended without a code.
    CLIENT = 'client'
    #: The server ended the subscription with an unsubscribe code.
    SERVER = 'server'
    #: The connection ended.
    CONNECTION = 'connection'
    #: The subscription continues, but its recording has ended.
    RECORDING = 'recording'
    #: The subscription continues in another log.
    EPOCH = 'epoch'


class Lag(msgspec.Struct, omit_defaults=True):
    """A period in which the publications of a subscription waited for a slow client.

    Attributes:
        at: Unix time in seconds of the start.
        after: Offset of the last publication that was written before the start.
        until: Offset of the last publication that waited; ``None`` before the end.
        caught_up_at: Unix time in seconds of the end; ``None`` before the end.
        first: Offset of the first publication that was not dropped, or ``None``.
    """

    at: float
    after: int
    until: int | None = None
    caught_up_at: float | None = None
    first: int | None = None


class RecordedSubscription(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One subscription, or its recorded part.

    Attributes:
        at: Unix time in seconds of the start.
        epoch: Epoch of the log.
        start_offset: Offset of the start. The subscription takes all publications with
            higher offsets, up to `end_offset`.
        from_start: Whether the record began together with the subscription.
        forgotten: Whether the first part of the record was removed.
        since: Offset from which the client asked to recover, or ``None``.
        since_epoch: Epoch of the offset `since`.
        recovered: Whether the client received all missed publications; ``None`` if it
            did not ask for them.
        first: Offset of the first publication that was sent at the start, or ``None``.
        latest: Whether the channel sends only the newest publication.
        slow_reader: Policy of the channel for slow readers.
        server_side: Whether the application subscribed the client.
        filter: Filter of the application, or ``None``. It is not sent to other nodes.
        client_filter: Filter of the client, or ``None``. It is not sent to other nodes.
        filtered: Whether there is a filter.
        excluded_by: Owners of the filters that exclude the publication:
            ``'application'``, ``'client'`` or both.
        countable: Whether an encoded payload is never smaller than the payload without
            line breaks, so that payload sizes can be compared with a backlog.
        lags: Periods in which publications waited for the client.
        lags_after: Offset up to which lags were removed from the record.
        ended_at: Unix time in seconds of the end, or ``None``.
        ended_by: Reason of the end.
        end_offset: Offset of the last publication that the subscription has taken: it
            was written, or it waits for a slow client.
        code: Unsubscribe code, or 0.
        reason: Reason that was sent or reported, or ``''``.
        first_pending: Offset of the first publication that waits now, or ``None``.
        bytes_after: Bytes of payloads that were certainly written after the publication
            in question; ``None`` if unknown.
    """

    at: float
    epoch: str
    start_offset: int
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
    end_offset: int = 0
    code: int = 0
    reason: str = ''
    first_pending: int | None = None
    bytes_after: int | None = None


class RecordedRefusal(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Requests of one connection to subscribe that were refused for the same reason.

    Attributes:
        at: Unix time in seconds of the first request.
        last_at: Unix time in seconds of the last request.
        count: Number of requests.
        code: Error code, close code or HTTP status that the client received.
        reason: Reason of the refusal.
    """

    at: float
    last_at: float
    count: int = 1
    code: int
    reason: str


class RecordedConnection(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One connection of the user.

    Attributes:
        id: Id of the connection.
        kind: Class of the connection.
        opened_at: Unix time in seconds at which the connection was opened; ``None`` if
            this was before the recording.
        closed_at: Unix time in seconds at which the connection ended, or ``None``.
        code: Close code, or 0.
        reason: Close reason.
        by_client: Whether the client closed the connection, or was lost.
        backlog_bytes: Backlog now or when the connection ended; ``None`` if there was
            one, but its size is not known.
        drained_at: Last known Unix time in seconds at which there was no backlog,
            or ``None``.
        ended_unrecorded: Whether the connection ended after its recording, so that its
            end and its last backlog are not known.
        subscriptions: Recorded subscriptions to the channel that concern the
            publication, oldest first.
        num_left_out: Number of such subscriptions that exceeded the limit and are not
            sent.
        refusals: Refused requests to subscribe to the channel, oldest first.
    """

    id: str
    kind: str = ''
    opened_at: float | None = None
    closed_at: float | None = None
    code: int = 0
    reason: str = ''
    by_client: bool = False
    backlog_bytes: int | None = 0
    drained_at: float | None = None
    ended_unrecorded: bool = False
    subscriptions: list[RecordedSubscription] = []
    num_left_out: int = 0
    refusals: list[RecordedRefusal] = []


class RecordedRepair(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Publications that a node missed, and then read from the log.

    Attributes:
        at: Unix time in seconds of the read.
        epoch: Epoch of the log.
        after: Offset of the last publication before the gap.
        until: Offset of the last publication that was read.
        first: Offset of the first publication that was delivered, or ``None``.
        lost: Whether the log no longer had the publications.
    """

    at: float
    epoch: str
    after: int
    until: int
    first: int | None = None
    lost: bool = False


class NodeRecords(msgspec.Struct, kw_only=True, omit_defaults=True):
    """All facts of one node about a publication and a user.

    Attributes:
        id: Id of the node.
        now: Unix time in seconds of the answer.
        recorded_since: Unix time in seconds from which deliveries to this user in this
            channel are recorded; ``None`` if they are not recorded.
        forgotten_until: Unix time in seconds up to which facts were removed, or
            ``None``.
        written_at: Unix time in seconds at which the publication was written to the
            subscribers of this node, or ``None``.
        written_until: Offset of the last publication with a known time, or ``None``.
        repair: The repair of the gap that contained the publication, or ``None``.
        repairing: Whether the node reads missed publications from the log now.
        connections: Connections of the user. Those with records of the channel are
            last.
        num_left_out: Number of further connections that do not fit into the answer.
        gone: Nodes that ended or stopped answering, by id. The value is the Unix time
            in seconds at which this node noticed it.
    """

    id: str
    now: float
    recorded_since: float | None = None
    forgotten_until: float | None = None
    written_at: float | None = None
    written_until: int | None = None
    repair: RecordedRepair | None = None
    repairing: bool = False
    connections: list[RecordedConnection] = []
    num_left_out: int = 0
    gone: dict[str, float] = {}


class ExplainQuestion(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The question that is sent to each node.

    Attributes:
        channel: Name of the channel.
        offset: Offset of the publication.
        epoch: Epoch of the log.
        user: Id of the user.
        client: Id of one connection; ``''`` for all connections of the user.
        tags: Tags of the publication; ``None`` if the log no longer has it.
    """

    channel: str
    offset: int
    epoch: str
    user: str
    client: str = ''
    tags: dict[str, str] | None = None
