"""The method ``tail`` of the server API: a back end follows one channel.

The answer is a stream of lines, each a JSON object with one of these forms:

* ``{"subscribed": {"offset": 7, "epoch": "x"}}`` is first. The stream continues from
  this position. If the request had ``since``, ``recovered`` says whether all
  publications since then follow.
* ``{"publication": {"offset": 8, "data": 1}, "epoch": "x"}``, as in ``history``.
* ``{}`` is a heartbeat: the link works.
* ``{"end": {"error": "", "offset": 9, "epoch": "x"}}`` is last. The channel has ended.
* ``{"disconnect": {"code": 3001, "reason": "shutdown", "reconnect": true}}`` is last.
  The server has ended the stream.

A tail is an ordinary subscription of this process. While it lasts, the process is
subscribed to the channel, even if no client is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
import logging
from typing import Any
from typing import Final

import falcon.asgi
import msgspec

from falcon_channels.access.subscribing import SubscribeOptions
from falcon_channels.hub.connection import ClientKind
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.hub import Hub
from falcon_channels.node import Node
from falcon_channels.protocol import codes
from falcon_channels.protocol.json_codec import remove_line_breaks
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.server_api.media import publication_media
from falcon_channels.server_api.tail_places import TailPlaces
from falcon_channels.transports.asgi_extensions import server_http_connection
from falcon_channels.transports.encoders import get_encoder
from falcon_channels.transports.encoders import Item
from falcon_channels.transports.http_stream import HttpStreamTransport
from falcon_channels.transports.http_stream import LINES
from falcon_channels.transports.http_stream import set_stream_headers
from falcon_channels.websocket.close_codes import NORMAL

_logger = logging.getLogger('falcon_channels')

#: Media type of a stream of JSON lines.
JSON_LINES: Final = 'application/x-ndjson'
#: Largest number of tails in one process.
MAX_TAILS: Final = 64
#: Longest time between two heartbeats in seconds; proxies often allow 60 s of silence.
MAX_HEARTBEAT_S: Final = 55

#: A tail ends after so many heartbeats at which its reader had output to read.
_MAX_UNREAD_HEARTBEATS = 3

_encode = msgspec.json.encode


class _LinesCodec:
    """Encodes publications as JSON objects with their positions."""

    binary = False
    carries_binary = True

    def encode_items(
        self, channel: str, items: Sequence[Item], epoch: str
    ) -> list[bytes]:
        """Return one line for each publication, without its line end."""
        return [
            _publication_line(item, epoch)
            for item in items
            if isinstance(item, Publication)
        ]


def _publication_line(publication: Publication, epoch: str) -> bytes:
    line: dict[str, Any] = {'publication': publication_media(publication)}
    if publication.offset:
        line['epoch'] = epoch
    return remove_line_breaks(_encode(line))


_CODEC = _LinesCodec()


class TailConnection(Connection):
    """The connection of a back end that follows a channel.

    Args:
        node: Node of this process.
        places: The place of this tail is released when it ends.
        heartbeat_s: Seconds between two heartbeats.
    """

    __slots__ = ('_heartbeat_s', '_node', '_places', '_slot', '_unread_heartbeats')

    hub: Hub
    transport: HttpStreamTransport

    def __init__(self, node: Node, places: TailPlaces, heartbeat_s: float) -> None:
        super().__init__(
            node.hub, HttpStreamTransport(LINES), get_encoder(_CODEC, LINES)
        )
        self._node = node
        self._places = places
        self._heartbeat_s = heartbeat_s
        self._slot = 0
        #: Number of heartbeats since the reader has last read everything.
        self._unread_heartbeats = 0

    @property
    def kind(self) -> ClientKind:
        """How the client is connected."""
        return ClientKind('tail', 'json')

    def start(self) -> None:
        """Start the heartbeats, and the time in which the stream must begin."""
        self._set_timer(asyncio.get_running_loop().time())
        self.transport.call_if_unread(self._on_unread)

    def _set_timer(self, now_s: float) -> None:
        self._slot = self._node.timers.add(self, now_s + self._heartbeat_s)

    def stream(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer a request with everything that this connection writes."""
        set_stream_headers(resp, JSON_LINES)
        server = server_http_connection(req.scope)
        resp.stream = self.transport.body(self, req._receive, server)

    def on_joined(self, subscription: Subscription, joined: Joined) -> None:
        """Called when the subscription has joined: write the beginning."""
        position = joined.position
        if joined.publications:
            position = Position(joined.publications[0].offset - 1, position.epoch)
        facts: dict[str, Any] = position._asdict()
        if joined.recovered is not None:
            facts['recovered'] = joined.recovered
        self.send(_encode({'subscribed': facts}))
        blob = self.encoder.encode(
            subscription.channel, joined.publications, joined.position.epoch
        )
        if blob is not None:
            self.send_blob(blob)

    # --- what the transport and the hub report ---------------------------------------

    def on_message(self, message: str | bytes) -> None:
        """Ignore the message: such a client sends none."""

    def on_finished(
        self, subscription: Subscription, end: ChannelEnd, position: Position
    ) -> None:
        """Called when the channel has ended: write the end, and close."""
        self.send(_encode({'end': {**end._asdict(), **position._asdict()}}))
        super().disconnect(NORMAL, '')

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        """Called when the server has ended the subscription: end the stream."""
        may_return = code >= codes.FIRST_RESUBSCRIBE_CODE
        end = codes.DISCONNECT_INSUFFICIENT if may_return else codes.DISCONNECT_FORCE
        self.disconnect(end.code, reason)

    def disconnect(self, code: int, reason: str) -> None:
        """Write why the stream ends, and close."""
        facts = {'code': code, 'reason': reason, 'reconnect': codes.reconnects(code)}
        self.send(_encode({'disconnect': facts}))
        super().disconnect(code, reason)

    def on_writable(self) -> None:
        """Called when the client has read everything."""
        self._unread_heartbeats = 0
        super().on_writable()

    def on_due(self, now_s: float) -> None:
        """Called by the timer wheel: write a heartbeat, or end a stream not read.

        Args:
            now_s: The event loop's clock.
        """
        self._slot = 0
        if not self.transport.begun:
            # NOTE: a middleware still works on the response, or has replaced it.
            self._set_timer(now_s)
            return
        if self.backlog_bytes:
            # NOTE: the policy of the channel may allow a slow reader to stay for ever,
            #   such as a terminal that is stopped, or one whose link is dead.
            self._unread_heartbeats += 1
            if self._unread_heartbeats == _MAX_UNREAD_HEARTBEATS:
                self.hub.counters.slow_disconnects += 1
                _logger.warning('%r ends: its reader has stopped reading', self)
                self.disconnect(*codes.DISCONNECT_SLOW)
                return
        else:
            self.send(b'{}')
        self._set_timer(now_s)

    def _on_unread(self) -> None:
        """Called when the server does not read the stream: end it."""
        if not self.closed:
            _logger.warning(
                '%r ends: its stream was never read, because a middleware replaced the '
                'response',
                self,
            )
            self.transport.abort()
            self.hub.remove(self)

    def on_end(self) -> None:
        """Called when the connection has ended: stop its timer."""
        self._node.timers.discard(self, self._slot)
        self._places.release()


