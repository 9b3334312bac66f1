"""Subscriptions that the application makes for its clients' connections."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from falcon_channels.cluster.messages import SubscribeUser
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Subscription

if TYPE_CHECKING:
    from falcon_channels.channels import Channels

_logger = logging.getLogger('falcon_channels')


async def subscribe_connection(
    channels: Channels, connection: Connection, asked: SubscribeUser
) -> None:
    """Subscribe one connection of this process, and tell its client.

    Does nothing where the connection cannot be subscribed from here, is subscribed
    already, has as many channels as it may, or where the user's right is revoked.
    """
    options = channels.options
    if (
        not connection.takes_subscriptions
        or connection.closed
        or asked.channel in connection.subscriptions
        or len(connection.subscriptions) >= options.max_channels_per_connection
    ):
        return
    try:
        match = await channels.match(asked.channel)
    except (ChannelNameError, UnknownChannelError, ClosedError) as ex:
        # NOTE: another process, with other routes, sent this.
        _logger.warning('cannot subscribe %r from here: %s', connection, ex)
        return
    subscription = Subscription(
        connection,
        asked.channel,
        match.route,
        match.params,
        info=asked.info,
        reply=asked.data,
        expires_at=asked.expires_at,
        server_side=True,
    )
    connection.add_subscription(subscription)
    try:
        await channels.admission.admit(
            subscription,
            asked.since,
            lambda joined: connection.on_subscribed(subscription, joined),
        )
    except UnsubscribedError:
        return
    except BrokerUnavailableError as ex:
        _logger.warning('cannot subscribe %r from here: %s', connection, ex)
        channels.hub.leave(subscription)
