"""Groups of LIVE subscriptions that receive the same blobs."""

from __future__ import annotations

from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Subscription
from falcon_channels.transports.encoders import Encoder

#: Subscriptions and their connections, by encoder.
Groups = dict[Encoder, dict[Subscription, Connection]]


def add_to_group(groups: Groups, subscription: Subscription) -> None:
    """Add a subscription to the group of its encoder."""
    encoder = subscription.encoder
    group = groups.get(encoder)
    if group is None:
        group = groups[encoder] = {}
    group[subscription] = subscription.connection


def remove_from_group(groups: Groups, subscription: Subscription) -> None:
    """Remove a subscription from the group of its encoder."""
    encoder = subscription.encoder
    group = groups[encoder]
    del group[subscription]
    if not group:
        del groups[encoder]
