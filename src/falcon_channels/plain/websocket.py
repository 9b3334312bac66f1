"""A plain WebSocket in one channel, without a client library.

Text that the client sends is published, and publications are sent as text. With
``media=True`` both are JSON, and each publication has its position. After a lost
connection, such a client recovers missed publications with ``?since=OFFSET:EPOCH``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
from typing import Any

import falcon
import falcon.asgi
import msgspec

from falcon_channels.access.handshake import Handshake
from falcon_channels.access.handshake import HandshakeTiming
from falcon_channels.access.refusal_log import log_refusal
from falcon_channels.access.responders import is_cancelled
from falcon_channels.access.responders import note_failure
from falcon_channels.access.responders import text_for_client
from falcon_channels.access.subscribing import SubscribeOptions
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import ProtocolError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.connection import check_json
from falcon_channels.hub.connection import ClientKind
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.hub import Hub
from falcon_channels.node import Node
from falcon_channels.protocol import json_codec
from falcon_channels.protocol import plain_codec
from falcon_channels.protocol.codes import DISCONNECT_INAPPROPRIATE_PROTOCOL
from falcon_channels.protocol.codes import DISCONNECT_INSUFFICIENT
from falcon_channels.protocol.codes import FIRST_RESUBSCRIBE_CODE
from falcon_channels.protocol.codes import unsubscribe_for_end
from falcon_channels.protocol.recovery import check_position
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import Position
from falcon_channels.transports.asgi import AsgiTransport
from falcon_channels.transports.asgi import choose_transport
from falcon_channels.transports.asgi_extensions import ServerWebSocket
from falcon_channels.transports.base import Transport
from falcon_channels.transports.encoders import get_encoder
from falcon_channels.websocket.close_codes import HTTP_STATUS_BASE
from falcon_channels.websocket.close_codes import INTERNAL_ERROR
from falcon_channels.websocket.close_codes import MAX_REASON_BYTES
from falcon_channels.websocket.close_codes import MESSAGE_TOO_BIG
from falcon_channels.websocket.close_codes import NORMAL
from falcon_channels.websocket.close_codes import SERVICE_RESTART
from falcon_channels.websocket.close_codes import TRY_AGAIN_LATER
from falcon_channels.websocket.close_codes import UNSUPPORTED_DATA
from falcon_channels.websocket.limits import log_too_big

#: Reading pauses while this many messages wait to be published.
_MAX_WAITING = 16

#: Close code after the server has ended the subscription: forbidden.
_UNSUBSCRIBED = HTTP_STATUS_BASE + 403


def parse_since(text: str) -> Position:
    """Parse the position of ``?since=OFFSET:EPOCH``.

    Raises:
        falcon.HTTPInvalidParam: The text does not have that form.
    """
    offset, _, epoch = text.partition(':')
    if not offset.isascii() or not offset.isdigit() or len(offset) > 15:
        raise falcon.HTTPInvalidParam('write it as OFFSET:EPOCH, such as 7:x1', 'since')
    return Position(int(offset), epoch)


class PlainConnection(Connection):
    """A plain WebSocket in one channel.

    Args:
        node: Node of this process.
        transport: Carries messages to the client.
        channel: Name of the channel.
        req: Request of the handshake, of an ASGI or a WSGI app.
        user: Id of the user; ``None`` for an anonymous one.
        info: Public information about the connection, any JSON value.
        media: Whether the client speaks JSON.
    """

    __slots__ = (
        '_admitted',
        '_channel',
        '_left_with',
        '_media',
        '_node',
        '_waiter',
        '_waiting',
    )

    hub: Hub

    def __init__(
        self,
        node: Node,
        transport: Transport,
        channel: str,
        req: Any,
        *,
        user: str | None,
        info: Any,
        media: bool,
    ) -> None:
        codec = plain_codec.MEDIA if media else plain_codec.TEXT
        super().__init__(
            node.hub,
            transport,
            # NOTE: the framing can change when the handshake is accepted; see `admit`.
            get_encoder(codec, transport.framing),
            req,
            user=user,
            info=info,
        )
        self._node = node
        self._channel = channel
        self._media = media
        #: Close code and reason of a client that left while its messages are published.
        self._left_with: tuple[int, str] | None = None
        # PERF: a list, because it is short. An empty deque takes 700 bytes
        #   (benchmarks/idle_memory.py).
        self._waiting: list[str] = []
        #: Done when a message waits, or the connection has ended.
        self._waiter: asyncio.Future[None] | None = None
        #: Whether the connection is in the hub.
        self._admitted = False

    @property
    def kind(self) -> ClientKind:
        """How the client is connected."""
        return ClientKind('plain_websocket', 'json' if self._media else 'text')

    @property
    def admitted(self) -> bool:
        """Whether the connection has been added to the hub."""
        return self._admitted

    # --- what the transport and the hub report ---------------------------------------

    def on_message(self, message: str | bytes) -> None:
        """Called when a message arrives: queue it to be published."""
        self.hub.counters.received_bytes += len(message)
        if isinstance(message, bytes):
            self.disconnect(UNSUPPORTED_DATA, 'this endpoint takes text messages only')
            return
        # NOTE: a character has at most 4 bytes. Only a long message must therefore be
        #   encoded to know its size.
        limit_bytes = self._node.options.max_message_bytes
        if len(message) * 4 > limit_bytes and len(message.encode()) > limit_bytes:
            size_bytes = len(message.encode())
            log_too_big(self, size_bytes, 'max_message_bytes', limit_bytes)
            self.disconnect(MESSAGE_TOO_BIG, f'over {limit_bytes} bytes')
            return
        self._waiting.append(message)
        if len(self._waiting) == _MAX_WAITING:
            self.transport.pause_reading()
        self._wake()

    def on_finished(
        self, subscription: Subscription, end: ChannelEnd, position: Position
    ) -> None:
        """Called when the channel has ended: tell the client, and close with 1000.

        NOTE: many clients connect again after any other code. The reason is never
        empty, because Falcon would replace an empty one.
        """
        if self._media:
            self.send(plain_codec.end_media(end))
        self.disconnect(NORMAL, unsubscribe_for_end(end.error).reason)

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        """Called when the server has ended the subscription: end the connection."""
        self._on_subscription_ended(code, reason)

    def _on_subscription_ended(self, code: int, reason: str) -> None:
        may_return = code >= FIRST_RESUBSCRIBE_CODE
        self.disconnect(
            DISCONNECT_INSUFFICIENT.code if may_return else _UNSUBSCRIBED, reason
        )

    def on_closed(self, code: int, reason: str) -> None:
        """Called when the client has left: publish its waiting messages, then end."""
        if self._waiting:
            self._left_with = code, reason
        else:
            super().on_closed(code, reason)

    def on_end(self) -> None:
        """Called when the connection has ended: let `publish_messages` return."""
        self._wake()

    def shutdown(self) -> None:
        """Close because this process ends; the client connects again."""
        self.disconnect(SERVICE_RESTART, 'service restart')

    # --- subscribe -------------------------------------------------------------------

    async def subscribe(
        self,
        since: Position | None,
        on_authorized: Callable[[], Awaitable[None]],
        *,
        accepted: bool,
    ) -> None:
        """Subscribe the client to its channel.

        Args:
            since: Position from which publications are recovered, or ``None``.
            on_authorized: Coroutine function that accepts the handshake and calls
                `admit`.
            accepted: Whether the application has accepted the handshake. A client that
                is refused then receives a close code, and no HTTP status.

        Raises:
            falcon.HTTPError: The client was refused before it was admitted.
        """
        dispatcher = self._node.dispatcher

        def code_for(status: int) -> int:
            return close_code_for(status) if accepted else status

        async def admit() -> None:
            # NOTE: an accepted client could be told only that the server failed.
            reply = self.subscriptions[self._channel].reply
            check_json('subscription.reply', reply if self._media else None)
            await on_authorized()
            # SECURITY: before this point, commands such as `disconnect_user` did not
            #   find the connection.
            dispatcher.catch_up(self)

        dispatcher.follow(self)
        try:
            with self._closing_after_errors('subscribe'):
                await self._node.subscriber.subscribe(
                    self,
                    self._channel,
                    self._send_start,
                    SubscribeOptions(since=since, approved=True, on_authorized=admit),
                )
        except (ChannelNameError, UnknownChannelError) as ex:
            # NOTE: the client sees only the code. The log has the reason.
            self._log_refusal('subscribe', code_for(404), str(ex), logging.WARNING)
            raise falcon.HTTPNotFound(description=str(ex)) from None
        except (BrokerUnavailableError, ClosedError) as ex:
            self._log_refusal('subscribe', code_for(503), str(ex))
            raise falcon.HTTPServiceUnavailable(description=str(ex)) from None
        except falcon.HTTPError as ex:
            # NOTE: Falcon logs the status without the reason.
            code = code_for(ex.status_code)
            self._log_refusal('subscribe', code, text_for_client(ex))
            raise
        finally:
            dispatcher.unfollow(self)

    def admit(self, transport: Transport, timing: HandshakeTiming) -> None:
        """Add the accepted connection to the hub.

        Args:
            transport: Transport with the framing that the handshake settled.
            timing: Timing of the handshake.

        Raises:
            falcon.HTTPServiceUnavailable: The process has become full or has begun to
                drain.
        """
        self.encoder = get_encoder(self.encoder.codec, transport.framing)
        self._node.handshake.add(self, timing)
        self._admitted = True
        self.keep_context()

    def _send_start(self, subscription: Subscription, joined: Joined) -> None:
        """Send the position and the recovered publications."""
        if self._media:
            self.send(
                plain_codec.subscribed_media(
                    joined.position, joined.recovered, subscription.reply
                )
            )
        try:
            if joined.publications:
                self.send_blob(
                    self.hub.shared_encodings.encode(
                        self.encoder,
                        self._channel,
                        joined.publications,
                        joined.position.epoch,
                    )
                )
        except PayloadError:
            self.disconnect(*DISCONNECT_INAPPROPRIATE_PROTOCOL)

    # --- publish ---------------------------------------------------------------------

    async def publish_messages(self) -> None:
        """Publish the client's messages, one after the other, until the end."""
        with self._closing_after_errors('publish'):
            await self._publish_messages()

    async def _publish_messages(self) -> None:
        while not self.closed:
            if not self._waiting:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
                continue
            try:
                await self._publish(self._waiting[0])
            except falcon.HTTPError as ex:
                self._refuse(ex.status_code, text_for_client(ex))
            except PublicationTooLargeError as ex:
                self._refuse(413, str(ex))
            except ChannelFinishedError:
                self._refuse(409, 'the channel is finished')
            except BrokerUnavailableError:
                self._refuse(503, 'not published: try again')
            self._waiting.pop(0)
            if self._left_with is not None:
                if not self._waiting:
                    super().on_closed(*self._left_with)
            elif len(self._waiting) == _MAX_WAITING - 1:
                self.transport.resume_reading()

    async def _publish(self, text: str) -> None:
        if self._media:
            try:
                data = json_codec.read_payload(text)
            except ProtocolError as ex:
                raise falcon.HTTPBadRequest(description=str(ex)) from None
        else:
            data = msgspec.json.encode(text)
        await self._node.publisher.publish_for_client(self, self._channel, data)

    def _refuse(self, status: int, words: str) -> None:
        """Refuse a message: send an error in JSON, or close a plain-text client."""
        if self._media:
            self._log_refusal('publish', status, words)
            self.send(plain_codec.error_media(status, words))
            return
        code = close_code_for(status)
        self._log_refusal('publish', code, words)
        reason = words.encode()[:MAX_REASON_BYTES].decode(errors='ignore')
        self.disconnect(code, reason)

    def _log_refusal(
        self, action: str, code: int, text: str, level: int = logging.INFO
    ) -> None:
        log_refusal(self, action, self._channel, code, text, level=level)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- errors ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _closing_after_errors(self, action: str) -> Iterator[None]:
        """Close an admitted connection with the code for the raised error.

        Args:
            action: Name of what fails, for the log.
        """
        try:
            yield
        except UnsubscribedError as ex:
            if not self._admitted:
                raise falcon.HTTPForbidden(description=ex.reason) from None
            self._on_subscription_ended(ex.code, ex.reason)
        except (BrokerUnavailableError, ClosedError) as ex:
            if not self._admitted:
                raise
            self._log_refusal('subscribe', TRY_AGAIN_LATER, str(ex))
            self.disconnect(TRY_AGAIN_LATER, 'try again later')
        except asyncio.CancelledError as ex:
            if is_cancelled():
                self.shutdown()
                raise
            note_failure(self, action, ex)
            if self._admitted:
                self.disconnect(INTERNAL_ERROR, 'internal server error')
            raise RuntimeError('a responder awaited a task that was cancelled') from ex
        except _NotAdmittedError:
            # NOTE: the refusal was logged and told, and no responder has failed.
            raise
        except BaseException as ex:
            note_failure(self, action, ex)
            if self._admitted:
                self.disconnect(INTERNAL_ERROR, 'internal server error')
                if isinstance(ex, falcon.HTTPStatus):
                    # NOTE: Falcon logs an `HTTPStatus` without its traceback.
                    raise RuntimeError('a responder raised HTTPStatus') from ex
            raise


