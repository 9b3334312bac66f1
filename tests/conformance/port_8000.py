"""Port 8000, which the suites of some SDKs expect."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import fcntl
from pathlib import Path
import socket
import tempfile

from support.processes import wait_until

PORT = 8000

#: The group of pytest-xdist for tests that use the port.
GROUP = 'port 8000'


@contextlib.contextmanager
def locked_port() -> Iterator[int]:
    """Lock port 8000 against other runs of the tests on this machine."""
    path = Path(tempfile.gettempdir()) / 'falcon-channels-port-8000.lock'
    with path.open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wait_until(
            _port_is_free, f'port {PORT} is free: stop the process that uses it', 300
        )
        yield PORT


def _port_is_free() -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(('127.0.0.1', PORT))
        except OSError:
            return False
    return True
