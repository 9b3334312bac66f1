"""Ends subscriptions at their `expires_at`, if their clients cannot refresh them.

Clients of the client protocol can refresh a subscription that has a token. Their
connections therefore end expired subscriptions themselves. If there is a token, they
wait for `EndpointOptions.expiry_grace_s`, except for a unidirectional client.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.hub import Hub

#: Longest time of one timer in seconds. Event loops have a limit.
_MAX_TIMER_S: Final = 86_400.0


class SubscriptionExpiry:
    """The timers of the subscriptions that expire.

    Args:
        hub: Hub of this process.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._timers: dict[Subscription, asyncio.TimerHandle] = {}

    def start(self, subscription: Subscription) -> None:
        """Set the timer of a subscription that has joined, if it needs one.

        Call it again after `Subscription.expires_at` has changed.
        """
        self.stop(subscription)
        expires_at = subscription.expires_at
        # PERF: nearly all subscriptions do not expire, and have no timer.
        if (
            expires_at is None
            or subscription.ended
            or subscription.connection.refreshes_subscriptions
        ):
            return
        now_s = asyncio.get_running_loop().time()
        self._plan(subscription, now_s + expires_at - time.time())

    def stop(self, subscription: Subscription) -> None:
        """Cancel the timer of a subscription, if it has one."""
        timer = self._timers.pop(subscription, None)
        if timer is not None:
            timer.cancel()

    def _plan(self, subscription: Subscription, due_s: float) -> None:
        loop = asyncio.get_running_loop()
        when_s = min(due_s, loop.time() + _MAX_TIMER_S)
        self._timers[subscription] = loop.call_at(
            when_s, self._on_due, subscription, due_s
        )

    def _on_due(self, subscription: Subscription, due_s: float) -> None:
        del self._timers[subscription]
        if asyncio.get_running_loop().time() < due_s:
            self._plan(subscription, due_s)
        else:
            self._hub.expire(subscription)
