"""Socket options that asyncio and uvicorn leave as they are."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.utils import get_remote_addr

_THIS_HOST = ('127.0.0.1', 0)


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


def remote_address(transport: asyncio.BaseTransport) -> tuple[str, int] | None:
    """Return address and port of the other end, ``None`` where that is not known.

    Who comes by a UNIX socket is on this host, as one who comes from 127.0.0.1: a proxy
    there is believed where 127.0.0.1 is.

    SECURITY: the socket's family decides, and not that there is no address: a client
    that has gone already has none either.
    """
    sock = transport.get_extra_info('socket')
    if sock is not None and sock.family == getattr(socket, 'AF_UNIX', None):
        return _THIS_HOST
    return get_remote_addr(transport)  # type: ignore[arg-type]  # any transport will do
