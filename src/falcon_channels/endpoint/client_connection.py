"""A connection that speaks the client protocol.

`on_message` decodes each frame and queues its commands in order (`command_queue`). One
task carries them out one after the other. It ends when the queue is empty, so that an
idle connection has no coroutine and no queue. The module `commands` implements the
commands. A connection receives them as the callable `dispatch`. This module handles the
connection itself: its output, its timers and its end.

NOTE: after an error of the application, Falcon closes a WebSocket with the code 3000 +
HTTP status. These codes have other meanings in this protocol; see `protocol.codes`.
Errors of the application are therefore caught before they reach Falcon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import logging
import time
from types import MappingProxyType
from typing import Any
from typing import NamedTuple

from falcon_channels.access.publication_parts import encode_payload
from falcon_channels.access.refusal_log import log_refusal
from falcon_channels.access.responders import notify
from falcon_channels.checks import check_time
from falcon_channels.endpoint.command_queue import BATCH
from falcon_channels.endpoint.command_queue import CommandQueue
from falcon_channels.endpoint.early_output import count_bytes
from falcon_channels.endpoint.early_output import EarlyOutput
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.endpoint.refusals import disconnect_for_unsubscribe
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import ProtocolError
from falcon_channels.filters import check_filter
from falcon_channels.filters import TagFilter
from falcon_channels.hub.connection import check_json
from falcon_channels.hub.connection import ClientKind
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.hub import Hub
from falcon_channels.protocol import codes
from falcon_channels.protocol.command_rules import check_command
from falcon_channels.protocol.command_rules import CommandAction
from falcon_channels.protocol.command_rules import ConnectionState
from falcon_channels.protocol.deltas import with_deltas
from falcon_channels.protocol.json_codec import is_json
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import ConnectResult
from falcon_channels.protocol.messages import DisconnectPush
from falcon_channels.protocol.messages import EncodedPublications
from falcon_channels.protocol.messages import MessagePush
from falcon_channels.protocol.messages import Push
from falcon_channels.protocol.messages import Result
from falcon_channels.protocol.messages import SubscribePush
from falcon_channels.protocol.messages import SubscribeRequest
from falcon_channels.protocol.messages import UnsubscribePush
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.tokens import ConnectionToken
from falcon_channels.tokens.verifier import MAX_TOKEN_CHARACTERS
from falcon_channels.transports.base import Transport
from falcon_channels.transports.client_codecs import ClientCodec
from falcon_channels.transports.encoders import get_encoder
from falcon_channels.transports.http_stream import EVENTS
from falcon_channels.transports.http_stream import HttpStreamTransport
from falcon_channels.websocket.close_codes import MESSAGE_TOO_BIG
from falcon_channels.websocket.close_codes import NO_STATUS
from falcon_channels.websocket.close_codes import UNSUPPORTED_DATA
from falcon_channels.websocket.limits import log_too_big

_logger = logging.getLogger('falcon_channels')

#: Largest number of headers in a connect request, and of the bytes of their text.
MAX_HEADERS = 128
MAX_HEADERS_BYTES = 16_384

#: States of a connection that is not connected yet, or was refused. It then has a
#: deadline, but neither pings nor an expiry.
_NOT_CONNECTED = (ConnectionState.NEW, ConnectionState.REFUSED)

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


Dispatch = Callable[['ClientConnection', Command], Awaitable[None]]


class Rights(NamedTuple):
    """The values of a connection that a token or a responder sets."""

    user: str
    info: Any
    meta: Any
    expires_at: float | None
    token: str


class ClientConnection(Connection):
    """A client of the protocol; ``on_connect`` receives it as `connection`.

    Args:
        endpoint: State and options of the endpoint.
        transport: Carries bytes to the client.
        codec: Encoding of the client: JSON or Protobuf.
        req: Request of the handshake.
        dispatch: Carries out one command.
        session: Secret that identifies the connection in separate requests with its
            commands; ``''`` if its commands arrive on the connection itself.
        announces_end: Whether the end is announced by a push, because the transport
            has no close frame.
        on_ended: Called when the connection has ended.

    Attributes:
        data: Data that the client sent to connect, as Python values, or ``None``. It is
            dropped after ``on_connect``, so that the client cannot decide how much
            memory its connection uses.
        token: Connection token that the client sent, or ``''``.
        name: Name of the client library.
        version: Version of the client.
        headers: Headers that a browser could not set on the handshake. The client can
            send any value, so do not trust them.
        reply: Data for the client, any JSON value, or ``None``; can be set.
        channels: Server-side subscriptions of the connect reply; see `add_channel`.
        expires_at: Unix time in seconds at which the connection ends unless it is
            refreshed, or ``None``; can be set.
        meta: Any value of the application; can be set.
    """

    takes_subscriptions = True
    refreshes_subscriptions = True

    __slots__ = (
        '_accepted',
        '_announces_end',
        '_commands_full_s',
        '_connected',
        '_corked',
        '_dispatch',
        '_expires_at',
        '_on_ended',
        '_ping_at_s',
        '_pong_is_due',
        '_queue',
        '_reader',
        '_refused_in_row',
        '_restores_left',
        '_session',
        '_timer_slot',
        '_working',
        'channels',
        'codec',
        'command_id',
        'data',
        'endpoint',
        'headers',
        'meta',
        'name',
        'reply',
        'state',
        'token',
        'version',
    )

    hub: Hub

    #: State after a connect that succeeded.
    connected_state = ConnectionState.CONNECTED

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        codec: ClientCodec,
        req: Any,
        dispatch: Dispatch,
        *,
        session: str = '',
        announces_end: bool = False,
        on_ended: Callable[[ClientConnection], None] | None = None,
    ) -> None:
        endpoint.begin_connection()
        super().__init__(
            endpoint.node.hub, transport, get_encoder(codec, transport.framing), req
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
        self.channels: dict[str, tuple[Any, Any, TagFilter | None]] = {}
        self.expires_at: float | None = None
        self.meta: Any = None
        self._dispatch = dispatch
        self._session = session
        #: Whether ``on_connect`` has accepted the client.
        self._accepted = False
        self._announces_end = announces_end
        self._on_ended = on_ended
        #: Commands that wait, or ``None``.
        self._queue: CommandQueue | None = None
        self._working = False
        #: Done when the client has read its replies; commands wait for it.
        self._reader: asyncio.Future[None] | None = None
        #: Done when the connect reply is queued, or the connection has ended.
        self._connected: asyncio.Future[None] | None = None
        self._corked = False
        #: When the bucket of commands is full; see `rate_limit`.
        self._commands_full_s = 0.0
        self._refused_in_row = 0
        #: Number of further subscribe requests that can count as restored
        #: subscriptions.
        self._restores_left = endpoint.max_channels
        self._ping_at_s = 0.0
        #: Whether `_ping_at_s` is the time at which the pong is due.
        self._pong_is_due = False
        self._timer_slot = endpoint.timers.add(
            self, endpoint.now_s() + endpoint.options.connect_timeout_s
        )

    @property
    def session(self) -> str:
        """Secret of a connection whose commands arrive as requests, else ``''``."""
        return self._session

    @property
    def kind(self) -> ClientKind:
        """How the client is connected."""
        transport = 'websocket'
        if isinstance(self.transport, HttpStreamTransport):
            transport = 'sse' if self.transport.framing is EVENTS else 'http_stream'
        protocol = 'protobuf' if self.codec.binary else 'json'
        return ClientKind(transport, protocol, self.name, self.version)

    @property
    def expires_at(self) -> float | None:
        """Unix time in seconds at which the connection ends, or ``None``.

        Raises:
            InvalidValueError: A new value is not a finite number.
        """
        return self._expires_at

    @expires_at.setter
    def expires_at(self, expires_at: float | None) -> None:
        self._expires_at = check_time('connection.expires_at', expires_at)
        self.set_timer()

    @property
    def connected(self) -> bool:
        """Whether the client has been identified and accepted."""
        return self.state not in _NOT_CONNECTED

    @property
    def is_working(self) -> bool:
        """Whether a command is being carried out."""
        return self._working

    @property
    def num_waiting(self) -> int:
        """Number of commands that wait; see `CommandQueue`."""
        return 0 if self._queue is None else len(self._queue)

    def add_channel(
        self,
        channel: str,
        *,
        info: Any = None,
        data: Any = None,
        filter: TagFilter | None = None,
    ) -> None:
        """Subscribe the connection to a channel as soon as it is accepted.

        ``on_subscribe`` is not called, because the application has decided.

        Args:
            channel: Name of the channel.
            info: Public information about the subscription, any JSON value.
            data: Data for the client, any JSON value.
            filter: Tag filter of the publications that the client receives; see
                `falcon_channels.filters`. ``None`` means all of them.

        Raises:
            InvalidValueError: A value cannot be written as JSON, or `filter` is not a
                filter.
        """
        self.channels[channel] = (
            check_json('info of add_channel', info),
            check_json('data of add_channel', data),
            check_filter('filter of add_channel', filter),
        )

    def forget_channel(self, channel: str) -> None:
        """Called when the application ends the subscriptions to a channel."""
        if channel:
            self.channels.pop(channel, None)
        else:
            self.channels.clear()

    def apply_token(self, claims: ConnectionToken) -> None:
        """Take the user, the information and the channels of a verified token."""
        self.user = claims.user
        self.info = claims.info
        self.meta = claims.meta
        self.expires_at = claims.expires_at
        for channel, claim in claims.channels.items():
            self.add_channel(
                channel, info=claim.info, data=claim.data, filter=claim.filter
            )

    def renew_token(self, token: str) -> None:
        """Remember a new connection token.

        Raises:
            ProtocolError: The token is too large.
        """
        _check_token(token)
        self.token = token

    @property
    def sends_commands(self) -> bool:
        """Whether the client sends commands, such as a refresh, after its connect."""
        return self.connected_state is not ConnectionState.UNIDIRECTIONAL

    @property
    def has_token(self) -> bool:
        """Whether the client has sent a token, and could extend its connection."""
        endpoint = self.endpoint
        accepts = endpoint.tokens is not None or endpoint.on_refresh is not None
        return bool(self.token) and accepts

    @property
    def rights(self) -> Rights:
        """The values that `restore_rights` sets again."""
        return Rights(self.user, self.info, self.meta, self.expires_at, self.token)

    def restore_rights(self, rights: Rights) -> None:
        """Set the values from before a refresh that was refused."""
        self.info, self.meta, self.expires_at, self.token = rights[1:]
        if self.user != rights.user:
            self.user = rights.user
        self.set_timer()

    # --- input -----------------------------------------------------------------------

    def on_message(self, message: str | bytes) -> None:
        """Called when a frame arrives: queue its commands."""
        if self.closed:
            return
        self.hub.counters.received_bytes += len(message)
        limit_bytes = self.endpoint.max_batch_bytes
        if isinstance(message, str) and len(message) * 4 > limit_bytes:
            size_bytes = len(message.encode(errors='surrogatepass'))
        else:
            size_bytes = len(message)
        if size_bytes > limit_bytes:
            log_too_big(self, size_bytes, 'max_batch_bytes', limit_bytes)
            self.disconnect(MESSAGE_TOO_BIG, f'over {limit_bytes} bytes')
            return
        if isinstance(message, bytes) is not self.codec.binary:
            self.disconnect(
                UNSUPPORTED_DATA,
                'binary messages only' if self.codec.binary else 'text messages only',
            )
            return
        commands = self.decode(message)
        queue = self._queue
        # NOTE: a pong is decoded at once; see `_on_pong`.
        if (
            queue is not None
            and queue.first_frame is not None
            and len(message) > len(self.codec.protocol.PING)
        ):
            queue.add_frame(commands)
        elif self._decode_batch(commands):
            self._open_queue().add_frame(commands)
        if self._queue is not None and not self._working and not self.closed:
            self._working = True
            self.hub.tasks.spawn(
                self._work(self._queue),
                'commands',
                graceful=True,
                connection=self,
                context=self.context,
            )

    def _open_queue(self) -> CommandQueue:
        """Return the queue, or a new one."""
        queue = self._queue
        if queue is None:
            queue = self._queue = CommandQueue(self.transport)
        return queue

    def decode(self, message: str | bytes) -> Iterator[Command]:
        """Return an iterator that decodes the commands of a frame.

        The iterator raises `ProtocolError` at a malformed command.
        """
        return self.codec.protocol.decode_commands(message, self.endpoint.frame_limits)

    def _decode_batch(self, commands: Iterator[Command]) -> bool:
        """Queue the next commands of a frame.

        Returns:
            Whether the frame may have more commands.
        """
        try:
            batch = list(itertools.islice(commands, BATCH))
        except ProtocolError as ex:
            # NOTE: a correct client can exceed a limit. The operator can then raise the
            #   limit.
            level = logging.WARNING if ex.code == MESSAGE_TOO_BIG else logging.INFO
            _logger.log(level, '%r sent an invalid command: %s', self, ex)
            self.disconnect(ex.code, ex.reason)
            return False
        for command in batch:
            if command.request is None:
                self._on_pong(command)
            else:
                self._open_queue().add(command)
        return len(batch) == BATCH

    async def _work(self, queue: CommandQueue) -> None:
        """Carry out queued commands, one after the other, until there are none."""
        num_carried_out = 0
        try:
            while not self.closed:
                if self.granted_bytes > self.hub.options.max_backlog_bytes and queue:
                    await self._wait_until_read()
                    continue
                command = queue.take()
                if command is None:
                    if queue.first_frame is None:
                        break
                    await self._decode_more(queue)
                    continue
                verdict = check_command(self.state, command)
                if verdict is CommandAction.ACCEPT:
                    if self._admit(command):
                        await self._dispatch(self, command)
                elif verdict is CommandAction.DISCONNECT:
                    self.disconnect(*codes.DISCONNECT_BAD_REQUEST)
                num_carried_out += 1
                if num_carried_out % BATCH == 0:
                    await asyncio.sleep(0)
        finally:
            self._working = False
            self._queue = None

    async def _decode_more(self, queue: CommandQueue) -> None:
        """Decode more commands of the first frame that is not decoded completely."""
        await asyncio.sleep(0)
        frame = queue.first_frame
        if frame is not None and not self._decode_batch(frame):
            queue.remove_frame()

    async def carry_out_only(self, command: Command) -> None:
        """Carry out the only command of a unidirectional client."""
        self._working = True
        if self._admit(command):
            await self._dispatch(self, command)
        self._working = False
        self.keep_context()

    def _admit(self, command: Command) -> bool:
        """Begin a command; refuse it and return ``False`` if the rates forbid it."""
        self.command_id = command.id
        if self._take_from_rates(command):
            return True
        self.hub.counters.too_fast += 1
        error = codes.TOO_MANY_REQUESTS
        field = command.request.field if command.request is not None else ''
        end = self.disconnect_for_error(error)
        if self._refused_in_row > self.endpoint.options.max_refused_commands:
            end = codes.DISCONNECT_TOO_MANY_REQUESTS
        code = error.code if end is None else end.code
        log_refusal(self, field, '', code, error.message, reason=error.code)
        if end is not None:
            self.disconnect(*end)
        elif command.id:
            self.reply_error(error)
        return False

    def _take_from_rates(self, command: Command) -> bool:
        """Count a command; return whether the rates allow it."""
        endpoint = self.endpoint
        rate = endpoint.rate
        allowed = True
        if rate is not None:
            allowed, self._commands_full_s = rate.take(
                self._commands_full_s, endpoint.now_s()
            )
        if allowed and self.user and endpoint.user_rates is not None:
            allowed = self._take_from_user(command, endpoint.now_s())
        self._refused_in_row = 0 if allowed else self._refused_in_row + 1
        return allowed

    def _take_from_user(self, command: Command, now_s: float) -> bool:
        """Count a command of a user; return whether the user's rates allow it.

        A user can reconnect with many connections at once, and each of them subscribes
        to its channels. This is normal. The first subscriptions of a connection
        therefore count towards another rate, up to the maximum number of its channels.

        SECURITY: a user could connect again and again to subscribe without a limit. The
        burst of the other rate therefore depends on the connections that are open now.
        """
        endpoint = self.endpoint
        if endpoint.user_rates is None or endpoint.restore_rates is None:
            return True
        if self._restores_left and isinstance(command.request, SubscribeRequest):
            self._restores_left -= 1
            count = self.hub.connections.count_of_user(self.user)
            burst = count * endpoint.max_channels
            if endpoint.restore_rates.take(self.user, now_s, burst):
                return True
        return endpoint.user_rates.take(self.user, now_s)

    async def _wait_until_read(self) -> None:
        """Wait until the client has read its replies, or the connection has ended.

        SECURITY: a client that requests data and never reads would fill the memory. Its
        next command therefore waits until it has read the previous large reply.
        """
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader

    def on_all_read(self) -> None:
        """Called when the client has read all pending output."""
        super().on_all_read()
        self._wake_reader()

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _on_pong(self, command: Command) -> None:
        # NOTE: a pong does not wait in the queue of commands. Otherwise a client would
        #   be disconnected while a responder works on one of its commands.
        verdict = check_command(self.state, command)
        if verdict is CommandAction.ACCEPT:
            self.state = ConnectionState.CONNECTED
        elif verdict is CommandAction.DISCONNECT:
            self.disconnect(*codes.DISCONNECT_BAD_REQUEST)

    # --- connecting ------------------------------------------------------------------

    def accept_connect(self, request: ConnectRequest, data: Any) -> None:
        """Store the description that the client sent of itself.

        Args:
            request: The connect request.
            data: Its data as Python values.

        Raises:
            ProtocolError: The token or the headers are too large.
        """
        _check_token(request.token)
        _check_headers(request.headers)
        self.token = request.token
        self.name = request.name[:64]
        self.version = request.version[:64]
        self.headers = request.headers
        self.data = data

    def note_accepted(self) -> None:
        """Called when ``on_connect`` has returned.

        ``on_disconnect`` is called for each client that ``on_connect`` has accepted, so
        that the application can release what it has stored for the client. The client
        may have left while ``on_connect`` was working.
        """
        self._accepted = True
        if self.closed:
            self._call_on_disconnect()

    def requested_channels(
        self, request: ConnectRequest
    ) -> dict[str, SubscribeRequest]:
        """Return the channels that a connect request asks for.

        A client that sends commands asks for each channel by a command of its own. The
        channels of its connect request are those of the application.
        """
        return {}

    def forget_data(self) -> None:
        """Forget what the client sent to connect, after ``on_connect``."""
        self.data = None

    def begin_subscriptions(self) -> None:
        """Buffer all output until `complete_connect`, because the reply is first.

        The buffer is bounded like the backlog of a client that does not read: the
        policies of the channels apply, and `NodeOptions.max_backlog_bytes`.
        """
        self.state = self.connected_state
        self._corked = True
        self.out = EarlyOutput(self)

    def complete_connect(self, result: ConnectResult) -> None:
        """Answer a connect that succeeded, and begin to ping."""
        self.send_connect_result(result)
        interval_s = self.endpoint.options.ping_interval_s
        if interval_s is not None:
            self._ping_at_s = self.endpoint.now_s() + self.endpoint.first_ping_after_s(
                interval_s
            )
        self.set_timer()
        self._wake_connected()

    def send_connect_result(self, result: ConnectResult) -> None:
        """Send the connect reply, and the buffered output after it."""
        self._uncork(self.codec.protocol.encode_reply(self.command_id, result))

    def disconnect_for_error(self, error: codes.ReplyError) -> codes.Disconnect | None:
        """Return the disconnect that this kind of client gets instead of an error."""
        return None

    def refuse_connect(self, error: codes.ReplyError) -> None:
        """Answer connect with an error; no command of this client is read any more."""
        self._corked = False
        self.out = None
        for subscription in list(self.subscriptions.values()):
            self.hub.leave(subscription)
        self.state = ConnectionState.REFUSED
        self.reply_error(error)
        self._set_timer_at(self.endpoint.now_s() + 1)

    async def wait_until_connected(self) -> None:
        """Wait until the connect reply is queued, or the connection has ended.

        SECURITY: a client that was refused is never connected. ``on_connect`` may have
        set its user before it failed.
        """
        if self.closed or not (self.state in _NOT_CONNECTED or self._corked):
            return
        if self._connected is None:
            self._connected = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._connected])

    def _wake_connected(self) -> None:
        connected, self._connected = self._connected, None
        if connected is not None and not connected.done():
            connected.set_result(None)

    def _uncork(self, *payloads: bytes) -> None:
        """Send `payloads`, and then the buffered output."""
        self._corked = False
        if self.closed:
            return
        reply = self.encoder.framing.frame(payloads, binary=self.codec.binary)
        buffered = self.out
        assert buffered is not None
        self.out = [reply, *buffered]
        self.hub.on_output(self)
        # NOTE: a LAGGING subscription waits for its transport to become writable. The
        #   transport was never busy before this reply, and would not report that.
        self.hub.catch_up(self)
        # NOTE: each part was bounded before, and the client could not read any of them
        #   yet. The sum therefore does not count towards the backlog limit.
        self.grant(sum(map(count_bytes, self.out)))

    # --- output ----------------------------------------------------------------------

    def push(self, channel: str, push: Push) -> None:
        """Send a push about a channel, or about the connection for ``''``."""
        self.send(self.codec.encode_push(channel, push))

    def reply_to_command(self, result: Result) -> None:
        """Send the result of the command that is being carried out."""
        self.send(self.codec.protocol.encode_reply(self.command_id, result))

    def reply_with_data(self, result: Result) -> None:
        """Send a result that can be large.

        The client asked for it. It does not count towards the backlog limit, but the
        next command waits until the client has read it.
        """
        payload = self.codec.protocol.encode_reply(self.command_id, result)
        self.grant(len(payload))
        self.send(payload)

    def reply_error(self, error: codes.ReplyError) -> None:
        """Answer the command that is being carried out with an error."""
        self.send(self.codec.protocol.encode_error(self.command_id, error))

    def encode_publications(
        self,
        channel: str,
        epoch: str,
        publications: Sequence[Publication],
        *,
        delta: bool = False,
    ) -> list[Publication] | EncodedPublications:
        """Encode the publications of a result once for all clients that recover them.

        Args:
            channel: Name of the channel.
            epoch: Epoch of the publications.
            publications: The publications.
            delta: Whether to encode them for a subscription with delta.

        Returns:
            Encoded parts, or the publications for the first client that asks for them.

        Raises:
            ProtocolError: A publication cannot be sent in this encoding.
        """
        if not publications:
            return []
        pieces: list[bytes] | None = []
        if delta:
            publications = with_deltas(publications, None)
            # NOTE: the first publication is whole. Other clients recover it as a delta.
            #   The two forms are therefore stored separately.
            first = self._encode_parts(channel, epoch, publications[:1], 'whole')
            rest = self._encode_parts(channel, epoch, publications[1:], 'delta')
            pieces = None if first is None or rest is None else first + rest
        else:
            pieces = self._encode_parts(channel, epoch, publications)
        return list(publications) if pieces is None else EncodedPublications(pieces)

    def _encode_parts(
        self,
        channel: str,
        epoch: str,
        publications: Sequence[Publication],
        form: str = '',
    ) -> list[bytes] | None:
        return self.hub.shared_encodings.pieces(
            (self.codec, type(self).part_encoder, channel, epoch, form),
            publications,
            self.part_encoder(channel),
        )

    def part_encoder(self, channel: str) -> Callable[[Publication], bytes]:
        """Return the function that encodes a publication as a part of a result."""
        return self.codec.protocol.encode_result_publication

    def send_message(self, data: bytes) -> None:
        """Send a message of the application to this client.

        Args:
            data: JSON text in UTF-8, or any bytes to a client that speaks Protobuf.

        Raises:
            InvalidValueError: The bytes are not JSON, and the client speaks JSON.
        """
        self.push('', MessagePush(data=self.encode_value(data)))

    def encode_value(self, value: Any) -> bytes:
        """Encode a value of the application for this client.

        Raises:
            InvalidValueError: The value cannot be sent to this client.
        """
        try:
            payload, binary = encode_payload(value)
        except PayloadError as ex:
            raise InvalidValueError(str(ex)) from None
        if binary and not self.codec.carries_binary and not is_json(payload):
            raise InvalidValueError(
                f'these {len(payload)} bytes are not JSON, and {self!r} speaks JSON: '
                'use a JSON value, or a client that speaks Protobuf'
            )
        return payload

    @property
    def backlog_bytes(self) -> int:
        """Bytes for the client that are still buffered in this process.

        Output that waits for the connect reply is included.
        """
        buffered_bytes = self.out.size_bytes if isinstance(self.out, EarlyOutput) else 0
        return buffered_bytes + self.transport.backlog_bytes

    def flush(self) -> int:
        """Write the queued output; return the backlog in bytes."""
        if isinstance(self.out, EarlyOutput):
            return self.out.check()
        return super().flush()

    def disconnect(self, code: int, reason: str) -> None:
        """Close with a code, after the queued output.

        NOTE: code 3000 means that the connection ended without a disconnect. As with
        Centrifugo, the client gets neither a push nor a code, and connects again.
        """
        if self._corked:
            self._corked = False
            self.out = None
        if code == codes.DISCONNECT_CONNECTION_CLOSED.code:
            code, reason = NO_STATUS, ''
        elif self._announces_end and not self.closed:
            self.push('', DisconnectPush(code, reason, codes.reconnects(code)))
        super().disconnect(code, reason)

    # --- what the hub reports --------------------------------------------------------

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        """Called when the server has ended a subscription: tell the client."""
        if subscription.server_side and code >= codes.FIRST_RESUBSCRIBE_CODE:
            # NOTE: the client does not subscribe again to a server-side channel. The
            #   connection ends, and the next connect recovers the channel.
            self.disconnect(*disconnect_for_unsubscribe(code))
            return
        self.push(subscription.channel, UnsubscribePush(code=code, reason=reason))

    def on_subscribed(self, subscription: Subscription, joined: Joined) -> None:
        """Called when the server has subscribed the connection: tell the client."""
        options = subscription.route.options
        position = joined.position
        if joined.publications:
            # NOTE: the client counts up from this position with each publication.
            position = Position(joined.publications[0].offset - 1, position.epoch)
        reply = subscription.reply
        self.push(
            subscription.channel,
            SubscribePush(
                recoverable=options.recovery_mode != 'off',
                positioned=options.history_size > 0,
                epoch=position.epoch,
                offset=position.offset,
                data=None if reply is None else self.encode_value(reply),
            ),
        )
        blob = self.encoder.encode(
            subscription.channel, joined.publications, position.epoch
        )
        if blob is not None:
            self.send_blob(blob)
        if subscription.expires_at is not None:
            self.set_timer()

    def on_refresh(self, expired: bool, expires_at: float | None, info: Any) -> None:
        """Called when the application refreshes the user's connections."""
        super().on_refresh(expired, expires_at, info)
        if expires_at is not None and not self.closed:
            self.expires_at = expires_at

    def on_expiry_changed(self, subscription: Subscription) -> None:
        """Called when `Subscription.expires_at` was set after the join."""
        self.set_timer()

    def on_unread(self) -> None:
        """Called when the server does not read the stream of the connection: end it."""
        if not self.closed:
            _logger.warning(
                '%r ends: its stream was never read, because another response was sent',
                self,
            )
            self.disconnect(*codes.DISCONNECT_STALE)

    def on_end(self) -> None:
        """Called when the connection has ended: release everything, tell the app."""
        connected = self._accepted or self.state in (
            ConnectionState.CONNECTED,
            ConnectionState.PINGED,
            ConnectionState.UNIDIRECTIONAL,
        )
        self.state = ConnectionState.CLOSED
        self.endpoint.timers.discard(self, self._timer_slot)
        self._timer_slot = 0
        if self._on_ended is not None:
            self._on_ended(self)
        if self._queue is not None:
            self._queue.clear()
        self._wake_reader()
        self._wake_connected()
        if connected:
            self._call_on_disconnect()

    def _call_on_disconnect(self) -> None:
        responder = self.endpoint.on_disconnect
        if responder is not None:
            notify(
                self.hub,
                self.endpoint.operations,
                responder,
                'on_disconnect',
                self,
                self,
                self.req,
                self,
            )

    # --- timers ----------------------------------------------------------------------

    def set_timer(self) -> None:
        """Set the timer to the next ping, deadline or expiry.

        Before the connect reply, the deadline of the connect stays. After a refusal,
        the time at which the connection is closed stays.
        """
        if self.closed or self.state in _NOT_CONNECTED or self._corked:
            return
        times = []
        if self.endpoint.options.ping_interval_s is not None:
            times.append(self._ping_at_s)
        ends = [
            self._end_of(subscription, subscription.expires_at)
            for subscription in self.subscriptions.values()
            if subscription.expires_at is not None
        ]
        if self.expires_at is not None:
            ends.append(self._end_s(self.expires_at))
        if ends:
            times.append(self.endpoint.now_s() + min(ends) - time.time())
        if times:
            self._set_timer_at(min(times))

    def _set_timer_at(self, when_s: float) -> None:
        self._timer_slot = self.endpoint.timers.add(self, when_s, self._timer_slot)

    def on_due(self, now_s: float) -> None:
        """Called when the timer is due: close, ping, or end what has expired."""
        self._timer_slot = 0
        if self.closed or self.state is ConnectionState.REFUSED:
            self.disconnect(*codes.DISCONNECT_STALE)
            return
        if self.state is ConnectionState.NEW or self._corked:
            # NOTE: after the first code a client connects again: its responder was too
            #   slow. After the second it does not: it sent no command in time.
            self.disconnect(
                *(
                    codes.DISCONNECT_INTERNAL
                    if self._working
                    else codes.DISCONNECT_STALE
                )
            )
            return
        self._end_expired()
        if self.closed:
            return
        interval_s = self.endpoint.options.ping_interval_s
        if interval_s is not None and now_s >= self._ping_at_s:
            self._ping_or_check(now_s, interval_s)
        if not self.closed:
            self.set_timer()

    def _ping_or_check(self, now_s: float, interval_s: float) -> None:
        pong_s = min(self.endpoint.options.pong_timeout_s, interval_s)
        if self.state is ConnectionState.PINGED:
            self.disconnect(*codes.DISCONNECT_NO_PONG)
        elif self._pong_is_due:
            self._pong_is_due = False
            self._ping_at_s += interval_s - pong_s
        else:
            self.send_blob(self.endpoint.ping(self.encoder, self.codec))
            if self.state is ConnectionState.CONNECTED:
                self.state = ConnectionState.PINGED
                self._pong_is_due = True
                self._ping_at_s = now_s + pong_s
            else:
                self._ping_at_s = now_s + interval_s

    def _end_expired(self) -> None:
        now_s = time.time()
        if self.expires_at is not None and self._end_s(self.expires_at) <= now_s:
            self.note_expiry()
            self.disconnect(*codes.DISCONNECT_EXPIRED)
            return
        for subscription in list(self.subscriptions.values()):
            expires_at = subscription.expires_at
            if expires_at is not None and (
                self._end_of(subscription, expires_at) <= now_s
            ):
                self.hub.expire(subscription)

    def _end_s(self, expires_at: float) -> float:
        """Return the Unix time at which the connection ends after it has expired."""
        return expires_at + self._grace_s(self.has_token)

    def _end_of(self, subscription: Subscription, expires_at: float) -> float:
        """Return the Unix time at which a subscription ends after it has expired."""
        return expires_at + self._grace_s(subscription.token_verified)

    def _grace_s(self, has_token: bool) -> float:
        # SECURITY: a client that cannot refresh would keep its rights for longer.
        refreshes = has_token and self.sends_commands
        return self.endpoint.options.expiry_grace_s if refreshes else 0.0


# SECURITY: a client could fill the memory, because the headers and the token are stored
#   as long as its connection. A dict of 6,000 short headers takes 600 KiB.


def _check_headers(headers: Mapping[str, str]) -> None:
    if len(headers) > MAX_HEADERS:
        raise ProtocolError(
            f'{len(headers)} headers of a connect request exceed {MAX_HEADERS}',
            reason=f'over {MAX_HEADERS} headers',
        )
    size_bytes = sum(len(text.encode()) for pair in headers.items() for text in pair)
    if size_bytes > MAX_HEADERS_BYTES:
        raise ProtocolError(
            f'{size_bytes} bytes of headers in a connect request exceed '
            f'{MAX_HEADERS_BYTES}',
            reason=f'over {MAX_HEADERS_BYTES} bytes of headers',
        )


def _check_token(token: str) -> None:
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise ProtocolError(
            f'a token of {len(token)} characters exceeds {MAX_TOKEN_CHARACTERS}',
            *codes.DISCONNECT_INVALID_TOKEN,
        )
