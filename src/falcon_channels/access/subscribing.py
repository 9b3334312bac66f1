"""Admission: how connections and subscriptions come in, whichever door they use."""

from __future__ import annotations

from collections.abc import Callable
import logging
from typing import Any

import falcon
import falcon.asgi

from falcon_channels.access import authorization
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.hub import Hub
from falcon_channels.hub.presence import PresenceKeeper
from falcon_channels.options import NodeOptions
from falcon_channels.origin import log_refusal
from falcon_channels.origin import request_origin_error
from falcon_channels.protocol.codes import UNSUBSCRIBE_INSUFFICIENT
from falcon_channels.protocol.codes import UNSUBSCRIBE_SERVER
from falcon_channels.publication import Position

_logger = logging.getLogger('falcon_channels')


class Admission:
    """Lets connections and subscriptions in, or refuses them.

    Args:
        hub: Where they go.
        presence: Where who has joined is entered.
        options: Limits.

    Attributes:
        closed_because: Why nobody is let in now, or ``''``.
    """

    def __init__(
        self, hub: Hub, presence: PresenceKeeper, options: NodeOptions
    ) -> None:
        self._hub = hub
        self._broker = hub.broker
        self._presence = presence
        self._options = options
        self.closed_because = ''

    def check_room(self) -> None:
        """Refuse a connection that would be one too many.

        Raises:
            falcon.HTTPServiceUnavailable: `max_connections` are here.
        """
        limit = self._options.max_connections
        if limit is not None and len(self._hub.connections) >= limit:
            raise falcon.HTTPServiceUnavailable(
                description=f'{limit} connections are here already', retry_after=10
            )

    def check_origin(self, req: falcon.asgi.Request) -> None:
        """Refuse a handshake that comes from a page of another site.

        Raises:
            falcon.HTTPForbidden: Its origin is neither its own nor allowed.
            falcon.HTTPBadRequest: Its Host header cannot be trusted.
        """
        reason = request_origin_error(req, self._options.allowed_origins)
        if reason is not None:
            log_refusal(req.path, reason)
            if reason.startswith('Host'):
                raise falcon.HTTPBadRequest(description=reason)
            raise falcon.HTTPForbidden(description=reason)

    async def authorize(self, subscription: Subscription) -> None:
        """Decide whether a client's subscription may be.

        The subscription is JOINING and in its connection's `subscriptions`.

        Raises:
            falcon.HTTPForbidden: The user's right was revoked.
            falcon.HTTPServiceUnavailable: This process is draining.
            falcon.HTTPError: The responder refused.
        """
        if self.closed_because:
            raise falcon.HTTPServiceUnavailable(description=self.closed_because)
        user = subscription.user
        if user and await self._broker.is_revoked(subscription.channel, user):
            raise falcon.HTTPForbidden(description='revoked')
        await authorization.authorize_subscribe(subscription)

    async def admit(
        self,
        subscription: Subscription,
        since: Position | None,
        on_joined: Callable[[Joined], None],
    ) -> None:
        """Let an authorised subscription join, and enter it into presence.

        Args:
            subscription: As for `authorize`.
            since: Where the client stands, or ``None``.
            on_joined: Answers the client; nothing of the channel is written before it.

        Raises:
            UnsubscribedError: It was ended meanwhile.
            BrokerUnavailableError: Try again.
        """
        on_joined(await self._hub.join(subscription, since))
        await self.settle(subscription)

    async def settle(self, subscription: Subscription) -> None:
        """Look again whether a subscription may stay, and enter it into presence."""
        user = subscription.user
        # NOTE: a revocation that came while it joined found nothing to end.
        try:
            if user and await self._broker.is_revoked(subscription.channel, user):
                self._hub.unsubscribe(subscription, *UNSUBSCRIBE_SERVER)
                return
        except BrokerUnavailableError:
            # SECURITY: not known, so that it may not stay; the client comes back.
            self._hub.unsubscribe(subscription, *UNSUBSCRIBE_INSUFFICIENT)
            return
        await self._presence.enter(subscription)

    def on_left(self, subscription: Subscription) -> None:
        """Take a subscription that has ended out of presence, and tell its resource."""
        self._presence.on_left(subscription)
        responder = subscription.route.on_unsubscribe
        if responder is not None and subscription.joined:
            self._hub.spawn(
                self._tell_left(subscription, responder), 'on_unsubscribe', True
            )

    async def _tell_left(
        self, subscription: Subscription, responder: Callable[..., Any]
    ) -> None:
        try:
            await responder(
                subscription.connection.req, subscription, **subscription.params
            )
        except Exception:
            # NOTE: the application's code; the client is gone and nobody else waits.
            self._hub.counters.responder_errors += 1
            _logger.exception('on_unsubscribe failed for %r', subscription)
