"""Socket options that asyncio and uvicorn leave as they are."""

from __future__ import annotations

import asyncio
import socket


def bound_unacknowledged(
    transport: asyncio.BaseTransport, timeout_s: float | None
) -> None:
    """Let the kernel cut a peer that acknowledges nothing, or has no room, for so long.

    Args:
        transport: Over TCP, or nothing happens.
        timeout_s: ``TCP_USER_TIMEOUT`` (RFC 5482); None leaves the kernel's default of
            many minutes.
    """
    sock = transport.get_extra_info('socket')
    option = getattr(socket, 'TCP_USER_TIMEOUT', None)
    if (
        sock is not None
        and timeout_s is not None
        and option is not None
        and sock.family != socket.AF_UNIX
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, int(timeout_s * 1000))
