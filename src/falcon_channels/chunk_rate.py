"""Counts the chunks that the streams of a process write, and decides if it is busy.

The number of chunks decides, and not the load of the process. A busy process stores its
chunks in a cheaper way. This would change its load, and the decision would swing.
"""

from __future__ import annotations

from typing import Final

#: Number of chunks a second, in all streams of the process, above which it is busy.
BUSY_CHUNKS_PER_S: Final = 10_000
#: Seconds over which chunks are counted.
_COUNT_S = 0.25


class ChunkRate:
    """The number of chunks that all streams of one process write.

    Attributes:
        busy: Whether they were more than `BUSY_CHUNKS_PER_S` when they were last
            counted.
    """

    def __init__(self) -> None:
        self.busy = False
        self._num_chunks = 0
        self._counted_s = 0.0

    def count(self) -> None:
        """Count a chunk that a producer has written."""
        self._num_chunks += 1

    def is_busy(self, now_s: float) -> bool:
        """Return whether the process writes many chunks a second.

        Args:
            now_s: The event loop's clock.
        """
        elapsed_s = now_s - self._counted_s
        if elapsed_s >= _COUNT_S:
            self.busy = self._num_chunks > BUSY_CHUNKS_PER_S * elapsed_s
            self._num_chunks = 0
            self._counted_s = now_s
        return self.busy
