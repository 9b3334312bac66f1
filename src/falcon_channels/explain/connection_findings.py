"""Decides what happened to a publication for one connection.

* A connection can have several subscriptions to a channel, one after the other. The
  publication is in at most one of them, or between two, or before or after all.
* A client can recover what an earlier subscription has missed. If one subscription has
  sent the publication, its verdict holds.
* If no subscription covers the publication, these decide, in this order: the end of an
  earlier subscription, a refused request, the end of the connection.
* If a record of that time can be missing, the verdict is `Verdict.UNKNOWN`.
"""

from __future__ import annotations

from falcon_channels.events import Fact
from falcon_channels.explain.facts import End
from falcon_channels.explain.facts import NodeRecords
from falcon_channels.explain.facts import RecordedConnection
from falcon_channels.explain.facts import RecordedSubscription
from falcon_channels.explain.findings import Asked
from falcon_channels.explain.findings import end_facts
from falcon_channels.explain.findings import end_text
from falcon_channels.explain.findings import FORGOTTEN
from falcon_channels.explain.findings import Found
from falcon_channels.explain.findings import NOT_RECORDED
from falcon_channels.explain.findings import time_text
from falcon_channels.explain.subscription_findings import find_in_subscription
from falcon_channels.explain.verdicts import Verdict

#: Verdicts that hold if another subscription of the connection has missed it.
_RECEIVED = frozenset({Verdict.DELIVERED, Verdict.RECOVERED})
_UNDECIDED = frozenset({Verdict.PENDING, Verdict.UNKNOWN})

#: Resolution of the time of a publication, in seconds.
_RESOLUTION_S = 0.001


def find_for_connection(
    asked: Asked, node: NodeRecords, connection: RecordedConnection
) -> Found:
    """Return the answer of one connection, from all its subscriptions."""
    subscriptions = [s for s in connection.subscriptions if s.epoch == asked.epoch]
    found: Found | None = None
    before: RecordedSubscription | None = None
    after: RecordedSubscription | None = None
    for subscription in subscriptions:
        covered = find_in_subscription(asked, node, connection, subscription)
        if covered is not None:
            if found is None or _rank(covered) > _rank(found):
                found = covered
        elif asked.offset <= subscription.start_offset:
            after = after or subscription
        else:
            before = subscription
    if connection.num_left_out and (found is None or found.verdict not in _RECEIVED):
        return Found(
            Verdict.UNKNOWN,
            f'the client has subscribed again so often that {connection.num_left_out} '
            'subscriptions were not examined',
            None,
            {'num_left_out': connection.num_left_out},
        )
    if found is not None:
        return found
    if before is not None:
        return _after_end(before, connection, after)
    refused = _refused(connection, after)
    if refused is not None:
        return refused
    closed = find_end_before(asked, node, connection)
    if closed is not None:
        return closed
    if after is not None:
        return _before_start(after)
    return _without_subscription(asked, node, connection)


def _rank(found: Found) -> int:
    """Return the rank of a verdict; the highest one decides for the connection."""
    if found.verdict in _RECEIVED:
        return 2
    return 1 if found.verdict in _UNDECIDED else 0


# --- not in a subscription -----------------------------------------------------------


def _after_end(
    before: RecordedSubscription,
    connection: RecordedConnection,
    after: RecordedSubscription | None,
) -> Found:
    """Return the answer for a publication after the end of a subscription."""
    ended_at = before.ended_at
    facts: dict[str, Fact] = {'ended_at': ended_at, 'end_offset': before.end_offset}
    again = ''
    if after is not None:
        facts['subscribed_again_at'] = after.at
        again = (
            f'. The client subscribed again at {time_text(after.at)} from offset '
            f'{after.start_offset}, and did not recover it'
        )
    later = [r for r in connection.refusals if r.last_at >= (ended_at or 0.0)]
    if later and after is None:
        facts |= {'refused_code': later[-1].code, 'refused_reason': later[-1].reason}
        again = (
            f'. A later request to subscribe was refused with {later[-1].code}: '
            f'{later[-1].reason}'
        )
    if before.ended_by is End.RECORDING:
        return Found(
            Verdict.UNKNOWN,
            f'the recording of this user ended at {time_text(ended_at)}; '
            f'{NOT_RECORDED}{again}',
            None,
            facts,
        )
    if before.ended_by is End.CONNECTION:
        facts |= end_facts(connection)
        waited = ''
        if before.lags and before.lags[-1].until is None:
            waited = ', while the client read too slowly'
        return Found(
            Verdict.DISCONNECTED,
            f'{end_text(connection)} before it was written{waited}{again}',
            connection.closed_at or ended_at,
            facts,
        )
    facts |= {'code': before.code, 'reason': before.reason}
    how = 'by the client'
    if before.ended_by is End.SERVER:
        how = f'by the server with {before.code} ({before.reason})'
    return Found(
        Verdict.UNSUBSCRIBED,
        f'the subscription had ended at {time_text(ended_at)}, {how}{again}',
        ended_at,
        facts,
    )