class ResumableTails:
    """The tails of the server API in this process; see `tail_places`.

    Args:
        node: Node of this process.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._places = TailPlaces(MAX_TAILS)

    @property
    def is_full(self) -> bool:
        """Whether this process has `MAX_TAILS` tails."""
        return self._places.is_full

    async def open(
        self, channel: str, since: Position | None, heartbeat_s: float
    ) -> TailConnection:
        """Subscribe a new tail to a channel.

        Args:
            channel: Name of the channel.
            since: Position from which publications are recovered, or ``None``.
            heartbeat_s: Seconds between two heartbeats.

        Raises:
            ChannelNameError: The name is not a channel name.
            UnknownChannelError: No route matches.
            UnsubscribedError: The subscription was ended while it was made.
            BrokerUnavailableError: The back end may try again.
            ClosedError: This process drains or is closed.
        """
        connection = TailConnection(self._node, self._places, heartbeat_s)
        self._places.take()
        hub = connection.hub
        try:
            await self._node.start()
            # NOTE: a back end is no client, and has its own limit, `MAX_TAILS`. An
            #   operator can therefore follow a channel of a process that is full.
            hub.add(connection)
            await self._node.subscriber.subscribe(
                connection,
                channel,
                connection.on_joined,
                SubscribeOptions(since=since, server_side=True, presence=False),
            )
            if not connection.closed:
                connection.start()
        except BaseException:
            hub.remove(connection)
            raise
        return connection
