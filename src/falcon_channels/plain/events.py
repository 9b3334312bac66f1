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
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
from functools import partial
import logging
from typing import Any
from typing import NamedTuple
from typing import Protocol
from weakref import WeakValueDictionary

import falcon
import falcon.asgi
import msgspec

from falcon_channels.access.cors import allow_origin
from falcon_channels.access.refusal_log import log_refusal
from falcon_channels.access.responders import is_cancelled
from falcon_channels.access.responders import text_for_client
from falcon_channels.access.subscribing import SubscribeOptions
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.hub import Hub
from falcon_channels.node import Node
from falcon_channels.options import check_options
from falcon_channels.options import EventStreamOptions
from falcon_channels.protocol import event_codec
from falcon_channels.protocol.codes import DISCONNECT_FORCE
from falcon_channels.protocol.codes import DISCONNECT_INSUFFICIENT
from falcon_channels.protocol.codes import FIRST_RESUBSCRIBE_CODE
from falcon_channels.protocol.codes import reconnects
from falcon_channels.protocol.event_codec import Part
from falcon_channels.publication import Newest
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.transports.asgi_extensions import connection_abort
from falcon_channels.transports.base import Transport
from falcon_channels.transports.encoders import Encoder
from falcon_channels.transports.http_stream import EVENT_STREAM
from falcon_channels.transports.http_stream import HttpStreamTransport
from falcon_channels.transports.http_stream import retry_later
from falcon_channels.transports.http_stream import set_stream_headers

_logger = logging.getLogger('falcon_channels')

#: Name of the event that tells a client that publications are lost.
_LOST = 'lost'
#: A comment, which keeps the connection of an idle stream open.
_COMMENT = b':\n\n'
#: Seconds after which a stream without comments ends if the server does not read it.
UNREAD_TIMEOUT_S = 20.0
#: Characters of the longest offset and of a usual epoch, in an event id.
_POSITION_CHARACTERS = 64

#: What the application names: one channel, several, or their event names by channel.
ChannelNames = str | Iterable[str] | Mapping[str, str]


class EventRequest(NamedTuple):
    """A parsed request for a stream or a poll.

    Attributes:
        channels: Names of the channels, in the order of the application.
        names: How the events are named.
        positions: Positions of the client.
        forgotten: Whether the client has an event id that is not one of this stream.
        returns: Whether the client has sent a position, even an empty one.
        options: Options of the application.
    """

    channels: tuple[str, ...]
    names: event_codec.Names
    positions: Mapping[str, Position]
    forgotten: bool
    returns: bool
    options: EventStreamOptions


def read_request(
    node: Node,
    req: falcon.Request,
    channels: ChannelNames,
    options: EventStreamOptions | None,
) -> EventRequest:
    """Parse a request for a stream or a poll.

    Raises:
        InvalidValueError: The channels or their event names cannot be served.
        OptionsError: The options have another class.
        falcon.HTTPInvalidParam: ``?since=`` is malformed.
    """
    options = EventStreamOptions() if options is None else options
    check_options(options, EventStreamOptions)
    by_channel = _by_channel(channels)
    names = tuple(by_channel)
    limit = node.options.max_channels_per_connection
    if not 0 < len(names) <= limit:
        raise InvalidValueError(
            f'an event stream has 1 to {limit} channels '
            f'(max_channels_per_connection), not {len(names)}'
        )
    if len(names) > 1:
        longest = sum(
            len(event_codec.encode_name(name)) + _POSITION_CHARACTERS for name in names
        )
        if longest > event_codec.MAX_ID_CHARACTERS:
            raise InvalidValueError(
                f'the event ids of these {len(names)} channels could have {longest} '
                f'characters, over the limit of {event_codec.MAX_ID_CHARACTERS}: '
                'serve fewer channels, or use an SDK'
            )
    positions, forgotten, returns = _positions(req, names)
    return EventRequest(
        channels=names,
        names=event_codec.Names(
            tuple((channel, name) for channel, name in by_channel.items() if name),
            options.event_tag,
        ),
        positions=positions,
        forgotten=forgotten,
        returns=returns,
        options=options,
    )


