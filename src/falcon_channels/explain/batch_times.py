"""Records when the batches of one channel were written, and how many bytes they had.

* One offset, one time and one size are stored for each batch, in blocks of numbers.
* A block has the batches of one epoch. Whole blocks are forgotten, the oldest first.
* If a block is forgotten, only times are lost, and no answer.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
import time

from falcon_channels.explain.record_queue import Record
from falcon_channels.explain.record_queue import RecordQueue
from falcon_channels.publication import Position

_BLOCK_BYTES = 600
_BATCH_BYTES = 28
#: Number of batches in one block.
_BLOCK_SIZE = 64


class BatchTimes:
    """Times and sizes of the batches of one channel.

    Args:
        queue: Holds the blocks.
        on_forgotten: Called when a block was forgotten.
    """

    __slots__ = ('_blocks', '_on_forgotten', '_queue', '_size_bytes')

    def __init__(self, queue: RecordQueue, on_forgotten: Callable[[], None]) -> None:
        self._queue = queue
        self._on_forgotten = on_forgotten
        self._blocks: deque[_Block] = deque()
        self._size_bytes = 0

    def add(self, first: int, position: Position, size_bytes: int) -> None:
        """Record a batch that was written now.

        Args:
            first: Offset of its first publication.
            position: Position of its last publication.
            size_bytes: Bytes of its payloads without line breaks.
        """
        blocks = self._blocks
        block = blocks[-1] if blocks else None
        if (
            block is None
            or len(block.offsets) >= _BLOCK_SIZE
            or block.epoch != position.epoch
        ):
            block = _Block(self, position.epoch, first - 1)
            blocks.append(block)
            self._queue.keep(block)
        self._size_bytes += size_bytes
        block.offsets.append(position.offset)
        block.times.append(time.time())
        block.sizes.append(self._size_bytes)
        self._queue.grow(block, _BATCH_BYTES)

    def forget_oldest(self) -> None:
        """Remove the oldest block."""
        self._blocks.popleft()
        self._on_forgotten()

    @property
    def empty(self) -> bool:
        """Whether there is no block."""
        return not self._blocks

    def written_at(self, offset: int, epoch: str) -> float | None:
        """Return when a publication was written to subscribers, or ``None``."""
        for block, number in self._batches(offset, epoch):
            return block.times[number]
        return None

    def written_until(self, epoch: str) -> int | None:
        """Return the last offset whose time is known, or ``None``."""
        for block in reversed(self._blocks):
            if block.epoch == epoch:
                return block.offsets[-1]
        return None

    def bytes_until(self, offset: int, epoch: str) -> int | None:
        """Return the bytes of payloads up to and with a batch, or ``None``."""
        for block, number in self._batches(offset, epoch):
            return block.sizes[number]
        return None

    def _batches(self, offset: int, epoch: str) -> Iterator[tuple[_Block, int]]:
        """Yield the block and the number of the batch with a publication, if known."""
        for block in reversed(self._blocks):
            if block.epoch == epoch and block.start < offset <= block.offsets[-1]:
                yield block, bisect_left(block.offsets, offset)
                return


class _Block(Record):
    """Consecutive batches of one channel, in one epoch.

    Attributes:
        offsets: Offset of the last publication of each batch.
        times: Unix time in seconds at which the batch was written.
        sizes: Bytes of payloads of the channel up to and with the batch.
        start: Offset before the first batch.
    """

    __slots__ = ('_batch_times', 'epoch', 'offsets', 'sizes', 'start', 'times')

    def __init__(self, batch_times: BatchTimes, epoch: str, start: int) -> None:
        super().__init__(_BLOCK_BYTES)
        self._batch_times = batch_times
        self.epoch = epoch
        self.start = start
        self.offsets = array('q')
        self.times = array('d')
        self.sizes = array('q')

    def forget(self) -> float:
        """Remove the block."""
        self._batch_times.forget_oldest()
        return 0.0
