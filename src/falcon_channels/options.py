"""Options objects. Wrong or contradictory values raise an error at creation.

If a field has a unit, the unit is part of its name. ``None`` means "no limit" where it
is allowed. It never means "the default".
"""

from __future__ import annotations

import difflib
import logging
from typing import Any
from typing import Literal
from typing import TYPE_CHECKING

import msgspec
import msgspec.inspect

from falcon_channels.checks import check_type
from falcon_channels.checks import is_utf_8
from falcon_channels.checks import MAX_NUMBER
from falcon_channels.checks import shown
from falcon_channels.errors import OptionsError

_logger = logging.getLogger('falcon_channels')

Recovery = Literal['auto', 'stream', 'latest', 'off']
JoinLeave = Literal['off', 'connection', 'user']
Publishers = Literal['auto', 'nobody', 'subscribers', 'anybody']
Subscribers = Literal['auto', 'users', 'anybody']
SlowReader = Literal['close', 'drop_oldest', 'latest']


#: Default of `ChannelOptions.max_publication_bytes`.
_DEFAULT_PUBLICATION_BYTES = 65536
#: Size in bytes of a subscribe request with a name, token and position of usual length.
_SUBSCRIBE_BYTES = 1024
#: Largest batch in bytes that nodes pass on to each other; see `cluster.chunks`.
_MAX_BATCH_BYTES = 4 * 1024 * 1024 - 1024


class _OptionsType(msgspec.StructMeta):
    """The type of all classes of options; it explains arguments that do not exist."""

    # NOTE: type checkers read the fields of a class. This method would hide them.
    if not TYPE_CHECKING:

        def __call__(cls, *args: Any, **options: Any) -> Any:
            unknown = [name for name in options if name not in cls.__struct_fields__]
            if args or unknown:
                raise TypeError(_mistake(cls, unknown))
            return super().__call__(**options)


def _mistake(kind: msgspec.StructMeta, unknown: list[str]) -> str:
    """Return what is wrong with the arguments of a class of options."""
    known = kind.__struct_fields__
    if not unknown:
        return (
            f'{kind.__name__} takes its options by name, such as '
            f'{kind.__name__}({known[0]}=...)'
        )
    name = unknown[0]
    # NOTE: a name without its unit or its end, such as `leave_grace`, is usual, too.
    near = difflib.get_close_matches(name, known, 1, cutoff=0.72)
    near += [other for other in known if other.startswith(f'{name}_')]
    hints = [f'did you mean {near[0]!r}?'] if near else []
    hints += [
        f'{other.__name__} has this option'
        for other in OPTION_KINDS
        if name in other.__struct_fields__
    ]
    return (
        f'{kind.__name__} has no option {name!r}: '
        f'{" ".join(hints) or "it has " + ", ".join(known)}'
    )


