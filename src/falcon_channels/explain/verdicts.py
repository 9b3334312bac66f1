"""Computes from the facts of all nodes whether each connection received a publication.

This module does no I/O and reads no clock.

A connection can have several subscriptions to a channel, one after the other. Each one
covers the offsets from its start to its end, and those that it recovered. A publication
can be in a subscription, between two, before the first or after the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime
from datetime import UTC
from enum import StrEnum
from typing import Any
from typing import NamedTuple

import msgspec

from falcon_channels.events import Fact
from falcon_channels.explain.facts import ConnectionFacts
from falcon_channels.explain.facts import End
from falcon_channels.explain.facts import Lag
from falcon_channels.explain.facts import NodeFacts
from falcon_channels.explain.facts import SubscriptionFacts
from falcon_channels.publication import Publication


class Verdict(StrEnum):
    """What happened to a publication for one connection.

    Attributes:
        DELIVERED: It was written to the socket. Whether the client has read it is not
            known.
        RECOVERED: It was written to the socket later: when the client subscribed, or
            after the node had read missed publications from the log.
        PENDING: It is not sent yet. It waits for a slow client, or may be in the send
            buffer, or the node has not received it.
        FILTERED: A tag filter excluded it.
        DROPPED: The policy of the channel for slow readers dropped it, or the channel
            has ``recovery='latest'``.
        NOT_SUBSCRIBED: The connection was not subscribed at that time, and did not
            recover the publication later.
        UNSUBSCRIBED: The subscription ended before the publication.
        REFUSED: The request to subscribe was refused.
        DISCONNECTED: The connection ended before the publication, or possibly before
            the send buffer was written.
        NOT_KEPT: The client tried to recover it, but the log no longer had it, or the
            limits of a recovery were exceeded.
        NOT_PUBLISHED: The newest publication of the channel has a lower offset.
        OTHER_EPOCH: The epoch in the question is not the epoch of the channel.
        UNKNOWN: It was not recorded, or the record was removed, or a node did not
            answer or has ended.
    """

    DELIVERED = 'delivered'
    RECOVERED = 'recovered'
    PENDING = 'pending'
    FILTERED = 'filtered'
    DROPPED = 'dropped'
    NOT_SUBSCRIBED = 'not_subscribed'
    UNSUBSCRIBED = 'unsubscribed'
    REFUSED = 'refused'
    DISCONNECTED = 'disconnected'
    NOT_KEPT = 'not_kept'
    NOT_PUBLISHED = 'not_published'
    OTHER_EPOCH = 'other_epoch'
    UNKNOWN = 'unknown'


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to a publication for one connection of a user.

    Attributes:
        verdict: The result; see `Verdict`.
        text: The result as a sentence. It can contain text that a client has chosen.
        at: Unix time in seconds of the event that decided the verdict; ``None`` if
            unknown.
        node: Id of the connection's node; ``''`` if there is none.
        connection: Id of the connection; ``''`` if the answer is about the user or a
            node.
        facts: The evidence, by name; docs/explain.md lists the names.
    """

    verdict: Verdict
    text: str
    at: float | None = None
    node: str = ''
    connection: str = ''
    facts: Mapping[str, Fact] = {}

    def to_media(self) -> dict[str, Any]:
        """Return the fields as JSON values for ``resp.media``."""
        return {
            'verdict': str(self.verdict),
            'text': self.text,
            'at': self.at,
            'node': self.node,
            'connection': self.connection,
            'facts': dict(self.facts),
        }


class Asked(NamedTuple):
    """The publication in question.

    Attributes:
        offset: Offset of the publication.
        epoch: Epoch of the log.
        publication: The publication itself; ``None`` if the log no longer has it.
        published_at: Unix time in seconds of the publication; ``None`` if unknown.
    """

    offset: int
    epoch: str
    publication: Publication | None
    published_at: float | None


class _Found(NamedTuple):
    verdict: Verdict
    text: str
    at: float | None
    facts: Mapping[str, Fact] = {}


