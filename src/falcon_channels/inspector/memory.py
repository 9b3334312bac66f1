"""The memory of this process."""

from __future__ import annotations

import os
from pathlib import Path

_STATM = Path('/proc/self/statm')


def resident_bytes() -> int | None:
    """Return the resident memory in bytes, or ``None`` if it is unknown."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf('SC_PAGE_SIZE')
