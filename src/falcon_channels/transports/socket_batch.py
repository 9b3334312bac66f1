"""What many sockets get in one turn of the event loop, written together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from os import write as write_descriptor

from falcon_channels.transports.io_uring import open_ring
from falcon_channels.transports.io_uring import SendRing
from falcon_channels.transports.io_uring import Unsent

#: PERF: for fewer sockets the ring costs more than it saves (benchmarks/rooms.py).


_MIN_FOR_RING = 48


class SocketBatch:
    """Blobs for descriptors that transports lend, see `Transport.descriptor`.

    Between `add` and `write` no transport may be used whose descriptor was added. The
    thread of the first `write` is that of all others.

    Args:
        io_uring: Whether to use `SendRing` where the system has it.
    """

    def __init__(self, io_uring: bool) -> None:
        self._groups: list[tuple[Sequence[int], bytes]] = []
        #: Whether to open a ring when it is first of use.
        self._wants_ring = io_uring
        self._ring: SendRing | None = None

    def close(self) -> None:
        """Give back what the system lent; `write` goes on in a loop."""
        self._wants_ring = False
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def add(self, descriptors: Sequence[int], blob: bytes) -> None:
        """Write a blob to each of these with the next `write`."""
        self._groups.append((descriptors, blob))

    def write(self) -> list[Unsent]:
        """Write what was added, as far as the sockets take it now.

        Returns:
            Those that did not take all; the number counts through all that was added.
        """
        groups, self._groups = self._groups, []
        if (
            self._wants_ring
            and sum([len(group[0]) for group in groups]) >= _MIN_FOR_RING
        ):
            if self._ring is None:
                self._ring = open_ring()
            if self._ring is None or self._ring.closed:
                self.close()
            else:
                return self._ring.send(groups)
        unsent: list[Unsent] = []
        first = 0
        for descriptors, blob in groups:
            _write_each(descriptors, blob, first, unsent)
            first += len(descriptors)
        return unsent


def _write_each(
    descriptors: Sequence[int], blob: bytes, first: int, unsent: list[Unsent]
) -> None:
    """Write a blob to descriptors, numbered from `first`, one after the other.

    PERF: the loop runs in C; a tenth of a delivery (benchmarks/fanout.py).
    """
    size = len(blob)
    numbers = iter(range(first, first + len(descriptors)))
    writes = map(write_descriptor, descriptors, repeat(blob))
    while True:
        try:
            for sent, number in zip(writes, numbers, strict=False):
                if sent != size:
                    unsent.append(Unsent(number, sent))
            return
        except OSError:
            # NOTE: nothing fits in, or the link is broken. `zip` has not taken the
            #   number yet.
            unsent.append(Unsent(next(numbers), 0))