def _by_channel(channels: ChannelNames) -> dict[str, str]:
    """Return the event name of each channel; ``''`` for none."""
    if isinstance(channels, str):
        return {channels: ''}
    if not isinstance(channels, Mapping):
        return dict.fromkeys(channels, '')
    for channel, name in channels.items():
        if not isinstance(name, str) or not event_codec.is_one_line(name):
            raise InvalidValueError(
                f'the event name of {channel!r} is {name!r}, but must be one line'
            )
    return dict(channels)


def _positions(
    req: falcon.Request, channels: Sequence[str]
) -> tuple[Mapping[str, Position], bool, bool]:
    # NOTE: an EventSource that returns uses the same URL. Its last id is newer.
    last_id = req.get_header('Last-Event-ID')
    if last_id:
        positions = event_codec.decode_positions(last_id, channels)
        return positions or {}, positions is None, True
    since = req.get_param('since')
    if not since:
        return {}, False, req.has_param('since')
    positions = event_codec.decode_positions(since, channels)
    if positions is None:
        raise falcon.HTTPInvalidParam('write it as OFFSET:EPOCH, such as 7:x1', 'since')
    return positions, False, True


def wants_poll(req: falcon.Request) -> bool:
    """Return whether a client prefers JSON to an event stream."""
    preferred = req.client_prefers((EVENT_STREAM, falcon.MEDIA_JSON))
    return preferred == falcon.MEDIA_JSON


# --- encoders ------------------------------------------------------------------------


class _WholeEvents:
    """Framing of whole events."""

    def frame(self, payloads: Sequence[bytes], *, binary: bool) -> bytes:
        """Return the events, one after the other."""
        return b''.join(payloads)

    def join(self, blobs: Sequence[bytes]) -> bytes:
        """Return all events of `blobs` as one blob."""
        return b''.join(blobs)


class _Parts:
    """Framing of events without ids: lists of parts."""

    def frame(self, payloads: Sequence[Part], *, binary: bool) -> list[Part]:
        """Return a list of the parts."""
        return list(payloads)

    def join(self, blobs: Sequence[list[Part]]) -> list[Part]:
        """Return all parts of `blobs` in one list."""
        return [part for blob in blobs for part in blob]


#: Framing of all event streams.
WHOLE_EVENTS = _WholeEvents()
_PARTS = _Parts()
_POLLS = Encoder(event_codec.PartsCodec(event_codec.encode_media), _PARTS)

# NOTE: an application may make up event names. An encoder lives as long as the
#   connections that use it.
_encoders: WeakValueDictionary[tuple[bool, event_codec.Names, bool], Encoder] = (
    WeakValueDictionary()
)


def _encoder_for(wanted: EventRequest) -> Encoder:
    """Return the shared encoder of an event stream."""
    several, json = len(wanted.channels) > 1, wanted.options.json
    key = (several, wanted.names, json)
    encoder = _encoders.get(key)
    if encoder is None:
        lines = event_codec.EventLines(wanted.names, json)
        encoder = (
            Encoder(event_codec.PartsCodec(lines.encode), _PARTS)
            if several
            else Encoder(event_codec.EventCodec(lines), WHOLE_EVENTS)
        )
        _encoders[key] = encoder
    return encoder


# --- connections ---------------------------------------------------------------------


