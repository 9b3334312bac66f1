"""Converts durations to whole milliseconds, in which stores count."""

from __future__ import annotations

from typing import overload


@overload
def to_ms(duration_s: float) -> int: ...


@overload
def to_ms(duration_s: float | None) -> int | None: ...


def to_ms(duration_s: float | None) -> int | None:
    """Return a duration in whole milliseconds, at least 1.

    Args:
        duration_s: Seconds; ``None`` for no limit.

    Returns:
        Milliseconds; ``None`` for no limit. It is never 0, which a store could take for
        "no time" or "no limit".
    """
    return None if duration_s is None else max(1, int(duration_s * 1000))