class ChannelOptions(msgspec.Struct, frozen=True, kw_only=True, metaclass=_OptionsType):
    """Options of the channels of one route.

    Attributes:
        history_size: Number of publications that a channel stores (default 0: none).
        history_ttl_s: Seconds for which a publication is stored (default 86400, one
            day), or ``None`` for no limit.
        meta_ttl_s: Seconds without a publication after which the broker may forget the
            offset and epoch of a channel (default 2592000, 30 days), or ``None`` for
            never. Older positions cannot be recovered.
        recovery: Publications for a client that subscribes again with its position
            (default ``'auto'``). ``'stream'``: all missed publications, or the answer
            that recovery failed. ``'latest'``: the newest publication, for channels
            that carry a state. ``'off'``: none. ``'auto'``: ``'stream'`` if there is
            history, else ``'off'``.
        send_latest: Whether a client that subscribes without a position gets the newest
            publication (default ``False``). Needs ``recovery='latest'``.
        recovery_limit: Maximum number of recovered publications (default 1000). A
            client that missed more is told that it could not recover.
        recovery_limit_bytes: Maximum size of recovered publications, in approximate
            bytes (default 4194304, 4 MiB).
        presence: Whether the channel tracks its subscribers (default ``False``).
        presence_ttl_s: Seconds after which the presence entry of a connection
            disappears if its process died (default 60).
        join_leave: Whether subscribers receive joins and leaves (default ``'off'``).
            ``'connection'``: for each connection. ``'user'``: a join for a user's first
            connection, and a leave for the user's last connection; it needs `presence`.
            An SDK's client receives them if it asks for them (``joinLeave`` in
            JavaScript).
        force_join_leave: Whether an SDK's client receives joins and leaves even if it
            did not ask for them (default ``False``).
        leave_grace_s: Seconds for which a lost connection still counts as present
            (default 0). If the user returns within that time, there is no leave. Needs
            ``join_leave='user'``.
        subscribers: Clients that may subscribe, unless ``on_subscribe`` refuses
            (default ``'auto'``). ``'users'``: clients that have a user, and those whose
            subscription token names the channel. ``'anybody'``: all clients.
            ``'auto'``: clients that ``on_subscribe`` accepts; without that responder,
            only clients with a subscription token. The application itself can subscribe
            any client.
        client_filters: Whether a client may send a tag filter with its subscription
            (default ``False``: it is refused). A filter of ``on_subscribe`` needs no
            option.
        delta: Whether an SDK may ask for ``delta: 'fossil'`` (default ``False``). It
            then receives a publication as the change from the one before it.
            Subscriptions with a filter get no deltas.
        publishers: Clients that may publish, unless ``on_publish`` refuses (default
            ``'auto'``). ``'nobody'``, ``'subscribers'`` or ``'anybody'``. ``'auto'``:
            subscribers if the resource has ``on_publish``, else nobody.
        data_type: Type of the data that clients publish (default ``None``: any JSON).
            Any type that msgspec can validate, such as a Struct.
        binary: Whether a payload may be any bytes (default ``False``: it must be
            JSON). Only clients that use Protobuf, and code of the application, can then
            subscribe and read the history.
        max_publication_bytes: Maximum size of a payload and its tags in bytes (default
            65536, 64 KiB).
        slow_reader: Policy for a subscriber that reads too slowly (default
            ``'close'``). ``'close'``: it is disconnected and may recover.
            ``'drop_oldest'``: it loses the oldest publications. ``'latest'``: it gets
            the newest publication when it reads again.
        max_backlog_bytes: Number of bytes buffered for one subscriber above which
            `slow_reader` applies (default 1048576, 1 MiB).
        idempotency_ttl_s: Seconds for which an idempotency key is remembered (default
            300).
        record_deliveries: Whether facts about deliveries are recorded in memory, for
            `Channels.explain` (default ``False``). Needs history.
    """

    history_size: int = 0
    history_ttl_s: float | None = 86400.0
    meta_ttl_s: float | None = 30 * 86400.0
    recovery: Recovery = 'auto'
    send_latest: bool = False
    recovery_limit: int = 1000
    recovery_limit_bytes: int = 4194304
    presence: bool = False
    presence_ttl_s: float = 60.0
    join_leave: JoinLeave = 'off'
    force_join_leave: bool = False
    leave_grace_s: float = 0.0
    subscribers: Subscribers = 'auto'
    client_filters: bool = False
    delta: bool = False
    publishers: Publishers = 'auto'
    data_type: Any = None
    binary: bool = False
    max_publication_bytes: int = _DEFAULT_PUBLICATION_BYTES
    slow_reader: SlowReader = 'close'
    max_backlog_bytes: int = 1048576
    idempotency_ttl_s: float = 300.0
    record_deliveries: bool = False

    def __post_init__(self) -> None:
        _check_kinds(self)
        _at_least(self, 0, 'history_size', 'leave_grace_s')
        _at_least(
            self,
            1,
            'recovery_limit',
            'recovery_limit_bytes',
            'max_publication_bytes',
            'max_backlog_bytes',
        )
        _above_zero(
            self, 'history_ttl_s', 'meta_ttl_s', 'presence_ttl_s', 'idempotency_ttl_s'
        )
        _one_of(self, 'recovery', 'auto', 'stream', 'latest', 'off')
        _one_of(self, 'join_leave', 'off', 'connection', 'user')
        _one_of(self, 'subscribers', 'auto', 'users', 'anybody')
        _one_of(self, 'publishers', 'auto', 'nobody', 'subscribers', 'anybody')
        _one_of(self, 'slow_reader', 'close', 'drop_oldest', 'latest')
        if self.data_type is not None:
            _check_type(self.data_type)
        if self.binary and self.data_type is not None:
            raise OptionsError(
                'data_type checks JSON, which binary=True does not need: leave out one '
                'of the two'
            )
        if self.recovery in ('stream', 'latest') and not self.history_size:
            raise OptionsError(
                f'recovery={self.recovery!r} needs history: '
                'set history_size above 0, or recovery to "off"'
            )
        if self.send_latest and self.recovery != 'latest':
            raise OptionsError(
                f'send_latest=True needs recovery="latest", not {self.recovery!r}'
            )
        if self.recovery_mode == 'stream' and self.slow_reader != 'close':
            raise OptionsError(
                f'slow_reader={self.slow_reader!r} leaves gaps, which '
                'recovery="stream" does not allow: set recovery to "latest" or '
                '"off", or slow_reader to "close"'
            )
        if self.join_leave == 'user' and not self.presence:
            raise OptionsError('join_leave="user" needs presence=True')
        if self.force_join_leave and self.join_leave == 'off':
            raise OptionsError(
                'force_join_leave=True needs join_leave="connection" or "user"'
            )
        if self.leave_grace_s and self.join_leave != 'user':
            raise OptionsError('leave_grace_s needs join_leave="user"')
        if self.leave_grace_s >= self.presence_ttl_s:
            raise OptionsError(
                f'leave_grace_s of {self.leave_grace_s} must be below '
                f'presence_ttl_s of {self.presence_ttl_s}'
            )
        if self.max_backlog_bytes < self.max_publication_bytes:
            raise OptionsError(
                f'max_backlog_bytes of {self.max_backlog_bytes} is below '
                f'max_publication_bytes of {self.max_publication_bytes}'
            )
        if self.record_deliveries and not self.history_size:
            raise OptionsError(
                'record_deliveries=True needs history_size above 0, because a '
                'publication without history has no offset'
            )
        if self.meta_ttl_s is not None and (
            self.history_ttl_s is None or self.history_ttl_s > self.meta_ttl_s
        ):
            msgspec.structs.force_setattr(self, 'meta_ttl_s', self.history_ttl_s)

    @property
    def recovery_mode(self) -> Literal['stream', 'latest', 'off']:
        """The value of `recovery`, with ``'auto'`` resolved."""
        if self.recovery == 'auto':
            return 'stream' if self.history_size else 'off'
        return self.recovery