class _HttpConnection(Connection):
    """A client that only listens, and holds its output until it has joined.

    Args:
        node: Node of this process.
        transport: Carries bytes to the client.
        encoder: Encodes publications.
        req: The request, of an ASGI or a WSGI app.
        user: Id of the user; ``None`` for an anonymous one.
        info: Public information about the connection, any JSON value.

    Attributes:
        ended_with: Code and reason with which the server ended it, or ``None``.
        lost: Channels whose publications since the client's position are lost.
        positions: Position before the held output, by channel.
        held: Blobs that wait.
    """

    __slots__ = ('ended_with', 'held', 'held_bytes', 'lost', 'node', 'positions')

    hub: Hub

    def __init__(
        self,
        node: Node,
        transport: Transport,
        encoder: Encoder,
        req: Any,
        *,
        user: str | None,
        info: Any,
    ) -> None:
        super().__init__(node.hub, transport, encoder, req, user=user, info=info)
        self.node = node
        self.ended_with: tuple[int, str] | None = None
        self.lost: list[str] = []
        self.positions: dict[str, Position] = {}
        self.held: list[Any] = []
        self.held_bytes = 0
        self.write = self.hold

    @property
    def backlog_bytes(self) -> int:
        """How many bytes the client has not read yet."""
        return self.transport.backlog_bytes + self.held_bytes

    def hold(self, blob: bytes | list[Part]) -> int:
        """Hold output; return its size in bytes."""
        self.held.append(blob)
        if isinstance(blob, bytes):
            self.held_bytes += len(blob)
        else:
            self.held_bytes += sum(len(part.content) for part in blob)
        return self.held_bytes

    async def subscribe(self, wanted: EventRequest, *, presence: bool) -> None:
        """Subscribe the client to its channels.

        Args:
            wanted: The parsed request.
            presence: Whether the client is entered into presence.

        Raises:
            falcon.HTTPError: The client was refused.
        """
        with self._ending_after_errors():
            self.node.handshake.add(self)
        for channel in wanted.channels:
            with self._ending_after_errors(channel):
                since = self._since(channel, wanted)
                await self.node.subscriber.subscribe(
                    self,
                    channel,
                    partial(self._on_joined, wanted, since),
                    SubscribeOptions(since=since, approved=True, presence=presence),
                )
        with self._ending_after_errors():
            if self.closed:
                raise UnsubscribedError(0, 'the connection has ended')
        self.flush()

    def _since(self, channel: str, wanted: EventRequest) -> Position | Newest | None:
        position = wanted.positions.get(channel)
        if position is not None:
            return position
        history = wanted.options.history
        return None if history == 0 or wanted.forgotten else Newest(history)

    def _on_joined(
        self,
        wanted: EventRequest,
        since: Position | Newest | None,
        subscription: Subscription,
        joined: Joined,
    ) -> None:
        channel, publications = subscription.channel, joined.publications
        epoch = joined.position.epoch
        is_lost = wanted.forgotten and bool(epoch)
        if isinstance(since, Position):
            if subscription.route.options.recovery_mode == 'latest':
                publications = _after(since, publications, epoch)
            else:
                is_lost = not joined.recovered
        if is_lost:
            self.lost.append(channel)
        self.positions[channel] = joined.position
        if publications:
            self.positions[channel] = Position(publications[0].offset - 1, epoch)
            blob = self.hub.shared_encodings.encode(
                self.encoder, channel, publications, epoch
            )
            if blob is not None:
                self.send_blob(blob)

    @contextlib.contextmanager
    def _ending_after_errors(self, channel: str = '') -> Iterator[None]:
        """End the connection after an error; raise it as an `HTTPError`."""
        try:
            with self._errors_for_http(channel):
                yield
        except falcon.HTTPError as ex:
            log_refusal(self, 'subscribe', channel, ex.status_code, text_for_client(ex))
            self._end()
            raise
        except asyncio.CancelledError as ex:
            self._end()
            if is_cancelled():
                raise
            raise RuntimeError('a responder awaited a task that was cancelled') from ex
        except BaseException:
            self._end()
            raise

    @contextlib.contextmanager
    def _errors_for_http(self, channel: str) -> Iterator[None]:
        try:
            yield
        except UnsubscribedError as ex:
            raise self.refusal(ex.code >= FIRST_RESUBSCRIBE_CODE, ex.reason) from None
        except (ChannelNameError, UnknownChannelError) as ex:
            _logger.warning('refused an event stream: %s', ex)
            raise falcon.HTTPNotFound(description=str(ex)) from None
        except (BrokerUnavailableError, ClosedError) as ex:
            raise falcon.HTTPServiceUnavailable(description=str(ex)) from None
        except PayloadError:
            raise falcon.HTTPNotAcceptable(
                description=f'{channel} has a binary publication, which cannot be sent '
                'as text'
            ) from None

    def refusal(self, may_return: bool, reason: str) -> falcon.HTTPError:
        """Return the error for a client whose connection has ended.

        Args:
            may_return: Whether the client may return, if the application has not
                disconnected it.
            reason: Why it has ended, in the same case.
        """
        if self.ended_with is not None:
            code, reason = self.ended_with
            may_return = reconnects(code)
        if may_return:
            return falcon.HTTPServiceUnavailable(description=reason)
        return falcon.HTTPForbidden(description=reason)

    def _end(self) -> None:
        self.transport.abort()
        self.hub.remove(self)

    # --- what the transport and the hub report ---------------------------------------

    def on_message(self, message: str | bytes) -> None:
        """Ignore the message: such a client sends none."""

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        """Called when the server has ended a subscription: end the connection.

        An ``EventSource`` connects again, and the application decides again.
        """
        may_return = code >= FIRST_RESUBSCRIBE_CODE
        end = DISCONNECT_INSUFFICIENT if may_return else DISCONNECT_FORCE
        self.disconnect(end.code, reason)

    def disconnect(self, code: int, reason: str) -> None:
        """Write all queued blobs, then end."""
        if self.ended_with is None:
            self.ended_with = (code, reason)
        super().disconnect(code, reason)