#: Verdicts that hold even if another subscription of the connection missed it.
_RECEIVED = frozenset({Verdict.DELIVERED, Verdict.RECOVERED})
_UNDECIDED = frozenset({Verdict.PENDING, Verdict.UNKNOWN})

#: Resolution of the time of a publication, in seconds.
_RESOLUTION_S = 0.001

_ACKNOWLEDGED = 'whether the client has read it is not known'
_OFF = 'it was not recorded then'
_FORGOTTEN = 'the record of that time is forgotten'


def explain(asked: Asked, nodes: Sequence[NodeFacts], user: str) -> list[Explanation]:
    """Return one answer for each connection, or one answer about the user.

    If nodes have ended since the publication, one additional answer says so.

    Args:
        asked: The publication.
        nodes: Facts of all nodes that have answered.
        user: Id of the user.
    """
    answers = []
    for node in nodes:
        for connection in _of_interest(asked, node):
            found = _of_connection(asked, node, connection)
            facts: dict[str, Fact] = {'kind': connection.kind}
            if asked.published_at is not None:
                facts['published_at'] = asked.published_at
            facts.update(found.facts)
            answers.append(
                Explanation(
                    verdict=found.verdict,
                    text=found.text,
                    at=found.at,
                    node=node.node,
                    connection=connection.id,
                    facts=facts,
                )
            )
        if node.more:
            answers.append(
                Explanation(
                    verdict=Verdict.UNKNOWN,
                    text=f'{node.more} more connections of the user are left out',
                    node=node.node,
                    facts={'left_out': node.more},
                )
            )
    gone = _gone_since(asked, nodes)
    if gone:
        answers.append(
            Explanation(
                verdict=Verdict.UNKNOWN,
                text=f'nodes that have ended since the publication: {len(gone)}. What '
                'they recorded is lost',
                at=max(gone.values()),
                facts={'ended_nodes': ' '.join(sorted(gone))},
            )
        )
    return answers or [_of_user(asked, nodes, user)]


def _of_interest(asked: Asked, node: NodeFacts) -> list[ConnectionFacts]:
    """Return the connections that an answer is useful for.

    Connections that had ended, and that never used the channel, are left out. A user
    who reconnects often would otherwise have many answers without information.
    """
    return [
        connection
        for connection in node.connections
        if connection.subscriptions
        or connection.refusals
        or _closed_before(asked, node, connection) is None
    ]


def _gone_since(asked: Asked, nodes: Sequence[NodeFacts]) -> dict[str, float]:
    """Return the nodes that ended after the publication, with the Unix times."""
    answered = {node.node for node in nodes}
    return {
        gone: at
        for node in nodes
        for gone, at in node.gone.items()
        if gone not in answered
        and (asked.published_at is None or at >= asked.published_at)
    }


def _of_user(asked: Asked, nodes: Sequence[NodeFacts], user: str) -> Explanation:
    """Return the answer for a user without a known connection."""
    name = f'user {user!r}' if user else 'the anonymous user'
    for node in nodes:
        gap = _gap(asked, node)
        if gap:
            return Explanation(
                verdict=Verdict.UNKNOWN,
                text=f'no connection of {name} is known, but {gap}',
                node=node.node,
                facts=_recording(node),
            )
    return Explanation(
        verdict=Verdict.NOT_SUBSCRIBED,
        text=f'no connection of {name} was subscribed or has asked to subscribe',
        at=asked.published_at,
    )


def _gap(asked: Asked, node: NodeFacts) -> str:
    """Return why the records of a node may not cover the publication, or ``''``."""
    if node.recorded_since is None:
        return 'deliveries are not recorded: ' + _OFF
    # NOTE: the clock of the broker may differ from the clock of the node.
    published_at = node.written_at or asked.published_at
    if published_at is None:
        return 'the time of the publication is not known'
    if published_at + _RESOLUTION_S < node.recorded_since:
        return f'recording began at {_time(node.recorded_since)}: ' + _OFF
    if node.forgotten_until is not None and published_at <= node.forgotten_until:
        return _FORGOTTEN
    return ''


