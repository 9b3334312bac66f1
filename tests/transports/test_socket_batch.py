"""Sockets receive the same bytes from one call and from a loop."""

from __future__ import annotations

from collections.abc import Iterator
import os
from typing import Any

import pytest
from support.io_uring import needs_io_uring
from support.io_uring import record_writes

from falcon_channels.transports.io_uring import Unsent
from falcon_channels.transports.socket_batch import SocketBatch
from transports.test_io_uring import LARGE
from transports.test_io_uring import read_all
from transports.test_io_uring import socket_pairs

MANY = 60


@pytest.fixture(params=[False, pytest.param(True, marks=needs_io_uring)])
def batch(request: pytest.FixtureRequest) -> Iterator[SocketBatch]:
    batch = SocketBatch(request.param)
    yield batch
    batch.close()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Descriptors that were written one by one."""
    return record_writes(monkeypatch)


def test_empty_batch_writes_nothing(batch: SocketBatch) -> None:
    """A batch without anybody does nothing."""
    assert [] == batch.write()


def test_each_group_gets_its_blobs_once_in_order(batch: SocketBatch) -> None:
    """Groups get their blobs in order, and once."""
    with socket_pairs(MANY) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        batch.add(fds[:50], b'first')
        batch.add(fds[50:], b'second')
        assert [] == batch.write()
        batch.add(fds, b'.')
        assert [] == batch.write()
        got = [read_all(theirs) for _, theirs in pairs]
    assert [b'first.'] * 50 + [b'second.'] * 10 == got


def test_incomplete_writes_are_reported_by_number(batch: SocketBatch) -> None:
    """The full and the broken are reported by their number, with what they took."""
    with socket_pairs(MANY) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        os.write(fds[7], LARGE)
        pairs[55][1].close()
        batch.add(fds[:50], b'first')
        batch.add(fds[50:], b'second')
        assert [Unsent(7, 0), Unsent(55, 0)] == batch.write()
        batch.add(fds[:2], LARGE)
        unsent = batch.write()
        assert [0, 1] == [number for number, _ in unsent]
        for (number, sent), (_, theirs) in zip(unsent, pairs, strict=False):
            assert b'first' + LARGE[:sent] == read_all(theirs), number


def test_large_batch_is_written_by_one_system_call(
    batch: SocketBatch, writes: list[int]
) -> None:
    """With a ring nobody is written by itself, but for a few the loop costs less."""
    with socket_pairs(MANY) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        batch.add(fds[:10], b'few')
        batch.write()
        assert fds[:10] == writes
        batch.add(fds, b'many')
        batch.write()
        ring: Any = batch._ring
        assert fds[:10] + ([] if ring else fds) == writes
        batch.close()
        batch.add(fds, b'after')
        assert [] == batch.write()
        assert fds == writes[-MANY:]


@needs_io_uring
def test_broken_ring_is_replaced_by_the_loop(writes: list[int]) -> None:
    """The unsent rest of a broken ring is reported, and the loop sends from then on."""
    batch = SocketBatch(True)
    with socket_pairs(MANY) as pairs:
        fds = [ours.fileno() for ours, _ in pairs]
        batch.add(fds, b'one')
        assert [] == batch.write()
        assert [] == writes
        ring = batch._ring
        assert ring is not None
        os.dup2(fds[0], ring._fd)
        batch.add(fds, b'two')
        assert [Unsent(number, 0) for number in range(MANY)] == batch.write()
        batch.add(fds, b'three')
        assert [] == batch.write()
        assert fds == writes
        assert {b'onethree'} == {read_all(theirs) for _, theirs in pairs}
    batch.close()