class NodeOptions(msgspec.Struct, kw_only=True, metaclass=_OptionsType):
    """Options of one process: limits for all channels of one `Channels` object.

    Attributes:
        allowed_origins: Origins of pages that may connect, besides the server's own
            (default none), such as ``'https://example.com'``. ``('*',)`` disables the
            check.
        max_channel_bytes: Maximum length of a channel name, in bytes of UTF-8 (default
            255).
        max_channels_per_connection: Maximum number of channels that one connection may
            subscribe to (default 128).
        max_message_bytes: Maximum size of one message or command from a client, in
            bytes (default 65536, 64 KiB).
        max_batch_bytes: Maximum size of several commands that a client sends together,
            in bytes (default 262144, 256 KiB). An SDK that reconnects sends the
            requests for all its channels together. If the value is below
            `max_message_bytes`, `max_message_bytes` is used.
        max_backlog_bytes: Maximum number of bytes buffered for one connection over all
            its channels (default 1048576, 1 MiB). Above it, the connection is closed as
            too slow.
        max_connections: Maximum number of connections to this process (default
            ``None``: no limit).
        history_limit: Maximum number of publications that a client gets in one history
            result (default 300).
        linger_s: Seconds for which a channel without subscribers stays subscribed at
            the broker (default 5).
        position_check_s: Seconds between two checks of each active channel's position
            against the broker's (default 40), or ``None`` for no checks.
        max_pending_bytes: Maximum number of bytes of one channel that are buffered
            while its position is being determined (default 8388608, 8 MiB). Above it,
            the log is read again.
        revoke_ttl_s: Seconds for which a revocation is valid, if the call does not say
            otherwise (default 86400, one day).
        drain_batch: Number of connections that are closed at once while draining
            (default 100).
        drain_interval_s: Seconds between two batches (default 0.1).
        drain_timeout_s: Maximum time for all batches, in seconds (default 15). Batches
            are larger if needed. Keep it below the drain timeout of the server.
        io_uring: Whether a delivery to many sockets may use one system call for all of
            them, if Linux allows it (default ``True``).
        max_record_bytes: Maximum size of the facts about deliveries that are recorded,
            in approximate bytes (default 16777216, 16 MiB). Above it, the oldest facts
            are forgotten.
        max_recorded_users: Maximum number of users that are recorded at the same time
            with `Channels.record_user` (default 100).
    """

    allowed_origins: tuple[str, ...] = ()
    max_channel_bytes: int = 255
    max_channels_per_connection: int = 128
    max_message_bytes: int = 65536
    max_batch_bytes: int = 262144
    max_backlog_bytes: int = 1048576
    max_connections: int | None = None
    history_limit: int = 300
    linger_s: float = 5.0
    position_check_s: float | None = 40.0
    max_pending_bytes: int = 8388608
    revoke_ttl_s: float = 86400.0
    drain_batch: int = 100
    drain_interval_s: float = 0.1
    drain_timeout_s: float = 15.0
    io_uring: bool = True
    max_record_bytes: int = 16777216
    max_recorded_users: int = 100

    def __post_init__(self) -> None:
        _check_kinds(self)
        _at_least(
            self,
            1,
            'max_channel_bytes',
            'max_channels_per_connection',
            'max_message_bytes',
            'max_batch_bytes',
            'max_backlog_bytes',
            'history_limit',
            'max_pending_bytes',
            'drain_batch',
            'max_recorded_users',
        )
        _at_least(self, 65536, 'max_record_bytes')
        if self.max_connections is not None:
            _at_least(self, 1, 'max_connections')
        _at_least(self, 0, 'linger_s', 'drain_interval_s')
        _above_zero(self, 'position_check_s', 'revoke_ttl_s', 'drain_timeout_s')
        if self.max_channel_bytes >= self.max_message_bytes:
            raise OptionsError(
                f'max_channel_bytes of {self.max_channel_bytes} must be below '
                f'max_message_bytes of {self.max_message_bytes}'
            )
        self.max_batch_bytes = max(self.max_batch_bytes, self.max_message_bytes)
        if self.max_batch_bytes > _MAX_BATCH_BYTES:
            raise OptionsError(
                f'max_batch_bytes and max_message_bytes must be at most '
                f'{_MAX_BATCH_BYTES}, because a process cannot pass on more to another '
                f'process: {self.max_batch_bytes} is too much'
            )

    def warn_of_small_batch(self) -> None:
        """Log a warning if a client with many channels may be unable to reconnect."""
        wanted_bytes = self.max_channels_per_connection * _SUBSCRIBE_BYTES
        if wanted_bytes > self.max_batch_bytes:
            _logger.warning(
                'a client that reconnects with max_channels_per_connection of %d '
                'channels and tokens sends about %d bytes, but max_batch_bytes is %d: '
                'raise it, or lower max_channels_per_connection',
                self.max_channels_per_connection,
                wanted_bytes,
                self.max_batch_bytes,
            )

    def warn_of_small_server(self, max_message_bytes: int | None) -> None:
        """Log a warning if the server refuses batches that these options allow.

        Args:
            max_message_bytes: Maximum size of a message that the server passes on, or
                ``None`` if it is unknown.
        """
        if max_message_bytes and max_message_bytes < self.max_batch_bytes:
            _logger.warning(
                'the server accepts messages of %d bytes (--ws-max-size), but '
                'max_batch_bytes is %d: a larger batch is closed with 1009',
                max_message_bytes,
                self.max_batch_bytes,
            )