def _refused(
    connection: RecordedConnection, after: RecordedSubscription | None
) -> Found | None:
    """Return an answer if requests were refused before the next subscription."""
    refusals = [r for r in connection.refusals if after is None or r.at <= after.at]
    if not refusals:
        return None
    refusal = refusals[-1]
    times = '' if refusal.count == 1 else f' {refusal.count} times'
    return Found(
        Verdict.REFUSED,
        f'the request to subscribe was refused{times} with {refusal.code}, last at '
        f'{time_text(refusal.last_at)}: {refusal.reason}',
        refusal.last_at,
        {
            'code': refusal.code,
            'reason': refusal.reason,
            'count': refusal.count,
            'first_at': refusal.at,
        },
    )


def find_end_before(
    asked: Asked, node: NodeRecords, connection: RecordedConnection
) -> Found | None:
    """Return an answer if the connection had ended before the publication."""
    closed_at = connection.closed_at
    published_at = node.written_at or asked.published_at
    if closed_at is None or published_at is None or closed_at > published_at:
        return None
    return Found(
        Verdict.DISCONNECTED,
        f'{end_text(connection)} before the publication',
        closed_at,
        end_facts(connection),
    )


def _before_start(after: RecordedSubscription) -> Found:
    facts: dict[str, Fact] = {
        'subscribed_at': after.at,
        'start_offset': after.start_offset,
        'since': after.since,
    }
    how = 'without recovery'
    if after.since is not None:
        how = f'and told that it had offset {after.since} already'
    return Found(
        Verdict.NOT_SUBSCRIBED,
        f'the client subscribed later, at {time_text(after.at)} from offset '
        f'{after.start_offset}, {how}',
        after.at,
        facts,
    )


def _without_subscription(
    asked: Asked, node: NodeRecords, connection: RecordedConnection
) -> Found:
    missing = explain_missing_records(asked, node)
    if missing:
        return Found(
            Verdict.UNKNOWN,
            f'no subscription of this connection is known, but {missing}',
            None,
            recording_facts(node),
        )
    return Found(
        Verdict.NOT_SUBSCRIBED,
        'the connection was not subscribed to the channel',
        asked.published_at,
        end_facts(connection) if connection.closed_at is not None else {},
    )


# --- what the records cover ----------------------------------------------------------


def explain_missing_records(asked: Asked, node: NodeRecords) -> str:
    """Return why the records of a node may not cover the publication, or ``''``."""
    if node.recorded_since is None:
        return 'deliveries to this user in this channel are not recorded'
    # NOTE: the clock of the broker may differ from the clock of the node.
    published_at = node.written_at or asked.published_at
    if published_at is None:
        return 'the time of the publication is not known'
    if published_at + _RESOLUTION_S < node.recorded_since:
        return (
            f'recording in this process began at {time_text(node.recorded_since)}, '
            'after the publication; records of an earlier process are lost when it ends'
        )
    if node.forgotten_until is not None and published_at <= node.forgotten_until:
        return FORGOTTEN
    return ''


def recording_facts(node: NodeRecords) -> dict[str, Fact]:
    """Return from when and up to when records are missing, as evidence."""
    return {
        'recorded_since': node.recorded_since,
        'forgotten_until': node.forgotten_until,
    }
