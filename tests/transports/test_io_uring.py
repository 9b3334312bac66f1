"""Sending to many sockets by one call, on real sockets and the real kernel."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
from support.io_uring import needs_io_uring

from falcon_channels.transports.io_uring import open_send_ring
from falcon_channels.transports.io_uring import SendRing
from falcon_channels.transports.io_uring import Unsent

pytestmark = needs_io_uring

#: More than fit into a ring at once.
MANY = 700
LARGE = b'0123456789abcdef' * 65536


@pytest.fixture
def ring() -> Iterator[SendRing]:
    ring = open_send_ring()
    assert ring is not None
    yield ring
    ring.close()


@contextlib.contextmanager
def socket_pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with contextlib.ExitStack() as stack:
        pairs = []
        for _ in range(count):
            pair = socket.socketpair()
            for end in pair:
                stack.enter_context(end)
                end.setblocking(False)
            pairs.append(pair)
        yield pairs


def read_all(sock: socket.socket) -> bytes:
    data = b''
    with contextlib.suppress(BlockingIOError):
        while some := sock.recv(1 << 20):
            data += some
    return data


def test_every_socket_gets_each_blob_once_at_any_ring_position(ring: SendRing) -> None:
    """Each socket gets each blob once, over many rounds of the ring."""
    with socket_pairs(MANY) as pairs:
        expected = [b''] * MANY
        for round_, count in enumerate([1, 511, 2, MANY, 512, 513, 47, MANY, 1]):
            blob = b'<%d>' % round_ * (1 + round_ * 100)
            fds = [ours.fileno() for ours, _ in pairs[:count]]
            assert [] == ring.send([(fds, blob)])
            for number in range(count):
                expected[number] += blob
        assert expected == [read_all(theirs) for _, theirs in pairs]
    assert not ring.closed


def test_groups_get_their_own_blobs(ring: SendRing) -> None:
    """Several blobs in one call reach those that they are for, long ones as well."""
    blobs = [b'a', b'bc' * 3000, b'def']
    with socket_pairs(6) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        assert [] == ring.send(
            [(fds[:3], blobs[0]), (fds[3:5], blobs[1]), (fds[5:], blobs[2])]
        )
        got = [read_all(theirs) for _, theirs in pairs]
    assert [blobs[0]] * 3 + [blobs[1]] * 2 + [blobs[2]] == got


def test_partial_send_is_reported_with_its_number_of_bytes(ring: SendRing) -> None:
    """Of a full socket it is told how much it took, and others get everything."""
    with socket_pairs(3) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        unsent = ring.send([(fds, LARGE)])
        assert [0, 1, 2] == [number for number, _ in unsent]
        assert all(0 < sent < len(LARGE) for _, sent in unsent)
        # It takes nothing more until somebody reads.
        full = [Unsent(number, 0) for number in range(3)]
        assert full == ring.send([(fds, LARGE)])
        for (_, theirs), (_, sent) in zip(pairs, unsent, strict=True):
            assert LARGE[:sent] == read_all(theirs)
        _, theirs = pairs[1]
        assert [] == ring.send([(fds, b'and on')])
        assert b'and on' == read_all(theirs)
    assert not ring.closed


def test_broken_socket_is_reported_and_others_get_everything(ring: SendRing) -> None:
    """A peer that is gone and a descriptor that is none disturb nobody."""
    with socket_pairs(3) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        pairs[0][1].close()
        unsent = ring.send([([*fds, -1], b'x')])
        assert [Unsent(0, 0), Unsent(3, 0)] == unsent
        assert [b'x', b'x'] == [read_all(theirs) for _, theirs in pairs[1:]]
    assert not ring.closed


def test_ring_in_a_child_process_sends_nothing(ring: SendRing) -> None:
    """A child cannot use its parent's ring, not even while its parent does."""
    enter = ring._call
    with socket_pairs(3) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]

        def enter_after_a_child(*words: Any) -> int:
            child = os.fork()
            if not child:
                ring._call = enter
                told = ring.send([(fds[1:], b'stray')])
                ring.close()
                os._exit(len(told))
            assert 2 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return int(enter(*words))

        ring._call = enter_after_a_child  # type: ignore[assignment]  # a fork in between
        assert [] == ring.send([(fds[:2], b'x')])
        assert [b'x', b'x', b''] == [read_all(theirs) for _, theirs in pairs]