class EndpointOptions(msgspec.Struct, kw_only=True, metaclass=_OptionsType):
    """Options of the connections of the client protocol.

    Attributes:
        ping_interval_s: Seconds between two pings of the server (default 25), or
            ``None`` for no pings.
        pong_timeout_s: Seconds within which a client must answer a ping (default 10).
        connect_timeout_s: Seconds within which a client must send ``connect`` (default
            15).
        expiry_grace_s: Seconds after the expiry of a token within which the client may
            still refresh it (default 25).
        commands_per_s: Rate of commands that one connection may send, per second
            (default 50), or ``None`` for no limit.
        commands_burst: Number of commands that one connection may send at once (default
            200).
        user_commands_per_s: Rate of commands that one user may send over all
            connections to this process, per second (default 200), or ``None`` for no
            limit. It does not apply to anonymous users.
        user_commands_burst: Number of commands that one user may send at once (default
            800).
        max_refused_commands: Number of consecutive commands refused by the rate limit
            after which the connection is closed (default 20).
        max_connections_per_user: Maximum number of connections of one user to this
            process (default ``None``: no limit). A further connection is closed with
            3504. It does not apply to anonymous users.
        allow_anonymous: Whether a client without a token may connect (default
            ``False``). It has an effect only if tokens are verified and there is
            no ``on_connect``.
    """

    ping_interval_s: float | None = 25.0
    pong_timeout_s: float = 10.0
    connect_timeout_s: float = 15.0
    expiry_grace_s: float = 25.0
    commands_per_s: float | None = 50.0
    commands_burst: int = 200
    user_commands_per_s: float | None = 200.0
    user_commands_burst: int = 800
    max_refused_commands: int = 20
    max_connections_per_user: int | None = None
    allow_anonymous: bool = False

    def __post_init__(self) -> None:
        _check_kinds(self)
        _at_least(
            self, 1, 'commands_burst', 'user_commands_burst', 'max_refused_commands'
        )
        _above_zero(
            self,
            'max_connections_per_user',
            'ping_interval_s',
            'pong_timeout_s',
            'connect_timeout_s',
            'commands_per_s',
            'user_commands_per_s',
        )
        _at_least(self, 0, 'expiry_grace_s')


