"""Converts durations to whole milliseconds, in which stores count."""

from __future__ import annotations

from typing import Final
from typing import overload

#: The longest duration, about 285,000 years. All stores can add it to the current time.
MAX_MS: Final = 2**53


@overload
def to_ms(duration_s: float) -> int: ...


@overload
def to_ms(duration_s: float | None) -> int | None: ...


def to_ms(duration_s: float | None) -> int | None:
    """Return a duration in whole milliseconds, from 1 to `MAX_MS`.

    Args:
        duration_s: Seconds; ``None`` for no limit.

    Returns:
        Milliseconds; ``None`` for no limit. It is never 0, which a store could take for
        "no time" or "no limit".
    """
    # NOTE: a longer one is shortened. A store could refuse it after it has stored a
    #   part of a publication.
    return None if duration_s is None else max(1, int(min(duration_s * 1000, MAX_MS)))
