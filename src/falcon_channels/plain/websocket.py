"""The raw door: one plain WebSocket, one channel, no client library.

Text that comes in is published, publications go out as text. With ``media=True`` both
are JSON, and each publication has its position, so that a client which was away can ask
for what it missed by ``?since=OFFSET:EPOCH``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
import logging
from typing import Any
from typing import NamedTuple
from typing import TYPE_CHECKING

import falcon
import falcon.asgi
import msgspec

from falcon_channels.access import authorization
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.hub import Joined
from falcon_channels.hub.subscription import Subscription
from falcon_channels.protocol import plain_codec as raw_codec
from falcon_channels.protocol.codes import DISCONNECT_INAPPROPRIATE_PROTOCOL
from falcon_channels.protocol.recovery import check_position
from falcon_channels.publication import Position
from falcon_channels.routing import ChannelMatch
from falcon_channels.transports.asgi import AsgiTransport
from falcon_channels.transports.asgi_extensions import server_websocket
from falcon_channels.transports.encoders import get_encoder

if TYPE_CHECKING:
    from falcon_channels.channels import Channels
    from falcon_channels.transports.base import Transport

_logger = logging.getLogger('falcon_channels')

#: Reading pauses while so many messages wait to be published.
_INBOX = 16

#: Close codes: RFC 6455 section 7.4.1, and Falcon's 3000 + HTTP status.
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
UNSUBSCRIBED = 3403
INSUFFICIENT_STATE = 3010


def parse_since(text: str) -> Position:
    """Return the position in ``?since=OFFSET:EPOCH``.

    Raises:
        falcon.HTTPInvalidParam: It is not of that form.
    """
    offset, _, epoch = text.partition(':')
    if not offset.isascii() or not offset.isdigit() or len(offset) > 15:
        raise falcon.HTTPInvalidParam('write it as OFFSET:EPOCH, such as 7:x1', 'since')
    return Position(int(offset), epoch)


class PlainConnection(Connection):
    """A plain WebSocket in one channel."""

    __slots__ = ('_gone', '_inbox', '_media', '_waiter', 'max_message_bytes')

    def __init__(
        self, channels: Channels, transport: Transport, req: Any, media: bool
    ) -> None:
        codec = raw_codec.MEDIA if media else raw_codec.TEXT
        # NOTE: `begin` sets the encoder again: before the handshake is accepted, the
        #   framing is not yet settled.
        super().__init__(
            channels.hub, transport, get_encoder(codec, transport.framing), req
        )
        self._media = media
        #: Whether the client has left, and what it said before is being published.
        self._gone = False
        # NOTE: A list, for it is short, and an empty deque takes 700 bytes.
        self._inbox: list[str | bytes] = []
        #: While `publish_all` waits.
        self._waiter: asyncio.Future[None] | None = None
        self.max_message_bytes = channels.options.max_message_bytes

    def begin(self, transport: Transport) -> None:
        """Take the framing of the accepted connection."""
        self.encoder = get_encoder(self.encoder.codec, transport.framing)

    # --- what the transport and the hub say ------------------------------------------

    def on_message(self, message: str | bytes) -> None:
        """Keep a message until it is published."""
        if isinstance(message, bytes):
            self.disconnect(1003, 'this endpoint takes text messages only')
            return
        # NOTE: a character has at most 4 bytes; most messages need no counting.
        limit_bytes = self.max_message_bytes
        if len(message) * 4 > limit_bytes and len(message.encode()) > limit_bytes:
            self.disconnect(MESSAGE_TOO_BIG, f'over {limit_bytes} bytes')
            return
        self._inbox.append(message)
        if len(self._inbox) == _INBOX:
            self.transport.pause_reading()
        self._wake()

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        """The one subscription is over, and with it the connection."""
        self.disconnect(UNSUBSCRIBED if code < 2500 else INSUFFICIENT_STATE, reason)

    def on_closed(self, code: int, reason: str) -> None:
        """Publish what the client said before it left, and forget it then."""
        if self._inbox:
            self._gone = True
        else:
            super().on_closed(code, reason)

    def on_end(self) -> None:
        """Let `publish_all` return."""
        self._wake()

    def shutdown(self) -> None:
        """This process is about to end."""
        self.disconnect(SERVICE_RESTART, 'service restart')

    # --- the conversation ------------------------------------------------------------

    def send_joined(self, subscription: Subscription, joined: Joined) -> None:
        """Send what the subscription begins with."""
        if self._media:
            self.send(raw_codec.subscribed_media(joined.position, joined.recovered))
        try:
            if joined.publications:
                self.send_blob(self._encode(subscription.channel, joined))
        except PayloadError:
            self.disconnect(*DISCONNECT_INAPPROPRIATE_PROTOCOL)

    def _encode(self, channel: str, joined: Joined) -> Any:
        encoder = self.encoder
        publications, epoch = joined.publications, joined.position.epoch
        blobs = self.hub.shared_encodings.pieces(
            (encoder, channel, epoch),
            publications,
            lambda publication: encoder.encode(channel, [publication], epoch),
        )
        if blobs is None:
            return encoder.encode(channel, publications, epoch)
        return encoder.framing.join(blobs)

    async def publish_all(
        self, channels: Channels, match: ChannelMatch, channel: str
    ) -> None:
        """Publish what the client sends, one after the other, until the end."""
        while not self.closed:
            if not self._inbox:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
                continue
            try:
                await self._publish(channels, match, channel, self._inbox[0])
            except falcon.HTTPError as ex:
                self._refuse(ex.status_code, ex.description or ex.title or 'refused')
            except PublicationTooLargeError as ex:
                self._refuse(413, str(ex))
            except BrokerUnavailableError:
                self._refuse(503, 'not published: try again')
            self._inbox.pop(0)
            if self._gone:
                if not self._inbox:
                    self.hub.remove(self)
            elif len(self._inbox) == _INBOX - 1:
                self.transport.resume_reading()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _publish(
        self, channels: Channels, match: ChannelMatch, channel: str, text: str | bytes
    ) -> None:
        if self._media:
            try:
                raw = msgspec.json.encode(msgspec.json.decode(text))
            except (msgspec.DecodeError, *authorization.NOT_JSON) as ex:
                raise falcon.HTTPBadRequest(description=f'not JSON: {ex}') from None
        else:
            raw = msgspec.json.encode(text)
        draft = authorization.PublicationDraft(
            channel, self, raw, data_type=match.route.options.data_type
        )
        publication = await authorization.authorize_publish(match, self, draft)
        await channels.publish_checked(
            match, channel, publication, idempotency_key=draft.idempotency_key
        )

    def _refuse(self, status: int, words: str) -> None:
        """Say no: in words where the client reads JSON, else by closing."""
        self.hub.counters.refused += 1
        if self._media:
            self.send(raw_codec.error_media(status, words))
        else:
            self.disconnect(3000 + status, words.encode()[:123].decode(errors='ignore'))


class RawDoor(NamedTuple):
    """A client that may come in: what `open_raw` found out."""

    connection: PlainConnection
    subscription: Subscription
    match: ChannelMatch
    since: Position | None


async def open_raw(
    channels: Channels,
    req: Any,
    transport: Transport,
    channel: str,
    *,
    user: str,
    info: Any,
    media: bool,
    since: Position | None,
) -> RawDoor:
    """Decide whether a client may come in; nothing is sent to it yet.

    Args:
        channels: Whose channel.
        req: The handshake, of an ASGI or a WSGI app.
        transport: Of the client.
        channel: Which.
        user: See `Channels.serve`, also for the others.
        info: Public facts.
        media: Whether it speaks JSON.
        since: Where it stands.

    Raises:
        falcon.HTTPError: It may not.
        PositionError: `since` is none.
    """
    check_position(since)
    try:
        match = await channels.match(channel)
    except (ChannelNameError, UnknownChannelError) as ex:
        # NOTE: before the accept, a client can be told no more than 404.
        _logger.warning('refused a WebSocket: %s', ex)
        raise falcon.HTTPNotFound(description=str(ex)) from None
    except (BrokerUnavailableError, ClosedError) as ex:
        raise falcon.HTTPServiceUnavailable(description=str(ex)) from None
    if since is None and media and req.has_param('since'):
        since = parse_since(req.get_param('since', default=''))
    connection = PlainConnection(channels, transport, req, media)
    connection.user = user
    connection.info = info
    subscription = Subscription(connection, channel, match.route, match.params)
    connection.subscriptions[channel] = subscription
    try:
        await channels.admission.authorize(subscription)
        await channels.hub.prepare(channel, match.route.options)
    except (BrokerUnavailableError, ClosedError) as ex:
        raise falcon.HTTPServiceUnavailable(description=str(ex)) from None
    channels.admission.check_room()
    return RawDoor(connection, subscription, match, since)


async def serve_raw(
    channels: Channels,
    req: falcon.asgi.Request,
    ws: falcon.asgi.WebSocket,
    channel: str,
    user: str,
    info: Any,
    media: bool,
    since: Position | None,
) -> None:
    """Do what `Channels.serve` promises."""
    channels.admission.check_origin(req)
    direct = server_websocket(req.scope)
    transport = AsgiTransport(ws) if direct is None else direct
    door = await open_raw(
        channels,
        req,
        transport,
        channel,
        user=user,
        info=info,
        media=media,
        since=since,
    )
    connection = door.connection
    if ws.unaccepted:
        await ws.accept()
    connection.begin(transport)
    try:
        # NOTE: again, for others came, or the end, while this one shook hands.
        channels.admission.check_room()
        channels.hub.add(connection)
    except (falcon.HTTPServiceUnavailable, ClosedError):
        await ws.close(TRY_AGAIN_LATER)
        return
    try:
        if isinstance(transport, AsgiTransport):
            await _serve_asgi(channels, door, transport)
        else:
            transport.attach(connection)
            # NOTE: at once, so that a client whose WebSocket is open is subscribed.
            await join(channels, door)
            # PERF: a task of its own is a tenth of the cost of a connection
            #   (benchmarks/connections.py), and most of its memory.
            await talk(channels, door)
    finally:
        connection.shutdown()


async def _serve_asgi(
    channels: Channels, door: RawDoor, transport: AsgiTransport
) -> None:
    # NOTE: at once, as above.
    await join(channels, door)
    talking = asyncio.create_task(talk(channels, door), name='falcon_channels raw door')
    try:
        await transport.run(door.connection)
        if not door.connection.closed:
            # NOTE: what the client said before it left is not yet published.
            await asyncio.wait([talking])
    finally:
        door.connection.shutdown()
        # NOTE: it ends by itself, now that the connection is over.
        await asyncio.gather(talking, return_exceptions=True)
    if not talking.cancelled() and (error := talking.exception()) is not None:
        raise error


async def join(channels: Channels, door: RawDoor) -> None:
    """Let a client in that the hub knows, or end it.

    Where it does not recover, this does not wait for anything: `open_raw` did.
    """
    with _ending(door):
        joined = await channels.hub.join(door.subscription, door.since)
        door.connection.send_joined(door.subscription, joined)


async def talk(channels: Channels, door: RawDoor) -> None:
    """Publish what a client that has joined sends, until the end."""
    with _ending(door):
        if not door.connection.closed:
            await channels.admission.settle(door.subscription)
        await door.connection.publish_all(
            channels, door.match, door.subscription.channel
        )


@contextlib.contextmanager
def _ending(door: RawDoor) -> Iterator[None]:
    """End the connection for what is raised, and say why."""
    connection = door.connection
    try:
        yield
    except UnsubscribedError as ex:
        connection.on_unsubscribed(door.subscription, ex.code, ex.reason)
    except (BrokerUnavailableError, ClosedError):
        connection.disconnect(TRY_AGAIN_LATER, 'try again later')
    except asyncio.CancelledError:
        connection.shutdown()
        raise
    except BaseException:
        connection.disconnect(INTERNAL_ERROR, 'internal server error')
        raise
