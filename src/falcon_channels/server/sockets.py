"""Socket options and addresses that asyncio and uvicorn do not take care of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat

from uvicorn.protocols.utils import get_remote_addr

_THIS_HOST = ('127.0.0.1', 0)


def limit_unacknowledged_time(
    sock: socket.socket | None, timeout_s: float | None
) -> None:
    """Make the kernel close a connection whose peer acknowledges nothing.

    This includes a peer that has no room for more bytes.

    Args:
        sock: A socket; nothing happens if it is not a TCP socket.
        timeout_s: ``TCP_USER_TIMEOUT`` (RFC 5482) in seconds. ``None`` leaves the
            kernel's default of many minutes.
    """
    option = getattr(socket, 'TCP_USER_TIMEOUT', None)
    if (
        sock is not None
        and timeout_s is not None
        and option is not None
        and sock.family != socket.AF_UNIX
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, int(timeout_s * 1000))


def remote_address(transport: asyncio.BaseTransport) -> tuple[str, int] | None:
    """Return address and port of the peer; ``None`` if they are not known.

    A peer of a UNIX socket is on this host. It gets the address 127.0.0.1, so that a
    proxy at the socket is trusted if a proxy at 127.0.0.1 is.

    SECURITY: The family of the socket decides, and not a missing address: a client
    that has already disconnected has no address either.
    """
    sock = transport.get_extra_info('socket')
    if sock is not None and sock.family == getattr(socket, 'AF_UNIX', None):
        return _THIS_HOST
    return get_remote_addr(transport)  # type: ignore[arg-type]  # any transport will do


class SocketFile:
    """The file of a UNIX socket on which this process listens.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = _file_number(path)

    def remove(self) -> None:
        """Remove the file, unless another process has replaced it.

        NOTE: Call it while the socket is open. The number of the file could otherwise
        be that of a new file.
        """
        if self._file is not None and _file_number(self._path) == self._file:
            with contextlib.suppress(OSError):
                os.remove(self._path)


def _file_number(path: str) -> tuple[int, int] | None:
    """Return device and number of a file; ``None`` if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def remove_unused_socket(path: str) -> None:
    """Remove the file of a UNIX socket on which no process listens any more.

    A process that was killed leaves such a file. Other files stay.

    Args:
        path: Path of the file.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(path)
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            os.remove(path)
    except OSError:
        return