def _recording(node: NodeFacts) -> dict[str, Fact]:
    return {
        'recorded_since': node.recorded_since,
        'forgotten_until': node.forgotten_until,
    }


# --- one connection ------------------------------------------------------------------


def _of_connection(
    asked: Asked, node: NodeFacts, connection: ConnectionFacts
) -> _Found:
    subscriptions = [s for s in connection.subscriptions if s.epoch == asked.epoch]
    found: _Found | None = None
    before: SubscriptionFacts | None = None
    after: SubscriptionFacts | None = None
    for subscription in subscriptions:
        covered = _in_subscription(asked, node, connection, subscription)
        if covered is not None:
            if found is None or _rank(covered) > _rank(found):
                found = covered
        elif asked.offset <= subscription.offset:
            after = after or subscription
        else:
            before = subscription
    if connection.left_out and (found is None or found.verdict not in _RECEIVED):
        return _Found(
            Verdict.UNKNOWN,
            f'the client has subscribed again so often that {connection.left_out} '
            'subscriptions are left out',
            None,
            {'left_out': connection.left_out},
        )
    if found is not None:
        return found
    if before is not None:
        return _after_end(before, connection, after)
    refused = _refused(connection, after)
    if refused is not None:
        return refused
    closed = _closed_before(asked, node, connection)
    if closed is not None:
        return closed
    if after is not None:
        return _before_start(after)
    return _without_subscription(asked, node, connection)


def _rank(found: _Found) -> int:
    """Return the rank of a verdict; the highest one decides for the connection."""
    if found.verdict in _RECEIVED:
        return 2
    return 1 if found.verdict in _UNDECIDED else 0


def _in_subscription(
    asked: Asked,
    node: NodeFacts,
    connection: ConnectionFacts,
    subscription: SubscriptionFacts,
) -> _Found | None:
    """Return the answer of one subscription.

    Returns:
        ``None`` if the publication was before its start or after its end.
    """
    if asked.offset <= subscription.offset:
        return _at_start(asked, connection, subscription)
    ended = subscription.ended_at is not None
    if ended and asked.offset > subscription.delivered:
        return None
    skipped = _skipped(asked, node)
    if skipped is not None:
        return skipped
    lag = _lag_of(asked, subscription)
    if lag is not None and lag.until is None and not ended:
        return _waiting(asked, subscription, lag)
    if asked.offset > subscription.delivered:
        return _Found(
            Verdict.PENDING,
            'the connection is subscribed, but this node has not received the '
            'publication yet',
            None,
            {'position': subscription.delivered},
        )
    if asked.offset <= subscription.lags_after:
        return _Found(
            Verdict.UNKNOWN, 'the client read slowly then; ' + _FORGOTTEN, None
        )
    excluded = _filtered(asked, subscription)
    if excluded is not None:
        return excluded
    if lag is not None:
        return _after_lag(asked, connection, subscription, lag)
    return _written(asked, node, connection, subscription)


def _at_start(
    asked: Asked, connection: ConnectionFacts, subscription: SubscriptionFacts
) -> _Found | None:
    """Return the answer for a publication from before the start of a subscription."""
    if not subscription.from_start:
        why = _FORGOTTEN if subscription.forgotten else _OFF
        return _Found(
            Verdict.UNKNOWN,
            f'the connection was subscribed already when the record began at '
            f'{_time(subscription.at)}; {why}',
            None,
            {
                'recorded_from': subscription.at,
                'recorded_from_offset': subscription.offset,
            },
        )
    facts: dict[str, Fact] = {
        'subscribed_at': subscription.at,
        'position': subscription.offset,
        'since': subscription.since,
    }
    first = subscription.first
    sent = first is not None and asked.offset >= first
    since = subscription.since
    if since is None and not sent:
        return None
    same_log = subscription.since_epoch == subscription.epoch
    if not sent and same_log and since is not None and asked.offset <= since:
        return None
    if sent or (subscription.recovered and not subscription.latest):
        excluded = _filtered(asked, subscription)
        if excluded is not None:
            return excluded._replace(at=subscription.at)
        unsent = _unsent(connection, subscription.at, None)
        if unsent is not None:
            return unsent
        how = 'asked to recover' if since is not None else 'subscribed'
        return _Found(
            Verdict.RECOVERED,
            f'it was written to the socket at {_time(subscription.at)}, when the '
            f'client {how}; {_ACKNOWLEDGED}',
            subscription.at,
            facts,
        )
    if subscription.latest:
        return _Found(
            Verdict.DROPPED,
            'the client subscribed later, and the channel sends only the newest '
            "publication (recovery='latest')",
            subscription.at,
            facts,
        )
    why = '' if same_log else '. Its position belongs to another log'
    return _Found(
        Verdict.NOT_KEPT,
        f'the client asked at {_time(subscription.at)} to recover from offset {since}, '
        f'but this was not possible: the log no longer had all publications, or they '
        f'were more than the limits of a recovery allow{why}',
        subscription.at,
        facts,
    )


