"""Whether this system allows io_uring, and which sockets are written without it."""

from __future__ import annotations

import ctypes
import os
import platform
import re

import pytest

from falcon_channels.transports import socket_batch as batch

_SETUP = 425


def _allowed() -> bool:
    """Return whether the system allows io_uring, without our own code."""
    found = re.match(r'(\d+)\.(\d+)', platform.release())
    if found is None or platform.system() != 'Linux':
        return False
    params = ctypes.create_string_buffer(120)
    fd = ctypes.CDLL(None).syscall(_SETUP, 1, params)
    if fd < 0:
        return False
    os.close(fd)
    return (int(found[1]), int(found[2])) >= (6, 1)


#: Marker of tests that use io_uring.
needs_io_uring = pytest.mark.skipif(
    not _allowed(), reason='the system has no io_uring, or does not allow it'
)


def record_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of descriptors that a batch writes by a call of their own."""
    writes: list[int] = []

    def write(fd: int, blob: bytes) -> int:
        writes.append(fd)
        return os.write(fd, blob)

    monkeypatch.setattr(batch, 'write_descriptor', write)
    return writes
