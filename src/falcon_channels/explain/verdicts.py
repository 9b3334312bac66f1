"""The values of an explanation: the verdicts, and what an application reads."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from falcon_channels.events import Fact


class Verdict(StrEnum):
    """Result of a publication for one connection.

    Attributes:
        DELIVERED: It was written to the socket. Whether the client has read it is not
            known.
        RECOVERED: It was written to the socket later: when the client subscribed, or
            after the node had read missed publications from the log.
        PENDING: It is not sent yet. It waits for a slow client, or may be in the
            backlog of the connection, or the node has not received it.
        FILTERED: A tag filter excluded it.
        DROPPED: The policy of the channel for slow readers dropped it, or the channel
            has ``recovery='latest'``.
        NOT_SUBSCRIBED: The connection was not subscribed at that time, and did not
            recover the publication later.
        UNSUBSCRIBED: The subscription ended before the publication.
        REFUSED: The request to subscribe was refused.
        DISCONNECTED: The connection ended before the publication, or possibly before
            the backlog was written.
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
    """Explains what happened to a publication for one connection of a user.

    Attributes:
        verdict: The result; see `Verdict`.
        text: The result as a sentence. It can contain text that a client has chosen.
        at: Unix time in seconds of the event that decided the verdict; ``None`` if
            unknown.
        node: Id of the connection's node; ``''`` if there is none.
        connection: Id of the connection, also if only the question has this id; ``''``
            if the answer is about the user or a node.
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
