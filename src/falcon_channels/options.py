"""Options: documented fields, units in the names, contradictions refused when built.

``None`` means "no limit" wherever it is allowed, and never "the default".
"""

from __future__ import annotations

import math
from typing import Any
from typing import Literal

import msgspec
import msgspec.inspect

from falcon_channels.errors import OptionsError

Recovery = Literal['auto', 'stream', 'latest', 'off']
JoinLeave = Literal['off', 'connection', 'user']
Publishers = Literal['auto', 'nobody', 'subscribers', 'anybody']
SlowReader = Literal['close', 'drop_oldest', 'latest']


class ChannelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the channels of one route can do.

    Attributes:
        history_size: How many publications a channel keeps; 0 keeps none.
        history_ttl_s: For how many seconds a publication is kept, or ``None``.
        meta_ttl_s: After how many seconds without a publication a channel's counter
            and epoch may be forgotten, or ``None``. Positions do not outlive it.
        recovery: What a client gets that subscribes again with its position.
            ``'stream'``: everything it missed, or word that this is impossible;
            ``'latest'``: the newest publication, for channels that carry a state;
            ``'off'``: nothing; ``'auto'``: ``'stream'`` where there is history.
        recovery_limit: How many publications are recovered at most; a client that
            missed more is told that it could not recover.
        recovery_limit_bytes: The same in bytes, about.
        presence: Whether it is known who is subscribed.
        presence_ttl_s: After how many seconds the entry of a connection whose process
            died disappears.
        join_leave: Whether subscribers are told who comes and goes: ``'connection'``:
            each connection; ``'user'``: a user's first connection and last.
        leave_grace_s: For how many seconds a lost connection counts as still there.
            Somebody who is back within that time did not leave; asks for
            ``join_leave='user'``.
        publishers: Which clients may publish, if ``on_publish`` does not object.
            ``'auto'``: subscribers where the resource has ``on_publish``, else nobody.
        data_type: The type of what clients publish (anything that msgspec can check,
            such as a Struct), or ``None`` for any JSON.
        max_publication_bytes: The largest payload.
        slow_reader: What happens to a subscriber that does not read fast enough.
            ``'close'``: it is disconnected and may recover; ``'drop_oldest'``: it
            misses the oldest; ``'latest'``: it gets the newest when it reads again.
        max_backlog_bytes: How much may wait for one subscriber before that.
        idempotency_ttl_s: For how many seconds an idempotency key is remembered.
    """

    history_size: int = 0
    history_ttl_s: float | None = 86400.0
    meta_ttl_s: float | None = 30 * 86400.0
    recovery: Recovery = 'auto'
    recovery_limit: int = 1000
    recovery_limit_bytes: int = 4194304
    presence: bool = False
    presence_ttl_s: float = 60.0
    join_leave: JoinLeave = 'off'
    leave_grace_s: float = 0.0
    publishers: Publishers = 'auto'
    data_type: Any = None
    max_publication_bytes: int = 65536
    slow_reader: SlowReader = 'close'
    max_backlog_bytes: int = 1048576
    idempotency_ttl_s: float = 300.0

    def __post_init__(self) -> None:
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
        _one_of(self, 'publishers', 'auto', 'nobody', 'subscribers', 'anybody')
        _one_of(self, 'slow_reader', 'close', 'drop_oldest', 'latest')
        if self.data_type is not None:
            _check_type(self.data_type)
        if self.recovery in ('stream', 'latest') and not self.history_size:
            raise OptionsError(
                f'recovery={self.recovery!r} needs history: '
                'set history_size above 0, or recovery to "off"'
            )
        if self.recovery_mode == 'stream' and self.slow_reader != 'close':
            raise OptionsError(
                f'slow_reader={self.slow_reader!r} leaves gaps, which '
                'recovery="stream" promises not to have: set recovery to "latest" or '
                '"off", or slow_reader to "close"'
            )
        if self.join_leave == 'user' and not self.presence:
            raise OptionsError('join_leave="user" needs presence=True')
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
        if self.meta_ttl_s is not None and (
            self.history_ttl_s is None or self.history_ttl_s > self.meta_ttl_s
        ):
            msgspec.structs.force_setattr(self, 'meta_ttl_s', self.history_ttl_s)

    @property
    def recovery_mode(self) -> Literal['stream', 'latest', 'off']:
        """`recovery` with ``'auto'`` decided."""
        if self.recovery == 'auto':
            return 'stream' if self.history_size else 'off'
        return self.recovery


class NodeOptions(msgspec.Struct, kw_only=True):
    """What holds for all channels of one `Channels` object.

    Attributes:
        allowed_origins: Origins of pages that may connect, beside the server's own:
            ``'https://example.com'``; ``('*',)`` switches the check off.
        max_channel_bytes: The longest channel name, in bytes of UTF-8.
        max_channels_per_connection: How many channels one connection may subscribe.
        max_message_bytes: The largest message that a client may send.
        max_backlog_bytes: How much may wait for one connection, over all its channels,
            before it is disconnected as too slow.
        max_connections: How many connections this process takes, or ``None``.
        history_limit: How many publications a client may ask for at once.
        linger_s: For how many seconds a channel that nobody subscribes to any more
            stays subscribed at the broker.
        position_check_s: How often, in seconds, the position of every active channel
            is compared with the broker's, or ``None``.
        max_pending_bytes: How much of one channel is kept while its position is being
            found out; beyond that the log is read again.
        revoke_ttl_s: For how many seconds a revocation holds unless said otherwise.
        drain_batch: How many connections are closed at once when draining.
        drain_interval_s: Seconds between two batches.
        drain_timeout_s: Seconds after which draining ends in any case.
        io_uring: Whether a delivery to many sockets may enter the kernel once for all
            of them, where Linux allows it.
    """

    allowed_origins: tuple[str, ...] = ()
    max_channel_bytes: int = 255
    max_channels_per_connection: int = 128
    max_message_bytes: int = 65536
    max_backlog_bytes: int = 1048576
    max_connections: int | None = None
    history_limit: int = 300
    linger_s: float = 5.0
    position_check_s: float | None = 40.0
    max_pending_bytes: int = 8388608
    revoke_ttl_s: float = 86400.0
    drain_batch: int = 100
    drain_interval_s: float = 0.1
    drain_timeout_s: float = 30.0
    io_uring: bool = True

    def __post_init__(self) -> None:
        _at_least(
            self,
            1,
            'max_channel_bytes',
            'max_channels_per_connection',
            'max_message_bytes',
            'max_backlog_bytes',
            'history_limit',
            'max_pending_bytes',
            'drain_batch',
        )
        if self.max_connections is not None:
            _at_least(self, 1, 'max_connections')
        _at_least(self, 0, 'linger_s', 'drain_interval_s')
        _above_zero(self, 'position_check_s', 'revoke_ttl_s', 'drain_timeout_s')


class EndpointOptions(msgspec.Struct, kw_only=True):
    """What holds for the connections of the client protocol.

    Attributes:
        ping_interval_s: Seconds between two pings of the server, or ``None``.
        pong_timeout_s: Seconds within which a client answers a ping.
        connect_timeout_s: Seconds within which a client says who it is.
        expiry_grace_s: Seconds after the end of a token within which it may still
            be refreshed.
        commands_per_s: How many commands a connection may send, or ``None``.
        commands_burst: How many of them at once.
        user_commands_per_s: How many commands one user may send over all connections to
            this process, or ``None``. Somebody anonymous is no user.
        user_commands_burst: How many of them at once.
        max_refused_commands: After how many commands refused in a row for coming too
            fast the connection is closed.
        max_connections_per_user: How many connections of one user this process takes,
            or ``None``; one more is ended with 3504. Somebody anonymous is no user.
        allow_anonymous: Whether a client without a token may connect where tokens are
            verified and no ``on_connect`` decides.
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