def test_results_may_come_in_any_order(ring: SendRing) -> None:
    """The result itself names its socket; its place does not."""
    enter = ring._call

    def enter_and_shuffle(*words: Any) -> int:
        taken = int(enter(*words))
        for column in (ring._slots, ring._results):
            column[first], column[first + 2] = column[first + 2], column[first]
        return taken

    # NOTE: it was tried with one socket when it was opened.
    first = ring._count
    ring._call = enter_and_shuffle  # type: ignore[assignment]  # the kernel may
    with socket_pairs(3) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        pairs[0][1].close()
        assert [Unsent(0, 0)] == ring.send([(fds, b'x')])


def test_send_from_another_thread_is_refused(ring: SendRing) -> None:
    """The kernel takes nothing from another thread, and the caller learns of it."""
    told: list[Any] = []
    with socket_pairs(2) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        thread = threading.Thread(target=lambda: told.extend(ring.send([(fds, b'x')])))
        thread.start()
        thread.join()
        assert [Unsent(0, 0), Unsent(1, 0)] == told
        assert ring.closed
        assert [Unsent(0, 0), Unsent(1, 0)] == ring.send([(fds, b'x')])
        assert [b'', b''] == [read_all(theirs) for _, theirs in pairs]


def test_entries_refused_by_the_kernel_are_reported_as_unsent(ring: SendRing) -> None:
    """Entries that the kernel does not accept are reported, and the ring is closed."""
    enter = ring._call

    def enter_for_three(number: int, fd: int, _: int, __: int, *rest: Any) -> int:
        return int(enter(number, fd, 3, 3, *rest))

    ring._call = enter_for_three  # type: ignore[assignment]  # the kernel, short of memory
    with socket_pairs(5) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        assert [Unsent(3, 0), Unsent(4, 0)] == ring.send([(fds, b'x')])
        assert [b'x'] * 3 + [b''] * 2 == [read_all(theirs) for _, theirs in pairs]
    assert ring.closed


def test_entry_without_a_result_is_reported_as_unknown(ring: SendRing) -> None:
    """An entry that the kernel accepted without a result is reported as unknown."""
    ring._call = lambda number, fd, count, *rest: count  # type: ignore[assignment]  # no kernel
    with socket_pairs(2) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        assert [Unsent(0, -1), Unsent(1, -1)] == ring.send([(fds, b'x')])
    assert ring.closed


def test_system_without_io_uring_has_no_ring() -> None:
    """Without io_uring in the system, there is no ring, and nothing is left open."""
    program = (
        'import os, resource\n'
        'from falcon_channels.transports.io_uring import open_send_ring\n'
        'free = os.dup(0)\n'
        'os.close(free)\n'
        'for allowed in range(free, free + 4):\n'
        '    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, 4096))\n'
        '    assert open_send_ring() is None, allowed\n'
        '    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n'
        '    again = os.dup(0)\n'
        '    os.close(again)\n'
        '    assert again == free, (again, free)\n'
        'assert open_send_ring() is not None\n'
    )
    subprocess.run([sys.executable, '-c', program], check=True, timeout=30)


def rings() -> int:
    """How many descriptors of this process are rings; `mmap` has some of its own."""
    found = 0
    for name in os.listdir('/proc/self/fd'):
        with contextlib.suppress(FileNotFoundError):
            found += 'io_uring' in os.readlink(f'/proc/self/fd/{name}')
    return found


def test_garbage_collected_ring_closes_its_descriptor() -> None:
    """A ring that nobody closes leaves no descriptor behind."""
    gc.collect()
    before = rings()
    ring = open_send_ring()
    assert ring is not None
    assert before < rings()
    del ring
    assert before == rings()
