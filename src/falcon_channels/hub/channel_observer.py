"""What `LocalChannel` and its callers tell an observer about deliveries.

An observer is told about transitions only: a batch was written, a gap was closed, a
subscription lags, catches up or ends. Nothing is told per delivery. A LIVE subscription
receives every batch, so its start and its end say what it has received.

PERF: a channel that nobody observes costs one check of an attribute per batch
(benchmarks/explain.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from falcon_channels.hub.connection import Subscription
from falcon_channels.publication import Position
from falcon_channels.transports.encoders import Item


class ChannelObserver(Protocol):
    """Observes the deliveries of one channel. No method may raise or block."""

    def on_written(self, items: Sequence[Item], position: Position) -> None:
        """Called after a batch was written to the LIVE subscriptions.

        Args:
            items: The items of the batch.
            position: Position of the channel after the batch.
        """

    def on_repaired(
        self, before: Position, after: Position, first: int | None, lost: bool
    ) -> None:
        """Called when publications that were not announced are read from the log.

        Args:
            before: Position of the channel before the gap.
            after: Position of the channel after the gap.
            first: Offset of the first publication that will be delivered, or ``None``.
            lost: Whether the log did not have them, so that all subscriptions end.
        """

    def on_lagging(self, subscription: Subscription, delivered: int) -> None:
        """Called when a subscription becomes LAGGING.

        Args:
            subscription: The subscription.
            delivered: Offset of the last publication that was written to it.
        """

    def on_caught_up(
        self, subscription: Subscription, first: int | None, delivered: int
    ) -> None:
        """Called when a LAGGING subscription gets its pending items.

        Args:
            subscription: The subscription.
            first: Offset of the first pending publication, or ``None`` for none.
            delivered: Offset up to which the pending items reach.
        """

    def on_ended(self, subscription: Subscription, delivered: Position | None) -> None:
        """Called when a subscription ends that had joined.

        Args:
            subscription: The subscription.
            delivered: Position up to which publications were written to it; ``None``
                if this is not known.
        """
