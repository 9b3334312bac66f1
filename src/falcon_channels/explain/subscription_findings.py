"""Decides what one subscription did with a publication.

* A subscription covers the offsets from its start to its end. It also covers what it
  recovered or should have recovered. It decides only about these.
* A LIVE subscription has written every publication of its node to the socket. The
  exceptions are publications that a filter excluded or that the node itself missed.
* A publication that waited for a slow client was written when the client caught up, or
  was dropped.
* Bytes in the backlog may never leave this process. A publication counts as written
  only if it is certainly not among the bytes that waited.
"""

from __future__ import annotations

from collections.abc import Mapping

from falcon_channels.events import Fact
from falcon_channels.explain.facts import Lag
from falcon_channels.explain.facts import NodeRecords
from falcon_channels.explain.facts import RecordedConnection
from falcon_channels.explain.facts import RecordedSubscription
from falcon_channels.explain.findings import Asked
from falcon_channels.explain.findings import end_facts
from falcon_channels.explain.findings import end_text
from falcon_channels.explain.findings import FORGOTTEN
from falcon_channels.explain.findings import Found
from falcon_channels.explain.findings import NOT_ACKNOWLEDGED
from falcon_channels.explain.findings import NOT_RECORDED
from falcon_channels.explain.findings import time_text
from falcon_channels.explain.verdicts import Verdict


def find_in_subscription(
    asked: Asked,
    node: NodeRecords,
    connection: RecordedConnection,
    subscription: RecordedSubscription,
) -> Found | None:
    """Return the answer of one subscription.

    Returns:
        ``None`` if the publication was before its start or after its end.
    """
    if asked.offset <= subscription.start_offset:
        return _at_start(asked, connection, subscription)
    ended = subscription.ended_at is not None
    if ended and asked.offset > subscription.end_offset:
        return None
    skipped = _skipped(asked, node)
    if skipped is not None:
        return skipped
    if asked.offset > subscription.end_offset:
        return _not_received(node, subscription)
    lag = _lag_of(asked, subscription)
    if lag is not None and lag.until is None and not ended:
        return _waiting(asked, subscription, lag)
    if asked.offset <= subscription.lags_after:
        return Found(Verdict.UNKNOWN, 'the client read slowly then; ' + FORGOTTEN, None)
    excluded = _filtered(asked, subscription)
    if excluded is not None:
        return excluded
    if lag is not None:
        return _after_lag(asked, connection, subscription, lag)
    return _written(asked, node, connection, subscription)


def _not_received(node: NodeRecords, subscription: RecordedSubscription) -> Found:
    """Return the answer for a publication that the node has not delivered yet."""
    reason = 'this node has not received the publication yet'
    if node.repairing:
        reason = 'this node missed publications, and reads them from the log now'
    return Found(
        Verdict.PENDING,
        f'the connection is subscribed, but {reason}',
        None,
        {
            'waits_in': 'log' if node.repairing else 'broker',
            'end_offset': subscription.end_offset,
        },
    )


