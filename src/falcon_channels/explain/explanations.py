"""Turns the facts of all nodes into explanations for the connections of a user.

* This module and the modules of findings only compute: no I/O and no clock.
* Each connection gets one answer. Connections that had ended before and never used the
  channel get none.
* A user without any connection gets one answer. If the question names a connection, the
  answer is only about that connection.
* What is not known gets an answer of its own: connections that were left out, and nodes
  that have ended with their records.
"""

from __future__ import annotations

from collections.abc import Sequence

from falcon_channels.events import Fact
from falcon_channels.explain.connection_findings import explain_missing_records
from falcon_channels.explain.connection_findings import find_end_before
from falcon_channels.explain.connection_findings import find_for_connection
from falcon_channels.explain.connection_findings import recording_facts
from falcon_channels.explain.facts import NodeRecords
from falcon_channels.explain.facts import RecordedConnection
from falcon_channels.explain.findings import Asked
from falcon_channels.explain.verdicts import Explanation
from falcon_channels.explain.verdicts import Verdict


def explain(
    asked: Asked, nodes: Sequence[NodeRecords], user: str, client: str = ''
) -> list[Explanation]:
    """Return one answer for each connection, or one if no connection is known.

    If nodes have ended since the publication, one additional answer says so.

    Args:
        asked: The publication.
        nodes: Records of all nodes that have answered.
        user: Id of the user.
        client: Id of the only connection in question; ``''`` for all connections.
    """
    answers = []
    for node in nodes:
        of_interest = node.connections if client else _of_interest(asked, node)
        for connection in of_interest:
            found = find_for_connection(asked, node, connection)
            facts: dict[str, Fact] = {'kind': connection.kind}
            if asked.published_at is not None:
                facts['published_at'] = asked.published_at
            facts.update(found.facts)
            answers.append(
                Explanation(
                    verdict=found.verdict,
                    text=found.text,
                    at=found.at,
                    node=node.id,
                    connection=connection.id,
                    facts=facts,
                )
            )
        if node.num_left_out:
            answers.append(
                Explanation(
                    verdict=Verdict.UNKNOWN,
                    text=f'{node.num_left_out} more connections of the user are '
                    'left out',
                    node=node.id,
                    facts={'num_left_out': node.num_left_out},
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
    return answers or [_of_none(asked, nodes, user, client)]


def _of_interest(asked: Asked, node: NodeRecords) -> list[RecordedConnection]:
    """Return the connections that an answer is useful for.

    Connections that had ended, and that never used the channel, are left out. A user
    who reconnects often would otherwise have many answers without information.
    """
    return [
        connection
        for connection in node.connections
        if connection.subscriptions
        or connection.refusals
        or find_end_before(asked, node, connection) is None
    ]


def _gone_since(asked: Asked, nodes: Sequence[NodeRecords]) -> dict[str, float]:
    """Return the nodes that ended after the publication, with the Unix times."""
    answered = {node.id for node in nodes}
    return {
        gone: at
        for node in nodes
        for gone, at in node.gone.items()
        if gone not in answered
        and (asked.published_at is None or at >= asked.published_at)
    }


def _of_none(
    asked: Asked, nodes: Sequence[NodeRecords], user: str, client: str
) -> Explanation:
    """Return the answer if no connection in question is known."""
    name = f'user {user!r}' if user else 'the anonymous user'
    subject = f'connection of {name}'
    if client:
        subject += f' with the id {client!r}'
    for node in nodes:
        missing = explain_missing_records(asked, node)
        if missing:
            return Explanation(
                verdict=Verdict.UNKNOWN,
                text=f'no {subject} is known, but {missing}',
                node=node.id,
                connection=client,
                facts=recording_facts(node),
            )
    return Explanation(
        verdict=Verdict.NOT_SUBSCRIBED,
        text=f'no {subject} was subscribed or has asked to subscribe',
        at=asked.published_at,
        connection=client,
    )
