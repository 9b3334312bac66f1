"""Socket options that asyncio and uvicorn leave as they are."""

from __future__ import annotations

import socket


def bound_unacknowledged(sock: socket.socket | None, timeout_s: float | None) -> None:
    """Let the kernel cut a peer that acknowledges nothing, or has no room, for so long.

    Args:
        sock: Over TCP, or nothing happens.
        timeout_s: ``TCP_USER_TIMEOUT`` (RFC 5482); None leaves the kernel's default of
            many minutes.
    """
    option = getattr(socket, 'TCP_USER_TIMEOUT', None)
    if (
        sock is not None
        and timeout_s is not None
        and option is not None
        and sock.family != socket.AF_UNIX
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, int(timeout_s * 1000))
