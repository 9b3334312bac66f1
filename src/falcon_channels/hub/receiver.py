"""The receiver of a broker's announcements.

A publication is added to the batch of its local channel. A gap in the offsets, or a
link that was lost, starts a repair.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import logging

import msgspec

from falcon_channels.events import Event
from falcon_channels.events import Events
from falcon_channels.hub.fanout import FanOut
from falcon_channels.hub.local_channel import ChannelState
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.hub.loss_log import LossLog
from falcon_channels.hub.repair import Repairs
from falcon_channels.metrics import Counters
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal

_logger = logging.getLogger('falcon_channels')


class AnnouncementReceiver:
    """Receives what the broker announces; implements `BrokerReceiver`.

    Args:
        channels: Local channels of the hub by channel name.
        fan_out: Delivers the publications.
        repairs: Repairs the channels that have missed publications.
        loss_log: Logs lost links.
        counters: Counters of the hub.
        events: Tells that the link was lost or restored.

    Attributes:
        link_lost: Whether the link is lost, so that announcements do not arrive.
    """

    def __init__(
        self,
        channels: Mapping[str, LocalChannel],
        fan_out: FanOut,
        repairs: Repairs,
        loss_log: LossLog,
        counters: Counters,
        events: Events,
    ) -> None:
        self._channels = channels
        self._fan_out = fan_out
        self._repairs = repairs
        self._loss_log = loss_log
        self._counters = counters
        self._events = events
        self._on_control: Callable[[bytes], None] | None = None
        self.link_lost = False

    def listen(self, on_control: Callable[[bytes], None]) -> None:
        """Call a function with each control message from now on."""
        self._on_control = on_control

    def on_publication(
        self, channel: str, publication: Publication, epoch: str
    ) -> None:
        """Called with each publication of a subscribed channel."""
        local_channel = self._channels.get(channel)
        if local_channel is None:
            return
        self._counters.publications += 1
        gap = local_channel.take(publication, epoch)
        if local_channel.batch or local_channel.end is not None:
            self._fan_out.mark(local_channel)
        if gap:
            self._counters.gaps += 1
            self._repairs.begin(local_channel)

    def on_signal(self, channel: str, signal: bytes) -> None:
        """Called with each join or leave of a subscribed channel."""
        local_channel = self._channels.get(channel)
        if local_channel is None or local_channel.state is ChannelState.OPENING:
            return
        try:
            decoded = msgspec.msgpack.decode(signal, type=Signal)
        except (ValueError, RecursionError) as ex:
            # NOTE: `ValueError` is the base of msgspec's errors, and of that for text
            #   which is not UTF-8.
            self._counters.control_errors += 1
            _logger.error('signal in channel %r cannot be decoded: %s', channel, ex)
            return
        local_channel.take_signal(decoded)
        self._fan_out.mark(local_channel)

    def on_control(self, message: bytes) -> None:
        """Called with each control message; every process gets every message."""
        if self._on_control is not None:
            try:
                self._on_control(message)
            except Exception:
                # NOTE: an error would end the task that receives for the broker. This
                #   process would then receive nothing any more.
                self._counters.control_errors += 1
                _logger.exception('a control message failed')

    def on_link_lost(self) -> None:
        """Called when announcements no longer arrive."""
        self.link_lost = True
        self._counters.links_lost += 1
        self._loss_log.on_link_lost()
        self._events.tell(Event('link_lost'))

    def on_link_restored(self) -> None:
        """Called when announcements arrive again; repair every channel once."""
        self.link_lost = False
        self._loss_log.on_link_restored()
        self._events.tell(Event('link_restored'))
        self._repairs.begin_all()
