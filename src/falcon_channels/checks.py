"""Check values that the application sets."""

from __future__ import annotations

import math
from typing import Any

from falcon_channels.errors import InvalidValueError


def check_user(user: object) -> str:
    """Return the id of a user; ``''`` for ``None``, an anonymous user.

    Raises:
        InvalidValueError: The id is not text that UTF-8 can encode.
    """
    if user is None:
        return ''
    if not isinstance(user, str):
        # NOTE: in tokens, presence and commands, the id of a user is text. The integer
        #   7 and the text '7' would be two users.
        raise InvalidValueError(
            f'user is text, not {type(user).__name__}: write str({_shown(user)})'
        )
    if not user.isascii():
        try:
            user.encode()
        except UnicodeEncodeError as ex:
            raise InvalidValueError(f'user is not text in UTF-8: {ex}') from None
    return user


def check_time(name: str, value: Any) -> float | None:
    """Return a Unix time in seconds, or ``None``.

    Raises:
        InvalidValueError: The value is not a finite number.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            time_s = float(value)
        except OverflowError:
            time_s = math.inf
        if math.isfinite(time_s):
            return time_s
    raise InvalidValueError(
        f'{name} is a Unix time in seconds or None, not {_shown(value)}'
    )


def _shown(value: object) -> str:
    """Return the start of a value's text for an error message."""
    try:
        return f'{value!r:.40}'
    except Exception:
        return f'an unprintable {type(value).__name__}'
