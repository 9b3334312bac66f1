"""Read many objects in parts, so that the event loop is never blocked for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar('_Item')

#: Largest number of objects that one scan reads. With more objects, it is partial.
MAX_SCANNED = 250_000
#: Number of objects that are read without a pause: about a millisecond of work.
_PART = 2000


async def in_parts(items: Sequence[_Item]) -> AsyncIterator[Sequence[_Item]]:
    """Yield the first `MAX_SCANNED` items in parts, with a pause after each part.

    Args:
        items: A copy of the objects, which must not change during the pauses.
    """
    for start in range(0, min(len(items), MAX_SCANNED), _PART):
        yield items[start : min(start + _PART, MAX_SCANNED)]
        # NOTE: other tasks of the event loop run now.
        await asyncio.sleep(0)
