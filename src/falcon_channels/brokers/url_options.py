"""Options in the query of a broker's URL, such as ``?timeout_s=2``."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import math
import re
from typing import Any
from urllib.parse import parse_qsl
from urllib.parse import SplitResult
from urllib.parse import unquote
from urllib.parse import urlsplit

from falcon_channels.errors import OptionsError

#: Schemes of the URLs of each broker.
MEMORY_SCHEMES = ('memory',)
SQLITE_SCHEMES = ('sqlite',)
REDIS_SCHEMES = (
    'redis',
    'rediss',
    'valkey',
    'valkeys',
    'redis+sentinel',
    'rediss+sentinel',
    'redis+unix',
)
POSTGRES_SCHEMES = ('postgresql', 'postgres')

#: The form of all names of options.
_NAME = re.compile('[a-z_]{1,40}')


def split_url(url: str) -> SplitResult:
    """Return the parts of the URL of a broker.

    Raises:
        OptionsError: It is malformed.
    """
    try:
        return urlsplit(url)
    except ValueError:
        # SECURITY: the original error may contain a password with brackets.
        raise OptionsError(
            'the URL of the broker is malformed: write "[" and "]" as %5B and %5D, '
            'except around an IPv6 address'
        ) from None


def check_scheme(url: str, schemes: Sequence[str]) -> SplitResult:
    """Return the parts of a URL with one of these schemes.

    NOTE: the scheme is not part of what a broker uses. Without this check, the broker
    would connect to the default server of its kind.

    Raises:
        OptionsError: The URL is malformed, or has another scheme.
    """
    # SECURITY: the URL may contain a password, which would get into logs. No message
    #   therefore repeats the URL.
    parts = split_url(url)
    if parts.scheme not in schemes:
        found = f'begins with {parts.scheme}:' if parts.scheme else 'has no scheme'
        right = ' or '.join(f'{scheme}://' for scheme in schemes)
        raise OptionsError(
            f'the URL of the broker {found}, but it must begin with {right}'
        )
    return parts


def parse_query(
    url: str,
    schemes: Sequence[str],
    known: Mapping[str, Callable[[str, str], Any]],
) -> tuple[SplitResult, dict[str, Any]]:
    """Parse a URL and the options in its query.

    Args:
        url: The URL of a broker.
        schemes: The schemes of this broker.
        known: The known options. Each has a function that converts the name and the
            text of the option to its value.

    Returns:
        The parts of the URL, with a decoded path, and the values of the options.

    Raises:
        OptionsError: The URL is malformed or has another scheme, or an option is
            unknown, duplicated or out of range.
    """
    parts = check_scheme(url, schemes)
    options: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            # SECURITY: after a question mark in a password, the rest of the password
            #   looks like an option.
            shown = f'option {name!r}' if _NAME.fullmatch(name) else 'such option'
            raise OptionsError(
                f'{parts.scheme}:// has no {shown}; use one of {sorted(known)}, and '
                'write a question mark in a password as %3F'
                if known
                else f'{parts.scheme}:// has no {shown}, because it takes no options: '
                'remove it'
            )
        if name in options:
            raise OptionsError(f'the option {name!r} is given twice; remove one')
        options[name] = known[name](name, text)
    return parts._replace(path=unquote(parts.path)), options


def seconds(name: str, text: str) -> float:
    """Convert an option to a number of seconds above 0.

    Raises:
        OptionsError: The text is not a number, or not above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < math.inf:
        raise OptionsError(f'{name} is {text!r}, and must be a number above 0')
    return value


def yes_or_no(name: str, text: str) -> bool:
    """Convert an option to whether its text is ``yes``.

    Raises:
        OptionsError: The text is neither ``yes`` nor ``no``.
    """
    if text not in ('yes', 'no'):
        raise OptionsError(f'{name} is {text!r}, and must be yes or no')
    return text == 'yes'


def whole_number(name: str, text: str) -> int:
    """Convert an option to a whole number from 2 to 1000.

    Raises:
        OptionsError: The text is not a whole number, or out of range.
    """
    if not text.isdecimal() or not 2 <= int(text) <= 1000:
        raise OptionsError(f'{name} is {text!r}, and must be from 2 to 1000')
    return int(text)