def _filtered(asked: Asked, subscription: SubscriptionFacts) -> _Found | None:
    """Return an answer if a filter excluded it, or if this is unknown."""
    if not subscription.filtered:
        return None
    if asked.publication is None:
        return _Found(
            Verdict.UNKNOWN,
            'the subscription had a filter, and the log no longer has the publication '
            'with its tags',
            None,
            {'filtered_by': None},
        )
    by = subscription.excluded_by
    if not by:
        return None
    return _Found(
        Verdict.FILTERED,
        f'the filter of the {" and of the ".join(by)} excluded it',
        asked.published_at,
        {'filtered_by': ' '.join(by)},
    )


def _lag_of(asked: Asked, subscription: SubscriptionFacts) -> Lag | None:
    for lag in subscription.lags:
        if lag.after < asked.offset and (
            lag.until is None or asked.offset <= lag.until
        ):
            return lag
    return None


def _waiting(asked: Asked, subscription: SubscriptionFacts, lag: Lag) -> _Found:
    """Return the answer for a client that reads too slowly now."""
    if asked.offset > subscription.delivered:
        return _Found(
            Verdict.PENDING,
            'the connection is subscribed, but this node has not received the '
            'publication yet',
            None,
            {'position': subscription.delivered},
        )
    excluded = _filtered(asked, subscription)
    if excluded is not None:
        return excluded
    facts: dict[str, Fact] = {
        'policy': subscription.slow_reader,
        'slow_since': lag.at,
    }
    if (
        subscription.first_pending is not None
        and asked.offset >= subscription.first_pending
    ):
        return _Found(
            Verdict.PENDING,
            f'the client reads too slowly since {_time(lag.at)}; the publication waits '
            'for it',
            lag.at,
            facts,
        )
    return _dropped(subscription, lag, facts)


def _after_lag(
    asked: Asked, connection: ConnectionFacts, subscription: SubscriptionFacts, lag: Lag
) -> _Found:
    """Return the answer for a client that read too slowly and has caught up."""
    facts: dict[str, Fact] = {
        'policy': subscription.slow_reader,
        'slow_since': lag.at,
        'caught_up_at': lag.caught_up_at,
    }
    if lag.first is None or asked.offset < lag.first or lag.caught_up_at is None:
        return _dropped(subscription, lag, facts)
    unsent = _unsent(connection, lag.caught_up_at, None)
    if unsent is not None:
        return unsent
    return _Found(
        Verdict.DELIVERED,
        f'it was written to the socket at {_time(lag.caught_up_at)}, after it had '
        f'waited for the slow client; {_ACKNOWLEDGED}',
        lag.caught_up_at,
        facts,
    )


def _dropped(
    subscription: SubscriptionFacts, lag: Lag, facts: Mapping[str, Fact]
) -> _Found:
    return _Found(
        Verdict.DROPPED,
        f'the client read too slowly, and the policy {subscription.slow_reader!r} of '
        'the channel dropped it',
        lag.at,
        facts,
    )