def _after(
    since: Position, publications: list[Publication], epoch: str
) -> list[Publication]:
    """Return the publications that a client at `since` does not have."""
    if epoch != since.epoch:
        return publications
    return [item for item in publications if item.offset > since.offset]


class StreamTransport(Transport, Protocol):
    """The transport of an event stream."""

    @property
    def begun(self) -> bool:
        """Whether the server has begun to read the body."""


class EventStream(_HttpConnection):
    """A client that reads an event stream.

    Args:
        node: Node of this process.
        transport: Carries bytes to the client.
        req: The request, of an ASGI or a WSGI app.
        wanted: The parsed request.
        user: Id of the user; ``None`` for an anonymous one.
        info: Public information about the connection, any JSON value.
    """

    __slots__ = ('_keepalive_s', '_slot')

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
            node, transport, _encoder_for(wanted), req, user=user, info=info
        )
        self._keepalive_s = wanted.options.keepalive_s
        self._slot = 0

    async def start(self, wanted: EventRequest) -> None:
        """Subscribe the client, and write the beginning of its stream.

        Raises:
            falcon.HTTPError: The client was refused.
        """
        await self.subscribe(wanted, presence=True)
        write = self.transport.write
        write(self._beginning(wanted))
        held, self.held, self.held_bytes = self.held, [], 0
        if len(wanted.channels) > 1:
            self.write = self._write_parts
        else:
            self.write = write
            self.positions = {}
        for blob in held:
            self.write(blob)
        now_s = asyncio.get_running_loop().time()
        interval_s = self._keepalive_s or UNREAD_TIMEOUT_S
        self._slot = self.node.timers.add(self, now_s + interval_s)

    def _beginning(self, wanted: EventRequest) -> bytes:
        event_id = _event_id(self.positions)
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
            if part.position.offset:
                self.positions[part.channel] = part.position
            events.append(event_codec.end_event(part.content, self._part_id(part)))
        return self.transport.write(b''.join(events))

    def _part_id(self, part: Part) -> str:
        if not part.position.offset:
            return ''
        return event_codec.encode_positions(self.positions)

    def on_due(self, now_s: float) -> None:
        """Called by the timer wheel: write a comment, or end a stream never read.

        Args:
            now_s: The event loop's clock.
        """
        self._slot = 0
        if not self.transport.begun:
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
            self.transport.write(_COMMENT)
        self._slot = self.node.timers.add(self, now_s + self._keepalive_s)

    def on_end(self) -> None:
        """Called when the connection has ended: stop its timer."""
        self.node.timers.discard(self, self._slot)


def _event_id(positions: Mapping[str, Position]) -> str:
    """Return the event id of these positions, or ``''`` if no channel has a log."""
    if len(positions) > 1:
        return event_codec.encode_positions(positions)
    [position] = positions.values()
    return event_codec.encode_position(position) if position.epoch else ''


class _NoTransport:
    """The transport of a poll: its answer is made of held output."""

    descriptor = -1
    backlog_bytes = 0
    framing = _PARTS

    def write(self, blob: Any) -> int:
        """Ignore output; return a backlog of 0."""
        return 0

    def close(self, code: int, reason: str) -> None:
        """Ignore the end: the poll is woken by `on_end`."""

    def abort(self) -> None:
        """Ignore the end: the poll is woken by `on_end`."""

    def pause_reading(self) -> None:
        """Ignore the call: a poll reads nothing."""

    def resume_reading(self) -> None:
        """Ignore the call: a poll reads nothing."""