def need_options(options: object, kind: type[msgspec.Struct]) -> None:
    """Refuse options of another kind, such as a dict.

    Raises:
        OptionsError: They are not of this kind.
    """
    if not isinstance(options, kind):
        raise OptionsError(
            f'options are {kind.__name__}(...) here, not {type(options).__name__}'
        )


def _check_type(data_type: Any) -> None:
    """Refuse what JSON can never be decoded into, before the first client tries."""
    try:
        known = msgspec.inspect.type_info(data_type)
    except TypeError as ex:
        raise OptionsError(f'data_type is {data_type!r}: {ex}') from None
    if isinstance(known, msgspec.inspect.CustomType):
        raise OptionsError(
            f'data_type is {data_type!r}, which nothing can be decoded into: make it a '
            'msgspec.Struct, a dataclass or a TypedDict'
        )


def _at_least(options: msgspec.Struct, least: int, *names: str) -> None:
    for name in names:
        value = _number(options, name)
        if value < least:
            raise OptionsError(f'{name} is {value}, and must be at least {least}')


def _above_zero(options: msgspec.Struct, *names: str) -> None:
    for name in names:
        if getattr(options, name) is not None and not _number(options, name) > 0:
            raise OptionsError(
                f'{name} is {getattr(options, name)}, and must be above 0'
            )


def _number(options: msgspec.Struct, name: str) -> float:
    """Return a number; one that counts bytes or things has no fraction."""
    value = getattr(options, name)
    wanted = (int, float) if name.endswith('_s') else int
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise OptionsError(f'{name} is {value!r}, and must be a number')
    if not math.isfinite(value):
        raise OptionsError(f'{name} is {value}; use None where there is no limit')
    return value


def _one_of(options: msgspec.Struct, name: str, *choices: str) -> None:
    value = getattr(options, name)
    if value not in choices:
        raise OptionsError(f'{name} is {value!r}, and must be one of {choices}')
