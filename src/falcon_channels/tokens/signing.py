"""Makes JSON Web Tokens that identify a client and allow subscriptions."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import time
from typing import Any

from falcon_channels.checks import check_user
from falcon_channels.checks import is_utf_8
from falcon_channels.checks import shown
from falcon_channels.errors import InvalidValueError
from falcon_channels.filters import check_filter
from falcon_channels.filters import TagFilter
from falcon_channels.tokens.keys import TokenKey

#: Longest time in seconds until a token expires. It can be represented exactly.
_MAX_TTL_S = 2.0**53


def make_connection_token(
    key: TokenKey,
    user: str,
    *,
    ttl_s: float | None = 600.0,
    info: Any = None,
    meta: Any = None,
    channels: Sequence[str] = (),
    **claims: Any,
) -> str:
    """Return a token with which `user` may connect.

    Args:
        key: Key with a secret, or a private key.
        user: Id of the user, ``''`` for an anonymous user.
        ttl_s: Seconds until it expires (default 600), or ``None`` for never.
        info: Public data about the user, any JSON value.
        meta: Data that only the server sees, any JSON value.
        channels: Channels of server-side subscriptions (default none).
        claims: Further claims, such as ``aud`` or ``expire_at``.

    Raises:
        InvalidValueError: The user is not text, or another argument has a wrong type.
    """
    if isinstance(channels, str | bytes) or not isinstance(channels, Iterable):
        raise InvalidValueError(
            f'channels is {shown(channels)}, but must be a list of names'
        )
    names = [_checked_channel(channel) for channel in channels]
    optional = {'info': info, 'meta': meta, 'channels': names or None}
    return _signed(key, {'sub': check_user(user)}, optional, ttl_s, claims)


def make_subscription_token(
    key: TokenKey,
    user: str,
    channel: str,
    *,
    ttl_s: float | None = 600.0,
    info: Any = None,
    filter: TagFilter | None = None,
    **claims: Any,
) -> str:
    """Return a token with which `user` may subscribe to `channel`.

    Args:
        key: Key with a secret, or a private key.
        user: Id of the user, as in the connection token.
        channel: Name of the channel.
        ttl_s: Seconds until it expires (default 600), or ``None`` for never.
        info: Public data about the subscription, any JSON value.
        filter: Condition on the tags of the publications that the client receives, made
            by `falcon_channels.filters`, or ``None``.
        claims: Further claims, such as ``aud`` or ``expire_at``.

    Raises:
        InvalidValueError: The user is not text, the channel has no name, or another
            argument has a wrong type.
    """
    required = {'sub': check_user(user), 'channel': _checked_channel(channel)}
    tag_filter = check_filter('filter', filter)
    optional = {'info': info, 'server_tags_filter': tag_filter}
    return _signed(key, required, optional, ttl_s, claims)


def _checked_channel(channel: object) -> str:
    if not isinstance(channel, str) or not channel:
        raise InvalidValueError(
            f'the channel of a token is {shown(channel)}, but must be the name of a '
            'channel'
        )
    if not is_utf_8(channel):
        raise InvalidValueError(
            f'the channel of a token is {shown(channel)}, but must be text in UTF-8'
        )
    return channel


def _signed(
    key: TokenKey,
    required: Mapping[str, Any],
    optional: Mapping[str, Any],
    ttl_s: float | None,
    more: Mapping[str, Any],
) -> str:
    if not isinstance(key, TokenKey):
        raise InvalidValueError(
            f'the key of a token is TokenKey(secret), not {type(key).__name__}'
        )
    # NOTE: a negative time makes a token that has expired. Tests of applications need
    #   some.
    if ttl_s is not None and (
        isinstance(ttl_s, bool)
        or not isinstance(ttl_s, int | float)
        or not abs(ttl_s) <= _MAX_TTL_S
    ):
        raise InvalidValueError(
            f'ttl_s is {shown(ttl_s)}, but must be a number of seconds up to '
            f'{_MAX_TTL_S:.0f}, or None for never'
        )
    now_s = int(time.time())
    claims = {**required, 'iat': now_s}
    if key.issuer:
        claims['iss'] = key.issuer
    if ttl_s is not None:
        claims['exp'] = int(now_s + ttl_s)
    claims.update(
        (name, value) for name, value in optional.items() if value is not None
    )
    return key.signed({**claims, **more})