class _Poll(_HttpConnection):
    """A client that waits for the next publications of its channels."""

    __slots__ = ('_wake',)

    def __init__(self, node: Node, req: Any, *, user: str | None, info: Any) -> None:
        super().__init__(node, _NoTransport(), _POLLS, req, user=user, info=info)
        self._wake = asyncio.Event()

    def hold(self, blob: bytes | list[Part]) -> int:
        """Hold output, and end the wait."""
        self._wake.set()
        return super().hold(blob)

    def on_end(self) -> None:
        """Called when the connection has ended: end the wait."""
        self._wake.set()

    async def answer(
        self, wanted: EventRequest, receive: Callable[[], Awaitable[Any]] | None
    ) -> bytes:
        """Subscribe the client, and return what is new as JSON.

        Args:
            wanted: The parsed request.
            receive: ASGI's ``receive``, which reports that the client has left, or
                ``None``.

        Raises:
            falcon.HTTPError: The client was refused.
        """
        # NOTE: a poll is short. In presence, the client would leave and join again and
        #   again.
        await self.subscribe(wanted, presence=False)
        if wanted.returns and not self.held and not self.lost:
            await self._wait(wanted.options.poll_wait_s, receive)
        if not self.held and self.ended_with and not reconnects(self.ended_with[0]):
            raise self.refusal(False, '')
        parts = [part for blob in self.held for part in blob]
        for part in parts:
            if part.position.offset:
                self.positions[part.channel] = part.position
        return b'{"publications":[%s],"since":%s,"lost":%s}' % (
            b','.join([part.content for part in parts]),
            msgspec.json.encode(_event_id(self.positions)),
            msgspec.json.encode(self.lost),
        )

    async def _wait(
        self, wait_s: float, receive: Callable[[], Awaitable[Any]] | None
    ) -> None:
        """Wait for output, for the end, for the client to leave, or for a deadline."""
        waits: list[Coroutine[Any, Any, object]] = [self._wake.wait()]
        if receive is not None:
            waits.append(_wait_for_disconnect(receive))
        tasks = [
            asyncio.create_task(wait, name='falcon_channels poll') for wait in waits
        ]
        try:
            await asyncio.wait(
                tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks:
                task.cancel()


async def _wait_for_disconnect(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())['type'] != 'http.disconnect':
        pass


async def poll(
    node: Node,
    req: falcon.Request,
    wanted: EventRequest,
    *,
    user: str | None,
    info: Any,
    receive: Callable[[], Awaitable[Any]] | None = None,
) -> bytes:
    """Return what is new in channels as JSON, or wait for it.

    Raises:
        falcon.HTTPError: The client was refused.
    """
    connection = _Poll(node, req, user=user, info=info)
    try:
        return await connection.answer(wanted, receive)
    finally:
        node.hub.remove(connection)


# --- responses -----------------------------------------------------------------------


def allow_page(node: Node, req: falcon.Request, resp: falcon.Response) -> None:
    """Check the origin of a request, and set the headers of all its answers.

    Raises:
        falcon.HTTPError: The page that sent it is refused.
    """
    allow_origin(node.handshake, req, resp)
    resp.append_header('Vary', 'Accept')


def answer_poll(resp: falcon.Response, body: bytes) -> None:
    """Answer a poll."""
    set_stream_headers(resp, falcon.MEDIA_JSON)
    resp.data = body


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
    allow_page(node, req, resp)
    wanted = read_request(node, req, channels, options)
    if wants_poll(req):
        await node.handshake.admit(req)
        body = await poll(node, req, wanted, user=user, info=info, receive=req._receive)
        answer_poll(resp, body)
        return
    transport = HttpStreamTransport(WHOLE_EVENTS)
    try:
        await node.handshake.admit(req)
        connection = EventStream(node, transport, req, wanted, user=user, info=info)
        await connection.start(wanted)
    except falcon.HTTPError as ex:
        answer_refused(req, resp, ex)
        return
    set_stream_headers(resp, EVENT_STREAM)
    # NOTE: Falcon notices that the client has left only in `resp.sse`, and only after
    #   the next event. ASGI's own `receive` reports it at once.
    resp.stream = transport.body(connection, req._receive, connection_abort(req.scope))