def _at_start(
    asked: Asked, connection: RecordedConnection, subscription: RecordedSubscription
) -> Found | None:
    """Return the answer for a publication from before the start of a subscription."""
    if not subscription.from_start:
        why = FORGOTTEN if subscription.forgotten else NOT_RECORDED
        return Found(
            Verdict.UNKNOWN,
            f'the connection was subscribed already when the record began at '
            f'{time_text(subscription.at)}; {why}',
            None,
            {
                'recorded_from': subscription.at,
                'recorded_from_offset': subscription.start_offset,
            },
        )
    facts: dict[str, Fact] = {
        'subscribed_at': subscription.at,
        'start_offset': subscription.start_offset,
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
        return Found(
            Verdict.RECOVERED,
            f'it was written to the socket at {time_text(subscription.at)}, when the '
            f'client {how}; {NOT_ACKNOWLEDGED}',
            subscription.at,
            facts,
        )
    if subscription.latest:
        return Found(
            Verdict.DROPPED,
            'the client subscribed later, and the channel sends only the newest '
            "publication (recovery='latest')",
            subscription.at,
            facts,
        )
    why = '' if same_log else '. Its position belongs to another log'
    return Found(
        Verdict.NOT_KEPT,
        f'the client asked at {time_text(subscription.at)} to recover from offset '
        f'{since}, but this was not possible: the log no longer had all publications, '
        f'or they were more than the limits of a recovery allow{why}',
        subscription.at,
        facts,
    )


def _filtered(asked: Asked, subscription: RecordedSubscription) -> Found | None:
    """Return an answer if a filter excluded it, or if this is unknown."""
    if not subscription.filtered:
        return None
    if asked.publication is None:
        return Found(
            Verdict.UNKNOWN,
            'the subscription had a filter, and the log no longer has the publication '
            'with its tags',
            None,
            {'filtered_by': None},
        )
    by = subscription.excluded_by
    if not by:
        return None
    return Found(
        Verdict.FILTERED,
        f'the filter of the {" and of the ".join(by)} excluded it',
        asked.published_at,
        {'filtered_by': ' '.join(by)},
    )


# --- a client that reads slowly ------------------------------------------------------


def _lag_of(asked: Asked, subscription: RecordedSubscription) -> Lag | None:
    for lag in subscription.lags:
        if lag.after < asked.offset and (
            lag.until is None or asked.offset <= lag.until
        ):
            return lag
    return None


def _waiting(asked: Asked, subscription: RecordedSubscription, lag: Lag) -> Found:
    """Return the answer for a client that reads too slowly now."""
    excluded = _filtered(asked, subscription)
    if excluded is not None:
        return excluded
    facts: dict[str, Fact] = {
        'policy': subscription.slow_reader,
        'slow_since': lag.at,
        'delivered_offset': lag.after,
    }
    if (
        subscription.first_pending is not None
        and asked.offset >= subscription.first_pending
    ):
        return Found(
            Verdict.PENDING,
            f'the client has read too slowly since {time_text(lag.at)}; the '
            'publication waits for it',
            lag.at,
            {'waits_in': 'subscription', **facts},
        )
    return _dropped(subscription, lag, facts)


def _after_lag(
    asked: Asked,
    connection: RecordedConnection,
    subscription: RecordedSubscription,
    lag: Lag,
) -> Found:
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
    return Found(
        Verdict.DELIVERED,
        f'it was written to the socket at {time_text(lag.caught_up_at)}, after it had '
        f'waited for the slow client; {NOT_ACKNOWLEDGED}',
        lag.caught_up_at,
        facts,
    )


def _dropped(
    subscription: RecordedSubscription, lag: Lag, facts: Mapping[str, Fact]
) -> Found:
    return Found(
        Verdict.DROPPED,
        f'the client read too slowly, and the policy {subscription.slow_reader!r} of '
        'the channel dropped it',
        lag.at,
        facts,
    )


# --- a LIVE subscription -------------------------------------------------------------


def _skipped(asked: Asked, node: NodeRecords) -> Found | None:
    """Return an answer if the node missed the publication and did not deliver it."""
    repair = node.repair
    if repair is None:
        return None
    facts: dict[str, Fact] = {'repaired_at': repair.at}
    if repair.lost:
        return Found(
            Verdict.NOT_KEPT,
            f'this node missed it, and the log did not have it at '
            f'{time_text(repair.at)}; the subscription ended with insufficient state',
            repair.at,
            facts,
        )
    if repair.first is None or asked.offset < repair.first:
        return Found(
            Verdict.DROPPED,
            'this node missed it, and continued with the newest publication '
            "(recovery='latest')",
            repair.at,
            facts,
        )
    return None


def _written(
    asked: Asked,
    node: NodeRecords,
    connection: RecordedConnection,
    subscription: RecordedSubscription,
) -> Found:
    """Return the answer for a publication that was written to a LIVE subscription."""
    at = node.written_at
    repair = node.repair
    if at is None and (
        node.written_until is not None and asked.offset > node.written_until
    ):
        return Found(
            Verdict.UNKNOWN,
            'the delivery failed on this node; some clients may have received it',
            None,
        )
    unsent = _unsent(connection, at, subscription.bytes_after)
    if unsent is not None:
        return unsent
    when = 'at an unknown time' if at is None else f'at {time_text(at)}'
    if repair is not None:
        return Found(
            Verdict.RECOVERED,
            f'this node missed it, read it from the log, and wrote it to the socket '
            f'{when}; {NOT_ACKNOWLEDGED}',
            at,
            {'repaired_at': repair.at},
        )
    return Found(
        Verdict.DELIVERED,
        f'it was written to the socket {when}; {NOT_ACKNOWLEDGED}',
        at,
    )


def _unsent(
    connection: RecordedConnection, at: float | None, later_bytes: int | None
) -> Found | None:
    """Return an answer if the publication may be in the backlog of the connection.

    Args:
        connection: The connection.
        at: Unix time in seconds of the write; ``None`` if unknown.
        later_bytes: Bytes that were certainly written later; ``None`` if unknown.
    """
    backlog_bytes = connection.backlog_bytes
    if connection.by_client:
        # NOTE: if the client was lost, the number of unsent bytes is unknown.
        later_bytes = None
    if backlog_bytes == 0:
        return None
    if (
        backlog_bytes is not None
        and later_bytes is not None
        and later_bytes >= backlog_bytes
    ):
        return None
    drained_at = connection.drained_at
    if at is not None and drained_at is not None and at <= drained_at:
        return None
    when = 'at an unknown time' if at is None else f'at {time_text(at)}'
    size = 'an unknown number of' if backlog_bytes is None else str(backlog_bytes)
    facts: dict[str, Fact] = {
        'written_at': at,
        'backlog_bytes': backlog_bytes,
        'bytes_after': later_bytes,
    }
    if connection.ended_unrecorded:
        return Found(
            Verdict.UNKNOWN,
            f'it was added to the backlog of the connection {when}. The connection '
            'ended after the recording, and whether the publication has left this '
            'process is not known',
            None,
            facts,
        )
    if connection.closed_at is None:
        return Found(
            Verdict.PENDING,
            f'it was added to the backlog of the connection {when}. The backlog has '
            f'{size} bytes, and the publication may be among them',
            at,
            {'waits_in': 'backlog', **facts},
        )
    facts |= end_facts(connection)
    return Found(
        Verdict.DISCONNECTED,
        f'it was added to the backlog of the connection {when}, and may not have left '
        f'this process: {end_text(connection)}, with a backlog of {size} bytes',
        connection.closed_at,
        facts,
    )
