"""Plain event streams and long polling: channels over HTTP, without a client library.

A stream (``text/event-stream``) sends each publication as an event. Its id is the
position of the client, so that an ``EventSource`` that returns misses nothing. A poll
(``application/json``) answers with what is new, or waits for it.

The rules:

* All channels are joined before the response begins. A refused client therefore gets
  an HTTP status.
* Publications that arrive meanwhile are held. The first id of a stream must have the
  positions in all channels.
* A stream of one channel gets the same bytes as all other such streams. In a stream of
  several channels, each connection adds its own ids.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from typing import Protocol
from weakref import WeakValueDictionary

import falcon
import falcon.asgi
import msgspec

from falcon_channels.access.cors import allow_origin
from falcon_channels.access.handshake import HandshakeTiming
from falcon_channels.hub.connection import ClientKind
from falcon_channels.hub.connection import Subscription
from falcon_channels.node import Node
from falcon_channels.options import EventStreamOptions
from falcon_channels.plain.event_request import ChannelNames
from falcon_channels.plain.event_request import EventRequest
from falcon_channels.plain.event_request import read_request
from falcon_channels.plain.event_request import wants_poll
from falcon_channels.plain.http_connection import encode_event_id
from falcon_channels.plain.http_connection import HttpConnection
from falcon_channels.plain.http_connection import PARTS
from falcon_channels.plain.poll import answer_poll
from falcon_channels.plain.poll import Poll
from falcon_channels.plain.poll import poll
from falcon_channels.protocol import event_codec
from falcon_channels.protocol.event_codec import Part
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import Position
from falcon_channels.transports.asgi_extensions import server_http_connection
from falcon_channels.transports.base import Framing
from falcon_channels.transports.base import Transport
from falcon_channels.transports.encoders import Encoder
from falcon_channels.transports.http_stream import CHUNKED_EVENTS
from falcon_channels.transports.http_stream import EVENT_STREAM
from falcon_channels.transports.http_stream import HttpStreamTransport
from falcon_channels.transports.http_stream import retry_later
from falcon_channels.transports.http_stream import set_stream_headers
from falcon_channels.transports.http_stream import UNREAD_TIMEOUT_S
from falcon_channels.transports.http_stream import WHOLE_EVENTS
from falcon_channels.websocket.close_codes import NORMAL

_logger = logging.getLogger('falcon_channels')

#: Name of the event that tells a client that publications are lost.
_LOST = 'lost'
#: A comment, which keeps the connection of an idle stream open.
_COMMENT = b':\n\n'


# --- encoders ------------------------------------------------------------------------


# NOTE: an application may make up event names. An encoder lives as long as the
#   connections that use it.
_encoders: WeakValueDictionary[tuple[Framing, event_codec.Names, bool], Encoder] = (
    WeakValueDictionary()
)


def _encoder_for(wanted: EventRequest, framing: Framing) -> Encoder:
    """Return the shared encoder of an event stream.

    Args:
        wanted: The parsed request.
        framing: Framing of the transport, for a stream of one channel.
    """
    several, json = len(wanted.channels) > 1, wanted.options.json
    if several:
        framing = PARTS
    key = (framing, wanted.names, json)
    encoder = _encoders.get(key)
    if encoder is None:
        lines = event_codec.EventLines(wanted.names, json)
        encoder = (
            Encoder(event_codec.PartsCodec(lines.encode), framing)
            if several
            else Encoder(event_codec.EventCodec(lines), framing)
        )
        _encoders[key] = encoder
    return encoder


# --- connections ---------------------------------------------------------------------


class StreamTransport(Transport, Protocol):
    """The transport of an event stream."""

    @property
    def begun(self) -> bool:
        """Whether the server has begun to read the body."""


class EventStream(HttpConnection):
    """A client that reads an event stream.

    Args:
        node: Node of this process.
        transport: Carries bytes to the client.
        req: The request, of an ASGI or a WSGI app.
        wanted: The parsed request.
        user: Id of the user; ``None`` for an anonymous one.
        info: Public information about the connection, any JSON value.
    """

    __slots__ = (
        '_end_event',
        '_keepalive_s',
        '_num_channels',
        '_read_by_s',
        '_slot',
        '_started',
        '_told',
    )

    transport: StreamTransport

    def __init__(
        self,
        node: Node,
        transport: StreamTransport,
        req: Any,
        wanted: EventRequest,
        *,
        user: str | None,
        info: Any,
    ) -> None:
        super().__init__(
            node,
            transport,
            _encoder_for(wanted, transport.framing),
            req,
            user=user,
            info=info,
        )
        self._keepalive_s = wanted.options.keepalive_s
        self._end_event = wanted.options.end_event
        self._num_channels = len(wanted.channels)
        self._started = False
        #: Channels whose end the client knows, or whose end was written in a stream of
        #: several channels.
        self._told: frozenset[str] = frozenset()
        self._slot = 0
        #: Time at which the stream ends if the server has not begun to read it.
        self._read_by_s = 0.0

    @property
    def kind(self) -> ClientKind:
        """How the client is connected."""
        return ClientKind('event_stream', 'text')

    async def start(self, wanted: EventRequest, timing: HandshakeTiming) -> bool:
        """Subscribe the client, and write the beginning of its stream.

        Returns:
            Whether there is a stream. If not, every channel has ended, and the client
            has received everything: call `answer_ended`.

        Raises:
            falcon.HTTPError: The client was refused.
        """
        await self.subscribe(wanted, timing, presence=True)
        self._told = self.known_ends(wanted)
        if len(self._told) == self._num_channels:
            self._end()
            return False
        write = self.transport.write
        write(self._frame(self._beginning(wanted)))
        held, self.held, self.held_bytes = self.held, [], 0
        if len(wanted.channels) > 1:
            self.write = self._write_parts
        else:
            self.write = write
            self.positions = {}
        for blob in held:
            self.write(blob)
        self._started = True
        for channel, (end, position) in self.ended.items():
            if channel not in self._told:
                self.write(self._end_blob(channel, end, position))
        if self._all_ended:
            self.disconnect(NORMAL, '')
            return True
        now_s = asyncio.get_running_loop().time()
        self._read_by_s = now_s + UNREAD_TIMEOUT_S
        interval_s = self._keepalive_s or UNREAD_TIMEOUT_S
        self._slot = self.node.timers.add(self, now_s + interval_s)
        return True

    def _frame(self, events: bytes) -> Any:
        """Return events as a blob for the transport."""
        return self.transport.framing.frame((events,), binary=False)

    @property
    def _all_ended(self) -> bool:
        return len(self.ended) == self._num_channels

    def _end_blob(self, channel: str, end: ChannelEnd, position: Position) -> Any:
        """Encode the end of a channel as an event, like the encoder of the stream."""
        lines = b''
        if self._end_event:
            data = event_codec.end_media(channel, end)
            lines = event_codec.event_lines(self._end_event, data)
        if self._num_channels > 1:
            return [Part(channel, position, lines, is_end=True)]
        event_id = event_codec.encode_position(position, is_end=True)
        return self._frame(event_codec.end_event(lines, event_id))

    def on_finished(
        self, subscription: Subscription, end: ChannelEnd, position: Position
    ) -> None:
        """Called when a channel has ended: write an event; close after the last one."""
        super().on_finished(subscription, end, position)
        if not self._started:
            return
        self.send_blob(self._end_blob(subscription.channel, end, position))
        if self._all_ended:
            self.disconnect(NORMAL, '')

    def _beginning(self, wanted: EventRequest) -> bytes:
        event_id = encode_event_id(self.positions, self._told)
        events = [b'retry: %d\n' % wanted.options.retry_ms]
        data = msgspec.json.encode({'since': event_id})
        name = wanted.options.start_event
        lines = event_codec.event_lines(name, data) if name else b''
        events.append(event_codec.end_event(lines, event_id))
        events += [
            event_codec.end_event(
                event_codec.event_lines(
                    _LOST, msgspec.json.encode({'channel': channel, 'since': event_id})
                ),
                event_id,
            )
            for channel in self.lost
        ]
        return b''.join(events)

    def _write_parts(self, blob: list[Part]) -> int:
        events = []
        for part in blob:
            if part.is_end:
                self._told |= {part.channel}
            if part.position.offset:
                self.positions[part.channel] = part.position
            events.append(event_codec.end_event(part.content, self._part_id(part)))
        return self.transport.write(self._frame(b''.join(events)))

    def _part_id(self, part: Part) -> str:
        if not part.position.offset:
            return ''
        return event_codec.encode_positions(self.positions, self._told)

    def on_due(self, now_s: float) -> None:
        """Called by the timer wheel: write a comment, or end a stream never read.

        Args:
            now_s: The event loop's clock.
        """
        self._slot = 0
        if not self.transport.begun:
            if now_s < self._read_by_s:
                # NOTE: a middleware may still work on the response.
                interval_s = self._keepalive_s or UNREAD_TIMEOUT_S
                when_s = min(now_s + interval_s, self._read_by_s)
                self._slot = self.node.timers.add(self, when_s)
                return
            _logger.warning(
                '%r ends: its stream was never read, because another response was sent '
                'after serve_events',
                self,
            )
            self._end()
            return
        if self._keepalive_s is None:
            return
        if not self.transport.backlog_bytes:
            self.flush()
            self.transport.write(self._frame(self._keepalive()))
        self._slot = self.node.timers.add(self, now_s + self._keepalive_s)

    def _keepalive(self) -> bytes:
        """Return a comment, with an id if a subscription has a filter.

        The caller has written all output before, because the id includes it.

        NOTE: A client with a filter gets no event, and no id, for publications that do
        not match. Its last id would grow old, although the client missed nothing. When
        it returned, the log could have lost the publications after that id.
        """
        found = {}
        for channel, subscription in self.subscriptions.items():
            if subscription.selection is not None:
                position = self.hub.delivered(subscription)
                if position is not None and position.epoch:
                    found[channel] = position
        if not found:
            return _COMMENT
        if self._num_channels > 1:
            self.positions.update(found)
            found = self.positions
        return event_codec.end_event(b':\n', encode_event_id(found, self._told))

    def on_end(self) -> None:
        """Called when the connection has ended: stop its timer."""
        self.node.timers.discard(self, self._slot)


# --- responses -----------------------------------------------------------------------


def allow_page(node: Node, req: falcon.Request, resp: falcon.Response) -> None:
    """Check the origin of a request, and set the headers of all its answers.

    Raises:
        falcon.HTTPError: The page that sent it is refused.
    """
    allow_origin(node.handshake, req, resp)
    resp.append_header('Vary', 'Accept')


def answer_refused(
    req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError
) -> None:
    """Answer an EventSource that was refused with 503, so that it tries again.

    NOTE: an EventSource gives up after any status except 200 (WHATWG HTML section
    9.2.3). It connects again if its stream ends.

    Raises:
        falcon.HTTPError: The client is not an EventSource, or the error is another.
    """
    accept = req.get_header('Accept') or ''
    if error.status_code != 503 or EVENT_STREAM not in accept:
        raise error
    set_stream_headers(resp, EVENT_STREAM)
    resp.data = retry_later() + b'\n'


def answer_ended(resp: falcon.Response) -> None:
    """Answer a client that has received everything of channels that have ended.

    NOTE: an EventSource does not connect again after 204 (WHATWG HTML section 9.2.3).
    """
    resp.status = falcon.HTTP_204
    resp.cache_control = ['no-store']


async def serve_events(
    node: Node,
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    channels: ChannelNames,
    *,
    user: str | None,
    info: Any,
    options: EventStreamOptions | None,
) -> None:
    """Implement `Channels.serve_events`."""
    timing = node.handshake.time()
    with timing:
        allow_page(node, req, resp)
        wanted = read_request(node, req, channels, options)
        if wants_poll(req):
            await node.handshake.admit(req)
            client = Poll(node, req, user=user, info=info)
            answer_poll(resp, await poll(client, wanted, timing, req._receive))
            return
    server = server_http_connection(req.scope)
    transport = HttpStreamTransport(
        WHOLE_EVENTS if server is None else CHUNKED_EVENTS,
        # NOTE: the blobs of several channels are parts. The connection adds their ids.
        batched=len(wanted.channels) == 1,
    )
    try:
        with timing:
            await node.handshake.admit(req)
            connection = EventStream(node, transport, req, wanted, user=user, info=info)
            if not await connection.start(wanted, timing):
                answer_ended(resp)
                return
    except falcon.HTTPError as ex:
        answer_refused(req, resp, ex)
        return
    set_stream_headers(resp, EVENT_STREAM)
    # NOTE: Falcon notices that the client has left only in `resp.sse`, and only after
    #   the next event. ASGI's own `receive` reports it at once.
    resp.stream = transport.body(connection, req._receive, server, resp)