def close_code_for(status: int) -> int:
    """Return the close code for a client that is refused after the accept.

    NOTE: Falcon would close with 3503 after a status of 503. The application uses this
      code to disconnect a user, and the clients of this user do not return.
    """
    return TRY_AGAIN_LATER if status == 503 else HTTP_STATUS_BASE + status


def position_to_recover(
    handshake: Handshake, req: Any, since: Position | None, media: bool
) -> Position | None:
    """Return the position from which a client recovers: `since`, or of its URL.

    Call it in the event loop of the node, because it can log and tell a refusal.

    Raises:
        PositionError: `since` is not a position.
        falcon.HTTPInvalidParam: ``?since=`` is malformed.
    """
    check_position(since)
    if since is None and media and req.has_param('since'):
        try:
            return parse_since(req.get_param('since', default=''))
        except falcon.HTTPInvalidParam as ex:
            handshake.note_invalid(req, ex)
            raise
    return since


async def serve_websocket(
    node: Node,
    req: falcon.asgi.Request,
    ws: falcon.asgi.WebSocket,
    channel: str,
    *,
    user: str | None,
    info: Any,
    media: bool,
    since: Position | None,
) -> None:
    """Implement `Channels.serve`."""
    timing = node.handshake.time()
    with timing:
        node.handshake.check_origin(req)
        try:
            node.handshake.check_capacity(req)
        except falcon.HTTPServiceUnavailable:
            await _close_if_accepted(ws)
            raise
        since = position_to_recover(node.handshake, req, since, media)
        transport = choose_transport(req, ws)
        connection = PlainConnection(
            node, transport, channel, req, user=user, info=info, media=media
        )
    reading: asyncio.Task[None] | None = None

    async def accept() -> None:
        nonlocal reading
        if ws.unaccepted:
            await ws.accept()
        try:
            connection.admit(transport, timing)
        except falcon.HTTPServiceUnavailable:
            await ws.close(TRY_AGAIN_LATER)
            raise _NotAdmittedError from None
        reading = _begin_to_read(transport, connection)

    try:
        with timing:
            await connection.subscribe(since, accept, accepted=not ws.unaccepted)
        # PERF: the responder's task publishes. A second task would be a tenth of the
        #   cost of a connection, and most of its memory (benchmarks/connections.py).
        await connection.publish_messages()
    except _NotAdmittedError:
        return
    except falcon.HTTPError as ex:
        if ex.status_code == 503 and not connection.admitted:
            await _close_if_accepted(ws)
        raise
    finally:
        if connection.admitted:
            # NOTE: if the client was refused before, Falcon closes the WebSocket with
            #   the code of the refusal.
            connection.shutdown()
        if reading is not None:
            # NOTE: reading ends after the close handshake, or after the timeout of the
            #   transport. If a server stops and cancels the responder, the close code
            #   is therefore still sent.
            await reading


async def _close_if_accepted(ws: falcon.asgi.WebSocket) -> None:
    """Close an accepted WebSocket with 1013, after which its client may return.

    If it was not accepted, do nothing: Falcon sends the HTTP status.
    """
    if not ws.unaccepted:
        await ws.close(TRY_AGAIN_LATER)


class _NotAdmittedError(Exception):
    """The process drains or is full, and the client has been told."""


def _begin_to_read(
    transport: AsgiTransport | ServerWebSocket, connection: PlainConnection
) -> asyncio.Task[None] | None:
    """Begin to read; return the task that reads, if the server does not."""
    if isinstance(transport, AsgiTransport):
        return asyncio.create_task(
            transport.run(connection), name='falcon_channels plain WebSocket'
        )
    transport.attach(connection)
    return None