class EventStreamOptions(msgspec.Struct, kw_only=True, metaclass=_OptionsType):
    """Options of a plain event stream and of long polling; see `Channels.serve_events`.

    Attributes:
        event_tag: Name of the tag of a publication that has the name of its event
            (default ``''``: no tag). A publication without the tag has the event name
            of its channel.
        json: Whether a payload that is a text is sent as JSON (default ``False``: the
            text as it is). Other payloads are always JSON.
        history: Maximum number of stored publications for a client without a position
            (default 0), or ``None`` for all. The limits of a recovery apply, too.
        start_event: Name of an event that is sent first, with the position as its data
            (default ``''``: no such event). The position is also in the id of the
            stream, but some clients ignore an id without data.
        end_event: Name of the event that tells the end of a channel (default
            ``'end'``). With ``''`` there is no such event, and the stream only ends.
            Use it for clients that cannot ignore unknown events.
        retry_ms: Milliseconds after which an EventSource connects again (default 3000).
        keepalive_s: Seconds between two comments that keep an idle stream open (default
            20), or ``None`` for no comments.
        poll_wait_s: Maximum number of seconds for which a poll waits (default 25).
    """

    event_tag: str = ''
    json: bool = False
    history: int | None = 0
    start_event: str = ''
    end_event: str = 'end'
    retry_ms: int = 3000
    keepalive_s: float | None = 20.0
    poll_wait_s: float = 25.0

    def __post_init__(self) -> None:
        _check_kinds(self)
        _at_least(self, 0, 'retry_ms')
        if self.history is not None:
            _at_least(self, 0, 'history')
        _above_zero(self, 'keepalive_s', 'poll_wait_s')
        for name in ('event_tag', 'start_event', 'end_event'):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise OptionsError(f'{name} is {shown(value)}, but must be text')
            if not is_utf_8(value):
                raise OptionsError(f'{name} is {shown(value)}, but must be UTF-8')
            if name != 'event_tag' and any(mark in value for mark in '\r\n\0'):
                raise OptionsError(f'{name} is {shown(value)}, but must be one line')


class StreamWriterOptions(msgspec.Struct, kw_only=True, metaclass=_OptionsType):
    """Options of the writer of a stream; see `Channels.stream`.

    Attributes:
        interval_s: Minimum time in seconds between two batches of chunks, on average
            (default 0.03). The first chunk after a pause is published at once. 0
            publishes a batch as soon as the previous one is stored.
        busy_interval_s: Maximum time in seconds for which the first chunk of a batch
            waits for more chunks (default 0.036). It applies while the process writes
            more than 10,000 chunks a second in all its streams. At 30 chunks a second,
            a batch then has two chunks. 0 also uses `interval_s` in a busy process.
        max_batch_bytes: Size in bytes of JSON (default 16384, 16 KiB). If the pending
            chunks have this size, they are published before the interval has passed.
            Longer texts are split.
        max_pending_bytes: Maximum number of bytes that the broker has not acknowledged
            (default 65536, 64 KiB). Above it, ``write`` waits.
        retry_timeout_s: Seconds for which the writer tries to store a batch again while
            the broker is not available (default 30).
        error_text: Error for readers if the block of the stream raises an exception
            (default ``'the stream has failed'``), at most 123 bytes of UTF-8. Readers
            never get the text of the exception.
        replay: Whether the producer starts from the beginning after a restart (default
            ``False``: it continues at the position of the stream). If ``True``, the
            writer drops the chunks that are already stored.
    """

    interval_s: float = 0.03
    busy_interval_s: float = 0.036
    max_batch_bytes: int = 16384
    max_pending_bytes: int = 65536
    retry_timeout_s: float = 30.0
    error_text: str = 'the stream has failed'
    replay: bool = False

    def __post_init__(self) -> None:
        _check_kinds(self)
        _at_least(self, 0, 'interval_s', 'busy_interval_s', 'max_pending_bytes')
        _at_least(self, 16, 'max_batch_bytes')
        _above_zero(self, 'retry_timeout_s')
        if not isinstance(self.error_text, str) or not self.error_text:
            raise OptionsError(
                f'error_text is {shown(self.error_text)}, but must be a text for '
                'readers'
            )


