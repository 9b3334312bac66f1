"""Sends to many sockets with one system call, through Linux's io_uring.

`SendRing.send` does the same as ``send(2)`` without waiting for each socket. But it
enters the kernel once for up to 512 sockets. Entering and leaving the kernel is an
eighth of the cost of a short message to a socket (benchmarks/fanout.py).

A ring is memory that this process shares with the kernel: submission entries, and
results. In our entries everything but the socket, the address and the length is
constant. The constant part is written once, so `send` copies three columns of numbers.
The rules and their reasons:

* Every send is flagged not to wait, so it is complete when the call returns. No memory
  is needed after the call.
* Every result is checked. A socket that took only a part is reported with the number
  of bytes. The caller must send the rest in another way; otherwise bytes are missing.
* A ring with an unexpected result is closed. Everything that it did not send is
  reported too, and `closed` is set. It is not used again.

Some systems have no io_uring, or do not allow it to every process: Linux before 6.1,
the default rules of container engines, ``kernel.io_uring_disabled``. `open_send_ring`
then returns ``None``.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
import ctypes
import logging
import mmap
import os
import socket
import struct
import sys
from typing import NamedTuple
import weakref

_logger = logging.getLogger('falcon_channels')

# Numbers from linux/io_uring.h and of the system calls; equal on all architectures.
_SETUP = 425
_ENTER = 426
_SINGLE_ISSUER = 1 << 12
_DEFER_TASKRUN = 1 << 13
_WAIT_FOR_RESULTS = 1
_RING_AT = 0
_ENTRIES_AT = 0x10000000
_OP_SEND = 26

#: struct io_uring_params: sq_entries, cq_entries, flags and seven more numbers; then
#: the offsets of the fields in the memory of submissions, and in that of results.
_PARAMS = struct.Struct('=10I10I10I')
#: struct io_uring_sqe: opcode, flags, ioprio, fd, off, addr, len, msg_flags, user_data
#: and the fields of other operations.
_ENTRY = struct.Struct('=BBHiQQiiQ24x')
#: struct io_uring_cqe: user_data, res, flags.
_RESULT = struct.Struct('=QiI')
_INT = struct.calcsize('i')
_LONG = struct.calcsize('Q')

#: Maximum number of sockets of one call; they need 100 KiB of kernel memory.
_ENTRIES = 512
_WRAP = 0xFFFFFFFF
#: Blobs up to this size are copied, because that is faster than to find their address.
_BUFFER_BYTES = 4096


class Unsent(NamedTuple):
    """A socket that did not take its whole blob.

    Attributes:
        number: Index of the descriptor among those given to `SendRing.send`.
        sent: Number of bytes that it took, 0 also if the connection is broken. -1 if
            the number is unknown: the caller must then end the connection.
    """

    number: int
    sent: int


def open_send_ring() -> SendRing | None:
    """Return a ring for this thread, or ``None`` if it is not available."""
    if not sys.platform.startswith('linux'):
        return None
    ring = None
    try:
        ring = SendRing()
        if ring.works():
            return ring
        _logger.debug('io_uring is available, but the test send failed')
    except (OSError, AttributeError, ValueError) as ex:
        _logger.debug('io_uring cannot be used: %s', ex)
    if ring is not None:
        ring.close()
    return None


class SendRing:
    """One io_uring for sending. Only the thread that created it may use it.

    A child process must not use it.

    Raises:
        OSError: The system has no io_uring, or does not allow it to this process.

    Attributes:
        closed: Whether the ring is closed; `send` then sends nothing.
    """

    def __init__(self) -> None:
        self.closed = False
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        params = ctypes.create_string_buffer(_PARAMS.size)
        struct.pack_into('=I', params, 2 * _INT, _SINGLE_ISSUER | _DEFER_TASKRUN)
        self._fd = self._call(_SETUP, _ENTRIES, params)
        if self._fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        #: Number of entries submitted so far; all of them are complete.
        self._count = 0
        buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
        self._address = ctypes.addressof(buffer)
        self._buffer = memoryview(buffer).cast('B')
        self._release = weakref.finalize(self, os.close, self._fd)
        self._pid = os.getpid()
        numbers = _PARAMS.unpack(params.raw)
        self._size, num_results = numbers[:2]
        _, tail_at, _, _, _, _, order_at, *_ = numbers[10:20]
        head_at, done_at, _, _, _, results_at, *_ = numbers[20:30]
        self._memory: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        ring = self._map(
            max(order_at + self._size * _INT, results_at + num_results * _RESULT.size),
            _RING_AT,
        )
        entries = self._map(self._size * _ENTRY.size, _ENTRIES_AT)
        for slot in range(self._size):
            at = slot * _ENTRY.size
            flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            _ENTRY.pack_into(entries, at, _OP_SEND, 0, 0, -1, 0, 0, 0, flags, slot)
            struct.pack_into('=I', ring, order_at + slot * _INT, slot)
        self._fds = self._column(entries, 'i', 4, None, _ENTRY.size)
        self._addresses = self._column(entries, 'Q', 16, None, _ENTRY.size)
        self._sizes = self._column(entries, 'i', 24, None, _ENTRY.size)
        end = results_at + num_results * _RESULT.size
        self._slots = self._column(ring, 'Q', results_at, end, _RESULT.size)
        self._results = self._column(ring, 'i', results_at + _LONG, end, _RESULT.size)
        self._num_results = num_results
        self._in_order = memoryview(array('Q', range(self._size)))
        self._tail = self._column(ring, 'I', tail_at, tail_at + _INT, _INT)
        self._head = self._column(ring, 'I', head_at, head_at + _INT, _INT)
        self._done = self._column(ring, 'I', done_at, done_at + _INT, _INT)

    def _map(self, size: int, offset: int) -> mmap.mmap:
        memory = mmap.mmap(
            self._fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset
        )
        self._memory.append(memory)
        return memory

    def _column(
        self, memory: mmap.mmap, kind: str, at: int, end: int | None, step: int
    ) -> memoryview:
        """Return a view of one field: numbers of type `kind`, `step` bytes apart."""
        size = struct.calcsize(kind)
        whole = memoryview(memory)
        numbers = whole.cast(kind)  # type: ignore[call-overload]  # a literal at each call
        column: memoryview = numbers[
            at // size : None if end is None else end // size : step // size
        ]
        self._views += [whole, numbers, column]
        return column

    def works(self) -> bool:
        """Return whether a test send succeeds; some systems only claim support."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            unsent = self.send([([ours.fileno()], b'x')])
            return not unsent and theirs.recv(2) == b'x'

    def send(self, groups: Sequence[tuple[Sequence[int], bytes]]) -> list[Unsent]:
        """Send blobs to sockets, as far as the sockets take them without waiting.

        Args:
            groups: Pairs of descriptors and the blob for each of them. No descriptor
                may occur twice.

        Returns:
            The sockets that did not take their whole blob, in order. `Unsent.number`
            counts through all groups.
        """
        data = groups[0][1] if len(groups) == 1 else b''.join([g[1] for g in groups])
        if len(data) <= _BUFFER_BYTES:
            self._buffer[: len(data)] = data
            address = self._address
        else:
            address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        fds, addresses, sizes = array('i'), array('Q'), array('i')
        for descriptors, blob in groups:
            count = len(descriptors)
            size = len(blob)
            if count == 1:
                # PERF: with one subscriber for each channel, this takes a quarter of
                #   the time (benchmarks/event_streams.py).
                fds.append(descriptors[0])
                addresses.append(address)
                sizes.append(size)
            else:
                # PERF: this takes a third of the time of `extend`.
                fds.frombytes(struct.pack(f'{count}i', *descriptors))
                addresses += array('Q', (address,)) * count
                sizes += array('i', (size,)) * count
            address += size
        unsent: list[Unsent] = []
        begin = 0
        while begin < len(fds):
            # NOTE: up to the end of the ring, so that no slice below wraps around.
            some = slice(begin, begin + self._size - self._count % self._size)
            sent = self._send_some(fds[some], addresses[some], sizes[some])
            if sent is not None:
                unsent += [
                    Unsent(number, took)
                    for number, took in enumerate(sent, begin)
                    if took != sizes[number]
                ]
            begin = some.stop
        return unsent

    def _send_some(
        self, fds: array[int], addresses: array[int], sizes: array[int]
    ) -> Sequence[int] | None:
        """Send to no more sockets than there are entries before the end of the ring.

        Returns:
            Number of bytes that each socket took, as in `Unsent`; ``None`` if all
            sockets took everything.
        """
        count = len(fds)
        # SECURITY: a child process shares this memory. Its entries would make the
        #   parent send the child's data to the parent's sockets.
        if self.closed or os.getpid() != self._pid:
            return [0] * count
        slot = self._count % self._size
        end = slot + count
        self._fds[slot:end] = fds
        self._addresses[slot:end] = addresses
        self._sizes[slot:end] = sizes
        before = self._count
        self._count = self._tail[0] = (before + count) & _WRAP
        taken = self._call(_ENTER, self._fd, count, count, _WAIT_FOR_RESULTS, None, 0)
        # PERF: memoryviews are compared in C (benchmarks/fanout.py).
        at = before % self._num_results
        if (
            taken == count
            and self._done[0] == self._count
            and self._results[at : at + count] == sizes
            and self._slots[at : at + count] == self._in_order[slot:end]
        ):
            self._head[0] = self._count
            return None
        sent = [-1 if number < taken else 0 for number in range(count)]
        done = (self._done[0] - before) & _WRAP
        for at in range(before, before + done):
            number = self._slots[at % self._num_results] - slot
            sent[number] = max(self._results[at % self._num_results], 0)
        self._head[0] = (before + done) & _WRAP
        if taken != count or done != count:
            self.close()
        return sent

    def close(self) -> None:
        """Release the ring; `send` reports all as unsent from now on."""
        if not self.closed:
            self.closed = True
            for view in reversed(self._views):
                view.release()
            for memory in self._memory:
                memory.close()
            self._release()
