"""Writes the output of one event-loop iteration to many sockets together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from os import write as write_descriptor

from falcon_channels.transports.io_uring import open_send_ring
from falcon_channels.transports.io_uring import SendRing
from falcon_channels.transports.io_uring import Unsent

#: PERF: for fewer sockets the ring costs more than it saves (benchmarks/rooms.py).
_MIN_FOR_RING = 48


class SocketBatch:
    """Collects blobs for socket descriptors and writes them together.

    The descriptors come from `Transport.descriptor`. Do not use a transport between the
    `add` of its descriptor and `write`. Call `write` always from the same thread.

    Args:
        io_uring: Whether to use `SendRing` if the system has it.
    """

    def __init__(self, io_uring: bool) -> None:
        self._groups: list[tuple[Sequence[int], bytes]] = []
        #: Whether to open a ring at the first large batch.
        self._wants_ring = io_uring
        self._ring: SendRing | None = None

    def close(self) -> None:
        """Close the ring; `write` uses a loop from now on."""
        self._wants_ring = False
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def add(self, descriptors: Sequence[int], blob: bytes) -> None:
        """Add a blob that the next `write` sends to each of these descriptors."""
        self._groups.append((descriptors, blob))

    def write(self) -> list[Unsent]:
        """Write the added blobs, as far as the sockets take them without waiting.

        Returns:
            The sockets that did not take their whole blob. `Unsent.number` counts
            through all added descriptors.
        """
        groups, self._groups = self._groups, []
        if (
            self._wants_ring
            and sum([len(group[0]) for group in groups]) >= _MIN_FOR_RING
        ):
            if self._ring is None:
                self._ring = open_send_ring()
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
    """Write a blob to each descriptor; append the incomplete writes to `unsent`.

    PERF: the loop runs in C, which saves a tenth of a delivery (benchmarks/fanout.py).

    Args:
        descriptors: Sockets, without duplicates.
        blob: Bytes for each of them.
        first: Number of the first descriptor in `unsent`.
        unsent: List to which the incomplete writes are appended.
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
            # NOTE: the socket buffer is full, or the connection is broken. `zip` has
            #   not taken the number of this descriptor yet, so it is the next one.
            unsent.append(Unsent(next(numbers), 0))
