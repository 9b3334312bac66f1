"""Check values that the application sets."""

from __future__ import annotations

import math
from typing import Any
from typing import Final

from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import OptionsError

#: Longest user id, connection id, session and epoch in characters.
MAX_ID_CHARACTERS: Final = 255
#: Longest duration in seconds, which is about 68 years.
MAX_DURATION_S: Final = 2.0**31
#: Largest number in an option. Databases, and numbers in JSON, cannot hold all larger
#: ones.
MAX_NUMBER: Final = 2**53


def check_user(user: object) -> str:
    """Return the id of a user; ``''`` for ``None``, an anonymous user.

    Raises:
        InvalidValueError: The id is not text that UTF-8 can encode, or is longer than
            `MAX_ID_CHARACTERS`.
    """
    if user is None:
        return ''
    if not isinstance(user, str):
        # NOTE: in tokens, presence and commands, the id of a user is text. The integer
        #   7 and the text '7' would be two users.
        raise InvalidValueError(
            f'user is text, not {type(user).__name__}: write str({shown(user)})'
        )
    if not user.isascii():
        try:
            user.encode()
        except UnicodeEncodeError as ex:
            raise InvalidValueError(f'user is not text in UTF-8: {ex}') from None
    if len(user) > MAX_ID_CHARACTERS:
        raise InvalidValueError(
            f'user has {len(user)} characters, but an id of a user has at most '
            f'{MAX_ID_CHARACTERS}: give a shorter id'
        )
    return user


def check_id(name: str, value: object) -> str:
    """Return an id, such as that of a connection; ``''`` is allowed.

    Args:
        name: Name of the argument, for the error.
        value: Value of the argument.

    Raises:
        InvalidValueError: The value is not text that UTF-8 can encode, or is longer
            than `MAX_ID_CHARACTERS`.
    """
    if not isinstance(value, str):
        raise InvalidValueError(f'{name} is text, not {shown(value)}')
    if len(value) > MAX_ID_CHARACTERS:
        raise InvalidValueError(
            f'{name} has {len(value)} characters, but at most {MAX_ID_CHARACTERS} are '
            'allowed'
        )
    try:
        value.encode()
    except UnicodeEncodeError as ex:
        raise InvalidValueError(f'{name} is not text in UTF-8: {ex}') from None
    return value


def check_integer(name: str, value: Any, lowest: int, highest: int) -> int:
    """Return an integer in a range.

    Raises:
        InvalidValueError: The value is not an integer, or is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValueError(f'{name} is {shown(value)}, but must be an integer')
    if not lowest <= value <= highest:
        raise InvalidValueError(
            f'{name} is {shown(value)}, but must be from {lowest} to {highest}'
        )
    return value


def check_duration(
    name: str, value: Any, *, highest: float = MAX_DURATION_S, zero: bool = False
) -> float:
    """Return a number of seconds.

    Args:
        name: Name of the argument, for the error.
        value: Value of the argument.
        highest: Largest number of seconds.
        zero: Whether 0 is allowed.

    Raises:
        InvalidValueError: The value is not a number, or is out of range.
    """
    # NOTE: comparisons with NaN are false. NaN is therefore out of range.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= highest
        or not (value or zero)
    ):
        raise InvalidValueError(
            f'{name} is {shown(value)}, but must be a number of seconds '
            f'{"from" if zero else "above"} 0 {"to" if zero else "and up to"} '
            f'{highest:.0f}'
        )
    return float(value)


def check_seconds(
    name: str, value: Any, *, zero: bool = False, optional: bool = False
) -> Any:
    """Return a number of seconds that is an option.

    Args:
        name: Name of the option, for the error.
        value: Value of the option.
        zero: Whether 0 is allowed.
        optional: Whether ``None`` is allowed.

    Raises:
        OptionsError: The value is not a number, or is out of range.
    """
    if value is None and optional:
        return None
    try:
        check_duration(name, value, zero=zero)
    except InvalidValueError as ex:
        raise OptionsError(f'{ex}{", or None" if optional else ""}') from None
    return value


def check_number(name: str, value: Any, lowest: int, *, optional: bool = False) -> Any:
    """Return an integer that is an option.

    Args:
        name: Name of the option, for the error.
        value: Value of the option.
        lowest: Smallest value that is allowed.
        optional: Whether ``None`` is allowed.

    Raises:
        OptionsError: The value is not an integer, is too small, or exceeds
            `MAX_NUMBER`.
    """
    if value is None and optional:
        return None
    try:
        return check_integer(name, value, lowest, MAX_NUMBER)
    except InvalidValueError as ex:
        raise OptionsError(f'{ex}{", or None" if optional else ""}') from None


def check_type(name: str, value: Any, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """Return an option that has one of these types.

    Raises:
        OptionsError: It has another type.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = ' or '.join(
            'None' if kind is type(None) else kind.__name__ for kind in kinds
        )
        raise OptionsError(f'{name} is {shown(value)}, but must be {names}')
    return value


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
        f'{name} is a Unix time in seconds or None, not {shown(value)}'
    )


def is_utf_8(text: str) -> bool:
    """Return whether a text can be encoded in UTF-8; one with half a pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """Return the start of a value's text for an error message.

    NOTE: Python cannot write integers of more than 4300 digits, and an application's
    own class can raise any error.
    """
    try:
        return f'{value!r:.40}'
    except Exception:
        return f'an unprintable {type(value).__name__}'