#: All classes of options of this module.
OPTION_KINDS = (
    ChannelOptions,
    NodeOptions,
    EndpointOptions,
    EventStreamOptions,
    StreamWriterOptions,
)


def check_channel_limits(
    template: str, channel: ChannelOptions, node: NodeOptions
) -> None:
    """Check that the limits of a route do not contradict those of its node.

    Raises:
        OptionsError: No client or no process could hold the largest publication.
    """
    for name in ('max_backlog_bytes', 'max_pending_bytes'):
        limit_bytes = getattr(node, name)
        if channel.max_publication_bytes > limit_bytes:
            raise OptionsError(
                f'max_publication_bytes of {channel.max_publication_bytes} of the '
                f'route {template!r} exceeds {name} of {limit_bytes} in NodeOptions'
            )


def warn_of_small_messages(
    template: str, channel: ChannelOptions, node: NodeOptions
) -> None:
    """Log a warning if clients cannot publish the sizes that a route allows."""
    # NOTE: it is no mistake if only the limit of messages was lowered. The lower limit
    #   then applies.
    reachable_bytes = max(node.max_message_bytes, _DEFAULT_PUBLICATION_BYTES)
    if channel.max_publication_bytes > reachable_bytes:
        _logger.warning(
            'the route %r has max_publication_bytes of %d, but a client can publish no '
            'more than max_message_bytes of %d in NodeOptions',
            template,
            channel.max_publication_bytes,
            node.max_message_bytes,
        )


def check_options(options: object, kind: type[msgspec.Struct]) -> None:
    """Check that an options object has the expected class.

    Raises:
        OptionsError: It has another class.
    """
    if not isinstance(options, kind):
        raise OptionsError(
            f'options must be {kind.__name__}(...), not {type(options).__name__}'
        )


def _check_type(data_type: Any) -> None:
    """Refuse a type that JSON cannot be decoded into, before a client publishes."""
    try:
        known = msgspec.inspect.type_info(data_type)
    except (TypeError, ValueError) as ex:
        raise OptionsError(f'data_type is {shown(data_type)}: {ex}') from None
    if isinstance(known, msgspec.inspect.CustomType):
        raise OptionsError(
            f'data_type is {shown(data_type)}, but JSON cannot be decoded into it: use '
            'a msgspec.Struct, a dataclass or a TypedDict'
        )


def _check_kinds(options: msgspec.Struct) -> None:
    """Check the options that are on or off, and those that cannot be ``None``."""
    for name, kind in type(options).__annotations__.items():
        value = getattr(options, name)
        if kind == 'bool':
            check_type(name, value, bool)
        elif value is None and kind != 'Any' and 'None' not in kind:
            raise OptionsError(f'{name} is None, but must be {kind}')


#: Largest number of seconds, which is 30,000 years.
_MAX_SECONDS = 1e12


def _at_least(options: msgspec.Struct, minimum: int, *names: str) -> None:
    for name in names:
        value = _number(options, name)
        if value < minimum:
            raise OptionsError(
                f'{name} is {shown(value)}, but must be at least {minimum}'
            )


def _above_zero(options: msgspec.Struct, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and not _number(options, name) > 0:
            raise OptionsError(f'{name} is {shown(value)}, but must be above 0')


def _number(options: msgspec.Struct, name: str) -> float:
    """Return the checked value of an option; only seconds may have a fraction."""
    value = getattr(options, name)
    is_time = name.endswith('_s')
    wanted = (int, float) if is_time else int
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise OptionsError(f'{name} is {shown(value)}, but must be a number')
    highest = _MAX_SECONDS if is_time else MAX_NUMBER
    # NOTE: comparisons with NaN are false. NaN is therefore out of range.
    if not abs(value) <= highest:
        raise OptionsError(
            f'{name} is {shown(value)}, but must be at most {highest:.0f}'
            + ('; use None for no limit' if is_time else '')
        )
    return value


def _one_of(options: msgspec.Struct, name: str, *choices: str) -> None:
    value = getattr(options, name)
    if value not in choices:
        raise OptionsError(f'{name} is {shown(value)}, but must be one of {choices}')