def _skipped(asked: Asked, node: NodeFacts) -> _Found | None:
    """Return an answer if the node missed the publication and did not deliver it."""
    repair = node.repair
    if repair is None:
        return None
    facts: dict[str, Fact] = {'repaired_at': repair.at}
    if repair.lost:
        return _Found(
            Verdict.NOT_KEPT,
            f'this node missed it, and the log did not have it at '
            f'{_time(repair.at)}; the subscription ended with insufficient state',
            repair.at,
            facts,
        )
    if repair.first is None or asked.offset < repair.first:
        return _Found(
            Verdict.DROPPED,
            'this node missed it, and continued with the newest publication '
            "(recovery='latest')",
            repair.at,
            facts,
        )
    return None


def _written(
    asked: Asked,
    node: NodeFacts,
    connection: ConnectionFacts,
    subscription: SubscriptionFacts,
) -> _Found:
    """Return the answer for a publication that was written to a LIVE subscription."""
    at = node.written_at
    repair = node.repair
    if at is None and (
        node.written_until is not None and asked.offset > node.written_until
    ):
        return _Found(
            Verdict.UNKNOWN,
            'the delivery failed on this node; some clients may have received it',
            None,
        )
    unsent = _unsent(connection, at, subscription.bytes_after)
    if unsent is not None:
        return unsent
    when = 'at an unknown time' if at is None else f'at {_time(at)}'
    if repair is not None:
        return _Found(
            Verdict.RECOVERED,
            f'this node missed it, read it from the log, and wrote it to the socket '
            f'{when}; {_ACKNOWLEDGED}',
            at,
            {'repaired_at': repair.at},
        )
    return _Found(
        Verdict.DELIVERED,
        f'it was written to the socket {when}; {_ACKNOWLEDGED}',
        at,
    )


def _unsent(
    connection: ConnectionFacts, at: float | None, later_bytes: int | None
) -> _Found | None:
    """Return an answer if the publication may not have left the send buffer.

    Args:
        connection: The connection.
        at: Unix time in seconds of the write; ``None`` if unknown.
        later_bytes: Bytes that were certainly written later; ``None`` if unknown.
    """
    backlog_bytes = connection.backlog_bytes
    if connection.by_client:
        # NOTE: if the client was lost, the number of unsent bytes is unknown.
        later_bytes = None
    if not backlog_bytes or (later_bytes is not None and later_bytes >= backlog_bytes):
        return None
    drained_at = connection.drained_at
    if at is not None and drained_at is not None and at <= drained_at:
        return None
    when = 'at an unknown time' if at is None else f'at {_time(at)}'
    facts: dict[str, Fact] = {
        'written_at': at,
        'backlog_bytes': backlog_bytes,
        'bytes_after': later_bytes,
    }
    if connection.closed_at is None:
        return _Found(
            Verdict.PENDING,
            f'it was written to the send buffer {when}. The buffer has '
            f'{backlog_bytes} bytes, and the publication may be among them',
            at,
            facts,
        )
    facts |= _closing(connection)
    return _Found(
        Verdict.DISCONNECTED,
        f'it was written to the send buffer {when}, and may not have left this '
        f'process: {_closed(connection)}, with {backlog_bytes} bytes in the buffer',
        connection.closed_at,
        facts,
    )


# --- not in a subscription -----------------------------------------------------------


def _after_end(
    before: SubscriptionFacts,
    connection: ConnectionFacts,
    after: SubscriptionFacts | None,
) -> _Found:
    """Return the answer for a publication after the end of a subscription."""
    ended_at = before.ended_at
    facts: dict[str, Fact] = {'ended_at': ended_at, 'position': before.delivered}
    again = ''
    if after is not None:
        facts['subscribed_again_at'] = after.at
        again = (
            f'. The client subscribed again at {_time(after.at)} from offset '
            f'{after.offset}, and did not recover it'
        )
    later = [r for r in connection.refusals if r.last_at >= (ended_at or 0.0)]
    if later and after is None:
        facts |= {'refused_code': later[-1].code, 'refused_reason': later[-1].reason}
        again = (
            f'. A later request to subscribe was refused with {later[-1].code}: '
            f'{later[-1].reason}'
        )
    if before.ended_by is End.RECORDING:
        return _Found(
            Verdict.UNKNOWN,
            f'the recording of this user ended at {_time(ended_at)}; {_OFF}{again}',
            None,
            facts,
        )
    if before.ended_by is End.CONNECTION:
        facts |= _closing(connection)
        waited = ''
        if before.lags and before.lags[-1].until is None:
            waited = ', while the client read too slowly'
        return _Found(
            Verdict.DISCONNECTED,
            f'{_closed(connection)} before it was written{waited}{again}',
            connection.closed_at or ended_at,
            facts,
        )
    facts |= {'code': before.code, 'reason': before.reason}
    how = 'by the client'
    if before.ended_by is End.SERVER:
        how = f'by the server with {before.code} ({before.reason})'
    return _Found(
        Verdict.UNSUBSCRIBED,
        f'the subscription had ended at {_time(ended_at)}, {how}{again}',
        ended_at,
        facts,
    )


