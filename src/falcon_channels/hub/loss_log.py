"""Logs losses of the broker: one line for many losses in a short time.

If a link is lost and restored many times within seconds, it is logged as lost once. It
is logged as restored when it has worked for a while. The last line about the link is
therefore always true. If many channels lose their publications together, they share one
line.
"""

from __future__ import annotations

import asyncio
import logging

from falcon_channels.events import Event
from falcon_channels.events import log_event

#: Seconds for which a restored link must work before it is logged as restored.
_STABLE_S = 5.0
#: Seconds for which lost publications are collected for one line.
_COLLECT_S = 1.0


class LossLog:
    """Logs lost links and lost publications; call its methods in the event loop."""

    def __init__(self) -> None:
        self._link_losses = 0
        self._link_timer: asyncio.TimerHandle | None = None
        self._channels = 0
        self._subscriptions = 0
        self._example = ''
        self._publications_timer: asyncio.TimerHandle | None = None

    def on_link_lost(self) -> None:
        """Called when the link is lost."""
        self._link_losses += 1
        if self._link_timer is not None:
            self._link_timer.cancel()
            self._link_timer = None
        if self._link_losses == 1:
            log_event(
                Event('link_lost'),
                logging.ERROR,
                'the link to the broker is lost; subscribers wait',
            )

    def on_link_restored(self) -> None:
        """Called when the link is restored."""
        self._link_timer = asyncio.get_running_loop().call_later(
            _STABLE_S, self._log_restored
        )

    def on_publications_lost(self, channel: str, num_subscriptions: int) -> None:
        """Called when the publications of a channel are lost.

        Args:
            channel: Name of the channel.
            num_subscriptions: Number of subscriptions that end.
        """
        self._channels += 1
        self._subscriptions += num_subscriptions
        self._example = channel
        if self._publications_timer is None:
            self._publications_timer = asyncio.get_running_loop().call_later(
                _COLLECT_S, self._log_publications
            )

    def close(self) -> None:
        """Log the collected losses."""
        if self._link_timer is not None:
            self._link_timer.cancel()
            self._log_restored()
        if self._publications_timer is not None:
            self._publications_timer.cancel()
            self._log_publications()

    def _log_restored(self) -> None:
        self._link_timer = None
        losses, self._link_losses = self._link_losses, 0
        log_event(
            Event('link_restored', facts={'num_losses': losses}),
            logging.WARNING,
            'the link to the broker is restored (losses: %d); missed publications are '
            'read',
            losses,
        )

    def _log_publications(self) -> None:
        self._publications_timer = None
        channels, self._channels = self._channels, 0
        subscriptions, self._subscriptions = self._subscriptions, 0
        facts = {'num_channels': channels, 'num_subscriptions': subscriptions}
        log_event(
            Event('publications_lost', channel=self._example, facts=facts),
            logging.ERROR,
            'publications of %d channels are lost, such as %r; %d subscriptions end '
            'with insufficient state',
            channels,
            self._example,
            subscriptions,
        )
