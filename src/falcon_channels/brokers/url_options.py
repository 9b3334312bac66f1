"""Options in the URL of a broker: each is known, once there, and in range."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import math
from typing import Any
from urllib.parse import parse_qsl
from urllib.parse import SplitResult
from urllib.parse import unquote
from urllib.parse import urlsplit

from falcon_channels.errors import OptionsError


def parse_query(
    url: str, known: Mapping[str, Callable[[str, str], Any]]
) -> tuple[SplitResult, dict[str, Any]]:
    """Return the parts of a URL, its path decoded, and the options in its query.

    Args:
        url: Of a broker.
        known: For each option what makes a value of its name and text.

    Raises:
        OptionsError: An option is not known, there twice, or out of range.
    """
    # SECURITY: no message repeats the URL, which may hold a password.
    parts = urlsplit(url)
    options: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise OptionsError(
                f'{parts.scheme}:// has no option {name!r}; known are {sorted(known)}'
            )
        if name in options:
            raise OptionsError(f'the option {name!r} is there twice')
        options[name] = known[name](name, text)
    return parts._replace(path=unquote(parts.path)), options


def seconds(name: str, text: str) -> float:
    """Return a number of seconds above 0.

    Raises:
        OptionsError: It is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < math.inf:
        raise OptionsError(f'{name} is {text!r}, and must be a number above 0')
    return value


def yes_or_no(name: str, text: str) -> bool:
    """Return whether a text says ``yes``.

    Raises:
        OptionsError: It says neither ``yes`` nor ``no``.
    """
    if text not in ('yes', 'no'):
        raise OptionsError(f'{name} is {text!r}, and must be yes or no')
    return text == 'yes'


def whole_number(name: str, text: str) -> int:
    """Return a whole number from 2 to 1000.

    Raises:
        OptionsError: It is none.
    """
    if not text.isdecimal() or not 2 <= int(text) <= 1000:
        raise OptionsError(f'{name} is {text!r}, and must be from 2 to 1000')
    return int(text)
