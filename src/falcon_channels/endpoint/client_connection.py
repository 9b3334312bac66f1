"""A connection that speaks the client protocol.

Frames come in by `on_message`, which decodes them and keeps their commands in order.
One task carries them out one after the other and ends when there are none, so that an
idle connection holds no coroutine. What a command does is in `handlers`; this module is
about the connection itself: what it was told, when it is due, how it ends.

NOTE: no error of the application reaches a client as Falcon would close it. Falcon's
3000 + HTTP status means other things in this protocol: see `protocol.codes`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from collections.abc import Mapping
import logging
import time
from types import MappingProxyType
from typing import Any
from typing import TYPE_CHECKING

from falcon_channels.access.authorization import encode_payload
from falcon_channels.errors import ProtocolError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.subscription import Subscription
from falcon_channels.protocol import codes
from falcon_channels.protocol.command_rules import check_command
from falcon_channels.protocol.command_rules import CommandAction
from falcon_channels.protocol.command_rules import ConnectionState
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import DisconnectPush
from falcon_channels.protocol.messages import EncodedPublications
from falcon_channels.protocol.messages import MessagePush
from falcon_channels.protocol.messages import Push
from falcon_channels.protocol.messages import Result
from falcon_channels.protocol.messages import SubscribePush
from falcon_channels.protocol.messages import UnsubscribePush
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.transports.client_codecs import ClientCodec
from falcon_channels.transports.encoders import get_encoder

if TYPE_CHECKING:
    from falcon_channels.endpoint.endpoint import Endpoint
    from falcon_channels.hub.hub import Joined
    from falcon_channels.transports.base import Transport

_logger = logging.getLogger('falcon_channels')

#: Reading pauses while so many commands wait.
_MAX_WAITING = 32

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})

#: Close codes of RFC 6455 section 7.4.1.
_UNSUPPORTED_DATA = 1003
_MESSAGE_TOO_BIG = 1009


class _Corked(list[Any]):
    """Blobs that wait for the reply before them, which has the first place, counted.

    The fan-out looks at the connection at the end of each turn that adds to them, as it
    does where a client does not read.
    """

    def __init__(self, session: ClientConnection) -> None:
        super().__init__([None])
        self.size_bytes = 0
        self._session = session
        self._told = False

    def append(self, blob: Any) -> None:
        super().append(blob)
        self.size_bytes += _size_bytes(blob)
        if not self._told:
            self._told = True
            self._session.hub.on_output(self._session)

    def look(self) -> int:
        """Return how many bytes there are, and tell of the next one again."""
        self._told = False
        return self.size_bytes


def _size_bytes(blob: Any) -> int:
    return getattr(blob, 'size_bytes', None) or len(blob)


class ClientConnection(Connection):
    """A client of the protocol; ``on_connect`` receives it as `connection`.

    Attributes:
        data: What the client sent along, as Python values, or ``None``.
        token: The connection token that the client sent, or ``''``.
        name: Name of the client library.
        version: Version of the client.
        headers: Headers that a browser could not set on the handshake; words of
            the client like any other.
        reply: Data for the client, any JSON value, or ``None``; may be set.
        channels: Server-side subscriptions to begin with, see `add_channel`.
        expires_at: Unix time in seconds after which the connection ends unless it is
            refreshed, or ``None``; may be set.
        meta: Whatever the application wants to keep with the connection.
    """

    takes_subscriptions = True

    __slots__ = (
        'allowance',
        'allowance_at_s',
        'channels',
        'checking',
        'codec',
        'command_id',
        'corked',
        'data',
        'due_s',
        'endpoint',
        'expires_at',
        'headers',
        'meta',
        'name',
        'ping_at_s',
        'reader',
        'refused',
        'reply',
        'says_goodbye',
        'secret',
        'state',
        'token',
        'version',
        'waiting',
        'working',
    )

    #: The state after a connect that succeeded.
    connected_state = ConnectionState.CONNECTED

    def __init__(
        self, endpoint: Endpoint, transport: Transport, codec: ClientCodec, req: Any
    ) -> None:
        super().__init__(
            endpoint.channels.hub, transport, get_encoder(codec, transport.framing), req
        )
        self.endpoint = endpoint
        self.codec = codec
        self.state = ConnectionState.NEW
        self.command_id = 0
        self.data: Any = None
        self.token = ''
        self.name = ''
        self.version = ''
        self.headers: Mapping[str, str] = _NO_HEADERS
        self.reply: Any = None
        self.channels: dict[str, tuple[Any, Any]] = {}
        self.expires_at: float | None = None
        self.meta: Any = None
        #: Whether the end is told by a push, where no close frame can.
        self.says_goodbye = False
        #: Names the connection in requests with its commands; ``''``: it has none.
        self.secret = ''
        self.waiting: deque[Command] | None = None
        self.working = False
        #: Done when the client has read its replies, while its commands wait for that.
        self.reader: asyncio.Future[None] | None = None
        self.corked = False
        self.allowance = float(endpoint.options.commands_burst)
        self.allowance_at_s = endpoint.now_s()
        self.refused = 0
        self.ping_at_s = 0.0
        #: Whether `ping_at_s` is when the pong has to be there.
        self.checking = False
        self.due_s = 0
        endpoint.heartbeat.set(
            self, self.allowance_at_s + endpoint.options.connect_timeout_s
        )

    @property
    def session(self) -> str:
        """The secret of a connection whose commands come by requests, else ``''``."""
        return self.secret

    def add_channel(self, channel: str, *, info: Any = None, data: Any = None) -> None:
        """Subscribe the connection to a channel as soon as it is accepted.

        The application decides: ``on_subscribe`` is not asked.

        Args:
            channel: Its name.
            info: Public facts about the subscription, any JSON value, or ``None``.
            data: What the client gets with the subscription, any JSON value.
        """
        self.channels[channel] = (info, data)

    # --- what comes in ---------------------------------------------------------------

    def on_message(self, message: str | bytes) -> None:
        """Take one frame."""
        if self.closed:
            return
        limit_bytes = self.endpoint.channels.options.max_message_bytes
        if isinstance(message, str) and len(message) * 4 > limit_bytes:
            size_bytes = len(message.encode(errors='surrogatepass'))
        else:
            size_bytes = len(message)
        if size_bytes > limit_bytes:
            self.disconnect(_MESSAGE_TOO_BIG, f'over {limit_bytes} bytes')
            return
        if isinstance(message, bytes) is not self.codec.binary:
            self.disconnect(
                _UNSUPPORTED_DATA,
                'binary messages only' if self.codec.binary else 'text messages only',
            )
            return
        try:
            commands = self.decode(message)
        except ProtocolError as ex:
            _logger.info('%r sent what is no command: %s', self, ex)
            self.disconnect(ex.code, ex.reason)
            return
        for command in commands:
            if command.request is None:
                self._on_pong(command)
            else:
                self._queue(command)
        if self.waiting and not self.working and not self.closed:
            self.working = True
            self.hub.spawn(self._work(), 'commands')

    def decode(self, message: str | bytes) -> list[Command]:
        """Return the commands of a frame.

        Raises:
            ProtocolError: It is none.
        """
        return self.codec.protocol.decode_commands(message)

    def _queue(self, command: Command) -> None:
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append(command)
        if len(self.waiting) == _MAX_WAITING:
            self.transport.pause_reading()

    async def _work(self) -> None:
        waiting = self.waiting
        assert waiting is not None
        try:
            while waiting and not self.closed:
                if self.granted_bytes > self.hub.options.max_backlog_bytes:
                    await self._all_read()
                    continue
                command = waiting.popleft()
                if len(waiting) == _MAX_WAITING - 1:
                    self.transport.resume_reading()
                verdict = check_command(self.state, command)
                if verdict is CommandAction.ACCEPT:
                    await self.endpoint.handle(self, command)
                elif verdict is CommandAction.DISCONNECT:
                    self.disconnect(*codes.DISCONNECT_BAD_REQUEST)
        finally:
            self.working = False
            self.waiting = None

    async def _all_read(self) -> None:
        """Wait until the client has read its replies, or the connection is over.

        SECURITY: a client that asks and asks, and never reads.
        """
        self.reader = asyncio.get_running_loop().create_future()
        await self.reader

    def on_all_read(self) -> None:
        """Go on with the next command."""
        super().on_all_read()
        self._wake_reader()

    def _wake_reader(self) -> None:
        reader, self.reader = self.reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _on_pong(self, command: Command) -> None:
        # NOTE: not queued behind commands: a slow responder is not a dead client.
        verdict = check_command(self.state, command)
        if verdict is CommandAction.ACCEPT:
            self.state = ConnectionState.CONNECTED
        elif verdict is CommandAction.DISCONNECT:
            self.disconnect(*codes.DISCONNECT_BAD_REQUEST)

    # --- what goes out ---------------------------------------------------------------

    def push(self, channel: str, push: Push) -> None:
        """Send a push about a channel, or about the connection for ``''``."""
        self.send(self.codec.encode_push(channel, push))

    def reply_to_command(self, result: Result) -> None:
        """Answer the command under way."""
        payload = self.codec.protocol.encode_reply(self.command_id, result)
        if self.corked:
            self.uncork(payload)
        else:
            self.send(payload)

    def answer(self, result: Result) -> None:
        """Send the result of a command, large or not.

        It is not held against the client, which asked for it; but its next command
        waits until it has read what is large.
        """
        payload = self.codec.protocol.encode_reply(self.command_id, result)
        self.granted_bytes += len(payload)
        self.send(payload)

    def parts(
        self, channel: str, epoch: str, publications: list[Publication]
    ) -> list[Publication] | EncodedPublications:
        """Return the publications of a result, encoded where others ask for them too.

        Raises:
            ProtocolError: One of them cannot be sent in this encoding.
        """
        if not publications:
            return publications
        pieces = self.hub.shared_encodings.pieces(
            (self.codec, type(self).part_encoder, channel, epoch),
            publications,
            self.part_encoder(channel),
        )
        return publications if pieces is None else EncodedPublications(pieces)

    def part_encoder(self, channel: str) -> Callable[[Publication], bytes]:
        """Return the function that encodes a publication of a result."""
        return self.codec.protocol.encode_result_publication

    def reply_error(self, error: codes.ReplyError) -> None:
        """Answer the command under way with an error."""
        self.send(self.codec.protocol.encode_error(self.command_id, error))

    def refuse_connect(self, error: codes.ReplyError) -> None:
        """Answer connect with an error; nothing else is read from this client."""
        self.corked = False
        self.out = None
        for subscription in list(self.subscriptions.values()):
            self.hub.leave(subscription)
        self.state = ConnectionState.REFUSED
        self.reply_error(error)
        self.endpoint.heartbeat.set(self, self.endpoint.now_s() + 1)

    def send_message(self, data: bytes) -> None:
        """Send a message of the application to this client.

        Args:
            data: JSON text, or any bytes to a client that speaks Protobuf.
        """
        self.push('', MessagePush(data=data))

    @property
    def backlog_bytes(self) -> int:
        """How many bytes wait for the client, or for the reply before them."""
        kept_bytes = self.out.size_bytes if isinstance(self.out, _Corked) else 0
        return kept_bytes + self.transport.backlog_bytes

    def cork(self) -> None:
        """Keep all output until `uncork`: the connect reply has to come first.

        What is kept is bounded as the backlog of a client that does not read: the
        policies of its channels apply, and `NodeOptions.max_backlog_bytes`.
        """
        self.corked = True
        self.out = _Corked(self)

    def uncork(self, *payloads: bytes) -> None:
        """Send `payloads`, and then what was kept."""
        self.corked = False
        if self.closed:
            return
        reply = self.encoder.framing.frame(payloads, binary=self.codec.binary)
        kept = self.out
        assert kept is not None
        self.out = [reply, *kept[1:]]
        self.hub.on_output(self)
        # NOTE: what waits as for a slow reader; no transport would tell of it.
        self.hub.catch_up(self)
        # NOTE: all this leaves at once, and each part was bounded before: where a send
        #   takes its time, it is not held against a client that could not read it yet.
        self.granted_bytes += sum(map(_size_bytes, self.out))

    def flush(self) -> int:
        """Write what is queued; return the backlog in bytes."""
        if isinstance(self.out, _Corked):
            return self.out.look()
        return super().flush()

    def disconnect(self, code: int, reason: str) -> None:
        """Close with a code, after what is queued."""
        if self.corked:
            self.corked = False
            self.out = None
        if self.says_goodbye and not self.closed:
            again = codes.reconnects(code)
            self.push('', DisconnectPush(code, reason, again))
        super().disconnect(code, reason)

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        """Tell the client that a subscription was ended from here."""
        if subscription.server_side and code >= codes.FIRST_RESUBSCRIBE_CODE:
            # NOTE: the client does not subscribe to it by itself, and recovers it
            #   with its next connect.
            expired = code == codes.UNSUBSCRIBE_EXPIRED.code
            self.disconnect(
                *(
                    codes.DISCONNECT_SUB_EXPIRED
                    if expired
                    else codes.DISCONNECT_INSUFFICIENT
                )
            )
            return
        self.push(subscription.channel, UnsubscribePush(code=code, reason=reason))

    def on_subscribed(self, subscription: Subscription, joined: Joined) -> None:
        """Tell the client that the application subscribed it."""
        options = subscription.route.options
        position = joined.position
        if joined.publications:
            # NOTE: the client counts up from here as the publications arrive.
            position = Position(joined.publications[0].offset - 1, position.epoch)
        reply = subscription.reply
        self.push(
            subscription.channel,
            SubscribePush(
                recoverable=options.recovery_mode != 'off',
                positioned=options.history_size > 0,
                epoch=position.epoch,
                offset=position.offset,
                data=None if reply is None else encode_payload(reply)[0],
            ),
        )
        blob = self.encoder.encode(
            subscription.channel, joined.publications, position.epoch
        )
        if blob is not None:
            self.send_blob(blob)
        if subscription.expires_at is not None:
            self.plan()

    def on_refresh(self, expired: bool, expires_at: float | None, info: Any) -> None:
        """Do what `Channels.refresh_user` asks."""
        super().on_refresh(expired, expires_at, info)
        if expires_at is not None and not self.closed:
            self.expires_at = expires_at
            self.plan()

    def on_end(self) -> None:
        """Let go of everything; tell the application."""
        connected = self.state in (
            ConnectionState.CONNECTED,
            ConnectionState.PINGED,
            ConnectionState.UNIDIRECTIONAL,
        )
        self.state = ConnectionState.CLOSED
        self.endpoint.heartbeat.discard(self)
        if self.secret:
            self.endpoint.emulation.forget(self)
        if self.waiting is not None:
            self.waiting.clear()
        self._wake_reader()
        if connected:
            self.endpoint.on_disconnect(self)

    # --- time ------------------------------------------------------------------------

    def begin_pings(self) -> None:
        """Plan what is due for a connection that has just been accepted."""
        interval_s = self.endpoint.options.ping_interval_s
        now_s = self.endpoint.now_s()
        if interval_s is not None:
            self.ping_at_s = now_s + self.endpoint.spread(interval_s)
        self.plan()

    def plan(self) -> None:
        """Wait for what is due next."""
        times = []
        if self.endpoint.options.ping_interval_s is not None:
            times.append(self.ping_at_s)
        expiry = [s.expires_at for s in self.subscriptions.values()]
        if self.expires_at is not None:
            expiry.append(self.expires_at)
        ends = [end for end in expiry if end is not None]
        if ends:
            grace_s = self.endpoint.options.expiry_grace_s
            wait_s = min(ends) + grace_s - time.time()
            times.append(self.endpoint.now_s() + wait_s)
        if times:
            self.endpoint.heartbeat.set(self, min(times))

    def on_due(self, now_s: float) -> None:
        """Do what is due: give up, ping, or end what has expired."""
        if self.closed or self.state is ConnectionState.REFUSED:
            self.disconnect(*codes.DISCONNECT_STALE)
            return
        if self.state is ConnectionState.NEW or self.corked:
            # NOTE: a client that waits for us must come back, not stay away.
            self.disconnect(
                *(codes.DISCONNECT_INTERNAL if self.working else codes.DISCONNECT_STALE)
            )
            return
        self._expire()
        if self.closed:
            return
        interval_s = self.endpoint.options.ping_interval_s
        if interval_s is not None and now_s >= self.ping_at_s:
            self._ping_or_check(now_s, interval_s)
        if not self.closed:
            self.plan()

    def _ping_or_check(self, now_s: float, interval_s: float) -> None:
        pong_s = min(self.endpoint.options.pong_timeout_s, interval_s)
        if self.state is ConnectionState.PINGED:
            self.disconnect(*codes.DISCONNECT_NO_PONG)
        elif self.checking:
            self.checking = False
            self.ping_at_s += interval_s - pong_s
        else:
            self.send_blob(self.endpoint.ping_blob(self))
            if self.state is ConnectionState.CONNECTED:
                self.state = ConnectionState.PINGED
                self.checking = True
                self.ping_at_s = now_s + pong_s
            else:
                self.ping_at_s = now_s + interval_s

    def _expire(self) -> None:
        latest = time.time() - self.endpoint.options.expiry_grace_s
        if self.expires_at is not None and self.expires_at <= latest:
            self.disconnect(*codes.DISCONNECT_EXPIRED)
            return
        for subscription in list(self.subscriptions.values()):
            if subscription.expires_at is not None and (
                subscription.expires_at <= latest
            ):
                self.hub.unsubscribe(subscription, *codes.UNSUBSCRIBE_EXPIRED)

    def may_go_on(self) -> bool:
        """Count a command; return whether it may be carried out at this rate."""
        now_s = self.endpoint.now_s()
        rates = self.endpoint.user_rates
        if self._take_allowance(now_s) and (
            rates is None or not self.user or rates.take(self.user, now_s)
        ):
            self.refused = 0
            return True
        self.refused += 1
        return False

    def _take_allowance(self, now_s: float) -> bool:
        options = self.endpoint.options
        if options.commands_per_s is None:
            return True
        gained = (now_s - self.allowance_at_s) * options.commands_per_s
        self.allowance = min(self.allowance + gained, options.commands_burst)
        self.allowance_at_s = now_s
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True

    def accept_connect(self, request: ConnectRequest) -> None:
        """Take what the client says of itself."""
        self.token = request.token
        self.name = request.name[:64]
        self.version = request.version[:64]
        self.headers = request.headers
