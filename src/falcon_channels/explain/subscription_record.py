"""Records one subscription, from its start to its end.

* A LIVE subscription receives every publication of its channel. Its start and its end
  therefore say what it has received, apart from the times in which it lagged.
* A record has a limited number of lags. Above it, the oldest lag is forgotten.
* Facts that change while the subscription runs are read when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
import time

from falcon_channels.explain.connection_records import ConnectionRecord
from falcon_channels.explain.connection_records import ConnectionRecords
from falcon_channels.explain.connection_records import MAX_REASON
from falcon_channels.explain.facts import End
from falcon_channels.explain.facts import Lag
from falcon_channels.explain.facts import RecordedSubscription
from falcon_channels.explain.record_queue import Record
from falcon_channels.filters import TagFilter
from falcon_channels.hub.connection import Subscription
from falcon_channels.protocol.plain_codec import MEDIA
from falcon_channels.publication import Position
from falcon_channels.transports.client_codecs import JSON
from falcon_channels.transports.client_codecs import UNIDIRECTIONAL_JSON
from falcon_channels.transports.websocket_framing import DEFLATE

#: Largest number of lags that a record keeps.
_MAX_LAGS = 16

_SUBSCRIPTION_BYTES = 1200
_LAG_BYTES = 250


class SubscriptionRecord(Record):
    """A subscription.

    Args:
        connections: Recorded connections of the node.
        connection: Connection of the subscription.
        subscription: The subscription, which runs.
        facts: Facts about the start.
        on_forgotten: Called with the subscription if the record is forgotten before
            the end.

    Attributes:
        facts: Facts about the subscription.
    """

    __slots__ = (
        '_channel',
        '_connection',
        '_connections',
        '_on_forgotten',
        '_running',
        'facts',
    )

    def __init__(
        self,
        connections: ConnectionRecords,
        connection: ConnectionRecord,
        subscription: Subscription,
        facts: RecordedSubscription,
        on_forgotten: Callable[[Subscription], None],
    ) -> None:
        super().__init__(
            _SUBSCRIPTION_BYTES
            + _filter_bytes(facts.filter)
            + _filter_bytes(facts.client_filter)
        )
        self.facts = facts
        self._connections = connections
        self._connection = connection
        self._channel = subscription.channel
        #: The subscription; ``None`` after its end, so that its memory is freed.
        self._running: Subscription | None = subscription
        self._on_forgotten = on_forgotten
        connection.add_subscription(self._channel, facts)

    def add_lag(self, delivered: int) -> int:
        """Record that publications wait; return by how many bytes the record grew.

        Args:
            delivered: Offset of the last publication that was written.
        """
        lags, grown_bytes = self.facts.lags, 0
        if len(lags) >= _MAX_LAGS:
            self.facts.lags_after = lags.pop(0).until or 0
        else:
            grown_bytes = _LAG_BYTES
        lags.append(Lag(time.time(), delivered))
        return grown_bytes

    def end_lag(self, first: int | None, delivered: int) -> None:
        """Record that the pending publications were written.

        Args:
            first: Offset of the first of them, or ``None`` for none.
            delivered: Offset up to which they reach.
        """
        if not self.facts.lags:
            return
        lag = self.facts.lags[-1]
        if lag.until is None:
            lag.until = delivered
            lag.caught_up_at = time.time()
            lag.first = first

    def end(
        self, delivered: int | None, ended_by: End, code: int = 0, reason: str = ''
    ) -> None:
        """Record the end; `delivered` is ``None`` if publications waited then."""
        self._running = None
        facts = self.facts
        if delivered is None:
            delivered = facts.lags[-1].after if facts.lags else facts.start_offset
        facts.ended_at = time.time()
        facts.ended_by = ended_by
        facts.end_offset = delivered
        facts.code = code
        facts.reason = reason[:MAX_REASON]

    def forget(self) -> float:
        """Remove the record; the subscription may still run."""
        self._connection.remove_subscription(self._channel)
        self._connections.drop_if_empty(self._connection)
        if self._running is not None:
            self._on_forgotten(self._running)
        ended_at = self.facts.ended_at
        return time.time() if ended_at is None else ended_at


def facts_of(
    subscription: Subscription,
    at: float,
    position: Position,
    *,
    from_start: bool = True,
) -> RecordedSubscription:
    """Return what is known about a subscription at the start of its record.

    Args:
        subscription: The subscription.
        at: Unix time in seconds of the start.
        position: Position of the start.
        from_start: Whether the record begins with the subscription.
    """
    options = subscription.route.options
    encoder = subscription.connection.encoder
    codec = encoder.codec
    return RecordedSubscription(
        at=at,
        epoch=position.epoch,
        start_offset=position.offset,
        end_offset=position.offset,
        from_start=from_start,
        latest=options.recovery_mode == 'latest',
        slow_reader=options.slow_reader,
        server_side=subscription.server_side,
        filter=subscription.filter,
        client_filter=subscription.client_filter,
        # NOTE: a payload without its line breaks can only grow in these encodings. It
        #   shrinks if it is compressed, sent as a delta, or sent as the text in its
        #   JSON.
        countable=not subscription.delta
        and subscription.selection is None
        and encoder.framing is not DEFLATE
        and (codec in (JSON, UNIDIRECTIONAL_JSON, MEDIA) or codec.binary),
    )


def _filter_bytes(tag_filter: TagFilter | None) -> int:
    """Return the approximate size of a filter in memory."""
    if tag_filter is None:
        return 0
    texts = [tag_filter.key, tag_filter.val, *tag_filter.vals]
    return (
        200
        + sum(60 + 4 * len(text) for text in texts)
        + sum(map(_filter_bytes, tag_filter.nodes))
    )