def _refused(
    connection: ConnectionFacts, after: SubscriptionFacts | None
) -> _Found | None:
    """Return an answer if requests were refused before the next subscription."""
    refusals = [r for r in connection.refusals if after is None or r.at <= after.at]
    if not refusals:
        return None
    refusal = refusals[-1]
    times = '' if refusal.count == 1 else f' {refusal.count} times'
    return _Found(
        Verdict.REFUSED,
        f'the request to subscribe was refused{times} with {refusal.code}, last at '
        f'{_time(refusal.last_at)}: {refusal.reason}',
        refusal.last_at,
        {
            'code': refusal.code,
            'reason': refusal.reason,
            'count': refusal.count,
            'first_at': refusal.at,
        },
    )


def _closed_before(
    asked: Asked, node: NodeFacts, connection: ConnectionFacts
) -> _Found | None:
    """Return an answer if the connection had ended before the publication."""
    closed_at = connection.closed_at
    published_at = node.written_at or asked.published_at
    if closed_at is None or published_at is None or closed_at > published_at:
        return None
    return _Found(
        Verdict.DISCONNECTED,
        f'{_closed(connection)} before the publication',
        closed_at,
        _closing(connection),
    )


def _before_start(after: SubscriptionFacts) -> _Found:
    facts: dict[str, Fact] = {
        'subscribed_at': after.at,
        'position': after.offset,
        'since': after.since,
    }
    how = 'without recovery'
    if after.since is not None:
        how = f'and told that it had offset {after.since} already'
    return _Found(
        Verdict.NOT_SUBSCRIBED,
        f'the client subscribed later, at {_time(after.at)} from offset '
        f'{after.offset}, {how}',
        after.at,
        facts,
    )


def _without_subscription(
    asked: Asked, node: NodeFacts, connection: ConnectionFacts
) -> _Found:
    gap = _gap(asked, node)
    if gap:
        return _Found(
            Verdict.UNKNOWN,
            f'no subscription of this connection is known, but {gap}',
            None,
            _recording(node),
        )
    return _Found(
        Verdict.NOT_SUBSCRIBED,
        'the connection was not subscribed to the channel',
        asked.published_at,
        _closing(connection) if connection.closed_at is not None else {},
    )


def _closing(connection: ConnectionFacts) -> dict[str, Fact]:
    return {
        'closed_at': connection.closed_at,
        'code': connection.code,
        'reason': connection.reason,
        'by_client': connection.by_client,
    }


def _closed(connection: ConnectionFacts) -> str:
    """Return how a connection ended, as the start of a sentence."""
    if connection.closed_at is None:
        return 'the connection ended'
    who = 'ended' if connection.by_client else 'was closed by the server'
    code = ''
    if connection.code:
        code = f' with {connection.code}'
        if connection.reason:
            code += f' ({connection.reason})'
    return f'the connection {who}{code} at {_time(connection.closed_at)}'


def _time(seconds: float | None) -> str:
    """Return a Unix time as text, such as ``2026-11-28 09:14:07.250 UTC``."""
    if seconds is None:
        return 'an unknown time'
    moment = datetime.fromtimestamp(seconds, UTC)
    return f'{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03} UTC'
