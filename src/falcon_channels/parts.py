"""Work through many objects in parts, so that the event loop is never blocked long.

A process can have 100,000 connections and channels. Code that answers a request of an
operator reads them with these functions. Between two parts, all other tasks run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Sequence
import heapq
import math
import random
from typing import TypeVar

_Item = TypeVar('_Item')

#: Number of objects in a part, if reading one takes less than a microsecond.
PART = 2000


async def in_parts(
    items: Sequence[_Item], size: int | None = None
) -> AsyncIterator[Sequence[_Item]]:
    """Yield items in parts, with a pause after each part.

    Args:
        items: A copy of the objects, which must not change during the pauses.
        size: Number of objects in a part; `PART` by default. Give a smaller number if
            the work for one object is more than reading it.
    """
    size = PART if size is None else size
    for start in range(0, len(items), size):
        yield items[start : start + size]
        # NOTE: other tasks of the event loop run now.
        await asyncio.sleep(0)


async def in_batches(
    items: Sequence[_Item], size: int, *, interval_s: float, timeout_s: float
) -> AsyncIterator[Sequence[_Item]]:
    """Yield items in batches within a time, with a pause between two batches.

    Args:
        items: A copy of the objects, which must not change during the pauses.
        size: Number of objects in a batch. Batches are larger if there would be more of
            them than intervals in `timeout_s`.
        interval_s: Average pause between two batches, in seconds.
        timeout_s: Seconds after which there are no more pauses.
    """
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + timeout_s
    if interval_s:
        num_intervals = max(int(timeout_s / interval_s), 1)
        size = max(size, math.ceil(len(items) / num_intervals))
    for start in range(0, len(items), size):
        if start:
            # NOTE: the pause is random. Otherwise processes that stop at the same time
            #   would close each of their batches at the same time.
            pause_s = interval_s * random.uniform(0.5, 1.5)
            await asyncio.sleep(max(0.0, min(pause_s, deadline_s - clock())))
        yield items[start : start + size]


async def sorted_in_parts(names: Sequence[str]) -> AsyncIterator[Sequence[str]]:
    """Yield sorted names in parts, with a pause after each part.

    PERF: `sorted` would block the event loop until all names are sorted
    (benchmarks/inspector.py).

    Args:
        names: The names, in any order.
    """
    runs = [sorted(part) async for part in in_parts(names)]
    merged: list[str] = []
    for name in heapq.merge(*runs):
        merged.append(name)
        if len(merged) == PART:
            yield merged
            merged = []
            await asyncio.sleep(0)
    yield merged
